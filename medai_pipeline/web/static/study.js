// The study page: which image is seen, what the buttons, keys and fields do. Drawing is in viewer.js, writing in api.js.

import { beside } from './beside.js';
import { Drawings } from './drawings.js';
import { heat } from './heat.js';
import { helpKeys, typing } from './keys.js';
import { watch } from './news.js';
import { Panel } from './panel.js';
import { framesOf, wordsOf } from './series.js';
import { Tools } from './tools.js';
import { Viewer } from './viewer.js';
import { choices } from './window.js';

const data = JSON.parse(document.querySelector('#study-data').textContent);
const $ = (selector) => document.querySelector(selector);
const canvas = $('#canvas');

const series = framesOf(data);
let at = { series: 0, index: 0 };
let turn = 0; // counts what was asked to be shown: an answer that comes late, and is not the last, changes nothing
let shownHeat = null; // the heatmap chosen, drawn or not

const panel = new Panel(data);
const drawings = new Drawings(data, { changed: () => viewer.redraw(), trouble: (error) => panel.trouble(error) });
const viewer = new Viewer(canvas, {
  address: (image) => `/studies/${data.studyKey}/${data.revision}/frames/${image.uid}/${image.frame}`,
  part: data.part,
  boxes: (image) => data.boxes.filter((box) => box.image === image.uid && box.frame === image.frame).map((box) => ({ kind: 'box', geometry: { box: box.box }, label: box.label })),
  annotations: (image) => drawings.on(image),
});
const tools = new Tools(viewer, { scroll: (steps) => scroll(steps), report: (what, shape) => drawings.report(what, shape, viewer.image, viewer), mayChange: data.mayAnnotate });

const current = () => series[at.series]?.frames[at.index];

// Shows an image of a series, and has its neighbours fetched.
async function show(where) {
  const one = series[where.series];
  if (!one) return;
  at = { series: where.series, index: Math.min(one.frames.length - 1, Math.max(0, where.index)) };
  const image = current();
  if (image !== viewer.image) tools.cancel(); // what is half drawn belongs to the image it was begun on
  controls(one, image);
  canvas.dataset.state = 'loading';
  const mine = (turn += 1);
  const good = await viewer.show(image, one.uid);
  if (mine !== turn) return;
  $('#note-image').textContent = wordsOf(one, image); // it names what is seen, not what is on its way
  if (good) presets();
  await layHeat();
  if (mine !== turn) return;
  trouble(viewer.problem);
  canvas.dataset.state = good ? 'shown' : 'failed';
  ahead(one);
}

function ahead({ frames }) {
  const near = [1, -1, 2, -2, 3, 4, 5, 6, -3, 7, 8].map((step) => frames[at.index + step]).filter(Boolean);
  viewer.frames.ahead([...near, ...series.map((one) => one.frames[0]).filter((frame) => frame !== current())]);
}

// One image up or down; false where there is none to scroll to, so that the wheel may zoom.
function scroll(steps) {
  const { frames } = series[at.series] ?? { frames: [] };
  if (frames.length < 2) return false;
  const index = Math.min(frames.length - 1, Math.max(0, at.index + steps));
  if (index !== at.index) show({ ...at, index });
  return true;
}

const goSeries = (step) => show({ series: Math.min(series.length - 1, Math.max(0, at.series + step)), index: 0 });

function controls(one, image) {
  const slider = $('#slice');
  Object.assign(slider, { max: one.frames.length, value: at.index + 1, disabled: one.frames.length < 2 });
  slider.setAttribute('aria-valuetext', `image ${at.index + 1} of ${one.frames.length}`);
  $('#where').textContent = one.frames.length > 1 ? `${at.index + 1} of ${one.frames.length}` : '';
  for (const button of $('#series').children) button.setAttribute('aria-pressed', String(Number(button.dataset.series) === at.series));
  ticks(one);
}

// Where in the series a finding reaches, on the slider.
function ticks(one) {
  const marked = one.frames.map((frame, n) => [n, data.heatmaps.some((map) => map.drawn && (map.extent.includes(frame.uid) || (map.image === frame.uid && map.frame === frame.frame)))]);
  const width = 1000 / Math.max(1, one.frames.length - 1);
  $('#ticks').replaceChildren(...(one.frames.length < 2 ? [] : marked.filter(([, is]) => is).map(([n]) => {
    const mark = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
    for (const [name, value] of Object.entries({ x: n * width - 3, y: 0, width: 6, height: 4, fill: '#ffb04d' })) mark.setAttribute(name, value);
    return mark;
  })));
}

async function layHeat() {
  const image = current();
  const wanted = shownHeat;
  if (!wanted?.drawn || wanted.image !== image?.uid || wanted.frame !== image.frame) return;
  try {
    const laid = await heat(`/studies/${data.studyKey}/reports/${data.reportId}/heat/${wanted.number}`);
    if (image !== current() || image !== viewer.image || wanted !== shownHeat) return; // on its own image, or not at all
    viewer.heat = laid;
    viewer.redraw();
  } catch (error) {
    panel.trouble(error);
  }
}

// The heat of one finding, on its image; -1 for none.
async function chooseHeat(number) {
  shownHeat = data.heatmaps.find((map) => map.number === number) ?? null;
  $('#heat').value = shownHeat ? String(number) : '';
  for (const button of document.querySelectorAll('[data-heat]')) button.setAttribute('aria-pressed', String(Number(button.dataset.heat) === number));
  if (!shownHeat) {
    viewer.heat = null;
    viewer.redraw();
    return;
  }
  await show(placeOf(shownHeat.image, shownHeat.frame) ?? at);
}

function placeOf(uid, frame) {
  for (const [n, one] of series.entries()) {
    const index = one.frames.findIndex((image) => image.uid === uid && image.frame === frame);
    if (index >= 0) return { series: n, index };
  }
  return null;
}

function presets() {
  const { frame } = viewer;
  const buttons = frame.kind === 'rgb' ? [] : choices(frame).map(([name, window], n) => {
    const button = Object.assign(document.createElement('button'), { type: 'button', textContent: name, title: n < 9 ? `Key ${n + 1}` : '' });
    button.addEventListener('click', () => viewer.setWindow(window));
    return button;
  });
  const same = buttons.length === $('#presets').children.length && buttons.every((button, n) => button.textContent === $('#presets').children[n].textContent);
  if (!same || data.presetsOf !== frame) $('#presets').replaceChildren(...buttons);
  data.presetsOf = frame;
}

function trouble(problem) {
  const box = $('#image-trouble');
  box.hidden = !problem;
  if (problem) box.querySelector('p').textContent = `This image cannot be shown. ${problem.message}`;
}

// What the corners and the screen reader say of the window.
viewer.addEventListener('drawn', () => {
  const { window, frame, view } = viewer;
  if (!frame) return;
  const unit = frame.modality === 'CT' ? ' HU' : '';
  const words = !window ? 'colour' : window.table ? "the image's own table" : `level ${round(window.centre)}${unit}, width ${round(window.width)}${unit}`;
  $('#note-window').textContent = [`${words}${viewer.inverted ? ', inverted' : ''}`, `zoom ${Math.round(view.scale * 100)} %`, frame.position_mm === null ? '' : `${frame.axis} ${frame.position_mm.toFixed(1)} mm`].filter(Boolean).join('\n');
  const place = placeOf(viewer.image.uid, viewer.image.frame) ?? at;
  const one = series[place.series];
  canvas.setAttribute('aria-label', `${one.words}, image ${place.index + 1} of ${one.frames.length}. ${words}.${viewer.heat && viewer.showHeat ? ` Heat of ${shownHeat.label}.` : ''}`);
  $('[data-does="invert"]').setAttribute('aria-pressed', String(viewer.inverted));
});

const round = (value) => (Math.abs(value) >= 10 ? Math.round(value) : Number(value.toPrecision(3)));

function toggle(what, name) {
  viewer[what] = !viewer[what];
  $(`[data-does="${name}"]`).setAttribute('aria-pressed', String(viewer[what]));
  viewer.redraw();
}

function opacity(value) {
  viewer.opacity = Math.min(1, Math.max(0, value));
  $('#opacity').value = String(Math.round(viewer.opacity * 100));
  viewer.redraw();
}

function tool(name) {
  if (!$(`[data-tool="${name}"]`)) return;
  tools.choose(name);
  for (const button of document.querySelectorAll('.toolbar [data-tool]')) button.setAttribute('aria-pressed', String(button.dataset.tool === name));
}

function stepHeat(step) {
  if (!data.heatmaps.length) return;
  const now = data.heatmaps.indexOf(shownHeat);
  chooseHeat(data.heatmaps[(now + step + data.heatmaps.length) % data.heatmaps.length].number);
}

const DOES = {
  invert: () => viewer.invert(), fit: () => viewer.fit(), reset: () => { viewer.reset(); opacity(data.opacity); },
  heat: () => toggle('showHeat', 'heat'), boxes: () => toggle('showBoxes', 'boxes'),
};
const preset = (n) => $('#presets').children[n - 1]?.click();
const KEYS = {
  ArrowDown: () => scroll(1), ArrowUp: () => scroll(-1), PageDown: () => scroll(10), PageUp: () => scroll(-10),
  Home: () => scroll(-1e6), End: () => scroll(1e6), ArrowRight: () => goSeries(1), ArrowLeft: () => goSeries(-1),
  i: DOES.invert, f: DOES.fit, r: DOES.reset, h: DOES.heat, x: DOES.boxes,
  '+': () => viewer.zoom(1.25), '=': () => viewer.zoom(1.25), '-': () => viewer.zoom(0.8),
  '[': () => opacity(viewer.opacity - 0.1), ']': () => opacity(viewer.opacity + 0.1),
  w: () => tool('window'), p: () => tool('pan'), z: () => tool('zoom'), m: () => tool('measurement'), b: () => tool('box'), g: () => tool('polygon'),
  j: () => stepHeat(1), k: () => stepHeat(-1), n: () => $('#next').click(), '?': helpKeys,
  a: () => panel.decide('accepted'), e: () => panel.decide('edited'), d: () => panel.decide('rejected'),
  Enter: () => tools.finish(), Delete: () => drawings.removeChosen(viewer), Backspace: () => drawings.removeChosen(viewer),
  Escape: () => { if (!tools.cancel() && !drawings.letGo(viewer)) location.assign($('#back').href); },
};
const SHIFTED = {
  ArrowUp: () => viewer.windowBy(0, 0.05), ArrowDown: () => viewer.windowBy(0, -0.05),
  ArrowLeft: () => viewer.windowBy(-0.1, 0), ArrowRight: () => viewer.windowBy(0.1, 0),
};

document.addEventListener('keydown', (event) => {
  if ($('dialog[open]')) return;
  if (typing(event)) {
    if (event.key === 'Escape') canvas.focus();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const pressed = event.target.closest('button, a, summary, input');
  if (pressed && (event.key === 'Enter' || event.key === ' ')) return; // theirs
  if (pressed?.type === 'range' && event.key.startsWith('Arrow')) return;
  const does = (event.shiftKey && SHIFTED[event.key]) || KEYS[event.key] || (/^[1-9]$/.test(event.key) && (() => preset(Number(event.key))));
  if (!does) return;
  event.preventDefault();
  does();
});

document.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.tool) tool(button.dataset.tool);
  if (button.dataset.does) DOES[button.dataset.does]();
  if (button.dataset.heat) chooseHeat(Number(button.dataset.heat));
  if (button.dataset.series) show({ series: Number(button.dataset.series), index: 0 });
  if (button.dataset.compare) beside(button.dataset.compare, $('.screens'), series[at.series]).catch((error) => panel.trouble(error));
  if ('keys' in button.dataset) helpKeys();
});

$('#heat').addEventListener('change', (event) => chooseHeat(event.target.value === '' ? -1 : Number(event.target.value)));
$('#opacity').addEventListener('input', (event) => opacity(Number(event.target.value) / 100));
$('#slice').addEventListener('input', (event) => show({ ...at, index: Number(event.target.value) - 1 }));
$('#image-trouble button').addEventListener('click', () => show(at));

function begin() {
  data.opacity = viewer.opacity;
  $('#series').replaceChildren(...series.map((one, n) => {
    const button = Object.assign(document.createElement('button'), { type: 'button', textContent: `${one.words}${one.frames.length > 1 ? ` (${one.frames.length})` : ''}` });
    button.dataset.series = String(n);
    return button;
  }));
  $('#heat').append(...data.heatmaps.map((map) => Object.assign(document.createElement('option'), { value: String(map.number), textContent: `${map.label.replaceAll('_', ' ')}${map.drawn ? '' : ' (withheld)'}` })));
  $('#heat-group').hidden = !data.heatmaps.length;
  if (!series.length) trouble({ message: 'No de-identified image of this study is kept (yet).' });
  const shown = data.heatmaps.find((map) => map.drawn) ?? data.heatmaps[0];
  if (shown && placeOf(shown.image, shown.frame)) chooseHeat(shown.number);
  else show({ series: 0, index: Math.floor((series[0]?.frames.length ?? 1) / 2) });
  canvas.focus({ preventScroll: true });
  watch(data, $('#news'));
  window.medaiViewer = viewer; // for whoever looks into the page: nothing here that its bytes do not say
}

begin();

// Another study of the same patient beside the present one: its images alone, with wheel, drag and arrows of its own.

import { ask } from './net.js';
import { framesOf, wordsOf } from './series.js';
import { Tools } from './tools.js';
import { Viewer } from './viewer.js';

// Opens it in `screens`; `like` is the series that is looked at now, so that a PA film meets a PA film.
export async function beside(studyKey, screens, like) {
  const data = await (await ask(`/studies/${studyKey}/viewer`)).json();
  const series = framesOf(data);
  if (!series.length) throw new Error('No image of that study is kept.');
  screens.querySelector('.screen.other')?.remove();
  const screen = markup(studyKey);
  screens.append(screen);
  const canvas = screen.querySelector('canvas');
  const viewer = new Viewer(canvas, {
    address: (image) => `/studies/${studyKey}/${data.revision}/frames/${image.uid}/${image.frame}`,
    part: data.part, boxes: () => [], annotations: () => [],
  });
  const one = series.find((other) => other.words === like?.words) ?? series[0];
  let index = Math.floor(one.frames.length / 2);
  const show = async () => {
    const image = one.frames[index];
    await viewer.show(image, one.uid);
    screen.querySelector('.top-left').textContent = viewer.problem ? viewer.problem.message : wordsOf(one, image);
    canvas.setAttribute('aria-label', `Other study, ${one.words}, image ${index + 1} of ${one.frames.length}`);
    canvas.dataset.state = viewer.problem ? 'failed' : 'shown';
  };
  const scroll = (steps) => {
    if (one.frames.length < 2) return false;
    index = Math.min(one.frames.length - 1, Math.max(0, index + steps));
    show();
    return true;
  };
  new Tools(viewer, { scroll, report: () => {}, mayChange: false });
  canvas.addEventListener('keydown', (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    scroll(step);
  });
  await show();
  canvas.focus({ preventScroll: true });
}

function markup(studyKey) {
  const screen = Object.assign(document.createElement('div'), { className: 'screen other' });
  const canvas = Object.assign(document.createElement('canvas'), { tabIndex: 0 });
  canvas.setAttribute('role', 'img');
  canvas.setAttribute('aria-label', 'Other study');
  canvas.dataset.tool = 'window';
  const note = Object.assign(document.createElement('p'), { className: 'note top-left' });
  const bar = Object.assign(document.createElement('p'), { className: 'otherbar' });
  const link = Object.assign(document.createElement('a'), { href: `/studies/${studyKey}`, textContent: 'Other study' });
  const close = Object.assign(document.createElement('button'), { type: 'button', textContent: 'Close' });
  close.addEventListener('click', () => { screen.remove(); document.querySelector('#canvas').focus(); });
  bar.append(link, ' ', close);
  screen.append(canvas, note, bar);
  return screen;
}

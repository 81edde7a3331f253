// The canvas: one image with window and level, zoom and pan, heat, boxes and what was drawn by hand. Where images come
// from and what buttons do is in study.js; what the pointer does in tools.js.

import { Frames } from './frames.js';
import { draw, label, lengthText } from './shapes.js';
import { View } from './view.js';
import { first, paint } from './window.js';

const LETTER = '#ffe178';
const MODEL = '#ffffff';
const DRAWN = '#5ee0c0';

export class Viewer extends EventTarget {
  view = new View();
  window = null;
  inverted = false;
  heat = null; // { picture, opacity } of this image
  opacity = 0.45;
  showHeat = true;
  showBoxes = true;
  draft = null; // a shape that is being drawn
  chosen = null; // id of the annotation that is edited
  frame = null;
  image = null;
  problem = null;
  #series = null; // whose window is kept from slice to slice
  #picture = new OffscreenCanvas(1, 1);
  #due = false;

  // `boxes(image)` and `annotations(image)` give what lies on an image.
  constructor(canvas, { address, part, boxes, annotations }) {
    super();
    Object.assign(this, { canvas, part, boxes, annotations, frames: new Frames(address) });
    this.context = canvas.getContext('2d', { alpha: false });
    new ResizeObserver(() => this.#resized()).observe(canvas);
  }

  // Shows an image when its values are here; a later call wins. The window stays from slice to slice and from
  // frame to frame; two films of a series are exposed apart, and each begins with its own.
  async show(image, series) {
    this.wanted = image; // what is seen, and drawn on, stays the image before until this one is here
    this.heat = null;
    let frame = null;
    let problem = null;
    try {
      frame = await this.frames.get(image);
    } catch (error) {
      problem = error;
    }
    if (this.wanted !== image) return false;
    const same = this.frame?.rows === frame?.rows && this.frame?.columns === frame?.columns;
    const kept = series === this.#series && frame && (frame.position_mm !== null || image.uid === this.image?.uid);
    Object.assign(this, { image, frame, problem });
    const lost = this.window?.table && !frame?.lut; // the window was the table of an image that has one
    if (frame && (!kept || !this.window || lost)) this.#begin(series);
    else if (frame && !same) this.#fit();
    this.#paint();
    return !problem;
  }

  #begin(series) {
    this.#series = series;
    this.inverted = false;
    this.window = this.frame.kind === 'rgb' ? null : first(this.frame, this.part);
    this.#fit();
  }

  // Everything as the image was first shown.
  reset() {
    if (this.frame) this.#begin(this.#series);
    this.#paint();
  }

  setWindow(window) {
    this.window = window;
    this.#paint();
  }

  // Level and width by a drag, in shares of the image's range.
  windowBy(across, down) {
    if (!this.window || this.frame?.kind === 'rgb') return;
    const { low, high } = this.frame.range;
    const span = Math.max(1, this.window.table ? high - low : Math.max(this.window.width, (high - low) / 20));
    const now = this.window.table ? { centre: (low + high) / 2, width: high - low, function: 'LINEAR' } : this.window;
    this.setWindow({ ...now, centre: now.centre + down * span, width: Math.max(1, now.width + across * span) });
  }

  invert() {
    this.inverted = !this.inverted;
    this.#paint();
  }

  fit() {
    this.#fit();
    this.redraw();
  }

  zoom(factor, at) {
    if (!this.frame) return;
    this.view.zoom(factor, at ?? [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2]);
    this.redraw();
  }

  pan(dx, dy) {
    this.view.pan(dx, dy);
    this.redraw();
  }

  #fit() {
    if (this.frame) this.view.fit(this.frame, this.canvas.clientWidth, this.canvas.clientHeight);
  }

  #resized() {
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (this.view.fitted) this.#fit();
    this.#draw();
  }

  // Values to grey, into a picture of the image's own size.
  #paint() {
    const { frame } = this;
    if (frame) {
      Object.assign(this.#picture, { width: frame.columns, height: frame.rows });
      const pixels = new ImageData(frame.columns, frame.rows);
      paint(frame, this.window, this.inverted, new Uint32Array(pixels.data.buffer));
      this.#picture.getContext('2d').putImageData(pixels, 0, 0);
    }
    this.redraw();
  }

  // At most once a screen refresh.
  redraw() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#due = false;
    const { context, canvas, frame } = this;
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = '#000';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (frame) this.#scene(context, frame);
    this.dispatchEvent(new Event('drawn'));
  }

  #scene(context, frame) {
    const { view } = this;
    const place = [view.x, view.y, frame.columns * view.scale, frame.rows * view.scale * view.aspect];
    Object.assign(context, { imageSmoothingEnabled: view.scale < 6, imageSmoothingQuality: 'high' });
    context.drawImage(this.#picture, ...place);
    if (this.heat && this.showHeat) {
      Object.assign(context, { globalAlpha: this.opacity, imageSmoothingEnabled: true });
      context.drawImage(this.heat.picture, ...place);
      context.globalAlpha = 1;
    }
    if (this.showBoxes) for (const box of this.boxes(this.image)) draw(context, box, view, { colour: MODEL, dashed: true, text: box.label });
    for (const shape of this.annotations(this.image)) this.#drawn(context, shape, shape.id === this.chosen);
    if (this.draft) this.#drawn(context, this.draft, true);
    this.#edges(context, frame);
    this.#scale(context, frame);
  }

  #drawn(context, shape, chosen) {
    const measured = shape.kind === 'measurement' && shape.geometry.points.length === 2;
    const text = [shape.label, measured ? lengthText(shape.geometry.points, this.frame) : ''].filter(Boolean).join(' ');
    draw(context, shape, this.view, { colour: DRAWN, chosen, text });
  }

  // Which side of the patient lies where, in the middle of each edge of what is seen.
  #edges(context, frame) {
    if (frame.edges.length !== 4) return;
    const { clientWidth: wide, clientHeight: high } = this.canvas;
    const [x0, y0] = this.view.toScreen([0, 0]).map((value) => Math.max(0, value));
    const [x1, y1] = this.view.toScreen([frame.columns, frame.rows]).map((value, n) => Math.min(n ? high : wide, value));
    const [across, down] = [(x0 + x1) / 2, (y0 + y1) / 2];
    const [left, right, top, bottom] = frame.edges;
    label(context, left, [x0 + 10, down], LETTER);
    label(context, right, [x1 - 10, down], LETTER, 'right');
    label(context, top, [across, y0 + 18], LETTER, 'center');
    label(context, bottom, [across, y1 - 10], LETTER, 'center');
  }

  // A bar of a round length in millimetres, between a tenth and a third of the picture.
  #scale(context, frame) {
    if (!frame.spacing_mm) return;
    const perMm = this.view.scale / frame.spacing_mm[1];
    const room = this.canvas.clientWidth / 4 / perMm;
    const power = 10 ** Math.floor(Math.log10(room));
    const length = [5, 2, 1].map((n) => n * power).find((n) => n <= room) ?? power;
    const [x, y] = [this.canvas.clientWidth - 16, this.canvas.clientHeight - 30];
    Object.assign(context, { strokeStyle: LETTER, lineWidth: 2 });
    context.beginPath();
    for (const [dx, dy] of [[0, -5], [0, 0], [-length * perMm, 0], [-length * perMm, -5]]) context.lineTo(x + dx, y + dy);
    context.stroke();
    label(context, `${length >= 10 ? length / 10 : length} ${length >= 10 ? 'cm' : 'mm'}${frame.at_detector ? ' at detector' : ''}`, [x, y - 9], LETTER, 'right');
  }
}

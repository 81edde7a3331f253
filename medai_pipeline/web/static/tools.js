// What pointer, wheel and fingers do on the canvas. A tool is a table row: what it does on the way from down to up.

import { grip, hit, moved, tidy } from './shapes.js';

const LEAST_BOX = 4; // screen pixels: less is a slip of the hand

export class Tools {
  name = 'window';
  #pointers = new Map();
  #action = null;

  // `report` takes what was drawn, moved or chosen; `scroll(steps)` goes through the slices.
  constructor(viewer, { scroll, report, mayChange }) {
    Object.assign(this, { viewer, scroll, report, mayChange });
    const { canvas } = viewer;
    canvas.addEventListener('pointerdown', (event) => this.#down(event));
    canvas.addEventListener('pointermove', (event) => this.#move(event));
    for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, (event) => this.#up(event));
    canvas.addEventListener('dblclick', () => this.finish());
    canvas.addEventListener('contextmenu', (event) => event.preventDefault());
    canvas.addEventListener('wheel', (event) => this.#wheel(event), { passive: false });
  }

  choose(name) {
    this.cancel();
    this.name = name;
    this.viewer.canvas.dataset.tool = name;
  }

  // Throws away what is half drawn; whether there was anything.
  cancel() {
    const was = this.viewer.draft !== null;
    this.viewer.draft = null;
    this.#action = null;
    this.viewer.redraw();
    return was;
  }

  // Closes a polygon.
  finish() {
    const { draft } = this.viewer;
    if (draft?.kind !== 'polygon') return;
    const points = draft.geometry.points.filter((p, n, all) => !n || Math.hypot(p[0] - all[n - 1][0], p[1] - all[n - 1][1]) > 0.5);
    this.viewer.draft = null;
    if (points.length >= 3) this.#drawn('polygon', { points });
    this.viewer.redraw();
  }

  #at({ offsetX, offsetY }) {
    return [offsetX, offsetY];
  }

  #image(event) {
    return this.viewer.view.toImage(this.#at(event));
  }

  #down(event) {
    if (!this.viewer.frame) return;
    this.viewer.canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.#at(event));
    if (this.#pointers.size > 1) return;
    const name = event.button === 1 ? 'pan' : event.button === 2 ? 'zoom' : this.#grabbed(event) ?? this.name;
    this.#action = { name, last: this.#at(event), from: this.#image(event) };
    if (name === 'box') this.viewer.draft = { kind: 'box', geometry: { box: [...this.#image(event), ...this.#image(event)] } };
    if (name === 'measurement') this.viewer.draft = { kind: 'measurement', geometry: { points: [this.#image(event), this.#image(event)] } };
    if (name === 'polygon') this.#point(event);
  }

  // A corner of the chosen shape, or another shape that is chosen by this.
  #grabbed(event) {
    if (!['window', 'pan', 'zoom'].includes(this.name)) return undefined;
    const shapes = this.viewer.annotations(this.viewer.image);
    const chosen = shapes.find((shape) => shape.id === this.viewer.chosen);
    const corner = chosen ? grip(chosen, this.viewer.view, this.#at(event)) : -1;
    if (corner >= 0 && this.mayChange) {
      this.#corner = { shape: chosen, corner };
      return 'corner';
    }
    const found = hit(shapes, this.viewer.view, this.#at(event));
    if (!found) return undefined;
    this.report('chosen', found);
    return 'none';
  }

  #corner = null;

  #point(event) {
    const { draft } = this.viewer;
    const points = draft?.kind === 'polygon' ? draft.geometry.points : [];
    if (points.length >= 3 && Math.hypot(...this.viewer.view.toScreen(points[0]).map((v, n) => v - this.#at(event)[n])) < 10) {
      this.finish();
      return;
    }
    this.viewer.draft = { kind: 'polygon', open: true, geometry: { points: [...points, this.#image(event)] } };
    this.viewer.redraw();
  }

  #move(event) {
    const at = this.#at(event);
    const before = this.#pointers.get(event.pointerId);
    if (!before || !this.viewer.frame) return;
    if (this.#pointers.size === 2) this.#pinch(event.pointerId, before, at);
    else if (this.#action) this.#drag(event, at);
    this.#pointers.set(event.pointerId, at);
  }

  #drag(event, at) {
    const { viewer } = this;
    const action = this.#action;
    const [dx, dy] = [at[0] - action.last[0], at[1] - action.last[1]];
    action.last = at;
    const { draft } = viewer;
    if (action.name === 'window') viewer.windowBy(dx / 300, dy / 300);
    if (action.name === 'pan') viewer.pan(dx, dy);
    if (action.name === 'zoom') viewer.zoom(1.01 ** -dy, viewer.view.toScreen(action.from));
    if (action.name === 'box') draft.geometry.box.splice(2, 2, ...this.#image(event));
    if (action.name === 'measurement') draft.geometry.points[1] = this.#image(event);
    if (action.name === 'corner') this.#corner.shape.geometry = moved(this.#corner.shape, this.#corner.corner, this.#image(event));
    viewer.redraw();
  }

  // Two fingers: what lies under them stays under them.
  #pinch(id, before, at) {
    const [other] = [...this.#pointers].filter(([key]) => key !== id).map(([, place]) => place);
    const apart = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
    this.viewer.draft = null;
    this.#action = null;
    this.viewer.pan((at[0] - before[0]) / 2, (at[1] - before[1]) / 2);
    if (apart(before) > 0) this.viewer.zoom(apart(at) / apart(before), [(at[0] + other[0]) / 2, (at[1] + other[1]) / 2]);
  }

  #up(event) {
    this.#pointers.delete(event.pointerId);
    const action = this.#action;
    this.#action = null;
    const { draft } = this.viewer;
    if (action?.name === 'corner') this.#changed();
    if (!draft || draft.kind === 'polygon' || action?.name !== draft.kind) return;
    this.viewer.draft = null;
    const [a, b] = draft.kind === 'box' ? [draft.geometry.box.slice(0, 2), draft.geometry.box.slice(2)] : draft.geometry.points;
    const size = Math.hypot(a[0] - b[0], a[1] - b[1]) * this.viewer.view.scale;
    if (size >= LEAST_BOX) this.#drawn(draft.kind, draft.geometry);
    this.viewer.redraw();
  }

  #changed() {
    const { shape } = this.#corner;
    shape.geometry = tidy(shape.kind, shape.geometry, this.viewer.frame);
    this.report('moved', shape);
  }

  #drawn(kind, geometry) {
    this.report('drawn', { kind, geometry: tidy(kind, geometry, this.viewer.frame) });
  }

  #wheel(event) {
    event.preventDefault();
    const steps = Math.sign(event.deltaY);
    if (event.ctrlKey || !this.scroll(steps)) this.viewer.zoom(1.15 ** -steps, this.#at(event));
  }
}

// What people draw on the images: kept by the REST API, listed in the panel. One that somebody else changed is not overwritten.

import * as api from './api.js';

const $ = (selector) => document.querySelector(selector);
const KINDS = { box: 'Box', polygon: 'Polygon', measurement: 'Length' };

export class Drawings {
  constructor(data, { changed, trouble }) {
    Object.assign(this, { data, changed, trouble, all: [] });
    this.#load();
  }

  on(image) {
    return this.all.filter((one) => one.image === image?.uid && one.frame === image.frame);
  }

  // From the pointer: a shape was drawn, moved, or chosen.
  report(what, shape, image, viewer) {
    if (what === 'chosen') this.#choose(shape, viewer);
    if (what === 'moved') this.#attempt(() => this.#save(shape));
    if (what === 'drawn') this.#attempt(() => this.#add(shape, image, viewer));
  }

  letGo(viewer) {
    const was = viewer.chosen !== null;
    this.#choose(null, viewer);
    return was;
  }

  removeChosen(viewer) {
    const shape = this.all.find((one) => one.id === viewer.chosen);
    if (shape) this.#attempt(() => this.#remove(shape));
  }

  async #attempt(deed) {
    this.trouble(null);
    try {
      await deed();
    } catch (error) {
      this.trouble(error);
      if (error.status === 409 || error.status === 412) await this.#load();
    }
  }

  async #load() {
    try {
      this.all = await api.annotations(this.data.studyKey);
      this.#list();
    } catch (error) {
      this.trouble(error);
    }
  }

  #choose(shape, viewer) {
    this.viewer = viewer;
    viewer.chosen = shape?.id ?? null;
    this.changed();
    $(`#drawn [data-id="${shape?.id}"] input`)?.focus();
  }

  async #add(shape, image, viewer) {
    const measured = shape.kind === 'measurement';
    if (measured && !this.data.mayAnnotate) { // a reader may measure without keeping it
      this.all.push({ ...shape, id: crypto.randomUUID(), image: image.uid, frame: image.frame, label: '', kept: false });
    } else {
      this.all.push(await api.annotate(image, shape));
    }
    const made = this.all.at(-1);
    this.#list();
    this.#choose(made, viewer);
  }

  async #save(shape) {
    Object.assign(shape, await api.reannotate(shape));
    this.#list();
  }

  async #remove(shape) {
    if (shape.kept !== false) await api.unannotate(shape);
    this.all = this.all.filter((one) => one !== shape);
    if (this.viewer) this.viewer.chosen = null;
    this.#list();
    $('#canvas').focus({ preventScroll: true });
  }

  #list() {
    $('#drawn').replaceChildren(...this.all.map((shape) => this.#line(shape)));
    $('#drawn-none').hidden = this.all.length > 0;
    this.changed();
  }

  #mayChange(shape) {
    return this.data.mayAnnotate && shape.kept !== false;
  }

  #line(shape) {
    const line = document.createElement('li');
    line.dataset.id = shape.id;
    const field = Object.assign(document.createElement('input'), { type: 'text', value: shape.label, maxLength: 64, disabled: !this.#mayChange(shape) });
    field.setAttribute('aria-label', `Label of the ${KINDS[shape.kind].toLowerCase()}`);
    field.setAttribute('list', 'labels');
    field.addEventListener('change', () => this.#attempt(async () => { shape.label = field.value.trim(); await this.#save(shape); }));
    field.addEventListener('keydown', (event) => { if (event.key === 'Enter') $('#canvas').focus({ preventScroll: true }); });
    line.append(`${KINDS[shape.kind]} `, field, ` ${shape.author ?? ''} `);
    if (this.#mayChange(shape) || shape.kept === false) {
      const button = Object.assign(document.createElement('button'), { type: 'button', className: 'plain', textContent: 'delete' });
      button.setAttribute('aria-label', `Delete the ${KINDS[shape.kind].toLowerCase()} ${shape.label}`);
      button.addEventListener('click', () => this.#attempt(() => this.#remove(shape)));
      line.append(button);
    }
    return line;
  }
}

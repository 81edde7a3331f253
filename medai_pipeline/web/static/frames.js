// Frames of images as stored values: fetched once, kept while there is room, the neighbours before they are asked for.

import { ask, unpack } from './net.js';

const KINDS = { uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array, float32: Float32Array, rgb: Uint8Array };
const ROOM = 384 * 2 ** 20;
const AT_ONCE = 3; // fetched ahead of the reader; what is on the screen does not queue behind them

export function decode(buffer) {
  const { header, start } = unpack(buffer);
  const Kind = KINDS[header.kind];
  const count = header.rows * header.columns * (header.kind === 'rgb' ? 3 : 1);
  const values = new Kind(buffer, start, count);
  const frame = { ...header, values, bytes: buffer.byteLength };
  if (header.lut) {
    const end = start + values.byteLength;
    frame.lut = { ...header.lut, values: new Uint16Array(buffer, end + (end % 2), header.lut.entries) };
  }
  return frame;
}

export class Frames {
  #kept = new Map(); // address -> { promise, bytes }, the longest unused first; bytes are 0 while it is on its way
  #waiting = [];
  #running = 0;

  constructor(address) {
    this.address = address; // (image) => URL
  }

  get(image) {
    const address = this.address(image);
    const kept = this.#kept.get(address) ?? { promise: this.#fetch(address), bytes: 0 };
    this.#kept.delete(address);
    this.#kept.set(address, kept);
    return kept.promise;
  }

  // Images to have ready, the nearest first; replaces what was wanted before.
  ahead(images) {
    this.#waiting = images.filter((image) => !this.#kept.has(this.address(image)));
    this.#next();
  }

  #next() {
    while (this.#running < AT_ONCE && this.#waiting.length) {
      this.#running += 1;
      const done = () => { this.#running -= 1; this.#next(); };
      this.get(this.#waiting.shift()).then(done, done);
    }
  }

  async #fetch(address) {
    try {
      const answer = await ask(address, { headers: { Accept: 'application/octet-stream, application/problem+json' } });
      const frame = decode(await answer.arrayBuffer());
      this.#keep(address, frame.bytes);
      return frame;
    } catch (error) {
      this.#kept.delete(address); // the next look tries again
      throw error;
    }
  }

  #keep(newest, bytes) {
    const own = this.#kept.get(newest);
    if (own) own.bytes = bytes;
    let all = [...this.#kept.values()].reduce((sum, kept) => sum + kept.bytes, 0);
    for (const [address, kept] of this.#kept) {
      if (all <= ROOM) return;
      if (!kept.bytes || address === newest) continue;
      this.#kept.delete(address);
      all -= kept.bytes;
    }
  }
}

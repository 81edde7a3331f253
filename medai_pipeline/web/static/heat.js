// A heatmap as a picture to lay over its image. The server has put it on the image's grid, and sends none that is withheld.

import { ask, unpack } from './net.js';

export async function heat(address) {
  const answer = await ask(address, { headers: { Accept: 'application/octet-stream, application/problem+json' } });
  const buffer = await answer.arrayBuffer();
  const { header, start } = unpack(buffer);
  const colours = new Uint8Array(buffer, start, 768);
  const values = new Uint8Array(buffer, start + 768, header.rows * header.columns);
  const picture = new OffscreenCanvas(header.columns, header.rows);
  const pixels = new ImageData(header.columns, header.rows);
  values.forEach((value, i) => {
    const share = Math.max(0, (value / 255 - header.clear) / (1 - header.clear));
    pixels.data.set([...colours.subarray(value * 3, value * 3 + 3), Math.round(share * 255)], i * 4);
  });
  picture.getContext('2d').putImageData(pixels, 0, 0);
  return { picture, opacity: header.alpha };
}

// Window and level: from stored values to grey, as PS3.3 C.11.1 and C.11.2 say. Knows no canvas.

export const PRESETS = {
  CT: [
    ['Lung', -600, 1500], ['Soft tissue', 40, 400], ['Bone', 400, 1800], ['Brain', 40, 80], ['Subdural', 75, 215],
    ['Liver', 60, 160],
  ],
};
const BY_PART = { CHEST: 'Lung', BRAIN: 'Brain', HEAD: 'Brain' };

// The windows to choose from: the modality's presets, then the image's own, then its whole range. [name, window]
export function choices(frame) {
  const own = (frame.windows ?? []).map((w, n) => [n ? `Own ${n + 1}` : 'Own', { ...w }]);
  if (frame.lut) own.unshift(['Own', { table: true, centre: 0, width: 1 }]);
  const presets = (PRESETS[frame.modality] ?? []).map(([name, centre, width]) => [name, linear(centre, width)]);
  const { low, high, least, greatest } = frame.range;
  return [...presets, ...own, ['Auto', between(low, high)], ['Full', between(least, greatest)]];
}

// What an image is first shown with. CT has presets that a reader expects; what an object says of itself comes next.
export function first(frame, part) {
  const named = new Map(choices(frame).reverse());
  const preset = frame.modality === 'CT' ? named.get(BY_PART[part] ?? 'Soft tissue') : undefined;
  return preset ?? (usable(named.get('Own'), frame.range) ? named.get('Own') : named.get('Auto'));
}

function usable(window, { least, greatest }) {
  if (!window) return false;
  return window.table || (window.centre - window.width / 2 < greatest && window.centre + window.width / 2 > least);
}

export const linear = (centre, width) => ({ centre, width, function: 'LINEAR' });

const between = (low, high) => linear((low + high + 1) / 2, Math.max(1, high - low + 1));

// Grey 0 to 255 of a modality value.
function shade(window, frame) {
  if (window.table) {
    const { first: begin, values, largest } = frame.lut;
    return (x) => (values[Math.min(Math.max(Math.round(x) - begin, 0), values.length - 1)] / largest) * 255;
  }
  const { centre, width } = window;
  if (window.function === 'SIGMOID') return (x) => 255 / (1 + Math.exp((-4 * (x - centre)) / width));
  if (window.function === 'LINEAR_EXACT') return (x) => ((x - centre) / width + 0.5) * 255;
  if (width <= 1) return (x) => (x <= centre - 0.5 ? 0 : 255);
  return (x) => ((x - (centre - 0.5)) / (width - 1) + 0.5) * 255;
}

const OPAQUE = 0xff000000; // RGBA as a little-endian word

// Paints a frame into RGBA words, one a pixel.
export function paint(frame, window, inverted, words) {
  if (frame.kind === 'rgb') return paintColour(frame, inverted, words);
  const word = greys(frame, window, inverted);
  const { values } = frame;
  if (frame.kind === 'float32') {
    for (let i = 0; i < words.length; i += 1) words[i] = word(values[i]);
    return undefined;
  }
  const low = frame.kind === 'int16' ? -32768 : 0;
  const table = new Uint32Array(frame.kind === 'uint8' ? 256 : 65536);
  for (let i = 0; i < table.length; i += 1) table[i] = word(i + low);
  for (let i = 0; i < words.length; i += 1) words[i] = table[values[i] - low];
  return undefined;
}

// A stored value's RGBA word. Padding is black whatever is inverted: it is no part of the image.
function greys(frame, window, inverted) {
  const grey = shade(window, frame);
  const { slope, intercept, padding } = frame;
  const white = inverted !== frame.inverted;
  return (stored) => {
    if (padding && stored >= padding[0] && stored <= padding[1]) return OPAQUE;
    const value = grey(stored * slope + intercept);
    const level = Math.round(Math.min(255, Math.max(0, Number.isNaN(value) ? 0 : value)));
    const shown = white ? 255 - level : level;
    return (OPAQUE | (shown << 16) | (shown << 8) | shown) >>> 0;
  };
}

function paintColour(frame, inverted, words) {
  const { values } = frame;
  const flip = inverted ? 0xffffff : 0;
  for (let i = 0, at = 0; i < words.length; i += 1, at += 3) {
    words[i] = (OPAQUE | (((values[at + 2] << 16) | (values[at + 1] << 8) | values[at]) ^ flip)) >>> 0;
  }
}

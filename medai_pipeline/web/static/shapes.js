// What is drawn on an image by hand or by a model: boxes, polygons and lengths, in image points. How they look and measure.

const RIM = 'rgba(0, 0, 0, 0.75)';
const HANDLE = 5;

// Corner points of a shape, in image points.
export function corners({ kind, geometry }) {
  if (kind !== 'box') return geometry.points;
  const [x0, y0, x1, y1] = geometry.box;
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
}

export const CLOSED = { box: true, polygon: true, measurement: false };

// One shape in screen pixels: a light line with a dark rim, seen on bright and on dark anatomy.
export function draw(context, shape, view, { colour, dashed = false, chosen = false, text = '' }) {
  const points = corners(shape).map((point) => view.toScreen(point));
  const path = new Path2D();
  points.forEach(([x, y], n) => (n ? path.lineTo(x, y) : path.moveTo(x, y)));
  if (CLOSED[shape.kind] && !shape.open) path.closePath();
  context.save();
  context.setLineDash(dashed ? [6, 4] : []);
  for (const [style, width] of [[RIM, chosen ? 5 : 4], [colour, chosen ? 2.5 : 1.5]]) {
    Object.assign(context, { strokeStyle: style, lineWidth: width });
    context.stroke(path);
  }
  context.restore();
  if (chosen || !CLOSED[shape.kind]) points.forEach((point) => handle(context, point, colour));
  if (text) label(context, text, anchor(points), colour);
}

function handle(context, [x, y], colour) {
  Object.assign(context, { fillStyle: colour, strokeStyle: RIM, lineWidth: 1 });
  context.beginPath();
  context.arc(x, y, HANDLE - 1, 0, 7);
  context.fill();
  context.stroke();
}

const anchor = (points) => [Math.min(...points.map((p) => p[0])), Math.min(...points.map((p) => p[1])) - 6];

export function label(context, text, [x, y], colour, align = 'left') {
  Object.assign(context, { font: '600 13px system-ui, sans-serif', textAlign: align, lineJoin: 'round' });
  Object.assign(context, { strokeStyle: RIM, lineWidth: 3.5, fillStyle: colour });
  context.strokeText(text, x, Math.max(y, 14));
  context.fillText(text, x, Math.max(y, 14));
}

// "23.4 mm" between two image points, or pixels where the image states no spacing.
export function lengthOf([[x0, y0], [x1, y1]], frame) {
  const [down, across] = frame.spacing_mm ?? [frame.aspect || 1, 1];
  return Math.hypot((x1 - x0) * across, (y1 - y0) * down);
}

export function lengthText(points, frame) {
  const length = lengthOf(points, frame);
  if (!frame.spacing_mm) return `${length.toFixed(0)} pixels`;
  return `${length.toFixed(1)} mm${frame.at_detector ? ' at detector' : ''}`;
}

// The shape under a screen point: within a few pixels of its lines. The last drawn wins.
export function hit(shapes, view, [px, py], reach = 8) {
  return [...shapes].reverse().find((shape) => {
    const points = corners(shape).map((point) => view.toScreen(point));
    const ends = CLOSED[shape.kind] ? [...points.slice(1), points[0]] : points.slice(1);
    return ends.some((end, n) => distance([px, py], points[n], end) <= reach);
  });
}

function distance([px, py], [ax, ay], [bx, by]) {
  const [dx, dy] = [bx - ax, by - ay];
  const along = Math.min(1, Math.max(0, ((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(px - ax - along * dx, py - ay - along * dy);
}

// Which corner of a shape lies under a screen point, or -1.
export function grip(shape, view, [px, py], reach = HANDLE + 5) {
  return corners(shape).findIndex((point) => {
    const [x, y] = view.toScreen(point);
    return Math.hypot(px - x, py - y) <= reach;
  });
}

// The geometry with one corner at another image point.
export function moved({ kind, geometry }, corner, [x, y]) {
  if (kind !== 'box') return { ...geometry, points: geometry.points.map((p, n) => (n === corner ? [x, y] : p)) };
  const box = [...geometry.box];
  box[corner === 0 || corner === 3 ? 0 : 2] = x;
  box[corner < 2 ? 1 : 3] = y;
  return { box };
}

// A geometry inside the image, its box the right way round, to a tenth of a pixel.
export function tidy(kind, geometry, frame) {
  const x = (value) => Math.round(Math.min(frame.columns, Math.max(0, value)) * 10) / 10;
  const y = (value) => Math.round(Math.min(frame.rows, Math.max(0, value)) * 10) / 10;
  if (kind !== 'box') return { ...geometry, points: geometry.points.map(([a, b]) => [x(a), y(b)]) };
  const [x0, y0, x1, y1] = geometry.box;
  return { box: [x(Math.min(x0, x1)), y(Math.min(y0, y1)), x(Math.max(x0, x1)), y(Math.max(y0, y1))] };
}

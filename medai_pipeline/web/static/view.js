// Where an image lies on the screen: scale and place, and the way between both. No drawing.
// Image points count pixel edges: column x covers [x, x + 1). Pixels that are not square keep the patient's proportions.

const LEAST = 0.5; // of the size that fits
const MOST = 40; // screen pixels an image pixel

export class View {
  scale = 1;
  x = 0;
  y = 0;
  fitted = true; // follows the size of the screen until somebody zooms or pans

  fit(frame, width, height) {
    const aspect = frame.aspect || 1;
    const scale = Math.min(width / frame.columns, height / (frame.rows * aspect));
    Object.assign(this, {
      scale, aspect, least: scale * LEAST, most: Math.max(MOST, scale * 8), fitted: true,
      x: (width - frame.columns * scale) / 2, y: (height - frame.rows * aspect * scale) / 2,
    });
  }

  zoom(factor, [px, py]) {
    const scale = Math.min(this.most, Math.max(this.least, this.scale * factor));
    const ratio = scale / this.scale;
    Object.assign(this, { scale, x: px - (px - this.x) * ratio, y: py - (py - this.y) * ratio, fitted: false });
  }

  pan(dx, dy) {
    Object.assign(this, { x: this.x + dx, y: this.y + dy, fitted: false });
  }

  toScreen([x, y]) {
    return [this.x + x * this.scale, this.y + y * this.scale * this.aspect];
  }

  toImage([x, y]) {
    return [(x - this.x) / this.scale, (y - this.y) / (this.scale * this.aspect)];
  }
}

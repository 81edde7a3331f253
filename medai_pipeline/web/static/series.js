// The series of a study as frames one after the other: what "next image" means.

export const framesOf = (data) => data.series.map((one) => ({
  ...one,
  frames: one.images.flatMap((image) => Array.from({ length: image.frames }, (_, n) => ({ ...image, frame: n + 1 }))),
}));

// What stands in the corner of an image.
export const wordsOf = (one, image) => [
  `${one.words}, image ${image.number}${image.frames > 1 ? `, frame ${image.frame}` : ''}`,
  image.usable ? '' : `not read by the model: ${image.reason}`,
].filter(Boolean).join('\n');

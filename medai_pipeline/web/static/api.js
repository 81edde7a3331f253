// What the study page asks of the REST API. What is drawn carries its version, so that two people notice each other.

import { ask } from './net.js';

const V1 = '/api/v1';

// One write, and its answer. Sent again with the same key it writes nothing twice.
async function write(address, method, body, version) {
  const headers = { 'Idempotency-Key': crypto.randomUUID(), ...(version ? { 'If-Match': `"${version}"` } : {}) };
  const answer = await ask(address, { method, body, headers });
  return answer.status === 204 ? null : answer.json();
}

// `seen`: the last decision that the page knows of; 0 for none
export const review = (reportId, body, seen) => write(`${V1}/inference/${reportId}/review`, 'POST', body, seen);
// `seen`: the last priority that a person gave and the page knows of; 0 for none
export const prioritize = (studyKey, body, seen) => write(`${V1}/studies/${studyKey}/priority`, 'PUT', body, seen);
export const retry = (studyKey) => write(`${V1}/studies/${studyKey}/retry`, 'POST');
export const identity = (studyKey) => write(`/studies/${studyKey}/identity`, 'POST');
export const ohif = (studyKey) => write(`/studies/${studyKey}/ohif`, 'POST');

const SHOWN = new Set(['box', 'polygon', 'measurement']);
const MOST = 500;

// As the viewer knows a shape. Others may change it, too: each change is a version under a name.
const shape = ({ id, image_id: image, frame, author, kind, label, geometry, version }) => (
  { id, image, frame, author: author.replace(/^user:/, ''), kind, label, geometry, version });

// Of all revisions: an image keeps its name, and what was drawn on it.
export async function annotations(studyKey) {
  const answer = await ask(`${V1}/annotations?study=${studyKey}&limit=${MOST}`);
  const { items } = await answer.json();
  return items.filter((one) => SHOWN.has(one.kind)).map(shape);
}

const bare = ({ box, points }) => (box ? { box } : { points });

export const annotate = async (image, { kind, geometry, label = '' }) => shape(
  await write(`${V1}/annotations`, 'POST', { image_id: image.uid, frame: image.frame, kind, label, geometry: bare(geometry) }));
export const reannotate = async ({ id, kind, label, geometry, version }) => shape(
  await write(`${V1}/annotations/${id}`, 'PUT', { kind, label, geometry: bare(geometry) }, version));
export const unannotate = ({ id, version }) => write(`${V1}/annotations/${id}`, 'DELETE', undefined, version);

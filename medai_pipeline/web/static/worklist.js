// The worklist keeps itself up to date: rows that changed are exchanged one by one, so that focus, scroll and what is being
// typed stay where they are. j, k, Enter, / and ? work wherever nothing is being typed.

import * as api from './api.js';
import { ask, askUnattended } from './net.js';
import { helpKeys, typing } from './keys.js';

const EVERY = 4000;
const table = document.querySelector('#rows');
const live = document.querySelector('#news');
const trouble = document.querySelector('#trouble');
const fresh = document.querySelector('#fresh');
const form = document.querySelector('#filters');
let tag = table.dataset.tag;
let shown = Number(table.dataset.shown);
let asking = null;

const address = () => {
  const wanted = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  wanted.set('rows', String(shown));
  return `/worklist/rows?${wanted}`;
};

async function refresh({ force = false, by = ask } = {}) {
  asking?.abort();
  const mine = (asking = new AbortController());
  try {
    const answer = await by(address(), { headers: { Accept: 'text/html', ...(force ? {} : { 'If-None-Match': tag }) }, signal: mine.signal });
    told('');
    if (answer.status !== 304) {
      tag = answer.headers.get('ETag') ?? '';
      exchange(await answer.text());
    }
    fresh.textContent = `Up to date at ${new Date().toLocaleTimeString()}`;
  } catch (error) {
    if (error.name !== 'AbortError') told(error.message);
  }
}

function told(text) {
  trouble.hidden = !text;
  if (trouble.textContent !== text) trouble.textContent = text;
}

// New markup into the old: a row stays the same element unless its version is another.
function exchange(markup) {
  const next = new DOMParser().parseFromString(markup, 'text/html');
  for (const name of ['counts', 'more', 'caption']) {
    const [was, is] = [document, next].map((page) => page.querySelector(`#${name}`));
    if (was.innerHTML !== is.innerHTML) was.replaceChildren(...is.childNodes);
  }
  const old = new Map([...table.rows].map((row) => [row.id, row]));
  const held = document.activeElement?.closest?.('tr')?.id;
  const anchor = held && old.get(held)?.getBoundingClientRect().top;
  let arrived = 0;
  let at = table.firstElementChild;
  for (const row of [...next.querySelectorAll('#rows > tr')]) {
    const known = old.get(row.id);
    old.delete(row.id);
    const same = known?.dataset.version === row.dataset.version;
    const placed = same ? known : document.adoptNode(row);
    if (!known) arrived += 1;
    if (!same) placed.classList.add('changed');
    if (known && !same) { keepFocus(known, placed); if (at === known) at = known.nextElementSibling; known.replaceWith(placed); }
    if (placed === at) at = at.nextElementSibling;
    else table.insertBefore(placed, at);
  }
  old.forEach((row) => leave(row));
  const now = held && document.getElementById(held);
  if (now && anchor !== undefined) window.scrollBy(0, now.getBoundingClientRect().top - anchor);
  tick();
  if (arrived) live.textContent = `${arrived} ${arrived === 1 ? 'study has' : 'studies have'} come to the list`;
}

function keepFocus(from, to) {
  if (!from.contains(document.activeElement)) return;
  queueMicrotask(() => to.querySelector('a.open')?.focus({ preventScroll: true }));
}

// A row that goes while it has the focus gives it to its neighbour.
function leave(row) {
  const next = row.nextElementSibling ?? row.previousElementSibling;
  if (row.contains(document.activeElement)) next?.querySelector('a.open')?.focus({ preventScroll: true });
  row.remove();
}

// Waiting times go on between two answers.
function tick() {
  for (const time of document.querySelectorAll('time[data-since]')) {
    const text = spell((Date.now() - Number(time.dataset.since)) / 60000);
    if (time.textContent !== text) time.textContent = text;
  }
}

function spell(minutes) {
  const whole = Math.max(0, Math.floor(minutes));
  if (whole < 60) return `${whole} min`;
  if (whole < 48 * 60) return `${Math.floor(whole / 60)} h ${String(whole % 60).padStart(2, '0')} min`;
  return `${Math.floor(whole / 1440)} days`;
}

// The link of the row `step` further, or the first.
function go(step) {
  const links = [...table.querySelectorAll('a.open')];
  const at = links.findIndex((link) => link.closest('tr').contains(document.activeElement));
  const next = links[Math.min(links.length - 1, Math.max(0, at < 0 ? 0 : at + step))];
  next?.focus();
  next?.closest('tr').scrollIntoView({ block: 'nearest' });
}

const KEYS = {
  j: () => go(1), k: () => go(-1), ArrowDown: () => go(1), ArrowUp: () => go(-1),
  '/': () => form.elements.q.focus(), '?': helpKeys, r: () => refresh({ force: true }),
};

document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && typing(event)) document.activeElement.blur();
  if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  const does = KEYS[event.key];
  if (!does) return;
  event.preventDefault();
  does();
});

document.addEventListener('click', async (event) => {
  if (event.target.closest('#more button')) {
    shown += Number(table.dataset.step);
    await refresh({ force: true });
  }
  const retry = event.target.closest('button[data-retry]');
  if (retry) {
    retry.disabled = true;
    try {
      await api.retry(retry.dataset.retry);
      live.textContent = 'The study is tried again';
    } catch (error) {
      told(error.message);
      retry.disabled = false;
    }
    await refresh({ force: true });
  }
  if (event.target.closest('button[data-keys]')) helpKeys();
});

async function filtered() {
  shown = Number(table.dataset.step);
  const wanted = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  history.replaceState(null, '', `${location.pathname}${wanted.size ? `?${wanted}` : ''}`);
  await refresh({ force: true });
}

form.addEventListener('change', filtered);
form.addEventListener('submit', (event) => { event.preventDefault(); filtered(); });
let pause = 0;
form.addEventListener('input', (event) => {
  if (event.target.type !== 'search') return;
  clearTimeout(pause);
  pause = setTimeout(filtered, 250);
});
document.querySelector('#counts').addEventListener('click', (event) => {
  const link = event.target.closest('a');
  if (!link) return;
  event.preventDefault();
  form.elements.show.value = link.dataset.show;
  filtered();
});

document.querySelector('#person')?.addEventListener('submit', async (event) => {
  event.preventDefault();
  const found = document.querySelector('#found');
  const field = event.target.elements.person;
  try {
    const answer = await ask('/worklist/person', { method: 'POST', body: { person: field.value } });
    const { studies, damaged, others } = await answer.json();
    found.replaceChildren(...(studies.length ? studies.map(link) : [line('No study of this person was found.')]));
    if (damaged) found.append(line(`${damaged === 1 ? 'One identity' : `${damaged} identities`} could not be read, and may be of this person: tell whoever runs this; the audit chain names the study.`));
    if (others) found.append(line(`${others} older studies were not looked into: give the whole Patient ID.`));
  } catch (error) {
    found.replaceChildren(error.message);
  }
  found.hidden = false;
});

const line = (words) => Object.assign(document.createElement('p'), { textContent: words });

function link({ study_key: key, words }) {
  const item = document.createElement('p');
  const anchor = Object.assign(document.createElement('a'), { href: `/studies/${key}`, textContent: key, className: 'key' });
  item.append(anchor, ` ${words}`);
  return item;
}

setInterval(() => { if (!document.hidden) refresh({ by: askUnattended }); }, EVERY);
setInterval(tick, 15000);
document.addEventListener('visibilitychange', () => { if (!document.hidden) refresh(); });
tick();
document.documentElement.dataset.ready = String(Math.round(performance.now())); // milliseconds since the page was asked for

// Asking the server: JSON or bytes in, the answer out, and one kind of error that says what to do.

export class Problem extends Error {
  constructor(title, detail, status) {
    // our own words say what to do; the status' name is for those that have none
    super(detail ? detail[0].toUpperCase() + detail.slice(1) : title);
    this.status = status;
  }
}

const csrf = () => document.querySelector('meta[name="csrf-token"]')?.content ?? '';

// fetch with the session; raises Problem for what is no success, also when nobody answers.
export async function ask(address, { method = 'GET', body, headers = {}, signal } = {}) {
  const own = { Accept: 'application/json', ...headers };
  if (method !== 'GET') own['X-CSRF-Token'] = csrf();
  if (body !== undefined) own['Content-Type'] = 'application/json';
  let answer;
  try {
    answer = await fetch(address, {
      method, headers: own, signal, credentials: 'same-origin', redirect: 'manual',
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem('', 'The server does not answer. Check the network, or whether `medai up` runs; nothing was changed.', 0);
  }
  if (answer.ok || answer.status === 304) return answer;
  throw await problemOf(answer);
}

let attended = false; // whether somebody has touched the page since it last asked by itself
for (const deed of ['keydown', 'pointerdown', 'wheel']) addEventListener(deed, () => { attended = true; }, { capture: true, passive: true });

// What a page asks by itself, again and again: it keeps nobody logged in who is not there.
export function askUnattended(address, options = {}) {
  const headers = { ...options.headers, ...(attended ? {} : { 'X-Unattended': '1' }) };
  attended = false;
  return ask(address, { ...options, headers });
}

async function problemOf(answer) {
  if (answer.status === 401 || answer.type === 'opaqueredirect') {
    return new Problem('', 'Your session has ended. Load the page again and sign in.', 401);
  }
  const said = await answer.json().catch(() => ({}));
  return new Problem(said.title ?? `The server answered ${answer.status}`, said.detail ?? '', answer.status);
}

// The two parts of a packed answer: its JSON header, and the bytes behind it.
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { header, start: 4 + length };
}

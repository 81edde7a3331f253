// Whether the study has a newer report, or goes on, since the page was loaded. What is being read is never exchanged by itself.

import { askUnattended } from './net.js';

const EVERY = 15_000;

const WORDS = {
  report: 'A newer report of this study is there.',
  state: 'The state of this study has changed.',
  over: 'Your session has ended.',
};

// What there is to say, or undefined. `seen` is what the page shows, `now` what the server says.
const change = (seen, now) => (now.report !== seen.report ? 'report' : now.state !== seen.state || now.revision !== seen.revision ? 'state' : undefined);

// Looks every 15 s while the page is seen, and at once when it is seen again; says it in `place`, once.
export function watch({ studyKey, news: seen }, place) {
  let timer = null;
  const look = async () => {
    if (document.hidden) return;
    try {
      const answer = await askUnattended(`/studies/${studyKey}/news`);
      say(change(seen, await answer.json()));
    } catch (error) {
      if (error.status === 401) say('over'); // when nobody answers, the next look tries again
    }
  };
  const say = (what) => {
    if (!what || place.dataset.says === what) return;
    place.dataset.says = what;
    if (what !== 'state') stop(); // there is nothing more to learn
    const note = Object.assign(document.createElement('p'), { className: 'message warn', textContent: `${WORDS[what]} ` });
    note.append(Object.assign(document.createElement('a'), { href: location.pathname, textContent: 'Load the page again' }));
    place.replaceChildren(note);
  };
  const stop = () => { clearInterval(timer); document.removeEventListener('visibilitychange', look); };
  timer = setInterval(look, EVERY);
  document.addEventListener('visibilitychange', look);
}

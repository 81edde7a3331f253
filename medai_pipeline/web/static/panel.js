// The right side of the study page: who it is, the decision, the priority. Every write says what came of it.

import * as api from './api.js';

const $ = (selector) => document.querySelector(selector);

export class Panel {
  constructor(data) {
    this.data = data;
    $('#whois')?.addEventListener('click', () => this.#attempt(() => this.#who()));
    $('#ohif')?.addEventListener('click', () => this.#attempt(() => this.#ohif()));
    $('#retry')?.addEventListener('click', () => this.#attempt(() => this.#retry()));
    const form = $('#review');
    form?.addEventListener('submit', (event) => { event.preventDefault(); this.#attempt(() => this.#review(form)); });
    form?.addEventListener('change', () => { $('#edit').hidden = form.elements.decision.value !== 'edited'; });
    form?.addEventListener('keydown', (event) => { if (event.key === 'Enter' && event.ctrlKey) { event.preventDefault(); form.requestSubmit(); } });
    $('#prioritize')?.addEventListener('submit', (event) => { event.preventDefault(); this.#attempt(() => this.#prioritize(event.target)); });
  }

  trouble(error) {
    const box = $('#panel-trouble');
    box.hidden = !error;
    if (error) box.textContent = error.message;
  }

  // Chooses a decision and goes to its note: signing is one more key.
  decide(decision) {
    const choice = document.querySelector(`#review input[value="${decision}"]`);
    if (!choice) return;
    choice.click();
    $('#note').focus();
  }

  async #attempt(deed) {
    this.trouble(null);
    try {
      await deed();
    } catch (error) {
      this.trouble(error);
    }
  }

  async #who() {
    const { identity } = await api.identity(this.data.studyKey);
    const list = document.createElement('dl');
    for (const { what, value } of identity) {
      list.append(Object.assign(document.createElement('dt'), { textContent: what }), Object.assign(document.createElement('dd'), { textContent: value }));
    }
    $('#who').replaceChildren(list, Object.assign(document.createElement('p'), { className: 'quiet', textContent: 'That you saw this is kept in the audit chain.' }));
    $('#who').hidden = false;
  }

  async #ohif() {
    const { address } = await api.ohif(this.data.studyKey);
    window.open(address, '_blank', 'noopener,noreferrer');
  }

  async #retry() {
    await api.retry(this.data.studyKey);
    location.reload();
  }

  async #review(form) {
    const { decision, note } = form.elements;
    if (decision.value === 'rejected' && !note.value.trim()) {
      note.focus();
      throw new Error('Say why you reject it: the note is empty.');
    }
    const body = { decision: decision.value, note: note.value.trim() };
    if (decision.value === 'edited') body.content = this.#edited(form);
    const made = await api.review(this.data.reportId, body, this.data.lastDecision);
    this.data.lastDecision = made.id;
    $('#decided').textContent = `Signed: ${decision.value}. Press n for the next unread study.`;
    $('#decided').hidden = false;
    form.reset();
    $('#edit').hidden = true;
    $('#canvas').focus({ preventScroll: true });
  }

  // What the reader says is there, finding by finding.
  #edited(form) {
    const boxes = [...form.querySelectorAll('[name="present"]')];
    return { findings: boxes.map((box) => ({ label: box.value, present: box.checked })) };
  }

  async #prioritize(form) {
    const { priority, reason } = form.elements;
    const said = { priority: priority.value, reason: reason.value.trim() };
    this.data.lastPriority = String((await api.prioritize(this.data.studyKey, said, this.data.lastPriority)).said.id);
    const pill = $('#priority');
    pill.className = `priority ${priority.value}`;
    pill.textContent = priority.value;
    form.closest('details').open = false;
  }
}

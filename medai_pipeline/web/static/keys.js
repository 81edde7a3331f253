// What all pages do about keys: not while somebody types, and "?" shows them.

const TEXT = new Set(['text', 'search', 'password', 'email', 'number']);

export function typing({ target }) {
  return target.tagName === 'TEXTAREA' || target.tagName === 'SELECT' || (target.tagName === 'INPUT' && TEXT.has(target.type));
}

export function helpKeys() {
  document.querySelector('dialog.keys').showModal();
}

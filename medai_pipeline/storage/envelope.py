"""The sealed form of one object: AES-256-GCM under a fresh data key, which is wrapped by its study's object key.

No files and no names are decided here. Layout, in bytes:

    magic 8 | key id 8 | wrap nonce 12 | wrapped data key 48 | data nonce 12 | ciphertext and tag

The data key is bound to magic, key id and name; the data to magic and name. Another key therefore needs a new header
only, and a sealed object put under another name does not open. NIST SP 800-38D: a 96-bit random nonce;
each data key is used once.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from medai_pipeline.errors import ObjectCorrupt
from medai_pipeline.storage.keys import key_id

MAGIC = b"MEDAIOB1"
HEADER_BYTES = 88


def seal(master: bytes, name: str, data: bytes) -> tuple[bytes, bytes]:
    """(header, ciphertext) of `data` under `name`: written one after the other, they are the object."""
    data_key = os.urandom(32)
    nonce = os.urandom(12)
    header = _wrap(master, name, data_key) + nonce
    return header, AESGCM(data_key).encrypt(nonce, data, MAGIC + name.encode())


def open_sealed(master: bytes, name: str, sealed: bytes) -> bytes:
    """The plain bytes. Raises ObjectCorrupt when they were changed, moved to another name, or sealed by another key."""
    data_key = _unwrap(master, name, sealed)
    body = memoryview(sealed)[HEADER_BYTES:]
    try:
        return AESGCM(data_key).decrypt(sealed[HEADER_BYTES - 12 : HEADER_BYTES], body, MAGIC + name.encode())
    except InvalidTag as error:
        raise ObjectCorrupt(f"object {name} fails its authentication tag: fetch or compute it again") from error


def sealed_under(name: str, sealed: bytes) -> bytes:
    """The id of the key that wraps the data key. Raises ObjectCorrupt when this is not one of ours."""
    if len(sealed) < HEADER_BYTES or sealed[:8] != MAGIC:
        raise ObjectCorrupt(f"object {name} is not one of ours or is cut off: fetch or compute it again")
    return bytes(sealed[8:16])


def rewrapped(old: bytes, new: bytes, name: str, header: bytes) -> bytes:
    """`header` under another master key; the ciphertext behind it stays as it is."""
    return _wrap(new, name, _unwrap(old, name, header)) + header[HEADER_BYTES - 12 : HEADER_BYTES]


def _wrap(master: bytes, name: str, data_key: bytes) -> bytes:
    start, nonce = MAGIC + key_id(master), os.urandom(12)
    return start + nonce + AESGCM(master).encrypt(nonce, data_key, start + name.encode())


def _unwrap(master: bytes, name: str, sealed: bytes) -> bytes:
    start, nonce, wrapped = sealed[:16], sealed[16:28], sealed[28:76]
    if sealed_under(name, sealed) != key_id(master):
        raise ObjectCorrupt(f"object {name} was sealed with another site key: restore that key")
    try:
        return AESGCM(master).decrypt(nonce, wrapped, start + name.encode())
    except InvalidTag as error:
        raise ObjectCorrupt(f"object {name} has a damaged header: fetch or compute it again") from error

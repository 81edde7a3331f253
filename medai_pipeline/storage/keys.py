"""A site's secret and the keys derived from it. No encryption happens here, and nothing here is ever shown.

A secret is 32 random bytes. Every use has a subkey of its own (HKDF-SHA256, RFC 5869, with distinct info labels), so
that no use learns the key of another. How a site comes to have several secrets, and where they are kept: `keyring`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass, fields, replace
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from medai_pipeline.errors import SettingsError

SECRET_BYTES = 32
STUDY_KEY_LENGTH = 26


def key_id(key: bytes) -> bytes:
    """8 bytes that name a key without revealing it: sealed data carries them, to tell a wrong key from corruption."""
    return hmac.new(key, b"medai key id v1", hashlib.sha256).digest()[:8]


@dataclass(frozen=True, slots=True, repr=False)
class SiteKeys:
    """The subkeys of one secret, 32 bytes each.

    The first three make names (study keys, new UIDs, the index of patients): they stay the same for the life of a
    site, whatever secret came after. `objects` and `vault` opened what was sealed before studies had secrets of
    their own; `wrapping` seals those.
    """

    study_keys: bytes
    deidentification: bytes
    patients: bytes
    objects: bytes
    vault: bytes
    wrapping: bytes
    audit: bytes
    web: bytes

    def __repr__(self) -> str:
        return "SiteKeys(<hidden>)"

    @classmethod
    def from_secret(cls, secret: bytes) -> SiteKeys:
        """Raises SettingsError unless `secret` has 32 bytes."""
        if len(secret) != SECRET_BYTES:
            raise SettingsError(f"the site's secret key must have {SECRET_BYTES} bytes, this one has {len(secret)}")
        return cls(**{f.name: subkey(secret, _LABELS.get(f.name, f.name)) for f in fields(cls)})

    @classmethod
    def load(cls, value: str | None, path: Path, create: bool) -> SiteKeys:
        """The keys of the newest secret, from `value`, else from the file at `path`, which is made when `create`.

        Raises SettingsError when they cannot be read, the file is absent, or others may read it.
        """
        from medai_pipeline.storage.keyring import read_ring

        return read_ring(value, path, create).newest

    @property
    def id(self) -> str:
        """Names the secret without revealing it: 16 hexadecimal digits."""
        return key_id(self.wrapping).hex()

    @property
    def names(self) -> bytes:
        """The subkeys that make names, one after the other."""
        return b"".join(getattr(self, name) for name in NAMES)

    def named_by(self, names: bytes) -> SiteKeys:
        """The same secret's keys, but for the names, which stay those of the site."""
        parts = (names[at : at + SECRET_BYTES] for at in range(0, len(names), SECRET_BYTES))
        return replace(self, **dict(zip(NAMES, parts, strict=True)))

    def study_key(self, study_instance_uid: str) -> str:
        """26 characters A-Z2-7 (130 bits) that stand for a study wherever its UID must not appear."""
        digest = hmac.new(self.study_keys, study_instance_uid.encode(), hashlib.sha256).digest()
        return base64.b32encode(digest).decode()[:STUDY_KEY_LENGTH]

    def patient_token(self, patient_id: str) -> str:
        """What stands for a Patient ID in the index of the vault; "" for none. Spaces around an ID mean nothing."""
        told = patient_id.strip().encode("utf-8", "surrogatepass")
        return hmac.new(self.patients, told, hashlib.sha256).hexdigest()[:32] if told else ""


NAMES = ("study_keys", "deidentification", "patients")
_LABELS = {"study_keys": "study-key"}


def subkey(secret: bytes, label: str) -> bytes:
    """32 bytes for one use of a secret."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"medai/v1/{label}".encode()).derive(secret)

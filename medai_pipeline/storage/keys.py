"""The site's secret and the keys derived from it. No encryption happens here, and nothing here is ever shown.

One secret of 32 random bytes belongs to a site. Every use has a subkey of its own (HKDF-SHA256, RFC 5869, with
distinct info labels), so that no use learns the key of another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
from dataclasses import dataclass
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
    """The subkeys of one site, 32 bytes each."""

    study_keys: bytes
    deidentification: bytes
    objects: bytes
    vault: bytes
    audit: bytes
    web: bytes
    patients: bytes

    def __repr__(self) -> str:
        return "SiteKeys(<hidden>)"

    @classmethod
    def from_secret(cls, secret: bytes) -> SiteKeys:
        """Raises SettingsError unless `secret` has 32 bytes."""
        if len(secret) != SECRET_BYTES:
            raise SettingsError(f"the site's secret key must have {SECRET_BYTES} bytes, this one has {len(secret)}")
        labels = ("study-key", "deidentification", "objects", "vault", "audit", "web", "patients")
        return cls(*(_subkey(secret, label) for label in labels))

    @classmethod
    def load(cls, value: str | None, path: Path, create: bool) -> SiteKeys:
        """The keys from `value` (base64), else from the file at `path`, which is made when `create`.

        Raises SettingsError when the value is not 32 bytes in base64, the file is absent, or others may read it.
        """
        if value:
            return cls.from_secret(_decode(value, "MEDAI_KEY"))
        if create and not path.exists():
            _create(path)
        return cls.from_secret(_read(path))

    def study_key(self, study_instance_uid: str) -> str:
        """26 characters A-Z2-7 (130 bits) that stand for a study wherever its UID must not appear."""
        digest = hmac.new(self.study_keys, study_instance_uid.encode(), hashlib.sha256).digest()
        return base64.b32encode(digest).decode()[:STUDY_KEY_LENGTH]

    def patient_token(self, patient_id: str) -> str:
        """What stands for a Patient ID in the index of the vault; "" for none. Spaces around an ID mean nothing."""
        told = patient_id.strip().encode("utf-8", "surrogatepass")
        return hmac.new(self.patients, told, hashlib.sha256).hexdigest()[:32] if told else ""


def _subkey(secret: bytes, label: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=f"medai/v1/{label}".encode()).derive(secret)


def _decode(text: str, source: str) -> bytes:
    try:
        secret = base64.b64decode(text.strip(), validate=True)
    except binascii.Error as error:
        raise SettingsError(f"{source} is not base64: it should be {SECRET_BYTES} random bytes in base64") from error
    if len(secret) != SECRET_BYTES:
        raise SettingsError(f"{source} holds {len(secret)} bytes: it should be {SECRET_BYTES} random bytes in base64")
    return secret


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise SettingsError(
            f"there is no key file at {path}: restore it, or set MEDAI_KEY or MEDAI_KEY_FILE"
        ) from error
    except OSError as error:
        raise SettingsError(f"the key file at {path} cannot be read ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        # asked of the open file, so that it cannot be exchanged between the question and the reading
        if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
            raise SettingsError(f"others may read the key file: run chmod 600 {path}")
        text = file.read(4096)
    return _decode(text.decode("ascii", "replace"), f"the key file at {path}")


def _create(path: Path) -> None:
    """A fresh secret at `path`, whole or not at all; when another process was faster, its file stays."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        for folder in (path.parent.parent, path.parent):  # mkdir gives its mode to the last folder alone
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(secrets.token_bytes(SECRET_BYTES)) + b"\n")
                file.flush()
                os.fsync(descriptor)
            # a link, not a rename: it never replaces a key that another process has begun to use
            _link(temporary, path)
        finally:
            temporary.unlink()
    except OSError as error:
        raise SettingsError(f"a key file cannot be made at {path} ({error.strerror})") from error


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileExistsError:
        return
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

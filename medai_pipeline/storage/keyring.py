"""The site's secrets over time: where they are kept, how a file of them looks, and how one is added or destroyed.

A key file (or MEDAI_KEY) is one secret in base64, as a site begins; after a rotation it is lines, oldest first:

    names <96 bytes>     the subkeys that make study keys, new UIDs and the patient index: for the life of the site
    audit <32 bytes>     of each secret that was destroyed: old audit records must still verify
    secret <32 bytes>    the newest last

What is not a secret is not here: which one seals now stands in Postgres, for all processes at once (`rotation`).
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

from medai_pipeline.errors import SettingsError
from medai_pipeline.storage.keys import NAMES, SECRET_BYTES, SiteKeys

_LENGTHS = {"names": len(NAMES) * SECRET_BYTES, "audit": SECRET_BYTES, "secret": SECRET_BYTES}
_HEADER = "# The keys of this site, written by `medai keys`: who has them can read all that the site holds."


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """The secrets that a site has, the oldest first; at least one. `past_audit`: of secrets destroyed before them."""

    secrets: tuple[bytes, ...]
    names: bytes
    past_audit: tuple[bytes, ...] = ()

    def __repr__(self) -> str:
        return "KeyRing(<hidden>)"

    @property
    def sites(self) -> tuple[SiteKeys, ...]:
        return tuple(SiteKeys.from_secret(secret).named_by(self.names) for secret in self.secrets)

    @property
    def newest(self) -> SiteKeys:
        return self.sites[-1]

    @property
    def audit_keys(self) -> tuple[bytes, ...]:
        """Every key that audit records were written under, in the order of their use."""
        return self.past_audit + tuple(site.audit for site in self.sites)

    def with_secret(self, secret: bytes) -> KeyRing:
        return replace(self, secrets=(*self.secrets, secret))

    def without(self, secret_id: str) -> KeyRing:
        """The ring after a secret was destroyed: its audit key alone stays, in its place among the others.

        Raises SettingsError for a secret that is not the oldest, or the only one.
        """
        oldest = self.sites[0]
        if oldest.id != secret_id or len(self.secrets) < 2:
            raise SettingsError("only the oldest of several secrets can be destroyed: rotate first")
        return replace(self, secrets=self.secrets[1:], past_audit=(*self.past_audit, oldest.audit))

    def text(self) -> str:
        lines = [("names", self.names), *(("audit", key) for key in self.past_audit)]
        lines += [("secret", secret) for secret in self.secrets]
        return "\n".join((_HEADER, *(f"{kind} {base64.b64encode(key).decode()}" for kind, key in lines))) + "\n"


class KeySource:
    """Where a process has its ring from. What it does not find there it looks for once more in the file: another
    process may have rotated. Safe for many threads."""

    def __init__(self, value: str | None, path: Path) -> None:
        self._value = value
        self._path = path
        self._guard = threading.Lock()
        self._ring = read_ring(value, path, create=False)
        self._sites = self._ring.sites

    def __repr__(self) -> str:
        return "KeySource(<hidden>)"

    @property
    def ring(self) -> KeyRing:
        return self._ring

    @property
    def newest(self) -> SiteKeys:
        return self._sites[-1]

    @property
    def sites(self) -> tuple[SiteKeys, ...]:
        return self._sites

    def site(self, secret_id: str) -> SiteKeys:
        """The keys of a secret by its id. Raises SettingsError when it is not here."""
        found = self._find(secret_id)
        if found is None:
            self.reload()
            found = self._find(secret_id)
        if found is None:
            raise SettingsError(f"the site's secret {secret_id} is not among the keys here: {self._restore}")
        return found

    def reload(self) -> None:
        """Reads the file again. With MEDAI_KEY nothing changes before the process starts anew."""
        with self._guard:
            self._ring = read_ring(self._value, self._path, create=False)
            self._sites = self._ring.sites

    def write(self, ring: KeyRing) -> None:
        """Replaces the file, whole or not at all. Raises SettingsError when the keys come from MEDAI_KEY."""
        if self._value:
            raise SettingsError("the keys come from MEDAI_KEY: give --out FILE, and set MEDAI_KEY to what it holds")
        write_ring(self._path, ring)
        self.reload()

    def _find(self, secret_id: str) -> SiteKeys | None:
        return next((site for site in self._sites if site.id == secret_id), None)

    @property
    def _restore(self) -> str:
        return "set MEDAI_KEY to the present keys and start again" if self._value else f"restore {self._path}"


def read_ring(value: str | None, path: Path, create: bool) -> KeyRing:
    """The ring from `value`, else from the file at `path`, which is made with a fresh secret when `create`.

    Raises SettingsError when it cannot be read, is not of this form, is absent, or others may read it.
    """
    if value:
        return _parse(value, "MEDAI_KEY")
    if create and not path.exists():
        _create(path)
    return _parse(_read(path), f"the key file at {path}")


def write_ring(path: Path, ring: KeyRing) -> None:
    """The file with mode 0600, in place of what was there. Raises SettingsError when it cannot be written.

    Drafts that a killed process left beside it go, too: they hold secrets that are to be destroyed.
    """
    draft = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        try:
            _write(draft, ring.text().encode())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        for left in path.parent.glob(f".{escape(path.name)}.{'[0-9a-f]' * 16}"):
            left.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise SettingsError(f"the key file at {path} cannot be written ({error.strerror}): give --out FILE") from error


def _parse(text: str, source: str) -> KeyRing:
    found: dict[str, list[bytes]] = {kind: [] for kind in _LENGTHS}
    for kind, key in _lines(text, source):
        found[kind].append(key)
    if not found["secret"]:
        raise SettingsError(f"{source} holds no secret: it should be {SECRET_BYTES} random bytes in base64")
    names = found["names"] or [SiteKeys.from_secret(found["secret"][0]).names]
    return KeyRing(tuple(found["secret"]), names[0], tuple(found["audit"]))


def _lines(text: str, source: str) -> Iterator[tuple[str, bytes]]:
    """(kind, key) of each line; `;` separates as a new line does, for an environment of one line."""
    lines = [line.strip() for line in text.replace(";", "\n").splitlines()]
    for line in lines or [""]:
        if line.startswith("#") or (not line and len(lines) > 1):
            continue
        kind, _, code = line.rpartition(" ")
        kind = kind or "secret"
        if kind not in _LENGTHS:
            raise SettingsError(f"{source} has a line of a kind that is not known: restore it from a copy")
        yield kind, _decode(code, source, _LENGTHS[kind])


def _decode(code: str, source: str, length: int) -> bytes:
    try:
        key = base64.b64decode(code, validate=True)
    except (binascii.Error, ValueError):
        raise SettingsError(f"{source} is not base64: it should be {length} random bytes in base64") from None
    if len(key) != length:
        raise SettingsError(f"{source} holds {len(key)} bytes: it should be {length} random bytes in base64")
    return key


def _read(path: Path) -> str:
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
        text = file.read(1 << 20)
    return text.decode("ascii", "replace")


def _create(path: Path) -> None:
    """A fresh secret at `path`, whole or not at all; when another process was faster, its file stays."""
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        for folder in (path.parent.parent, path.parent):  # mkdir gives its mode to the last folder alone
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write(temporary, base64.b64encode(secrets.token_bytes(SECRET_BYTES)) + b"\n")
            # a link, not a rename: it never replaces a key that another process has begun to use
            _link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(f"a key file cannot be made at {path} ({error.strerror})") from error


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except FileExistsError:
        return
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

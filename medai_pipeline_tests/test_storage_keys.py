"""The site's key: where it comes from, who may read it, and that its subkeys tell nothing of each other."""

from __future__ import annotations

import base64
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai_pipeline.errors import SettingsError
from medai_pipeline.storage.keys import SiteKeys

SECRET = bytes(range(32))
KEYS = SiteKeys.from_secret(SECRET)


def test_the_value_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "site.key"
    assert SiteKeys.load(base64.b64encode(SECRET).decode(), path, create=True) == KEYS
    assert not path.exists()


def test_a_made_key_file_is_for_its_owner_alone_and_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "site.key"
    made = SiteKeys.load(None, path, create=True)
    assert SiteKeys.load(None, path, create=True) == made
    assert SiteKeys.load("", path, create=False) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["site.key"]


def test_processes_that_make_the_key_at_once_end_with_the_same_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: SiteKeys.load(None, tmp_path / "site.key", create=True), range(8)))
    assert all(keys == made[0] for keys in made)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o660])
def test_a_key_file_that_others_may_read_is_refused_with_the_command_to_run(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "site.key"
    SiteKeys.load(None, path, create=True)
    path.chmod(mode)
    with pytest.raises(SettingsError, match=re.escape(f"chmod 600 {path}")):
        SiteKeys.load(None, path, create=True)


def test_a_missing_key_file_is_not_made_unasked(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no key file"):
        SiteKeys.load(None, tmp_path / "site.key", create=False)


@pytest.mark.parametrize("text", ["not base64!", "", "c2hvcnQ=", base64.b64encode(bytes(33)).decode()])
def test_a_damaged_key_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "site.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SettingsError) as caught:
        SiteKeys.load(None, path, create=True)
    assert not text or text not in str(caught.value)
    assert path.read_text() == text
    if text:
        with pytest.raises(SettingsError, match="MEDAI_KEY "):
            SiteKeys.load(text, path, create=False)


def test_subkeys_differ_and_none_is_shown() -> None:
    subkeys = [*(getattr(KEYS, f.name) for f in fields(KEYS)), SECRET]
    assert len(set(subkeys)) == len(subkeys) > 6
    assert all(len(key) == 32 for key in subkeys)
    assert repr(KEYS) == str(KEYS) == "SiteKeys(<hidden>)"


def test_a_study_key_does_not_change_between_versions() -> None:
    """Partitions of years hang on it: HKDF and HMAC computed once by hand with the standard library."""
    import hashlib
    import hmac

    pseudorandom = hmac.new(bytes(32), SECRET, hashlib.sha256).digest()
    subkey = hmac.new(pseudorandom, b"medai/v1/study-key\x01", hashlib.sha256).digest()
    digest = hmac.new(subkey, b"1.2.840.113619.2.1", hashlib.sha256).digest()
    assert KEYS.study_key("1.2.840.113619.2.1") == base64.b32encode(digest)[:26].decode()


@given(st.text("0123456789.", min_size=1, max_size=64))
def test_a_study_key_is_26_characters_and_depends_on_the_site(uid: str) -> None:
    key = KEYS.study_key(uid)
    assert re.fullmatch(r"[A-Z2-7]{26}", key)
    assert key == KEYS.study_key(uid) != SiteKeys.from_secret(bytes(32)).study_key(uid)

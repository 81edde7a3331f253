"""The object store: what went in comes out, or a clear error; nothing half written, nothing readable, nothing outside."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from medai_pipeline.errors import ObjectCorrupt, ObjectMissing, StorageError, StorageFull
from medai_pipeline.storage.envelope import HEADER_BYTES, open_sealed, rewrapped, seal
from medai_pipeline.storage.objects import ObjectStore

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
MARKER = b"ZZTOP^PATIENT^MARKER"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "objects", KEY)


def files_under(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


@settings(deadline=None)
@given(st.binary(max_size=4096))
@example(b"")
@example(bytes(3_000_000))
def test_bytes_come_back_as_they_went_in(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ObjectStore(Path(folder), KEY)
        store.put("raw/A/1", data)
        assert store.get("raw/A/1") == data


def test_the_disk_shows_names_and_sizes_but_no_content(store: ObjectStore, tmp_path: Path) -> None:
    store.put("raw/A/1", MARKER * 100)
    store.put("raw/A/2", MARKER * 100)
    one, two = files_under(tmp_path)
    assert MARKER not in one.read_bytes()
    assert one.read_bytes()[16:] != two.read_bytes()[16:]
    assert one.stat().st_size == len(MARKER) * 100 + HEADER_BYTES + 16


def test_files_and_folders_are_for_their_owner_alone(store: ObjectStore, tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store.put("raw/A/1", b"x")
    finally:
        os.umask(old)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "objects").rglob("*") if p.is_dir()}
    assert modes == {0o700}
    assert stat.S_IMODE((tmp_path / "objects").stat().st_mode) == 0o700
    assert [stat.S_IMODE(p.stat().st_mode) for p in files_under(tmp_path)] == [0o600]


def test_putting_again_replaces_and_deleting_removes(store: ObjectStore) -> None:
    store.put("a", b"old")
    store.put("a", b"new")
    assert store.get("a") == b"new"
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")
    with pytest.raises(ObjectMissing, match="object a "):
        store.get("a")


def test_names_lists_by_prefix_and_leaves_temporary_files_out(store: ObjectStore, tmp_path: Path) -> None:
    assert list(store.names()) == []
    for name in ("raw/B/1", "raw/AB/1", "raw/A/2", "raw/A/1", "assets/x"):
        store.put(name, b"")
    (tmp_path / "objects/raw/A/.0123.part").write_bytes(b"left behind")
    assert list(store.names()) == ["assets/x", "raw/A/1", "raw/A/2", "raw/AB/1", "raw/B/1"]
    assert list(store.names("raw/A/")) == ["raw/A/1", "raw/A/2"]
    assert list(store.names("raw/A")) == ["raw/A/1", "raw/A/2", "raw/AB/1"]
    assert list(store.names("nothing/here")) == []


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", ".", "a/.hidden", "a\\b", "a\nb", "a\0b", "Müller", "a b", "x" * 201]
)  # fmt: skip
def test_a_name_that_could_leave_the_store_or_identify_is_refused(
    store: ObjectStore, tmp_path: Path, name: str
) -> None:
    for use in (lambda: store.put(name, b""), lambda: store.get(name), lambda: store.exists(name), lambda: store.delete(name)):  # fmt: skip
        with pytest.raises(StorageError, match="no object name"):
            use()
    assert files_under(tmp_path) == []


# what an attacker or a failing disk may do -------------------------------------------------------------------


def test_another_sites_key_opens_nothing(store: ObjectStore, tmp_path: Path) -> None:
    store.put("a", b"secret")
    with pytest.raises(ObjectCorrupt, match="another site key"):
        ObjectStore(tmp_path / "objects", OTHER_KEY).get("a")


def test_every_changed_byte_and_every_missing_end_is_noticed(store: ObjectStore, tmp_path: Path) -> None:
    store.put("a", b"secret")
    (path,) = files_under(tmp_path)
    sealed = path.read_bytes()
    for place in range(len(sealed)):
        path.write_bytes(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :])
        with pytest.raises(ObjectCorrupt):
            store.get("a")
        path.write_bytes(sealed[:place])
        with pytest.raises(ObjectCorrupt):
            store.get("a")


def test_an_object_moved_to_another_name_does_not_open(store: ObjectStore, tmp_path: Path) -> None:
    store.put("raw/A/1", b"of patient A")
    store.put("raw/B/1", b"of patient B")
    root = tmp_path / "objects/raw"
    shutil.copy(root / "A/1", root / "B/1")
    with pytest.raises(ObjectCorrupt):
        store.get("raw/B/1")


def test_a_new_site_key_needs_a_new_header_only() -> None:
    header, body = seal(KEY, "a", b"secret")
    moved = rewrapped(KEY, OTHER_KEY, "a", header)
    assert len(moved) == len(header) == HEADER_BYTES
    assert open_sealed(OTHER_KEY, "a", moved + body) == b"secret"
    with pytest.raises(ObjectCorrupt):
        open_sealed(KEY, "a", moved + body)


# full disks and killed writers -------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k,mode=0700", "medai-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("missing here: the right to mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_in_one_line_leaves_nothing_and_a_retry_succeeds(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 512) as disk:
        store = ObjectStore(disk, KEY)
        store.put("a", b"old")
        store.put("big", bytes(300_000))
        with pytest.raises(StorageFull) as caught:
            store.put("a", bytes(300_000))
        assert caught.value.retryable
        assert "no space left" in str(caught.value) and "\n" not in str(caught.value)
        assert [path.name for path in files_under(disk)] == ["a", "big"]
        assert store.get("a") == b"old"
        store.delete("big")
        store.put("a", bytes(300_000))
        assert store.get("a") == bytes(300_000)


@pytest.mark.parametrize("failing", ["write", "fsync", "open"])
def test_a_disk_that_is_full_at_any_step_leaves_nothing(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    import errno

    store.put("a", b"old")

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, full)
        with pytest.raises(StorageFull):
            store.put("a", b"new")
    assert [path.name for path in files_under(tmp_path)] == ["a"]
    assert store.get("a") == b"old"


def test_a_write_in_pieces_is_whole(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:1000]))
    store.put("a", bytes(10_500))
    assert store.get("a") == bytes(10_500)


def test_a_disk_that_refuses_is_named_without_a_path(store: ObjectStore, tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("a file where the folder should be")
    with pytest.raises(StorageError) as caught:
        store.put("a/b", b"")
    assert str(tmp_path) not in str(caught.value)


def test_what_a_killed_writer_leaves_is_swept_and_never_served(store: ObjectStore, tmp_path: Path) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from medai_pipeline.storage.objects import ObjectStore
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        ObjectStore(Path({str(tmp_path / "objects")!r}), b"k" * 32).put("a", bytes(50_000))
    """
    (tmp_path / "objects").mkdir(mode=0o700)
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)])
    assert ended.returncode == -signal.SIGKILL
    assert len(files_under(tmp_path)) == 1
    assert list(store.names()) == []
    assert not store.exists("a")
    assert store.sweep_temporaries(older_than_s=3600) == 0
    assert store.sweep_temporaries(older_than_s=0) == 1
    assert files_under(tmp_path) == []


def test_readers_see_the_old_or_the_new_object_while_it_is_replaced(store: ObjectStore) -> None:
    store.put("a", b"0" * 10_000)
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(store.put, "a", str(n).encode() * 10_000) for n in range(10)]
        reads = [pool.submit(store.get, "a") for _ in range(40)]
        seen = {read.result() for read in reads}
        for write in writes:
            write.result()
    assert all(len(data) == 10_000 and len(set(data)) == 1 for data in seen)

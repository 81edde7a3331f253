"""A MODEL_PATH that cannot be written to: said in one line, with advice that fits what is wrong, and nothing is left there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from medai_pipeline.errors import StorageError, StorageFull
from medai_pipeline.registering import write_whole


@pytest.mark.parametrize("depth", [1, 2], ids=["for the folder", "for MODEL_PATH"])
def test_a_file_in_the_way_of_a_folder_is_told(tmp_path: Path, depth: int) -> None:
    in_the_way = tmp_path / "models"
    in_the_way.write_text("a file")
    with pytest.raises(StorageError, match="another one") as caught:
        write_whole(in_the_way.joinpath(*["objects"] * (depth - 1), "a.safetensors"), b"weights")
    assert "make room" not in caught.value.reason and not isinstance(caught.value, StorageFull)
    assert not caught.value.retryable and in_the_way.read_text() == "a file"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("step", ["mkdir", "fsync", "replace"])
def test_the_advice_fits_what_the_disk_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: str
) -> None:
    target = tmp_path / "objects" / "a.safetensors"
    if step != "mkdir":
        write_whole(target, b"before")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os if step == "fsync" else Path, step, refuse)
        with pytest.raises(StorageError) as caught:
            write_whole(target, b"after")
    full = number in (errno.ENOSPC, errno.EDQUOT)
    assert isinstance(caught.value, StorageFull) is full
    assert ("make room" in caught.value.reason) is full and ("may write to" in caught.value.reason) is not full
    assert os.strerror(number) in caught.value.reason and str(tmp_path) not in caught.value.reason
    if step != "mkdir":
        assert [path.name for path in target.parent.iterdir()] == [target.name] and target.read_bytes() == b"before"


@pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="/proc is a folder in which nobody may make one")
def test_a_folder_that_the_system_keeps_to_itself_is_told() -> None:
    with pytest.raises(StorageError, match="may write to"):
        write_whole(Path("/proc/medai/objects/a.safetensors"), b"weights")

"""Files that are dropped into a folder: taken when they are whole, set aside with a reason, never lost, said once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from medai_pipeline.errors import StorageFull
from medai_pipeline.incoming.forward import Forwarder
from medai_pipeline.incoming.inbox import Inbox
from medai_pipeline.incoming.spool import Spool
from medai_pipeline.pacs.orthanc import Orthanc
from medai_pipeline.storage.objects import ObjectStore
from medai_pipeline_tests.orthanc import file_bytes, instances_in, made_study


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(ObjectStore(tmp_path / "objects", os.urandom(32)))


@pytest.fixture
def inbox(tmp_path: Path, spool: Spool) -> Inbox:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return Inbox(folder, spool, quiet_s=0.0, patience_s=60.0)


def test_dropped_files_are_taken_from_the_folder_and_its_folders(inbox: Inbox, spool: Spool, pacs: Orthanc) -> None:
    datasets = made_study(3)
    inside = inbox.folder / "DOE^JANE" / "series 1"
    inside.mkdir(parents=True)
    for number, dataset in enumerate(datasets):
        ((inside if number else inbox.folder) / f"IM{number}").write_bytes(file_bytes(dataset))
    looked = inbox.look(0.0)
    assert (looked.taken, looked.set_aside, looked.left) == (3, 0, 0)
    assert list(inbox.folder.iterdir()) == []
    assert Forwarder(spool, pacs).forward() == 3
    assert instances_in(pacs, datasets[0].StudyInstanceUID) == 3


def test_a_file_that_still_grows_is_waited_for(inbox: Inbox, spool: Spool) -> None:
    data = file_bytes(made_study(1)[0])
    path = inbox.folder / "IM0"
    inbox.quiet_s = 2.0
    path.write_bytes(data[:200])
    assert inbox.look(0.0).left == 1
    path.write_bytes(data)
    assert inbox.look(3.0).left == 1, "it changed since the last look"
    assert inbox.look(4.0).left == 1
    assert inbox.look(5.0).taken == 1 and not path.exists()
    assert spool.read(spool.waiting()[0]) == data


def test_a_file_that_is_not_whole_is_waited_for_and_at_last_set_aside_with_its_reason(
    inbox: Inbox, spool: Spool
) -> None:
    data = file_bytes(
        made_study(
            1,
        )[0]
    )
    path = inbox.folder / "DOE^JANE.dcm"
    path.write_bytes(data[:-10])
    assert [inbox.look(now).left for now in (0.0, 30.0)] == [1, 1] and path.exists()
    assert inbox.look(61.0).set_aside == 1 and not path.exists()
    (aside,) = spool.quarantine()
    assert aside.reason and aside.file_name == "DOE^JANE.dcm" and "DOE" not in repr(aside)
    assert spool.waiting() == []


def test_what_is_no_dicom_is_set_aside_at_once(inbox: Inbox, spool: Spool) -> None:
    (inbox.folder / "letter.pdf").write_bytes(b"%PDF-1.7 " + b"x" * 500)
    assert inbox.look(0.0).set_aside == 1
    assert [aside.file_name for aside in spool.quarantine()] == ["letter.pdf"]


def test_hidden_and_unfinished_names_links_and_pipes_are_left_alone(inbox: Inbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(file_bytes(made_study(1)[0]))
    (inbox.folder / "link.dcm").symlink_to(secret)
    (inbox.folder / "linked").symlink_to(tmp_path)
    os.mkfifo(inbox.folder / "pipe")
    for name in (".IM0", "IM1.part", "IM2.TMP"):
        (inbox.folder / name).write_bytes(secret.read_bytes())
    looked = inbox.look(0.0)
    assert (looked.taken, looked.set_aside, looked.left) == (0, 0, 0)
    assert len(list(inbox.folder.iterdir())) == 6 and secret.exists()


def test_a_full_disk_leaves_the_file_where_it_is(inbox: Inbox) -> None:
    class Full(Spool):
        def keep(self, data: bytes) -> None:
            raise StorageFull("no space left for objects")

    inbox.spool = Full(inbox.spool.objects)
    (inbox.folder / "IM0").write_bytes(file_bytes(made_study(1)[0]))
    with pytest.raises(StorageFull):
        inbox.look(0.0)
    assert (inbox.folder / "IM0").exists()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may remove a file of the folder, as on a read-only share: for root, too, who becomes another user meanwhile."""
    folder.chmod(0o555)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)


@pytest.fixture
def anybodys(inbox: Inbox) -> Iterator[Inbox]:
    """An inbox in folders that every user of this machine may read, and a spool in which anybody may write."""
    with TemporaryDirectory(dir="/tmp") as name:
        base = Path(name)
        base.chmod(0o755)
        inbox.folder = base / "inbox"
        inbox.folder.mkdir()
        inbox.spool = Spool(ObjectStore(base / "objects", os.urandom(32)))
        for folder in (base / "objects", base / "objects" / "incoming", base / "objects" / "incoming" / "waiting"):
            folder.mkdir(exist_ok=True)
        for folder in (base / "objects").rglob("*"):
            folder.chmod(0o777)
        (base / "objects").chmod(0o777)
        yield inbox


def test_what_cannot_be_removed_is_taken_once_and_said_once_with_what_to_do(
    anybodys: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    inbox, spool = anybodys, anybodys.spool
    path = inbox.folder / "DOE^JANE.dcm"
    path.write_bytes(file_bytes(made_study(1)[0]))
    path.chmod(0o644)
    with read_only(inbox.folder):
        assert inbox.look(0.0).taken == 1
        (digest,) = spool.waiting()
        spool.done(digest)  # the PACS has it
        for now in range(1, 4):
            assert inbox.look(float(now)).left == 1
            assert spool.waiting() == []
    (said,) = [record.getMessage() for record in caplog.records]
    assert "write access" in said and "DOE" not in caplog.text
    assert inbox.look(5.0).left == 1 and not path.exists()  # as soon as it may go, it goes
    path.write_bytes(file_bytes(made_study(1)[0]))  # another one under the same name
    assert inbox.look(6.0).taken == 1 and len(spool.waiting()) == 1


def test_what_cannot_be_read_is_said_once_while_the_inbox_runs_and_again_when_it_comes_back(
    anybodys: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    path = anybodys.folder / "IM0"
    path.write_bytes(file_bytes(made_study(1)[0]))
    path.chmod(0o000)
    with read_only(anybodys.folder):
        for now in range(3):
            assert anybodys.look(float(now)).left == 1
    assert caplog.text.count("cannot be read") == 1
    hidden = path.rename(anybodys.folder / ".IM0")
    anybodys.look(3.0)
    hidden.rename(path)
    with read_only(anybodys.folder):
        anybodys.look(4.0)
    assert caplog.text.count("cannot be read") == 2

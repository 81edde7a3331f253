"""Our C-STORE SCP under dcmtk's clients: what is acknowledged is kept bit for bit; who is not allowed gets nowhere."""

from __future__ import annotations

import io
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import ImplicitVRLittleEndian, JPEG2000Lossless

from medai_pipeline.errors import PacsError, SettingsError, StorageError, StorageFull
from medai_pipeline.pacs.dimse import store
from medai_pipeline.pacs.peers import allows, allows_address, parse_peers
from medai_pipeline.pacs.receiver import Listening, Receiver
from medai_pipeline_tests.dcmtk import dcmtk
from medai_pipeline_tests.orthanc import file_bytes, made_study


class Kept(list[bytes]):
    """What was given to us, as data sets by SOP Instance UID."""

    def datasets(self) -> dict[str, pydicom.Dataset]:
        read = [pydicom.dcmread(io.BytesIO(data)) for data in self]
        return {str(dataset.SOPInstanceUID): dataset for dataset in read}


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def receiver(kept: Kept) -> Iterator[Receiver]:
    with Receiver(Listening(0), kept.append) as listening:
        yield listening


def written(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number}.dcm" for number in range(count)]
    for path, dataset in zip(paths, made_study(count), strict=True):
        path.write_bytes(file_bytes(dataset))
    return paths


def storescu(port: int, *arguments: object, title: str = "STORESCU") -> subprocess.CompletedProcess[str]:
    return dcmtk("storescu", "-v", "-aet", title, "-aec", "MEDAI", "127.0.0.1", port, *arguments)


def test_what_dcmtk_stores_is_kept_bit_for_bit(receiver: Receiver, kept: Kept, tmp_path: Path) -> None:
    paths = written(tmp_path, 5)
    assert storescu(receiver.port, *paths).returncode == 0
    sent = [pydicom.dcmread(path) for path in paths]
    assert kept.datasets() == {str(dataset.SOPInstanceUID): dataset for dataset in sent}
    for path, data in zip(paths, kept, strict=True):
        assert data.split(b"ISO_IR 192")[1] == path.read_bytes().split(b"ISO_IR 192")[1]


def test_compressed_and_implicit_objects_stay_in_their_transfer_syntax(
    receiver: Receiver, kept: Kept, tmp_path: Path
) -> None:
    compressed, implicit = made_study(2)
    compressed.file_meta.TransferSyntaxUID = JPEG2000Lossless
    compressed.PixelData = encapsulate([b"\xff\x4f\xff\xd9"])
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    paths = [tmp_path / "0.dcm", tmp_path / "1.dcm"]
    for path, dataset in zip(paths, (compressed, implicit), strict=True):
        path.write_bytes(file_bytes(dataset))
    assert [result.status for result in store(paths, "127.0.0.1", receiver.port, "MEDAI")] == ["Success"] * 2
    received = kept.datasets()
    for dataset in (compressed, implicit):
        assert received[str(dataset.SOPInstanceUID)] == dataset
        assert received[str(dataset.SOPInstanceUID)].file_meta.TransferSyntaxUID == dataset.file_meta.TransferSyntaxUID


def test_echo_is_answered(receiver: Receiver) -> None:
    assert dcmtk("echoscu", "-aec", "MEDAI", "127.0.0.1", receiver.port).returncode == 0


def test_several_senders_at_once_are_all_kept(receiver: Receiver, kept: Kept, tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    batches = [written(folder, 6) for folder in folders]
    codes: list[int] = []
    senders = [
        threading.Thread(target=lambda batch=batch: codes.append(storescu(receiver.port, *batch).returncode))
        for batch in batches
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert codes == [0] * 4 and len(kept.datasets()) == 24


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StorageFull("no space left"), "a700"),
        (StorageError("the disk refuses"), "0110"),
        (RuntimeError("Doe^Jane"), "0110"),
    ],
)
def test_what_cannot_be_kept_is_no_success(error: Exception, status: str, tmp_path: Path, caplog) -> None:
    def fails(data: bytes) -> None:
        raise error

    with Receiver(Listening(0), fails) as listening:
        (path,) = written(tmp_path, 1)
        (result,) = store([path], "127.0.0.1", listening.port, "MEDAI")
    assert not result.stored and status in result.reason.lower()
    assert "Doe" not in caplog.text and caplog.text


def test_an_object_that_is_not_what_its_request_says_is_refused(receiver: Receiver, kept: Kept, tmp_path: Path) -> None:
    (dataset,) = made_study(1)
    path = tmp_path / "0.dcm"
    data = file_bytes(dataset)
    uid = str(dataset.SOPInstanceUID)
    meta, body = data.split(b"ISO_IR 192")
    other = uid[:-1] + ("1" if uid[-1] != "1" else "2")
    path.write_bytes(meta + b"ISO_IR 192" + body.replace(uid.encode(), other.encode()))
    (result,) = store([path], "127.0.0.1", receiver.port, "MEDAI")
    assert not result.stored and "C000" in result.reason and kept == []


def test_who_is_not_named_gets_no_association(kept: Kept, tmp_path: Path) -> None:
    (path,) = written(tmp_path, 1)
    with Receiver(Listening(0, peers=parse_peers("CT1@127.0.0.1, MR1@10.0.0.0/8")), kept.append) as r:
        stranger = storescu(r.port, path, title="STRANGER")
        assert stranger.returncode != 0 and "Calling AE Title Not Recognized" in stranger.stderr + stranger.stdout
        assert kept == []
        assert storescu(r.port, path, title="CT1").returncode == 0
    assert len(kept) == 1


def test_an_address_that_is_not_named_is_closed_before_a_byte_is_read(kept: Kept, tmp_path: Path) -> None:
    (path,) = written(tmp_path, 1)
    with Receiver(Listening(0, peers=parse_peers("*@192.0.2.0/24")), kept.append) as listening:
        with socket.create_connection(("127.0.0.1", listening.port), timeout=10) as connection:
            assert connection.recv(1) == b""
        assert storescu(listening.port, path).returncode != 0
    assert kept == []


def test_another_called_ae_title_is_rejected(receiver: Receiver) -> None:
    result = dcmtk("echoscu", "-aec", "OTHER", "127.0.0.1", receiver.port)
    assert result.returncode != 0 and "Called AE Title Not Recognized" in result.stderr


def test_more_associations_than_allowed_are_rejected_for_now(tmp_path: Path) -> None:
    paths = written(tmp_path, 2)
    entered, go_on = threading.Event(), threading.Event()

    def slow(data: bytes) -> None:
        entered.set()
        assert go_on.wait(30)

    with Receiver(Listening(0, associations=1), slow) as listening:
        first = threading.Thread(target=storescu, args=(listening.port, paths[0]))
        first.start()
        assert entered.wait(30)
        second = storescu(listening.port, paths[1])
        assert second.returncode != 0 and "Local Limit Exceeded" in second.stderr + second.stdout
        go_on.set()
        first.join()


def test_a_peer_that_falls_silent_in_the_middle_is_dropped_and_others_are_served(kept: Kept) -> None:
    with Receiver(Listening(0, timeout_s=1.0), kept.append) as listening:
        with socket.create_connection(("127.0.0.1", listening.port), timeout=20) as silent:
            silent.sendall(b"\x01\x00\x00\x00\x10\x00half of an A-ASSOCIATE-RQ")
            assert dcmtk("echoscu", "-aec", "MEDAI", "127.0.0.1", listening.port).returncode == 0
            rest = silent.recv(1024)
            while rest[-1:] and (more := silent.recv(1024)):
                rest += more
        with socket.create_connection(("127.0.0.1", listening.port), timeout=20) as liar:
            liar.sendall(b"\x01\x00\xff\xff\xff\xff")
            assert liar.recv(1024)[:1] in {b"", b"\x07"}  # closed, or aborted first


def test_an_object_that_never_ends_is_cut_off(
    receiver: Receiver, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medai_pipeline.pacs.pieces.MAX_FILE_BYTES", 200_000)
    path = tmp_path / "0.dcm"
    path.write_bytes(file_bytes(made_study(1, edge=2048)[0]))  # 8 MB
    assert storescu(receiver.port, path).returncode != 0 and kept == []
    path.write_bytes(file_bytes(made_study(1)[0]))
    assert storescu(receiver.port, path).returncode == 0 and len(kept) == 1


def test_a_port_that_is_taken_is_one_line(receiver: Receiver) -> None:
    with pytest.raises(PacsError, match=f"127.0.0.1:{receiver.port}"):
        Receiver(Listening(receiver.port), print).start()


def test_after_the_stop_nothing_listens(kept: Kept) -> None:
    receiver = Receiver(Listening(0), kept.append)
    receiver.start()
    port = receiver.port
    receiver.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_peers_are_read_as_they_are_written() -> None:
    peers = parse_peers("CT1@10.0.0.7, *@10.1.0.0/16, MR1@fd00::/8")
    assert allows(peers, "CT1 ", "10.0.0.7") and not allows(peers, "CT2", "10.0.0.7")
    assert allows(peers, "ANY", "10.1.2.3") and not allows(peers, "ANY", "10.2.2.3")
    assert allows(peers, "MR1", "fd00::12%eth0") and allows_address(peers, "::ffff:10.0.0.7")
    assert allows(parse_peers(""), "ANY", "127.0.0.1") and not allows(parse_peers(""), "ANY", "10.0.0.7")
    for wrong in ("CT1", "CT1@host", "CT1@10.0.0.1/8", "SEVENTEEN-LETTERS@10.0.0.1", "@10.0.0.1"):
        with pytest.raises(SettingsError):
            parse_peers(wrong)

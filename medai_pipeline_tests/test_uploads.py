"""What may be uploaded, and what is refused: forms, zips and bombs, too much, too slow; nothing of it lies in clear."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import random
import threading
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from medai_pipeline.errors import StorageError, TooLarge, TooMany, TooSlow
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.storage.spool import Part, Spool
from medai_pipeline.web import receiving
from medai_pipeline.web.roles import Role
from medai_pipeline.web.room import Room
from medai_pipeline.web.unpacking import File, files
from medai_pipeline_tests.web import API, Site

FORM = b"--x\r\nContent-Disposition: form-data; name=a; filename=b\r\n\r\nb\r\n--x--\r\n"
UPLOAD = f"{API}/images/upload"
HEAD = bytes(128) + b"DICM"
STUDY = make_study("chest-xray", 821, rows=64, columns=64)
FILES = [to_bytes(dataset) for dataset in STUDY.datasets]


@pytest.fixture
def engineer(site: Site) -> TestClient:
    return site.caller(Role.ENGINEER, name="eng")


def zipped(entries: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return made.getvalue()


def in_pacs(site: Site, number: int = 0) -> bool:
    return bool(site.services.orthanc.named("instance", str(STUDY.datasets[number].SOPInstanceUID)))


def test_a_file_as_body_a_form_and_a_zip_come_to_the_pacs(site: Site, engineer: TestClient) -> None:
    one = engineer.post(UPLOAD, content=FILES[0], headers={"Content-Type": "application/dicom"})
    assert one.status_code == 201 and one.json()["images"][0]["status"] == "stored", one.text
    form = engineer.post(UPLOAD, files=[("file", ("a.dcm", data)) for data in FILES], data={"comment": "not a file"})
    assert [image["status"] for image in form.json()["images"]] == ["there already", "stored"]
    again = engineer.post(UPLOAD, content=zipped({"DICOMDIR": b"x", "a": FILES[0], "b": b"no DICOM"}))
    told = again.json()
    assert again.status_code == 201 and not told["complete"]
    assert [image["status"] for image in told["images"]] == ["there already", "refused"]
    key = site.key(STUDY)
    assert told["studies"] == form.json()["studies"] == [key]
    assert in_pacs(site, 0) and in_pacs(site, 1)
    assert ("user:eng", "images.uploaded", key) in audited(site)


def test_the_answer_names_the_images_as_they_will_be_found(site: Site, engineer: TestClient) -> None:
    told = engineer.post(UPLOAD, content=to_bytes(site.film.datasets[0])).json()
    found = engineer.get(f"{API}/images/{told['images'][0]['image_id']}").json()
    assert found["state"] == "here" and found["study_key"] == told["studies"][0]
    assert not any(marker in str(told) for marker in site.film.markers)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"", "application/dicom", "empty"),
        (b"hello", "application/dicom", "DICOM"),
        (b"PK\x03\x04 torn", "application/zip", "zip that cannot be read"),
        (zipped({"inner.zip": zipped({"a": FILES[0]})}), "application/zip", "DICOM"),
        (b"--x", "multipart/form-data", "boundary"),
        (b"--x\r\nA: " + b"a" * 9000, "multipart/form-data; boundary=x", "multipart form"),
        (FORM[:-4], "multipart/form-data; boundary=x", "last boundary"),
        (b"--x\r\n nonsense\r\n", "multipart/form-data; boundary=x", "multipart form"),
        (b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nb\r\n--x--\r\n", "multipart/form-data; boundary=x", "no file"),
        (FILES[0][:3000], "application/dicom", "ends inside"),
    ],
)  # fmt: skip
def test_what_is_no_dicom_is_refused_with_words(engineer: TestClient, body: bytes, kind: str, words: str) -> None:
    answer = engineer.post(UPLOAD, content=body, headers={"Content-Type": kind})
    assert answer.status_code == 422 and words in answer.json()["detail"], answer.text


def test_names_in_a_zip_lead_nowhere_and_are_not_told(
    site: Site, engineer: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    target = tmp_path / "ZZMARKescaped.dcm"
    names = {f"../../../../../../..{target}": FILES[0], str(target): FILES[1], "ZZMARKDoe^Jane.txt": b"x"}
    answer = engineer.post(UPLOAD, content=zipped(names))
    assert answer.status_code == 201 and not target.exists()
    assert "ZZMARK" not in answer.text + caplog.text


def test_a_zip_bomb_is_given_up_when_it_has_unpacked_to_the_limit() -> None:
    bomb = zipped({f"{n}.dcm": HEAD + bytes(4 * 2**20 - len(HEAD)) for n in range(8)})
    assert len(bomb) < 2**17
    with Spool(2**20) as spool:
        spool.write(bomb)
        unpacked = 0
        with pytest.raises(TooLarge, match="unpacks to more than"):
            for file in files([Part(spool, 0, spool.size)], 8 * 2**20):
                unpacked += len(file.data)
        assert unpacked <= 8 * 2**20


@pytest.mark.parametrize(
    ("head", "mib", "method", "words"),
    [
        (b"", 48, zipfile.ZIP_DEFLATED, "not a DICOM file"),
        (HEAD, 96, zipfile.ZIP_DEFLATED, "packed more than 200 times"),
        (HEAD, 16, zipfile.ZIP_BZIP2, "unusual way"),  # what becomes of a piece of it has no limit
        (HEAD, 16, zipfile.ZIP_LZMA, "unusual way"),
    ],
)
def test_a_small_zip_takes_little_memory(head: bytes, mib: int, method: int, words: str) -> None:
    bomb = zipped({"a.dcm": head + bytes(mib * 2**20)}, method)
    assert len(bomb) < 2**17
    with Spool(2**20) as spool:
        spool.write(bomb)
        found, peak = unpacked_with_peak(spool, 2**31)
    assert [file.data for file in found] == [b""] and words in found[0].refused
    assert peak < 4 * 2**20


def test_memory_holds_one_file_of_an_upload_at_a_time() -> None:
    size = 8 * 2**20
    whole = zipped({f"{n}.dcm": HEAD + random.Random(n).randbytes(size) for n in range(4)})
    with Spool(2**26) as spool:
        spool.write(whole)
        found, peak = unpacked_with_peak(spool, 2**31)
    assert len(found) == 4 and peak < 1.6 * size


def unpacked_with_peak(spool: Spool, limit: int) -> tuple[list[File], int]:
    """The files, without their bytes, and how many bytes Python held at most."""
    tracemalloc.start()
    try:
        parts = files([Part(spool, 0, spool.size)], limit)
        found = list(map(without_bytes, parts))  # a loop's variable would hold two
        return found, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def without_bytes(file: File) -> File:
    return File(refused=file.refused)


def test_a_zip_of_too_many_files_is_refused_before_the_first_is_taken(site: Site, engineer: TestClient) -> None:
    answer = engineer.post(UPLOAD, content=zipped({**{f"{n}": b"x" for n in range(50_000)}, "a.dcm": FILES[0]}))
    assert answer.status_code == 413 and answer.headers["content-type"] == "application/problem+json"
    assert "more than 20000 files" in answer.json()["detail"]
    with Spool(2**24) as spool:
        spool.write(zipped({"a.dcm": FILES[0], **{f"{n}": b"x" for n in range(20_000)}}))
        with pytest.raises(TooLarge):
            next(files([Part(spool, 0, spool.size)], 2**30))


def test_uploads_wait_for_each_other_when_memory_is_full_and_not_for_ever() -> None:
    room = Room(100, longest_wait_s=0.05)
    with room.held(70), room.held(30), pytest.raises(TooMany, match="other uploads"), room.held(1):
        pass
    with room.held(10**9), pytest.raises(TooMany), room.held(1):  # larger than all of it: alone
        pass
    patient, begun, done = Room(100), threading.Event(), threading.Event()

    def later() -> None:
        begun.set()
        with patient.held(60):
            done.set()

    with patient.held(60):
        waiting = threading.Thread(target=later)
        waiting.start()
        assert begun.wait(10) and not done.is_set()
    waiting.join(10)
    assert done.is_set()


def test_a_zip_that_lies_about_its_sizes_is_not_believed() -> None:
    honest = zipped({"a.dcm": bytes(2**20)})
    lying = honest.replace((2**20).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lying != honest
    with Spool(2**20) as spool:
        spool.write(lying)
        found = list(files([Part(spool, 0, spool.size)], 2**19))
    assert [file.data for file in found] == [b""] and "damaged" in found[0].refused


def test_a_zip_whose_directory_alone_would_fill_the_memory_is_not_opened() -> None:
    crowded = bytearray(zipped({"a.dcm": b"x"}))
    end = crowded.rfind(b"PK\x05\x06")
    crowded[end + 12 : end + 16] = (2**30).to_bytes(4, "little")
    zip64 = zipped({"a.dcm": b"x"})[:-22] + b"PK\x06\x07" + bytes(16) + zipped({"a.dcm": b"x"})[-22:]
    for data in (bytes(crowded), zip64):
        with Spool(2**20) as spool:
            spool.write(data)
            (found,) = files([Part(spool, 0, spool.size)], 2**20)
        assert "too many files" in found.refused


def test_more_than_the_limit_is_refused_while_it_comes(site: Site, engineer: TestClient) -> None:
    limit = site.services.settings.max_upload_mb
    from dataclasses import replace

    site.services.settings = replace(site.services.settings, max_upload_mb=1)
    try:
        sent = 0

        def endless() -> Any:
            nonlocal sent
            for _ in range(64):
                sent += 1
                yield bytes(2**18)

        answer = engineer.post(UPLOAD, content=endless(), headers={"Content-Type": "application/dicom"})
    finally:
        site.services.settings = replace(site.services.settings, max_upload_mb=limit)
    assert answer.status_code == 413 and "MEDAI_MAX_UPLOAD_MB" in answer.json()["detail"]


@pytest.mark.parametrize(("silence_s", "grace_s"), [(0.05, 60.0), (60.0, 0.0)])
def test_who_sends_too_slowly_is_told_so(monkeypatch: pytest.MonkeyPatch, silence_s: float, grace_s: float) -> None:
    monkeypatch.setattr(receiving, "SILENCE_S", silence_s)
    monkeypatch.setattr(receiving, "GRACE_S", grace_s)

    async def slow() -> dict[str, Any]:
        await asyncio.sleep(0.2)  # a caller who takes this long for one byte
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def receive() -> None:
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/dicom")]}
        with Spool(100) as spool:
            await receiving.receive(Request(scope, slow), spool)

    with pytest.raises(TooSlow), ThreadPoolExecutor(1) as apart:  # a browser's test may have left a loop in this thread
        apart.submit(asyncio.run, receive()).result()


def test_the_same_key_gives_the_same_answer_and_another_body_is_refused(engineer: TestClient) -> None:
    headers = {"Idempotency-Key": "upload-1"}
    first = engineer.post(UPLOAD, content=FILES[0], headers=headers)
    second = engineer.post(UPLOAD, content=FILES[0], headers=headers)
    assert first.status_code == second.status_code == 201 and first.json() == second.json()
    assert "idempotency-replayed" in second.headers and "idempotency-replayed" not in first.headers
    assert engineer.post(UPLOAD, content=FILES[1], headers=headers).status_code == 422


def test_what_is_spooled_is_encrypted_and_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with Spool(2**20) as spool:
        for data in FILES:
            spool.write(data)
        spool.read_at(0, 1)
        assert list(tmp_path.iterdir()) == []
        raw = os.pread(spool._file.fileno(), spool.size, 0)
        assert len(raw) == sum(map(len, FILES))
        assert not any(marker.encode() in raw for marker in STUDY.markers)
        assert spool.read_at(0, spool.size) == b"".join(FILES)


def test_a_part_reads_and_seeks_as_a_file_does() -> None:
    content, dice = random.Random(1).randbytes(10_000), random.Random(2)
    with Spool(20_000) as spool:
        spool.write(b"before")
        for at in range(0, len(content), 777):
            spool.write(content[at : at + 777])
        part, plain = Part(spool, 6, len(content)), io.BytesIO(content)
        for _ in range(200):
            place, size = dice.randrange(11_000), dice.randrange(300)
            part.seek(place), plain.seek(place)
            assert part.read(size) == plain.read(size)


def audited(site: Site) -> list[tuple[str, str, str]]:
    from medai_pipeline_tests.test_logging_in import audited as chain

    return chain(site.services)


def test_a_disk_that_fails_is_not_called_a_damaged_upload(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Spool(2**20) as spool:
        spool.write(zipped({"a.dcm": bytes(1000)}))
        monkeypatch.setattr(os, "pread", failing)
        with pytest.raises(StorageError, match="temporary folder"):
            list(files([Part(spool, 0, spool.size)], 2**19))

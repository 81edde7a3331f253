"""Text that is found late in a series is looked for again on the slices that were only looked at quickly."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from medai_pipeline.burned_in import screen
from medai_pipeline.burned_in.pictures import picture_of
from medai_pipeline.burned_in.reading import lines_of
from medai_pipeline.burned_in.screen import Screener
from medai_pipeline.dicom.deidentify import Deidentifier
from medai_pipeline.dicom.image import Image
from medai_pipeline.phantoms.studies import make_study, to_bytes
from medai_pipeline.records import Manifest, SourceInstance
from medai_pipeline.stages import deidentify_study


def test_slices_before_the_one_whose_text_is_found_are_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    named = [to_bytes(dataset) for dataset in make_study("chest-ct", 77, slices=5, burned_in=True).datasets]
    screener = Screener()
    first = screener.screen(to_bytes(make_study("chest-ct", 77, slices=5).datasets[0]), "plain")
    monkeypatch.setattr(screen, "_SURE", 99.0)  # a network that misses the text of the second
    missed = screener.screen(named[1], "missed")
    monkeypatch.undo()
    found = screener.screen(named[2], "found")
    assert (first.masks, missed.masks) == ({}, {})
    assert found.masks
    assert screener.passed_by() == ["plain", "missed"]
    assert screener.passed_by() == []
    assert screener.screen(named[1], "missed").masks


def test_a_file_written_before_text_was_found_in_its_series_is_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = to_bytes(make_study("chest-ct", 77, slices=5).datasets[0])
    named = [to_bytes(dataset) for dataset in make_study("chest-ct", 77, slices=5, burned_in=True).datasets[1:3]]
    objects = Store({"plain": plain, "missed": named[0], "found": named[1]})
    sources = [SourceInstance(name, name, len(objects.kept[name])) for name in ("plain", "missed", "found")]
    monkeypatch.setattr(screen, "_SURE", 99.0)
    objects.before["found"] = monkeypatch.undo
    study, _ = deidentify_study(Manifest("key", 1, "digest", tuple(sources)), objects, Deidentifier(b"k" * 32))
    shown = [Image.of(objects.kept[one.object_key]) for one in study.instances]
    said = [lines_of(picture_of(image, image.stored(1))) for image in shown]
    assert len(said) == 3
    assert [line for lines in said for line in lines if len(line.text) > 3 and line.read > 0.8] == []


class Store:
    """Bytes by name; `before` is called once when a name is asked for."""

    def __init__(self, kept: dict[str, bytes]) -> None:
        self.kept = kept
        self.before: dict[str, Callable[[], None]] = {}

    def put(self, name: str, data: bytes) -> None:
        self.kept[name] = data

    def get(self, name: str) -> bytes:
        self.before.pop(name, lambda: None)()
        return self.kept[name]

    def delete(self, name: str) -> None:
        del self.kept[name]

"""What a tool did, against the key: `judge`. A file that the tool did not write is wrong in each of its actions."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pydicom
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from deid_score.actions import NO_FILE, Action, Concept, Expected, Path, Private, Verdict
from deid_score.key import as_text, forms, searchable
from deid_score.specimens import Specimen

_INK_STILL_SEEN = 0.25  # correlation of a line's ink with the pixels beside it; a masked line has about 0
_BESIDE = 2  # pixels
_GROWN = 24  # pixels around the ink that a mask may cover


@dataclass
class Output:
    """A tool's file: read once."""

    data: bytes
    dataset: Dataset
    haystack: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.haystack = searchable(self.data, str(self.dataset.file_meta.get("TransferSyntaxUID", "")))


def read_output(data: bytes) -> Output | None:
    """None for what is not DICOM, which counts as not written."""
    import io

    try:
        return Output(data, pydicom.dcmread(io.BytesIO(data)))
    except (pydicom.errors.InvalidDicomError, EOFError, ValueError, OSError):
        return None


class Judge:
    """Holds what can only be seen across files: old UID -> new, patient -> new ID, patient -> days moved."""

    def __init__(self, key: Sequence[Expected], outputs: Mapping[str, Output], specimens: Sequence[Specimen]) -> None:
        self.outputs = outputs
        self.specimens = {specimen.name: specimen for specimen in specimens}
        uids: dict[str, Counter[str]] = defaultdict(Counter)
        ids: dict[str, Counter[str]] = defaultdict(Counter)
        moved: dict[str, Counter[int]] = defaultdict(Counter)
        for e in key:
            found = self.found(e) if e.file in outputs else None
            if found is None:
                continue
            if e.action is Action.UID_CONSISTENT and found:
                uids[e.value][found] += 100 if len(e.path) == 2 else 1  # an object's own UIDs lead
            elif e.action is Action.PATID_CONSISTENT:
                ids[e.interval_of][found] += 1
            elif e.action is Action.DATE_SHIFTED and e.interval_of:
                days = _days(e.value, found)
                if days is not None:
                    moved[e.interval_of][days] += 1
        self.uids = _most(uids)
        self.owners = Counter(self.uids.values())
        self.ids = _most(ids)
        self.moved = _most(moved)

    def verdict(self, e: Expected) -> Verdict:
        if e.file not in self.outputs:
            return Verdict(e, False, NO_FILE)
        if not e.path:
            seen = any(form in self.outputs[e.file].haystack for word in e.words for form in forms(word))
            return Verdict(e, not seen, "in the file's bytes" if seen else "")
        if e.action in (Action.PIXELS_HIDDEN, Action.PIXELS_RETAINED):
            return self.pixels(e)
        found = self.found(e)
        return Verdict(e, self.RULES[e.action](self, e, found), "(absent)" if found is None else found[:80])

    def found(self, e: Expected) -> str | None:
        """The value where the key looks; None where there is no element."""
        multi = e.action in (Action.UID_CHANGED, Action.UID_CONSISTENT)
        element = find(self.outputs[e.file].dataset, e.path[:-1] if multi else e.path)
        if element is None:
            return None
        text = (
            f"{len(element.value)} items"
            if element.VR == "SQ" and element.value
            else as_text(element)
            if element.VR != "SQ"
            else ""
        )
        if not multi:
            return text
        values = text.split("\\")
        return values[e.path[-1]] if isinstance(e.path[-1], int) and e.path[-1] < len(values) else None

    def removed(self, e: Expected, found: str | None) -> bool:
        if not found:
            return True
        lowered = found.lower()
        if any(word.lower() in lowered for word in e.words):
            return False
        return not _same(found, e.value)

    def retained(self, e: Expected, found: str | None) -> bool:
        if not found:
            return False
        if e.words:
            return all(re.search(rf"(?<!\w){re.escape(word.lower())}(?!\w)", found.lower()) for word in e.words)
        return _same(found, e.value)

    def date(self, e: Expected, found: str | None) -> bool:
        if not e.interval_of:
            return not found or (not _same(found, e.value) and found.replace("\\", "") != e.value.replace("\\", ""))
        days = _days(e.value, found or "")
        return days is not None and days != 0 and days == self.moved.get(e.interval_of)

    def changed(self, e: Expected, found: str | None) -> bool:
        return e.optional if not found else found != e.value

    def consistent(self, e: Expected, found: str | None) -> bool:
        if not found:
            return e.optional
        return found == self.uids.get(e.value) and self.owners[found] == 1

    def patid(self, e: Expected, found: str | None) -> bool:
        mine = self.ids.get(e.interval_of, "")
        shared = [patient for patient, value in self.ids.items() if value == mine]
        # one dummy for everybody is what Z/D allows; one for some of them mixes people up
        return (found or "") == mine and len(shared) in (1, len(self.ids))

    def pixels(self, e: Expected) -> Verdict:
        specimen, output = self.specimens[e.file], self.outputs[e.file].dataset
        if "PixelData" not in output:
            return Verdict(e, e.action is Action.PIXELS_HIDDEN, "(absent)")
        before, after = _bytes_of(specimen.dataset), _bytes_of(output)
        if before.size != after.size:
            return Verdict(e, False, f"{after.size} bytes for {before.size}")
        if specimen.ink is None:
            return Verdict(e, bool((before == after).all()))
        ink = specimen.ink
        rows, columns = np.nonzero(ink)
        area = np.zeros(ink.shape, bool)
        area[
            max(0, rows.min() - _GROWN) : rows.max() + _GROWN, max(0, columns.min() - _GROWN) : columns.max() + _GROWN
        ] = True
        if e.action is Action.PIXELS_RETAINED:
            same = before.reshape(*ink.shape, -1) == after.reshape(*ink.shape, -1)
            return Verdict(e, bool(same[~area].all()), f"{int((~same[~area]).sum())} samples changed elsewhere")
        like = max(_likeness(after.reshape(*ink.shape, -1)[..., 0], line) for line in _lines(ink))
        return Verdict(e, like < _INK_STILL_SEEN, f"ink correlates by {like:.2f}")

    RULES: dict[Action, Callable[..., bool]] = {
        Action.DATE_SHIFTED: date,
        Action.PATID_CONSISTENT: patid,
        Action.TAG_RETAINED: lambda self, e, found: found is not None,
        Action.TEXT_NOTNULL: lambda self, e, found: bool(found),
        Action.TEXT_REMOVED: removed,
        Action.TEXT_RETAINED: retained,
        Action.UID_CHANGED: changed,
        Action.UID_CONSISTENT: consistent,
    }


def judge(key: Sequence[Expected], files: Mapping[str, bytes], specimens: Sequence[Specimen]) -> list[Verdict]:
    """One verdict for each demand of `key` on the files (by the names of the specimens) that a tool wrote."""
    read = {name: read_output(data) for name, data in files.items()}
    judging = Judge(key, {name: output for name, output in read.items() if output is not None}, specimens)
    return [judging.verdict(expected) for expected in key]


def find(ds: Dataset, path: Path) -> DataElement | None:
    """The element at `path`, or None."""
    element: DataElement | None = None
    for number, step in enumerate(path):
        if number and element is not None and isinstance(step, int) and number % 2:
            if element.VR != "SQ" or step >= len(element.value):
                return None
            ds = element.value[step]
            continue
        if isinstance(step, Concept):
            item = next(
                (one for one in (element.value if element is not None else ()) if _concept(one) == step.code), None
            )
            if item is None:
                return None
            ds = item
            continue
        element = _private(ds, step) if isinstance(step, Private) else ds.get(step)
        if element is None:
            return None
    return element


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence") or [Dataset()]
    return str(names[0].get("CodeValue", ""))


def _private(ds: Dataset, step: Private) -> DataElement | None:
    for block in range(0x10, 0x100):
        creator = ds.get((step.group, block))
        if creator is not None and str(creator.value).strip() == step.creator:
            return ds.get((step.group, block << 8 | step.offset))
    return None


def _same(found: str, value: str) -> bool:
    """Equal as text, or as numbers (2.50 and 2.5)."""
    one, other = found.strip("\0 "), value.strip("\0 ")
    if one == other:
        return True
    try:
        return [float(v) for v in one.split("\\")] == [float(v) for v in other.split("\\")]
    except ValueError:
        return False


def _days(before: str, after: str) -> int | None:
    """By how many days each date of `after` lies behind its date of `before`; None where they do not agree."""
    old, new = before.split("\\"), after.split("\\")
    if len(old) != len(new):
        return None
    try:
        days = {
            (dt.datetime.strptime(b[:8], "%Y%m%d") - dt.datetime.strptime(a[:8], "%Y%m%d")).days
            for a, b in zip(old, new, strict=True)
        }
    except ValueError:
        return None
    return days.pop() if len(days) == 1 else None


def _most(counted: Mapping[str, Counter]) -> dict:
    return {name: counter.most_common(1)[0][0] for name, counter in counted.items()}


def _lines(ink: np.ndarray) -> list[np.ndarray]:
    """The ink of each line of text: rows that follow each other without a gap."""
    rows = np.flatnonzero(ink.any(axis=1))
    groups = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [ink * np.isin(np.arange(len(ink)), group)[:, None] for group in groups]


def _likeness(pixels: np.ndarray, ink: np.ndarray) -> float:
    """How well the ink can be told from what lies right beside it, 0 to 1."""
    area = np.zeros(ink.shape, bool)
    for row, column in np.argwhere(ink):
        area[max(0, row - _BESIDE) : row + _BESIDE + 1, max(0, column - _BESIDE) : column + _BESIDE + 1] = True
    seen = pixels[area].astype(float)
    return 0.0 if seen.std() == 0 else abs(float(np.corrcoef(seen, ink[area])[0, 1]))


def _bytes_of(ds: Dataset) -> np.ndarray:
    return np.frombuffer(ds.PixelData, np.uint8)

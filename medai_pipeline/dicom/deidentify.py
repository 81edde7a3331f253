"""De-identification of one file by PS3.15 Annex E, Basic Profile with the options chosen; it fails closed.

Here belongs the file: what is refused, file meta, what the object says about itself. `cleaning` does the data set. The
same key always gives the same new UIDs and the same shift of dates, so references and intervals hold across files,
studies and revisions. Every kept value is copied byte for byte; `pixel_bytes` says what is written of
pixels.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import struct
import uuid
import zlib
from collections.abc import Iterable
from functools import lru_cache

from pydicom.uid import UID_dictionary

from medai_pipeline.dicom import documents
from medai_pipeline.dicom.attributes import Attributes
from medai_pipeline.dicom.cleaning import Cleaner, Plan, Subject, Way
from medai_pipeline.dicom.elements import (
    META_ENCODING,
    TRANSFER_SYNTAX,
    Element,
    Part10,
    encode,
)
from medai_pipeline.dicom.grammar import is_uid
from medai_pipeline.dicom.iod_types import iod_of
from medai_pipeline.dicom.options import BASIC_CODE, DATES, Option, checked, in_order
from medai_pipeline.dicom.pixel_bytes import ANY_PIXELS, cleaned_pixels
from medai_pipeline.dicom.profile import PROFILE, profile_name
from medai_pipeline.dicom.read import check_whole
from medai_pipeline.dicom.residue import Residue, secrets
from medai_pipeline.dicom.row import instance_row
from medai_pipeline.dicom.scan import Shared
from medai_pipeline.dicom.words import holds_names, identity_words, may_tell, tells_identity
from medai_pipeline.dicom.written import Person, Written
from medai_pipeline.errors import DeidentificationError
from medai_pipeline.records import DeidentifiedInstance, Instance

__all__ = ["IMPLEMENTATION_CLASS_UID", "PROFILE", "Deidentifier"]

IMPLEMENTATION_CLASS_UID = "2.25.209310385418279023447019253498311540983"
IMPLEMENTATION_VERSION = "MEDAI_PIPELINE"
DEFLATED = "1.2.840.10008.1.2.1.99"
DICOMDIR = "1.2.840.10008.1.3.10"

_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_FRAME_OF_REFERENCE, _PATIENT_ID, _BURNED_IN = 0x00200052, 0x00100020, 0x00280301
_PHOTOMETRIC, _ICC_PROFILE = 0x00280004, 0x00282000
_MEDIA_SOP_CLASS, _DIRECTORY_RECORDS = 0x00020002, 0x00041220
_CLASS_TAGS = frozenset({_SOP_CLASS, 0x0008001A, 0x0008001B, 0x00081150, 0x0008115A})
_STANDARD_CLASS = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.[1-9]\d{0,2}(\.[1-9]\d?){0,3}")  # newer than PS3.6 here
_STANDARD_SYNTAX = re.compile(r"1\.2\.840\.10008\.1\.2(\.\d{1,3}){0,3}")
_BUGS = (ArithmeticError, AttributeError, BufferError, LookupError, RuntimeError, TypeError, ValueError)
_TROUBLE = (*_BUGS, struct.error, zlib.error)
_MAX_PLANS = 4096
_MAX_PERSONS = 16
_MAX_UIDS = 4096
_MAX_WORDS = 1000

# What is not de-identified at all
REFUSALS = {
    "dicomdir": "a DICOMDIR lists other files and is none to keep; make a new one from the result",
    "document": "the object holds an encapsulated document that is no PDF (CDA, 3D model), and whose inside cannot be"
    " cleaned; leave it out",
    "syntax": "the object has a private transfer syntax; convert it to a standard one",
    "pixels": "the pixels were not screened for burned-in text, as clean-pixel-data asks; screen them, or leave it out",
    "words": f"the object names more than {_MAX_WORDS} words of a person and cannot be searched for all; leave it out",
    "uids": "the object has no usable {name} and belongs nowhere; correct it at its source",
}
LEAST_DAYS, SPAN_DAYS = 31, 3650  # dates go back by a month to ten years


class Deidentifier:
    """De-identifies files under one secret key; may be shared by threads. Remembers what slices of a series share, bounded.

    Raises SettingsError for options that cannot be done or contradict each other.
    """

    def __init__(self, key: bytes, options: Iterable[Option] = ()) -> None:
        if len(key) < 16:
            raise ValueError("the de-identification key must have at least 16 bytes")
        self.options = checked(options)
        self._key = hmac.digest(key, b"medai dicom uid", "sha256")
        self._patient_key = hmac.digest(key, b"medai dicom patient", "sha256")
        self._date_key = hmac.digest(key, b"medai dicom dates", "sha256")
        self._keeps_uids = Option.UIDS in self.options
        self._plans: dict[tuple[str, int], Plan] = {}
        self._shared: Shared = {}
        self._persons: dict[tuple[object, ...], Person] = {}
        self._declared = {screened: _declared(self, screened) for screened in (False, True)}
        self._other_uid = lru_cache(maxsize=_MAX_UIDS)(self._made_uid)

    def __repr__(self) -> str:
        return "Deidentifier(<hidden>)"

    @property
    def profile(self) -> str:
        """The profile and its options in one line, to be recorded beside results."""
        return profile_name(self.options)

    def deidentify(
        self,
        data: bytes,
        *,
        pixels_screened: bool = False,
        overlays_screened: bool = False,
        source_sha256: str | None = None,
    ) -> DeidentifiedInstance:
        """The de-identified file, its table row, and original UID -> new UID of study, series, instance and frame of reference.

        `pixels_screened` and `overlays_screened` say that the caller has looked for burned-in text there and masked it:
        only then the object declares Clean Pixel Data, and only then overlays may stay (Clean Graphics).
        `source_sha256` is the digest of the file as received, where `data` is no longer that.

        Raises NotDicom, TruncatedFile; DeidentificationError for whatever cannot be done safely. No message names
        anything of the file.
        """
        try:
            digest = source_sha256 or hashlib.sha256(data).hexdigest()
            return self._deidentify(data, pixels_screened, overlays_screened, digest)
        except _TROUBLE as error:
            trouble = type(error).__name__  # its text may hold a value: it must not even be chained
        raise DeidentificationError(
            f"the object could not be de-identified and was left out ({trouble}); report this file"
        )

    def new_uid(self, uid: str, tag: int = 0) -> str:
        """The UID that stands for `uid` of the element `tag`; `uid` itself under Retain UIDs where it is well formed."""
        return uid if self._keeps_uids and is_uid(uid) else self.other_uid(uid, tag)

    def other_uid(self, uid: str, tag: int = 0) -> str:
        """Another UID for `uid`: 2.25 and 128 bits of HMAC-SHA-256 (PS3.5 B.2). UIDs of the standard stay."""
        if not uid or uid in UID_dictionary or (tag in _CLASS_TAGS and _STANDARD_CLASS.fullmatch(uid)):
            return uid
        return self._other_uid(uid)

    def _made_uid(self, uid: str) -> str:
        digest = hmac.digest(self._key, uid.encode("latin-1", "replace"), "sha256")
        return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"

    def days_earlier(self, patient: str) -> int:
        """By how many days the dates of a patient go back under Modified Dates: 31 to 3680, the same at every call."""
        digest = hmac.digest(self._date_key, patient.encode("latin-1", "replace"), "sha256")
        return LEAST_DAYS + int.from_bytes(digest[:8], "big") % SPAN_DAYS

    def pseudonym(self, patient: str) -> str:
        """What stands for a Patient ID where studies of one patient shall be found together: 16 letters and digits."""
        digest = hmac.digest(self._patient_key, patient.encode("latin-1", "replace"), "sha256")
        return base64.b32encode(digest[:10]).decode("ascii")

    def _deidentify(self, data: bytes, pixels: bool, overlays: bool, digest: str) -> DeidentifiedInstance:
        part = check_whole(data, self._shared)
        attributes = Attributes(part.elements)
        _refuse(part, attributes)
        _require(attributes)
        has_pixels = not ANY_PIXELS.isdisjoint(attributes.elements)
        if has_pixels and not pixels and Option.PIXELS in self.options:
            raise DeidentificationError(REFUSALS["pixels"])
        syntax = _transfer_syntax(part)
        person = self._person(part, attributes, overlays)
        elements = cleaned_pixels(part.elements, attributes, part.transfer_syntax)
        made = person.write(_without_false_colours(attributes, elements))
        for said in self._declared[has_pixels and pixels]:
            made[said.tag] = person.declared(said)
        for said in self._says(attributes, has_pixels and pixels, part.encoding.little):
            made[said.tag] = person.as_is(said)
        written = Attributes(one.element for one in made.values())
        _require(written)
        body: list[bytes | memoryview] = [piece for tag in sorted(made) for piece in made[tag].data]
        if syntax == DEFLATED:
            body = [_deflate(b"".join(body))]
        row = self._row(made.values(), written, attributes, syntax, digest)
        instance = written.text(_SOP_INSTANCE)
        before, after = _meta(written.text(_SOP_CLASS), len(instance), syntax)
        meta = before + _ui(instance) + after
        originals = (attributes.text(tag) for tag in (_STUDY, _SERIES, _SOP_INSTANCE, _FRAME_OF_REFERENCE))
        uids = {uid: self.new_uid(uid) for uid in originals if uid}
        return DeidentifiedInstance(b"".join((bytes(128), b"DICM", meta, *body)), row, uids)

    def _row(
        self, made: Iterable[Written], written: Attributes, source: Attributes, syntax: str, digest: str
    ) -> Instance:
        """The table row, by what a reader finds in the bytes that are written: it can differ from what was meant."""
        left = Residue(*map(sum, zip(*(one.left for one in made), strict=True)))
        return instance_row(written, lambda uid, _: uid, syntax, digest, source, left)

    def _person(self, part: Part10, attributes: Attributes, overlays: bool) -> Person:
        """What cleans objects of this IOD, encoding and identity; kept for the next slice."""
        iod = iod_of(attributes.text(_SOP_CLASS))
        patient = attributes.text(_PATIENT_ID) or attributes.text(_STUDY)
        days = self.days_earlier(patient) if Option.MODIFIED_DATES in self.options else 0
        telling = [e for e in part.elements if may_tell(e.tag) and (tells_identity(e.tag) or holds_names(e))]
        values = tuple(element.raw or (element.tag, bytes(element.value)) for element in telling)
        known = (iod, part.encoding, days, overlays, values)
        keep = all(element.items is None for element in telling)
        person = self._persons.get(known) if keep else None
        if person is None:
            person = self._new_person(part, iod, days, overlays)
            if keep:
                if len(self._persons) >= _MAX_PERSONS:
                    self._persons.clear()
                self._persons[known] = person
        return person

    def _new_person(self, part: Part10, iod: str, days: int, overlays: bool) -> Person:
        identity = identity_words(part.elements)
        if len(identity.persons) + len(identity.places) > _MAX_WORDS:
            raise DeidentificationError(REFUSALS["words"])
        subject = Subject(
            part.encoding,
            self.options,
            lambda parent: self._plan(iod, parent),
            self.other_uid,
            identity,
            days,
            overlays and Option.GRAPHICS in self.options,
        )
        cleaner = Cleaner(subject, _OURS | ({_PATIENT_ID} if self.options & DATES else set()))
        way = Way(self._plan(iod, 0))
        return Person(cleaner, way, part.encoding, secrets(part.elements), Option.SAFE_PRIVATE in self.options)

    def _plan(self, iod: str, parent: int) -> Plan:
        plan = self._plans.get((iod, parent))
        if plan is None:
            plan = Plan(parent, iod, self.options)
            if len(self._plans) < _MAX_PLANS:
                self._plans[iod, parent] = plan
        return plan

    def _says(self, attributes: Attributes, screened: bool, little: bool) -> list[Element]:
        """What is ours to write in this object, beside what every object declares."""
        said: list[Element] = []
        if screened:
            said = [Element(_BURNED_IN, b"CS", b"NO")]
        elif _BURNED_IN in attributes:
            value = attributes.text(_BURNED_IN)
            said = [Element(_BURNED_IN, b"CS", value.encode() if value in ("YES", "NO") else b"")]
        if documents.ENCAPSULATED_DOCUMENT in attributes:
            pdf = documents.removed_pdf()
            length = struct.pack("<L" if little else ">L", len(pdf))
            said = [*said, Element(documents.ENCAPSULATED_DOCUMENT, b"OB", pdf)]
            said = [*said, Element(documents.DOCUMENT_LENGTH, b"UL", length)]
        if self.options & DATES and attributes.text(_PATIENT_ID):
            pseudonym = self.pseudonym(attributes.text(_PATIENT_ID)).encode("ascii")
            said = [*said, Element(_PATIENT_ID, b"LO", pseudonym)]
        elif self.options & DATES and _PATIENT_ID in attributes:
            said = [*said, Element(_PATIENT_ID, b"LO", b"")]
        return said


def _without_false_colours(attributes: Attributes, elements: list[Element]) -> list[Element]:
    """No colour profile where there is no colour."""
    if _ICC_PROFILE not in attributes or not attributes.text(_PHOTOMETRIC).startswith("MONOCHROME"):
        return elements
    return [element for element in elements if element.tag != _ICC_PROFILE]


def _refuse(part: Part10, attributes: Attributes) -> None:
    media_class = Attributes(part.meta.values()).text(_MEDIA_SOP_CLASS)
    if DICOMDIR in (media_class, attributes.text(_SOP_CLASS)) or _DIRECTORY_RECORDS in attributes:
        raise DeidentificationError(REFUSALS["dicomdir"])
    if documents.ENCAPSULATED_DOCUMENT in attributes and attributes.text(documents.MIME_TYPE) != documents.PDF:
        raise DeidentificationError(REFUSALS["document"])


def _require(attributes: Attributes) -> None:
    required = ((_SOP_CLASS, "SOP Class UID"), (_SOP_INSTANCE, "SOP Instance UID"), (_STUDY, "Study Instance UID"))
    for tag, name in (*required, (_SERIES, "Series Instance UID")):
        if len(attributes.texts(tag)) != 1:
            raise DeidentificationError(REFUSALS["uids"].format(name=name))


def _transfer_syntax(part: Part10) -> str:
    """The file's transfer syntax, corrected where a native data set is not written as its file meta says.

    Raises DeidentificationError for a private one: what its bytes mean is not known.
    """
    syntax = part.transfer_syntax
    if syntax in ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"):
        return "1.2.840.10008.1.2.1" if part.encoding.explicit else "1.2.840.10008.1.2"
    if not _STANDARD_SYNTAX.fullmatch(syntax):
        raise DeidentificationError(REFUSALS["syntax"])
    return syntax


_OURS = frozenset(
    {
        0x00120062,
        0x00120063,
        0x00120064,
        0x00280303,
        _BURNED_IN,
        documents.ENCAPSULATED_DOCUMENT,
        documents.DOCUMENT_LENGTH,
    }
)


def _declared(deidentifier: Deidentifier, screened: bool) -> list[Element]:
    """What says that and how the object was de-identified (PS3.15 E.2, PS3.3 C.12.1.1.1.2; CID 7050)."""
    options = deidentifier.options - {Option.PIXELS} | ({Option.PIXELS} if screened else frozenset())
    applied = in_order(options)
    items = [_method_code(*BASIC_CODE), *(_method_code(option.about.code, option.about.meaning) for option in applied)]
    method = "\\".join(["medai_pipeline", PROFILE, *(option.about.name for option in applied)])
    temporal = b"REMOVED"
    if options & DATES:
        temporal = b"MODIFIED" if Option.MODIFIED_DATES in options else b"UNMODIFIED"
    return [
        Element(0x00120062, b"CS", b"YES"),
        Element(0x00120063, b"LO", method.encode("ascii")),
        Element(0x00120064, b"SQ", b"", items=items),
        Element(0x00280303, b"CS", temporal),
    ]


def _method_code(value: str, meaning: str) -> list[Element]:
    return [
        Element(0x00080100, b"SH", value.encode("ascii")),
        Element(0x00080102, b"SH", b"DCM"),
        Element(0x00080104, b"LO", meaning.encode("ascii")),
    ]


def _ui(text: str) -> bytes:
    return text.encode("ascii")


@lru_cache(maxsize=64)
def _meta(sop_class: str, length: int, syntax: str) -> tuple[bytes, bytes]:
    """File meta information of our own (PS3.10 7.1), before and after a SOP Instance UID of `length` characters.

    Nothing of the source's is carried over.
    """
    instance = b"?" * length
    body = encode(
        [
            Element(0x00020001, b"OB", b"\0\1"),
            Element(0x00020002, b"UI", _ui(sop_class)),
            Element(0x00020003, b"UI", instance),
            Element(TRANSFER_SYNTAX, b"UI", _ui(syntax)),
            Element(0x00020012, b"UI", _ui(IMPLEMENTATION_CLASS_UID)),
            Element(0x00020013, b"SH", IMPLEMENTATION_VERSION.encode()),
        ],
        META_ENCODING,
    )
    before, _, after = body.partition(instance)
    return encode([Element(0x00020000, b"UL", struct.pack("<L", len(body)))], META_ENCODING) + before, after


def _deflate(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(body) + deflater.flush()
    return deflated + b"\0" * (len(deflated) & 1)

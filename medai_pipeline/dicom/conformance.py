"""The conformance statement of de-identification (PS3.2, PS3.15 E.2) as Markdown, from the tables that run.

Here belongs wording alone. Whatever is said about an attribute, a code or an option is asked of `profile`, `options`,
`private`, `content` and `deidentify`, so that it cannot differ from what is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from medai_pipeline.dicom import cleaning, content, iod_types, private
from medai_pipeline.dicom.deidentify import LEAST_DAYS, REFUSALS, SPAN_DAYS
from medai_pipeline.dicom.options import BASIC_CODE, DATES, Option, Options
from medai_pipeline.dicom.profile import EDITION, PROFILE, Action, Decision, in_data_set, resolve, table, under_options

DONE: Mapping[Action, str] = {
    Action.KEEP: "kept",
    Action.REMOVE: "removed",
    Action.EMPTY: "emptied",
    Action.DUMMY: "dummy",
    Action.REMAP: "new UID",
    Action.CLEAN: "cleaned",
    Action.SHIFT: "date shifted",
}
_TYPES = ("1", "1C", "2", "2C", "3")
_CODES = ("X", "Z", "D", "U", "Z/D", "X/Z", "X/D", "X/Z/D", "X/Z/U*")

_NOT_DONE = (
    "Faces are not removed from volumes of the head; the option for it is refused.",
    "Text burned into pixels is searched by the commands, not by de-identification itself: an object says that its pixels"
    " were cleaned only when they were screened.",
    "The insides of encapsulated documents, audio and other opaque payloads are not read.",
    "A name in a technical text (acquisition, image, maker, model, software) is found only if the object's own header"
    " holds it too.",
    "Digital signatures are removed, and none are made.",
)


def overview(options: Options = frozenset(), *, all_options: bool = False) -> str:
    """Everything but the table of attributes. `all_options`: as the product's statement, whatever a site has chosen."""
    parts = [_profile(options, all_options), _option_table(options, all_options), _actions(), _around(options)]
    return (
        "\n\n".join(
            [
                *parts,
                _bullets(
                    "Refused, with the reason given:",
                    (
                        reason.format(name="SOP Class, SOP Instance, Study or Series UID")
                        for reason in REFUSALS.values()
                    ),
                ),
                _not_done(),
            ]
        )
        + "\n"
    )


def statement(options: Options) -> str:
    """The whole statement: the overview and, for every row of Table E.1-1, what is done under `options`."""
    lines = ["| Tag | Attribute | Table | Here |", "|---|---|---|---|"]
    lines += [f"| {row['tag']} | {row['name'].strip()} | {row['basic']} | {done(row, options)} |" for row in table()]
    return overview(options) + "\n## Attributes\n\n" + "\n".join(lines) + "\n"


def done(row: Mapping[str, str], options: Options) -> str:
    """What happens to the attribute of one row of Table E.1-1; by Type where that decides."""
    if row["tag"] == "odd":
        safe = Option.SAFE_PRIVATE in options
        return "kept where Table E.3.10-1 names it, else removed" if safe else "removed"
    if "x" in row["tag"]:
        overlays = Option.GRAPHICS in options and row["tag"] == "60xx3000"
        return "kept where the caller has screened it, else removed" if overlays else "removed"
    tag = int(row["tag"], 16)
    if not in_data_set(tag):
        return "written anew" if tag >> 16 == 2 else "removed"
    by_type = {kind: _word(row, kind, options) for kind in iod_types.types_of(tag)}
    if len(set(by_type.values())) == 1:
        return by_type["3"]
    words = dict.fromkeys(by_type.values())
    return "; ".join(f"{word} (Type {', '.join(k for k in by_type if by_type[k] == word)})" for word in words)


def _word(row: Mapping[str, str], kind: str, options: Options) -> str:
    decision = under_options(row, resolve(row["basic"], kind), options)
    return DONE[decision.action] + _fallback(decision)


def _fallback(decision: Decision) -> str:
    failing = decision.action in (Action.CLEAN, Action.SHIFT)
    return f", else {DONE[decision.otherwise]}" if failing else ""


def _profile(options: Options, all_options: bool) -> str:
    with_options = "" if all_options else f" {len(options)} of {len(Option)} options are chosen."
    return (
        f"Conforms to the {BASIC_CODE[1]} (DCM {BASIC_CODE[0]}) of DICOM PS3.15 Annex E.{with_options}\n\n"
        f"- Attributes: {EDITION} ({len(table())} rows); this table is declared in each object as"
        f" `{PROFILE}`.\n"
        f"- Private elements: {private.EDITION} ({len(private.table())} rows).\n"
        f"- Content items: {content.EDITION} ({len(content.table())} rows).\n"
        f"- Types: {iod_types.SOURCE}."
    )


def _option_table(options: Options, all_options: bool) -> str:
    head = ["| Option | Code | What is done |", "|---|---|---|"]
    if not all_options:
        head = ["| Option | Code | Chosen | What is done |", "|---|---|---|---|"]
    rows = []
    for option in Option:
        chosen = "" if all_options else f" {'yes' if option in options else 'no'} |"
        rows.append(f"| `{option.about.name}` | {option.about.code} |{chosen} {option.about.done} |")
    return "\n".join([*head, *rows])


def _actions() -> str:
    """What the codes of the table mean here, with the number of rows of each."""
    counts = Counter(row["basic"] for row in table())
    lines = ["| Code | Rows | Type 1 | Type 1C | Type 2 | Type 2C | Type 3 |", "|---|---|---|---|---|---|---|"]
    for code in _CODES:
        cells = " | ".join(DONE[resolve(code, kind)] for kind in _TYPES)
        lines.append(f"| {code} | {counts.pop(code)} | {cells} |")
    if counts:
        raise ValueError("the table has codes that nothing is said about")
    return "\n".join(lines)


def _around(options: Options) -> str:
    return _bullets(
        "At every nesting level:",
        [
            "Attributes that neither the table nor PS3.6 knows, private ones, overlays, curves, group lengths and"
            " retired attributes that the table does not name are removed, unless an option above keeps them.",
            "A value whose VR is not the dictionary's, that is not what its VR promises (PS3.5 6.2), or that is more values"
            " than PS3.6 allows, is removed; a decimal string that is too long is rounded to 16 characters.",
            "Names, AE titles, dates, times and URIs that the table does not name are emptied; UIDs are replaced.",
            "A kept text that holds a word of the object's own names or identifiers goes, whatever option keeps it; a text of"
            " more than a megabyte goes.",
            "Codes without a value, of schemes that are not published, or without the form of their scheme get a dummy"
            f" (`{cleaning.DUMMIES[b'LO'].decode()}`).",
            "Colour profiles keep white point, matrix and curves; their texts are replaced. One that is made of tables is"
            " left out, or replaced by sRGB where its IOD demands one.",
            "A text that the table does not name stays if it holds known words alone; a technical one (acquisition, image,"
            " maker, model, software; no description or comment) if it holds nothing like a date, address or long number.",
            "Terms that the standard defines, character sets and published codes stay, whatever the person is called.",
            "New UIDs are 2.25 and 128 bits of HMAC-SHA-256 under the site's key: the same in every file, study and run.",
            f"Modified dates are {LEAST_DAYS} to {LEAST_DAYS + SPAN_DAYS - 1} whole days earlier, by HMAC-SHA-256 of the"
            " Patient ID under the site's key.",
            "Pixel data is copied bit for bit in its transfer syntax. File meta information and preamble are new.",
            *_temporal(options),
        ],
    )


def _temporal(options: Options) -> Iterator[str]:
    if options & DATES:
        yield "Studies of one patient carry one Patient ID, a pseudonym under the site's key."


def _not_done() -> str:
    return _bullets("Not done:", _NOT_DONE)


def _bullets(title: str, lines: Iterable[str]) -> str:
    return "\n".join([title, "", *(f"- {line}" for line in lines)])

"""Where results are returned to, as a site writes it: `orthanc`, or `dicom://AET@HOST:PORT` with options. Sends nothing.

`dicoms://` is with TLS. Options stand after a question mark, with `&` between: `commitment` asks the node to take
responsibility (PS3.4 Annex J), and `calling=AET` is who we are to it, instead of MEDAI_AET. They are no part of the name
under which a delivery is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from medai_pipeline.errors import SettingsError
from medai_pipeline.pacs.node import CALLING_AE, Node, parse_node
from medai_pipeline.pacs.tls import TlsFiles

ORTHANC = "orthanc"
_OPTIONS = {"commitment", "calling"}


@dataclass(frozen=True, slots=True)
class Destination:
    """`node` None: the Orthanc at ORTHANC_URL."""

    name: str
    node: Node | None = None
    commitment: bool = False


def parse_destination(text: str, calling_ae: str = CALLING_AE, tls: TlsFiles | None = None) -> Destination:
    """Raises SettingsError that says what is expected."""
    if text.strip().lower() == ORTHANC:
        return Destination(ORTHANC)
    where, _, query = text.strip().partition("?")
    options = _options(query)
    node = parse_node(unquote(where), options.get("calling", calling_ae), tls)
    if ":" in node.called_ae:
        raise SettingsError("DICOM knows no password: expected dicom://AET@HOST:PORT")
    scheme = "dicoms" if node.tls else "dicom"
    return Destination(f"{scheme}://{node.called_ae}@{node.address}", node, "commitment" in options)


def parse_destinations(text: str, calling_ae: str = CALLING_AE, tls: TlsFiles | None = None) -> tuple[Destination, ...]:
    """Several with commas. Raises SettingsError, also when one is named twice."""
    found = tuple(parse_destination(part, calling_ae, tls) for part in text.split(",") if part.strip())
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise SettingsError("a destination is named twice")
    if not found:
        raise SettingsError("expected at least one destination")
    return found


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise SettingsError(f"unknown option {', '.join(unknown)}: expected {' or '.join(sorted(_OPTIONS))}")
    if options.get("commitment", "yes") not in {"", "yes", "no"}:
        raise SettingsError("commitment is yes or no")
    if options.get("commitment") == "no":
        del options["commitment"]
    return options

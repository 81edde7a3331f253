"""Every setting: its variable, its default, how its text is read, and what it means. `settings` reads the environment by it.

Here belongs what can be said of one value alone; what several must agree in is `settings`' to check.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import Any

from medai_pipeline.dicom.options import parse_options
from medai_pipeline.explain.methods import ALL_METHODS
from medai_pipeline.pacs.destination import parse_destinations
from medai_pipeline.pacs.node import check_title, parse_node
from medai_pipeline.pacs.peers import parse_peers
from medai_pipeline.retention import parse_retention
from medai_pipeline.triage.rules import rules_at


def _flag(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError("expected true or false")


def _optional(text: str) -> str | None:
    return text or None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _file(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _address(text: str) -> str:
    return str(ip_address(text))


def _pairs(text: str) -> tuple[str, ...]:
    pairs = _names(text)
    if not all(all(part.strip() for part in pair.partition("=")[::2]) for pair in pairs):
        raise ValueError("expected NAME=VALUE, with commas")
    return pairs


def _days(text: str) -> float | None:
    return float(text) if text else None


def _age(text: str) -> float | None:
    return None if text == "all" else float(text)


def _addresses(text: str) -> str:
    """IPv4 addresses with commas: what DICOM listeners of the local Orthanc see."""
    return ",".join(str(IPv4Address(part.strip())) for part in text.split(",") if part.strip())


def _networks(text: str) -> tuple[str, ...]:
    return tuple(str(ip_network(part)) for part in _names(text))


def _node(text: str) -> str | None:
    if text:
        parse_node(text)
    return text or None


def _peers(text: str) -> str:
    parse_peers(text)
    return text


def _port(text: str) -> int | None:
    return int(text) if text else None


def _destinations(text: str) -> str:
    parse_destinations(text)
    return text


def _moment(text: str) -> str:
    if text not in RETURN_WHEN:
        raise ValueError(f"expected {', '.join(RETURN_WHEN)}")
    return text


def _listener(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("expected ADDRESS:PORT")
    return text


def _options(text: str) -> str:
    parse_options(text)
    return text


def _retention(text: str) -> str:
    parse_retention(text)
    return text


def _rules(text: str) -> Path | None:
    if not text:
        return None
    path = Path(text).expanduser()
    rules_at(path)
    return path


def _method(text: str) -> str:
    if text not in ALL_METHODS:
        raise ValueError(f"expected one of {', '.join(ALL_METHODS)}")
    return text


LOG_FORMATS = ("text", "json")
RETURN_WHEN = ("off", "after-review", "at-once")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

# OpenCV's colormaps by name; OpenCV itself is not loaded to read a setting (a test holds the two equal)
COLORMAPS = (
    "autumn", "bone", "cividis", "cool", "deepgreen", "hot", "hsv", "inferno", "jet", "magma", "ocean", "parula", "pink",
    "plasma", "rainbow", "spring", "summer", "turbo", "twilight", "twilight_shifted", "viridis", "winter",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table: the variable, its default as text, how it is read, and what it means."""

    variable: str
    default: str
    read: Callable[[str], Any]
    meaning: str

    @property
    def attribute(self) -> str:
        name = self.variable.removeprefix("MEDAI_").lower()
        return f"{name}_when" if keyword.iskeyword(name) else name


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "DATABASE_URL", "", _optional, "Postgres for our tables and Dagster's; empty: an embedded one in MEDAI_HOME"
    ),
    Setting("DICOM_STORAGE_PATH", "", _optional, "encrypted objects; empty: MEDAI_HOME/objects"),
    Setting("ORTHANC_URL", "", _optional, "the PACS; empty: an Orthanc binary is started on loopback"),
    Setting("ORTHANC_USERNAME", "medai", str, "user at the PACS"),
    Setting("ORTHANC_PASSWORD", "", _optional, "password at the PACS; empty: made at random for the local Orthanc"),
    Setting(
        "MEDAI_PACS",
        "",
        _node,
        "a PACS without Orthanc, by DICOM alone: dicom://AET@HOST:PORT, or dicoms:// for TLS; empty: ORTHANC_URL",
    ),
    Setting("MEDAI_PACS_DAYS", "2", int, "with MEDAI_PACS: studies of today and so many days before are looked for"),
    Setting(
        "MEDAI_PACS_MOVE_PORT",
        "",
        _port,
        "with MEDAI_PACS: the port where images come by C-MOVE to MEDAI_AET, at MEDAI_SCP_ADDRESS; empty: by C-GET",
    ),
    Setting("MODEL_PATH", "", _optional, "weights that the site supplies; empty: MEDAI_HOME/models"),
    Setting(
        "MEDAI_MODELS",
        "",
        _names,
        "models with weights at MODEL_PATH, with commas, that serve before the demo ones; a running stack registers them once",
    ),
    Setting("GPU_ENABLED", "true", _flag, "use CUDA when there is one; without one the CPU serves"),
    Setting(
        "GRADCAM_METHOD",
        "gradcam",
        _method,
        "how heatmaps are made: gradcam, gradcam++, xgradcam, hirescam, layercam, scorecam or scorecam-exact (minutes)",
    ),
    Setting(
        "GRADCAM_LAYERS",
        "",
        _names,
        "layers of the network that heatmaps are read from, with commas; several are fused; empty: the last one that fits",
    ),
    Setting(
        "GRADCAM_COLORMAP", "inferno", str, "OpenCV colormap of overlays (colour-blind safe by default; jet is known)"
    ),
    Setting("GRADCAM_ALPHA", "0.45", float, "greatest opacity of overlays, 0 to 1"),
    Setting("MEDAI_HOME", ".medai", str, "everything the local stack writes"),
    Setting(
        "MEDAI_KEY_FILE",
        "",
        _optional,
        "the site's secret key, mode 0600; empty: MEDAI_HOME/keys/site.key, made at first start",
    ),
    Setting("MEDAI_KEY", "", _optional, "the site's secret key itself (base64, 32 bytes); wins over the file"),
    Setting(
        "MEDAI_DEIDENTIFY_OPTIONS",
        "",
        _options,
        "options of PS3.15 Annex E beside the Basic Profile, with commas: `medai deidentify --describe` lists them",
    ),
    Setting(
        "MEDAI_TRIAGE_RULES",
        "",
        _rules,
        "the site's own triage table instead of medai_pipeline/triage/rules.toml; read again when it changes",
    ),
    Setting(
        "MEDAI_READING_LIMIT_HOURS",
        "1.5",
        float,
        "within which the reading of a study is promised to begin; urgent ones overtake only where all promises can be kept",
    ),
    Setting(
        "MEDAI_READING_MINUTES",
        "2",
        float,
        "mean minutes from one reading to the next, all readers together: two readers at 4 minutes each make 2; short favours urgent studies",
    ),
    Setting(
        "MEDAI_RETENTION",
        "",
        _retention,
        "days that kinds of data are kept, with commas: raw=30,tensors=90,deidentified=365,reports=3650,quarantine=90,events=90,"
        "logs=30; what is not named stays for ever, but for quarantine (90; quarantine=never)",
    ),
    Setting(
        "MEDAI_OVERDUE_SECONDS", "1800", float, "a study without a report is overdue when its images came longer ago"
    ),
    Setting(
        "MEDAI_METRICS_TOKEN",
        "",
        _optional,
        "what a scraper of /metrics sends as bearer token; empty: this machine alone",
    ),
    Setting("MEDAI_STABLE_SECONDS", "10", float, "a study is ready when no image arrived for so long"),
    Setting("MEDAI_SENSOR_SECONDS", "2", int, "pause between two looks at the PACS change feed"),
    Setting("MEDAI_RECONCILE_SECONDS", "60", float, "pause between two full sweeps over the PACS"),
    Setting(
        "MEDAI_HISTORY_DAYS",
        "",
        _days,
        "studies whose last image came longer ago are left alone when first seen; empty: all that the PACS holds",
    ),
    Setting("MEDAI_STUDIES_PER_RUN", "32", int, "at most so many studies in one Dagster run"),
    Setting("MEDAI_MAX_ATTEMPTS", "5", int, "automatic attempts for a failed study before it waits for a person"),
    Setting("MEDAI_RETRY_SECONDS", "30", float, "wait before the first retry of a failed study; doubles each time"),
    Setting(
        "MEDAI_KEPT_DAYS",
        "90",
        float,
        "how long the values of a replaced model version stay, but for those of the one replaced last: going back to it "
        "computes nothing",
    ),
    Setting("MEDAI_FETCH_CONCURRENCY", "4", int, "instances fetched from the PACS at once"),
    Setting(
        "MEDAI_RETURN",
        "off",
        _moment,
        "results back to where the images came from: off, after-review (what a person accepted or edited) or at-once; `medai demo`: at-once to its own Orthanc",
    ),
    Setting(
        "MEDAI_RETURN_TO",
        "orthanc",
        _destinations,
        "where results are returned to, with commas: orthanc, dicom://AET@HOST:PORT; ?commitment asks for storage commitment, calling=AET is who we are",
    ),
    Setting(
        "MEDAI_RETURN_DAYS",
        "7",
        _age,
        "what was reported or reviewed longer ago is not returned by itself when returning is switched on; all: whatever its age",
    ),
    Setting(
        "MEDAI_RETURN_ATTEMPTS",
        "10",
        int,
        "tries for results that a destination refuses before they wait for a person; one that does not answer is tried for ever",
    ),
    Setting(
        "MEDAI_RETURN_RETRY_SECONDS", "30", float, "wait before results are sent again; doubles up to half an hour"
    ),
    Setting(
        "MEDAI_COMMITMENT_LISTEN",
        "127.0.0.1:4243",
        _listener,
        "address and port where DICOM nodes answer requests for storage commitment",
    ),
    Setting("MEDAI_WEB_PORT", "3000", int, "port of the Dagster web page, on 127.0.0.1"),
    Setting("MEDAI_API_PORT", "8000", int, "port of the worklist and the REST API"),
    Setting(
        "MEDAI_API_HOST",
        "127.0.0.1",
        str,
        "address of the worklist and the REST API; another than this machine's own needs MEDAI_TLS_CERT and a login",
    ),
    Setting("MEDAI_PUBLIC_URL", "", _optional, "how browsers reach the worklist, if another way: https://host:port"),
    Setting(
        "MEDAI_TRUSTED_PROXIES",
        "",
        _networks,
        "IP addresses or networks, with commas, of proxies whose X-Forwarded-For says who logs in; empty: nobody's counts",
    ),
    Setting("MEDAI_DAGSTER_URL", "", _optional, "how browsers reach the Dagster page; empty: its port on 127.0.0.1"),
    Setting("MEDAI_OHIF_URL", "", _optional, "an OHIF viewer over the same PACS, which the study page then links to"),
    Setting("MEDAI_TLS_CERT", "", _optional, "certificate chain (PEM): the worklist and the API then speak TLS 1.3"),
    Setting("MEDAI_TLS_KEY", "", _optional, "private key (PEM) of MEDAI_TLS_CERT"),
    Setting("MEDAI_SESSION_IDLE_MINUTES", "30", float, "a login ends when nothing was asked for so long"),
    Setting("MEDAI_SESSION_HOURS", "12", float, "a login ends after so long in any case"),
    Setting("MEDAI_MAX_UPLOAD_MB", "2048", int, "largest upload by the API, and what one zip may unpack to, in MiB"),
    Setting("MEDAI_OIDC_ISSUER", "", _optional, "OpenID Connect provider that people log in with: https://..."),
    Setting("MEDAI_OIDC_CLIENT_ID", "", _optional, "our name at the OpenID Connect provider"),
    Setting("MEDAI_OIDC_CLIENT_SECRET", "", _optional, "our secret at the OpenID Connect provider"),
    Setting("MEDAI_OIDC_ROLES_CLAIM", "roles", str, "claim of the ID token that lists a person's groups"),
    Setting(
        "MEDAI_OIDC_ROLES",
        "",
        _pairs,
        "which role each group has, with commas: GROUP=ROLE; who has none may not log in",
    ),
    Setting("MEDAI_CODE_PORT", "3001", int, "port of the Dagster code server, on 127.0.0.1"),
    Setting("MEDAI_ORTHANC_PORT", "8042", int, "HTTP port of the local Orthanc, answers this machine alone"),
    Setting("MEDAI_DICOM_PORT", "4242", int, "DICOM port of the local Orthanc, takes C-STORE from this machine"),
    Setting(
        "MEDAI_DICOM_SENDERS",
        "",
        _addresses,
        "IP addresses, with commas, of other machines that may C-STORE to the local Orthanc; all others are refused",
    ),
    Setting("MEDAI_AET", "MEDAI", check_title, "our AE title, where we ask and where we receive"),
    Setting("MEDAI_SCP_PORT", "", _port, "port where we take C-STORE and pass it on to the PACS; empty: off"),
    Setting("MEDAI_SCP_ADDRESS", "127.0.0.1", _address, "address of this machine where we take C-STORE"),
    Setting(
        "MEDAI_SCP_PEERS",
        "",
        _peers,
        "who may C-STORE to us: AET@ADDRESS with commas, AET or *, an IP address or network; empty: this machine",
    ),
    Setting("MEDAI_SCP_ASSOCIATIONS", "10", int, "at most so many associations at once where we take C-STORE"),
    Setting("MEDAI_SCP_TLS", "false", _flag, "take C-STORE by TLS alone, with the certificate below"),
    Setting(
        "MEDAI_INBOX", "", _optional, "a folder whose DICOM files are passed on to the PACS and taken away; empty: none"
    ),
    Setting("MEDAI_DICOM_TLS_CERTIFICATE", "", _file, "our certificate for DICOM by TLS, with its chain (PEM)"),
    Setting("MEDAI_DICOM_TLS_KEY", "", _file, "its private key (PEM, not encrypted); empty: in the certificate's file"),
    Setting(
        "MEDAI_DICOM_TLS_AUTHORITIES",
        "",
        _file,
        "authorities that sign our peers' certificates (PEM): who sends to us then needs one; empty: the system's",
    ),
    Setting("MEDAI_WORKERS", "1", int, "warm worker processes on this machine, and runs at once"),
    Setting("MEDAI_BROKER_URL", "", _optional, "Celery broker of the warm workers; empty: the Postgres above"),
    Setting("MEDAI_LOG_FORMAT", "text", str.lower, "text or json (one object a line), in the logs of the services"),
    Setting(
        "MEDAI_LOG_LEVEL",
        "INFO",
        str.upper,
        "DEBUG, INFO, WARNING or ERROR, in the logs of the services; a terminal shows warnings and errors, or DEBUG",
    ),
)

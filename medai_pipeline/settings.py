"""The only reader of the environment. Every setting, its default and its meaning stand in `settings_table.SETTINGS`.

`.env.example` lists the same table; a test holds the two equal. Values from a `.env` file in the working
directory are read first; the environment wins.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medai_pipeline.errors import SettingsError
from medai_pipeline.pacs.tls import TlsFiles
from medai_pipeline.settings_table import COLORMAPS, LOG_FORMATS, LOG_LEVELS, SETTINGS

__all__ = ["COLORMAPS", "SETTINGS", "Settings", "read_settings"]


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """The settings as values. Secrets are never shown: `repr` names no value."""

    database_url: str | None
    dicom_storage_path: str | None
    orthanc_url: str | None
    orthanc_username: str
    orthanc_password: str | None
    pacs: str | None
    pacs_days: int
    pacs_move_port: int | None
    model_path: str | None
    models: tuple[str, ...]
    gpu_enabled: bool
    gradcam_method: str
    gradcam_layers: tuple[str, ...]
    gradcam_colormap: str
    gradcam_alpha: float
    home: str
    key_file: str | None
    key: str | None
    deidentify_options: str
    triage_rules: Path | None
    reading_limit_hours: float
    reading_minutes: float
    retention: str
    overdue_seconds: float
    metrics_token: str | None
    stable_seconds: float
    sensor_seconds: int
    reconcile_seconds: float
    history_days: float | None
    studies_per_run: int
    max_attempts: int
    retry_seconds: float
    kept_days: float
    fetch_concurrency: int
    return_when: str
    return_to: str
    return_days: float | None
    return_attempts: int
    return_retry_seconds: float
    commitment_listen: str
    web_port: int
    api_port: int
    api_host: str
    public_url: str | None
    trusted_proxies: tuple[str, ...]
    dagster_url: str | None
    ohif_url: str | None
    tls_cert: str | None
    tls_key: str | None
    session_idle_minutes: float
    session_hours: float
    max_upload_mb: int
    oidc_issuer: str | None
    oidc_client_id: str | None
    oidc_client_secret: str | None
    oidc_roles_claim: str
    oidc_roles: tuple[str, ...]
    code_port: int
    orthanc_port: int
    dicom_port: int
    dicom_senders: str
    aet: str
    scp_port: int | None
    scp_address: str
    scp_peers: str
    scp_associations: int
    scp_tls: bool
    inbox: str | None
    dicom_tls_certificate: Path | None
    dicom_tls_key: Path | None
    dicom_tls_authorities: Path | None
    workers: int
    broker_url: str | None
    log_format: str
    log_level: str

    def __repr__(self) -> str:
        return "Settings(<hidden>)"

    @property
    def home_path(self) -> Path:
        return Path(self.home).expanduser().resolve()

    @property
    def objects_path(self) -> Path:
        return Path(self.dicom_storage_path).resolve() if self.dicom_storage_path else self.home_path / "objects"

    @property
    def models_path(self) -> Path:
        return Path(self.model_path).resolve() if self.model_path else self.home_path / "models"

    @property
    def run_page(self) -> str:
        """The address of a run's page in Dagster, with {} for the run."""
        return f"http://127.0.0.1:{self.web_port}/runs/{{}}"

    @property
    def key_path(self) -> Path:
        return Path(self.key_file).resolve() if self.key_file else self.home_path / "keys" / "site.key"

    @property
    def tls(self) -> TlsFiles:
        """What DICOM by TLS uses, in and out."""
        return TlsFiles(self.dicom_tls_certificate, self.dicom_tls_key, self.dicom_tls_authorities)

    @property
    def receives(self) -> bool:
        """Whether something may come in beside the PACS: by C-STORE, or through the inbox."""
        return self.scp_port is not None or self.inbox is not None


def read_settings(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Settings from the environment (default: the process's, over `.env`); `overrides` by attribute win over all.

    Raises SettingsError that names the variable and what it expects.
    """
    if environment is None:
        environment = {**_dotenv(Path(".env")), **os.environ}
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text = environment.get(setting.variable, setting.default) or setting.default
        try:
            values[setting.attribute] = setting.read(text)
        except (ValueError, SettingsError) as error:
            raise SettingsError(f"{setting.variable} cannot be read ({error}): {setting.meaning}") from error
    unknown = sorted(set(overrides) - set(values))
    if unknown:
        raise SettingsError(f"no such setting: {', '.join(unknown)}")
    values.update(overrides)
    settings = Settings(**values)
    _validate(settings)
    return settings


_AT_LEAST_ONE = (
    "studies_per_run",
    "fetch_concurrency",
    "max_attempts",
    "sensor_seconds",
    "workers",
    "scp_associations",
    "max_upload_mb",
    "return_attempts",
)
_MORE_THAN_NOTHING = ("reading_limit_hours", "reading_minutes", "session_idle_minutes", "session_hours")
_NOT_NEGATIVE = (
    "stable_seconds",
    "reconcile_seconds",
    "retry_seconds",
    "history_days",
    "kept_days",
    "pacs_days",
    "overdue_seconds",
    "return_days",
    "return_retry_seconds",
)
_PORTS = ("web_port", "api_port", "code_port", "orthanc_port", "dicom_port", "scp_port", "pacs_move_port")


def _validate(settings: Settings) -> None:
    """Everything that can be known without opening anything, so that no study finds it out. Raises SettingsError."""
    wrong = [] if 0 <= settings.gradcam_alpha <= 1 else ["GRADCAM_ALPHA must lie between 0 and 1"]
    if settings.gradcam_colormap.lower() not in COLORMAPS:
        wrong.append(f"GRADCAM_COLORMAP must be one of {', '.join(COLORMAPS)}")
    if settings.scp_tls and not settings.dicom_tls_certificate:
        wrong.append("MEDAI_SCP_TLS needs MEDAI_DICOM_TLS_CERTIFICATE and MEDAI_DICOM_TLS_KEY")
    if settings.pacs and settings.orthanc_url:
        wrong.append("MEDAI_PACS and ORTHANC_URL both name a PACS: set one of them")
    if settings.log_level not in LOG_LEVELS:
        wrong.append(f"MEDAI_LOG_LEVEL must be one of {', '.join(LOG_LEVELS)}")
    if settings.log_format not in LOG_FORMATS:
        wrong.append(f"MEDAI_LOG_FORMAT must be one of {', '.join(LOG_FORMATS)}")
    rules: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
        (_AT_LEAST_ONE, lambda value: value >= 1, "at least 1"),
        (_NOT_NEGATIVE, lambda value: 0 <= value < math.inf, "0 or more"),
        (_MORE_THAN_NOTHING, lambda value: 0 < value < math.inf, "more than 0"),
        (_PORTS, lambda value: 0 < value < 65536, "a port number from 1 to 65535"),
    )
    for attributes, holds, words in rules:
        values = {attribute: getattr(settings, attribute) for attribute in attributes}
        wrong += [
            f"MEDAI_{name.upper()} must be {words}"
            for name, value in values.items()
            if value is not None and not holds(value)
        ]
    if wrong:
        raise SettingsError("; ".join(wrong))


def _dotenv(path: Path) -> dict[str, str]:
    """KEY=VALUE lines of a .env file; blank lines and # comments are passed over."""
    if not path.is_file():
        return {}
    pairs = (line.partition("=") for line in path.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("'\"") for key, _, value in pairs}

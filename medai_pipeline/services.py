"""Everything the assets, the sensors, the web and the commands share, made from the settings on first use. No Dagster here.

Loading the definitions builds none of it: no connection, no key file and no heavy import before something is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medai_pipeline.errors import SettingsError
from medai_pipeline.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from medai_pipeline.arrivals import Watch
    from medai_pipeline.dicom.deidentify import Deidentifier
    from medai_pipeline.incoming.spool import Spool
    from medai_pipeline.models.catalog import ModelSet
    from medai_pipeline.pacs.orthanc import Orthanc
    from medai_pipeline.pacs.records import PacsInstance
    from medai_pipeline.pacs.seam import Pacs
    from medai_pipeline.returning import Desk
    from medai_pipeline.stages import Drawing, Inference
    from medai_pipeline.storage.ages import Ages
    from medai_pipeline.storage.annotations import Annotations
    from medai_pipeline.storage.audit import Audit
    from medai_pipeline.storage.audit_trail import AuditTrail
    from medai_pipeline.storage.catalogue import Catalogue
    from medai_pipeline.storage.changes import Changes
    from medai_pipeline.storage.deliveries import Deliveries
    from medai_pipeline.storage.history import History
    from medai_pipeline.storage.idempotency import Idempotency
    from medai_pipeline.storage.keyring import KeySource
    from medai_pipeline.storage.keys import SiteKeys
    from medai_pipeline.storage.lifecycle import Lifecycle
    from medai_pipeline.storage.lineage import Lineage
    from medai_pipeline.storage.marks import Marks
    from medai_pipeline.storage.objects import ObjectStore
    from medai_pipeline.storage.opinions import Opinions
    from medai_pipeline.storage.registry import Registry
    from medai_pipeline.storage.requests import Requests
    from medai_pipeline.storage.results import Results
    from medai_pipeline.storage.rotation import Rotation
    from medai_pipeline.storage.secrets import StudySecrets
    from medai_pipeline.storage.sessions import Sessions
    from medai_pipeline.storage.users import Users
    from medai_pipeline.storage.vault import Vault
    from medai_pipeline.storage.worklist import Worklist


class Services:
    """Opened lazily, one a process; safe to share between steps of a run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._holds: dict[str, Any] = {}
        self._models: ModelSet | None = None

    @cached_property
    def keys(self) -> SiteKeys:
        from medai_pipeline.storage.keys import SiteKeys

        return SiteKeys.load(self.settings.key, self.settings.key_path, create=False)

    @cached_property
    def key_source(self) -> KeySource:
        """All secrets of the site; `keys` has what never changes: the names."""
        from medai_pipeline.storage.keyring import KeySource

        return KeySource(self.settings.key, self.settings.key_path)

    @cached_property
    def secrets(self) -> StudySecrets:
        from medai_pipeline.storage.secrets import StudySecrets

        return StudySecrets(self.engine, self.key_source)

    @cached_property
    def engine(self) -> Engine:
        from medai_pipeline.storage.database import engine_for

        if not self.settings.database_url:
            raise SettingsError("DATABASE_URL is not set and no local stack gave one: start it with `medai up`")
        return engine_for(self.settings.database_url)

    @cached_property
    def lifecycle(self) -> Lifecycle:
        from medai_pipeline.storage.lifecycle import Lifecycle

        return Lifecycle(self.engine)

    @cached_property
    def results(self) -> Results:
        from medai_pipeline.storage.results import Results

        return Results(self.engine)

    @cached_property
    def worklist(self) -> Worklist:
        from medai_pipeline.storage.worklist import Worklist

        return Worklist(self.engine)

    @cached_property
    def history(self) -> History:
        from medai_pipeline.storage.history import History

        return History(self.engine)

    @cached_property
    def audit(self) -> Audit:
        from medai_pipeline.storage.audit import Audit

        return Audit(self.engine, self.key_source)

    @cached_property
    def audit_trail(self) -> AuditTrail:
        from medai_pipeline.storage.audit_trail import AuditTrail

        return AuditTrail(self.engine)

    @cached_property
    def vault(self) -> Vault:
        from medai_pipeline.storage.vault import Vault

        return Vault(self.engine, self.secrets, self.key_source, self.audit)

    @cached_property
    def objects(self) -> ObjectStore:
        from medai_pipeline.storage.objects import ObjectStore

        return ObjectStore(self.settings.objects_path, self.secrets)

    @cached_property
    def spool(self) -> Spool:
        from medai_pipeline.incoming.spool import Spool

        return Spool(self.objects, self.keys.study_key)

    @cached_property
    def pacs(self) -> Pacs:
        return self._dicom_pacs(self.settings.pacs) if self.settings.pacs else self.orthanc

    @cached_property
    def orthanc(self) -> Orthanc:
        """The PACS where it is an Orthanc: what a person asks of it goes beyond what the pipeline needs."""
        from medai_pipeline.pacs.orthanc import Orthanc

        if not self.settings.orthanc_url:
            raise SettingsError("ORTHANC_URL is not set and no local stack gave one: start it with `medai up`")
        return Orthanc(self.settings.orthanc_url, self.settings.orthanc_username, self.settings.orthanc_password or "")

    def _dicom_pacs(self, name: str) -> Pacs:
        from medai_pipeline.pacs.dicom_fetch import Way
        from medai_pipeline.pacs.dicom_pacs import DicomPacs
        from medai_pipeline.pacs.node import parse_node

        known = self.settings
        way = Way(known.pacs_move_port, known.scp_address, known.tls if known.scp_tls else None)
        return DicomPacs(parse_node(name, known.aet, known.tls), known.pacs_days, way)

    @cached_property
    def deidentifier(self) -> Deidentifier:
        from medai_pipeline.dicom.deidentify import Deidentifier
        from medai_pipeline.dicom.options import parse_options

        return Deidentifier(self.keys.deidentification, parse_options(self.settings.deidentify_options))

    @cached_property
    def lineage(self) -> Lineage:
        from medai_pipeline.storage.lineage import Lineage

        return Lineage(self.engine)

    @cached_property
    def ages(self) -> Ages:
        from medai_pipeline.storage.ages import Ages

        return Ages(self.engine)

    @cached_property
    def marks(self) -> Marks:
        from medai_pipeline.storage.marks import Marks

        return Marks(self.engine)

    @cached_property
    def rotation(self) -> Rotation:
        from medai_pipeline.storage.rotation import Rotation

        return Rotation(self.engine, self.key_source, self.audit, self.vault, self.objects)

    @cached_property
    def registry(self) -> Registry:
        from medai_pipeline.storage.registry import Registry

        return Registry(self.engine, self.audit)

    @cached_property
    def changes(self) -> Changes:
        from medai_pipeline.storage.changes import Changes

        return Changes(self.engine)

    @cached_property
    def users(self) -> Users:
        from medai_pipeline.storage.users import Users

        return Users(self.engine, self.audit)

    @cached_property
    def sessions(self) -> Sessions:
        from medai_pipeline.storage.sessions import Sessions

        known = self.settings
        idle, longest = timedelta(minutes=known.session_idle_minutes), timedelta(hours=known.session_hours)
        return Sessions(self.engine, self.keys.web, idle, longest)

    @cached_property
    def catalogue(self) -> Catalogue:
        from medai_pipeline.storage.catalogue import Catalogue

        return Catalogue(self.engine)

    @cached_property
    def opinions(self) -> Opinions:
        from medai_pipeline.storage.opinions import Opinions

        return Opinions(self.engine, self.audit)

    @cached_property
    def annotations(self) -> Annotations:
        from medai_pipeline.storage.annotations import Annotations

        return Annotations(self.engine, self.audit)

    @cached_property
    def requests(self) -> Requests:
        from medai_pipeline.storage.requests import Requests

        return Requests(self.engine, self.audit)

    @cached_property
    def idempotency(self) -> Idempotency:
        from medai_pipeline.storage.idempotency import Idempotency

        return Idempotency(self.engine)

    def value(self, asset: str, study_key: str) -> Any:
        """What a stage has stored of a study. Raises ObjectMissing where it has nothing."""
        from medai_pipeline.storage.codec import decode

        return decode(self.objects.get(f"assets/{asset}/{study_key}"))

    @cached_property
    def deliveries(self) -> Deliveries:
        from medai_pipeline.storage.deliveries import Deliveries

        return Deliveries(self.engine, self.audit)

    @property
    def desk(self) -> Desk:
        """What returns results; a run takes it once, so that it waits for a silent destination once."""
        from medai_pipeline.pacs.destination import parse_destinations
        from medai_pipeline.returning import Desk, Policy
        from medai_pipeline.storage.editions import Editions

        known = self.settings
        host, _, port = known.commitment_listen.rpartition(":")
        policy = Policy(
            known.return_when,
            parse_destinations(known.return_to, known.aet, known.tls),
            known.return_days,
            known.return_attempts,
            known.return_retry_seconds,
            (host, int(port)),
        )
        return Desk(policy, self.deliveries, Editions(self.engine), self.vault, lambda: self.orthanc, self.now)

    def ours(self, study_key: str) -> Callable[[PacsInstance], bool]:
        """Tells results of this pipeline in a study from its images: by what was recorded as sent, and by what they say."""
        from medai_pipeline.pacs.delivering import is_own

        sent = self.deliveries.uids_of(study_key)
        return lambda instance: instance.sop_instance_uid in sent or is_own(instance)

    @property
    def models(self) -> ModelSet:
        """The versions in force now, from the registry unless they were given."""
        from medai_pipeline.registering import models_in_force

        return self._models or models_in_force(self.registry, self.settings.models)

    @models.setter
    def models(self, given: ModelSet) -> None:
        self._models = given

    @property
    def inference(self) -> Inference:
        """With the versions in force at this moment: a run takes it once."""
        from medai_pipeline.stages import Inference

        return Inference(Path(self.settings.models_path), self.settings.gpu_enabled, models=self.models)

    @property
    def drawing(self) -> Drawing:
        from medai_pipeline.stages import Drawing

        known = self.settings
        return Drawing(known.gradcam_method, known.gradcam_layers, known.gradcam_colormap, known.gradcam_alpha)

    @property
    def watch(self) -> Watch:
        from medai_pipeline.arrivals import Watch

        return Watch(
            pacs=self.pacs,
            lifecycle=self.lifecycle,
            vault=self.vault,
            study_key=self.keys.study_key,
            quiet=timedelta(seconds=self.settings.stable_seconds),
            sweep_every=timedelta(seconds=self.settings.reconcile_seconds),
            ours=self.ours,
            history=None if self.settings.history_days is None else timedelta(days=self.settings.history_days),
        )

    def hold(self, run_id: str) -> None:
        """Shows, by a lock in Postgres that dies with this process, that the run is alive."""
        if run_id not in self._holds:
            self._holds[run_id] = self.lifecycle.hold_run(run_id)
        self._holds[run_id].ensure()

    def let_go(self, run_id: str) -> None:
        held = self._holds.pop(run_id, None)
        if held is not None:
            held.release()

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)

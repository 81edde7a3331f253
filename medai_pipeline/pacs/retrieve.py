"""C-GET and C-MOVE as SCU (PS3.4 Annex C): a study or a part of it comes to us, or goes where the PACS is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydicom import uid as syntaxes
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import build_role, evt
from pynetdicom.presentation import PresentationContext, StoragePresentationContexts, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    PatientRootQueryRetrieveInformationModelGet,
    PatientRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from pynetdicom.status import code_to_category

from medai_pipeline.errors import MedaiError, PacsError, PacsUnreachable
from medai_pipeline.pacs.association import CONTEXTS_PER_ASSOCIATION, associate
from medai_pipeline.pacs.find import query_keys
from medai_pipeline.pacs.node import Node
from medai_pipeline.pacs.received import file_of

GET_MODELS: Mapping[str, UID] = {
    "patient": PatientRootQueryRetrieveInformationModelGet,
    "study": StudyRootQueryRetrieveInformationModelGet,
}
MOVE_MODELS: Mapping[str, UID] = {
    "patient": PatientRootQueryRetrieveInformationModelMove,
    "study": StudyRootQueryRetrieveInformationModelMove,
}
UNCOMPRESSED = (syntaxes.ExplicitVRLittleEndian, syntaxes.ImplicitVRLittleEndian)
COMPRESSED = (
    syntaxes.JPEGLosslessSV1, syntaxes.JPEGLossless, syntaxes.JPEGLSLossless, syntaxes.JPEG2000Lossless,
    syntaxes.RLELossless, syntaxes.JPEGBaseline8Bit, syntaxes.JPEGExtended12Bit, syntaxes.JPEGLSNearLossless,
    syntaxes.JPEG2000, syntaxes.HTJ2KLossless, syntaxes.HTJ2KLosslessRPCL, syntaxes.HTJ2K,
    syntaxes.DeflatedExplicitVRLittleEndian,
)  # fmt: skip
SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND, PROCESSING_FAILURE = 0x0000, 0xA700, 0xC000, 0x0110


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What the PACS says became of the sub-operations."""

    completed: int
    failed: int
    warned: int


def get(
    node: Node,
    level: str,
    keys: Mapping[str, str],
    keep: Callable[[bytes], None],
    sop_classes: Iterable[str] = (),
    syntax: UID | None = None,
    root: str = "study",
) -> Retrieved:
    """C-GET: each object of `keys` (unique keys: keyword -> UID) is given to `keep` as a DICOM file (PS3.10).

    An object is acknowledged to the PACS once `keep` has returned. `sop_classes`: what is in there, where it is known:
    compressed objects then come as they are stored, unless the PACS (dcmtk's) only ever takes the first context of a
    class: it then wants `syntax`, the transfer syntax that is stored. Raises what `keep` raises, PacsUnreachable, PacsUnauthorized, or
    PacsError when the PACS refuses.
    """
    trouble: list[MedaiError] = []

    def receive(event: evt.Event) -> int:
        try:
            keep(file_of(event))
        except MedaiError as error:
            trouble.append(error)
            return PROCESSING_FAILURE
        return SUCCESS

    model = GET_MODELS[root]
    stored = storage_contexts(sop_classes, syntax)
    roles = [
        build_role(uid, scp_role=True) for uid in dict.fromkeys(UID(str(context.abstract_syntax)) for context in stored)
    ]
    handlers = [(evt.EVT_C_STORE, receive)]
    with associate(node, [build_context(model), *stored], roles, handlers) as association:
        _require(association.accepted_contexts, model, node)
        answers = association.send_c_get(query_keys(level, keys), model)
        try:
            return _outcome(answers, node, "C-GET")
        finally:
            if trouble:  # the cause of what the PACS then says of it
                raise trouble[0]


def move(
    node: Node,
    destination_ae: str,
    level: str,
    keys: Mapping[str, str],
    root: str = "study",
    progress: Callable[[int], None] | None = None,
) -> Retrieved:
    """C-MOVE: the PACS sends what `keys` name to the AE that it knows as `destination_ae`. `progress`: completed so far."""
    model = MOVE_MODELS[root]
    with associate(node, [build_context(model)]) as association:
        _require(association.accepted_contexts, model, node)
        answers = association.send_c_move(query_keys(level, keys), destination_ae, model)
        return _outcome(answers, node, "C-MOVE", progress)


def storage_contexts(sop_classes: Iterable[str], syntax: UID | None = None) -> list[PresentationContext]:
    """What we take in a C-GET: `syntax` alone, or one context a class and transfer syntax, so that the PACS need not convert.

    Of more classes than that has room for: uncompressed, and compressed as the PACS chooses. Of none: the usual classes.
    """
    room = CONTEXTS_PER_ASSOCIATION - 1
    classes = list(dict.fromkeys(UID(uid) for uid in sop_classes if uid))[:room]
    usual = [UID(str(context.abstract_syntax)) for context in StoragePresentationContexts[:room]]
    groups: list[list[UID]] = [list(UNCOMPRESSED), *([one] for one in COMPRESSED)]
    if syntax is not None:
        groups = [[syntax]]
    elif len(classes or usual) * len(groups) > room:
        groups = [list(UNCOMPRESSED), list(COMPRESSED)][: room // len(classes or usual)]
    return [build_context(uid, list(group)) for uid in classes or usual for group in groups]


def _require(accepted: Sequence[PresentationContext], model: UID, node: Node) -> None:
    if not any(context.abstract_syntax == model for context in accepted):
        raise PacsError(f"the DICOM node at {node.address} does not offer {model.name}: retrieve by another way")


def _outcome(
    answers: Iterator[tuple[Dataset, Dataset | None]],
    node: Node,
    service: str,
    progress: Callable[[int], None] | None = None,
) -> Retrieved:
    for status, _ in answers:
        code = status.get("Status")
        if code is None:
            raise PacsUnreachable(
                f"the DICOM node at {node.address} ends the association in the middle of {service}: check its log"
            )
        counts = Retrieved(
            *(int(status.get(f"NumberOf{kind}Suboperations") or 0) for kind in ("Completed", "Failed", "Warning"))
        )
        if progress:
            progress(counts.completed)
        if code_to_category(code) == "Pending":
            continue
        if code_to_category(code) in {"Success", "Warning"}:
            return counts
        if code == 0xA801:
            raise PacsError(
                f"the DICOM node at {node.address} does not know the move destination: register our AE title there"
            )
        raise PacsError(
            f"the DICOM node at {node.address} refuses {service} or fails in it (status 0x{code:04X}): check its log"
        )
    raise PacsUnreachable(f"the DICOM node at {node.address} does not finish {service}: check its log")

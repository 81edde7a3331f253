"""Roles, permissions, and the one table between them: who may do what. Imports nothing of the web: commands read it, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    VIEWER = "viewer"
    RADIOLOGIST = "radiologist"
    ENGINEER = "engineer"
    PRIVACY_OFFICER = "privacy-officer"
    ADMIN = "admin"


class Permission(StrEnum):
    """What a route asks for; the value stands in its OpenAPI description as `x-medai-permission`."""

    STUDIES_READ = "studies:read"  # worklist, reports, results, lineage by study key; nobody is named
    IMAGES_READ = "images:read"  # de-identified images
    IDENTITIES_READ = "identities:read"  # who a study is about; each reading is audited
    UPLOAD = "images:upload"
    DELETE = "images:delete"  # in the PACS
    ANALYZE = "analysis:request"
    RETRY = "studies:retry"
    REVIEW = "reports:review"
    PRIORITIZE = "studies:prioritize"
    ANNOTATE = "annotations:write"
    ORIGINALS_READ = "originals:read"  # what the PACS holds, with identities; each reading is audited
    PACS_STATUS = "pacs:status"
    PACS_RETRIEVE = "pacs:retrieve"  # makes the PACS fetch a study from elsewhere, or the pipeline look again
    MODELS_READ = "models:read"
    DELIVERIES_READ = "deliveries:read"
    METRICS_READ = "metrics:read"
    AUDIT_READ = "audit:read"
    USERS_MANAGE = "users:manage"
    ACCOUNT = "account"  # one's own: everybody who is logged in


_EVERYBODY = frozenset({Permission.STUDIES_READ, Permission.IMAGES_READ, Permission.MODELS_READ, Permission.ACCOUNT})

PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: _EVERYBODY,
    Role.RADIOLOGIST: _EVERYBODY
    | {
        Permission.IDENTITIES_READ,
        Permission.ORIGINALS_READ,
        Permission.UPLOAD,
        Permission.ANALYZE,
        Permission.RETRY,
        Permission.REVIEW,
        Permission.PRIORITIZE,
        Permission.ANNOTATE,
        Permission.DELIVERIES_READ,
        Permission.PACS_STATUS,
        Permission.PACS_RETRIEVE,
    },
    Role.ENGINEER: _EVERYBODY
    | {
        Permission.UPLOAD,
        Permission.DELETE,
        Permission.ANALYZE,
        Permission.RETRY,
        Permission.PACS_STATUS,
        Permission.PACS_RETRIEVE,
        Permission.DELIVERIES_READ,
        Permission.METRICS_READ,
    },
    Role.PRIVACY_OFFICER: _EVERYBODY
    | {
        Permission.IDENTITIES_READ,
        Permission.AUDIT_READ,
        Permission.DELIVERIES_READ,
    },
    Role.ADMIN: _EVERYBODY | {Permission.USERS_MANAGE, Permission.PACS_STATUS, Permission.METRICS_READ},
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, as the audit chain names them, and what they may."""

    name: str
    roles: frozenset[Role]

    @property
    def actor(self) -> str:
        return f"user:{self.name}"

    @property
    def permissions(self) -> frozenset[Permission]:
        return frozenset().union(*(PERMISSIONS[role] for role in self.roles))

    def may(self, permission: Permission | None) -> bool:
        return permission in self.permissions


def roles_of(names: Iterable[str]) -> frozenset[Role]:
    """The roles among `names`; a name that is no role (any more) gives nothing."""
    known = set(Role)
    return frozenset(Role(name) for name in names if name in known)

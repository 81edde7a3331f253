"""What `medai users` and the first start of a stack do with users. How it is asked for stands in `user_cli`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from medai_pipeline.local.study_commands import user as terminal_user
from medai_pipeline.web.roles import Role

if TYPE_CHECKING:
    from medai_pipeline.services import Services

SYSTEM = "system"
DEMO = "demo"
FIRST = "admin"
# On one machine the person who starts the stack also feeds it; who is whom is for a radiologist or privacy officer.
FIRST_ROLES = (Role.ADMIN, Role.ENGINEER)
TOKEN_DAYS = 90


def new_password() -> str:
    """120 bits, easy to copy."""
    return secrets.token_urlsafe(15)


def first_users(services: Services, demo: bool) -> list[str]:
    """Lines for the terminal with a name and a password each: `admin` when there is nobody yet, and the demo's reader.

    The demo's reader gets a new password at each demo: the last one was shown once.
    """
    lines = []
    if not services.users.everybody() and not services.settings.oidc_issuer:
        lines.append(_line(add(services, FIRST, FIRST_ROLES, SYSTEM), FIRST))
    if demo:
        password = new_password()
        if services.users.find(DEMO):
            services.users.set_password(DEMO, password, SYSTEM, services.now())
        else:
            services.users.add(DEMO, password, (Role.RADIOLOGIST,), SYSTEM, services.now())
        lines.append(_line(password, DEMO))
    return lines


def add(services: Services, name: str, roles: Sequence[Role], actor: str = "") -> str:
    """Adds a user and returns the password, which nobody will see again."""
    password = new_password()
    services.users.add(name, password, roles, actor or terminal_user(), services.now())
    return password


def token(services: Services, name: str, label: str, days: int = TOKEN_DAYS) -> str:
    """A new token of this user for a program, shown here alone."""
    now = services.now()
    return services.users.make_token(name, label, now + timedelta(days=days), terminal_user(), now)


def _line(password: str, name: str) -> str:
    return f"log in as  {name} with password {password} (shown this once)"

"""How a route says who may: `needs(Permission.X)`. The table of roles is in `roles`, how a caller is recognised in
`authentication`.

What says nothing is refused when the application is made.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from medai_pipeline.errors import NotAllowed
from medai_pipeline.web.authentication import authenticate, require_own_page
from medai_pipeline.web.middleware import route_template
from medai_pipeline.web.roles import PERMISSIONS, Permission, Principal, Role, roles_of

__all__ = ["PERMISSIONS", "Needs", "Permission", "Principal", "Role", "needs", "permission_of", "roles_of"]


class Needs:
    """A dependency of a route: the caller, once it is known that they may. Made by `needs`."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(self, request: Request) -> Principal:
        """Raises NotLoggedIn, or NotAllowed (which is audited)."""
        caller = await run_in_threadpool(authenticate, request)
        await require_own_page(request, caller)
        request.state.principal = caller.principal
        if not caller.principal.may(self.permission):
            await run_in_threadpool(_record_refusal, request, caller.principal, self.permission)
            raise NotAllowed(f"this needs the permission {self.permission}, which your roles do not have: ask an admin")
        return caller.principal


def needs(permission: Permission) -> Needs:
    """`Depends(needs(Permission.X))`: who is logged in and may; everybody else is refused."""
    return Needs(permission)


def permission_of(dependant: Any) -> Permission | None:
    """What a route's `needs(...)` asks for, wherever among its dependencies it stands."""
    waiting = list(getattr(dependant, "dependencies", ()))
    while waiting:
        one = waiting.pop()
        if isinstance(one.call, Needs):
            return one.call.permission
        waiting += one.dependencies
    return None


def _record_refusal(request: Request, principal: Principal, permission: Permission) -> None:
    detail = {"permission": permission, "method": request.method}
    request.app.state.services.audit.append(principal.actor, "access.refused", route_template(request.scope), detail)

"""`medai users ...`: thin commands over who may log in; what they do stands in `user_commands`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import click

from medai_pipeline.local import user_commands as commands
from medai_pipeline.local.attached import attached_services
from medai_pipeline.web.roles import Role

if TYPE_CHECKING:
    pass

ROLES = click.Choice([role.value for role in Role])


@click.group()
def users() -> None:
    """Who may log in to the worklist and the API, and as what.

    \b
    viewer           worklist, reports and de-identified images; sees study keys, no names
    radiologist      also who a study is about; reviews, priorities, annotations, uploads, analyses
    engineer         uploads, analyses, retries, deletes in the PACS; no names
    privacy-officer  who a study is about, and the audit chain
    admin            users
    """


@users.command("add")
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, type=ROLES, help="More than once for several.")
def add(name: str, roles: tuple[str, ...]) -> None:
    """Add a user; the password is shown once.

    \b
    Examples:
      medai users add ann --role radiologist
    """
    click.echo(f"password   {commands.add(attached_services(), name, [Role(role) for role in roles])}")


@users.command("list")
def list_users() -> None:
    """All users, with their roles."""
    for user in attached_services().users.everybody():
        click.echo(f"{user.name:<20} {', '.join(user.roles)}{'  (disabled)' if user.disabled else ''}")


@users.command("roles")
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, type=ROLES, help="All that the user is to have.")
def set_roles(name: str, roles: tuple[str, ...]) -> None:
    """Give a user other roles, from the next request on.

    \b
    Examples:
      medai users roles ann --role radiologist --role privacy-officer
    """
    services = attached_services()
    services.users.set_roles(name, roles, commands.terminal_user(), services.now())


@users.command("password")
@click.argument("name")
def set_password(name: str) -> None:
    """Give a user a new random password, shown once; logins end."""
    services, password = attached_services(), commands.new_password()
    services.users.set_password(name, password, commands.terminal_user(), services.now())
    click.echo(f"password   {password}")


@users.command("disable")
@click.argument("name")
@click.option("--again", is_flag=True, help="The same as `enable`.")
def disable(name: str, again: bool) -> None:
    """End a user's logins and tokens at once; no new login from now on. oidc:SUBJECT is a provider's person.

    \b
    Examples:
      medai users disable ann
      medai users disable oidc:248289761001   # the subject, as the audit chain names it
    """
    services = attached_services()
    services.users.disable(name, commands.terminal_user(), services.now(), disabled=not again)


@users.command("enable")
@click.argument("name")
def enable(name: str) -> None:
    """Let a user in again who was disabled, with a new login.

    \b
    Examples:
      medai users enable oidc:248289761001
    """
    services = attached_services()
    services.users.disable(name, commands.terminal_user(), services.now(), disabled=False)


@users.command("token")
@click.argument("name")
@click.option("--label", default="", help="What it is for.")
@click.option("--days", default=commands.TOKEN_DAYS, show_default=True, type=click.IntRange(1, 3650))
def make_token(name: str, label: str, days: int) -> None:
    """A token with which a program acts as this user, shown once.

    \b
    Examples:
      medai users token ann --label "nightly upload"
      curl -H "Authorization: Bearer TOKEN" http://127.0.0.1:8000/api/v1/studies
    """
    click.echo(commands.token(attached_services(), name, label, days))


@users.command("tokens")
@click.argument("name", required=False)
def tokens(name: str | None) -> None:
    """Tokens and until when they are in force; never their secrets."""
    for token in attached_services().users.tokens(name):
        state = "revoked" if token.revoked_at else f"until {token.ends_at:%Y-%m-%d}"
        click.echo(f"{token.id}  {token.name:<20} {state:<18} {token.label}")


@users.command("revoke")
@click.argument("token_id", type=click.UUID)
def revoke(token_id: UUID) -> None:
    """End a token at once."""
    services = attached_services()
    services.users.revoke_token(token_id, commands.terminal_user(), services.now())

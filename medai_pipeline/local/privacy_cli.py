"""`medai audit|keys|forget|retention`: thin commands for who answers for the data; what they do stands in `privacy_commands`."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medai_pipeline.local.attached import attached_services
from medai_pipeline.local.terminal import console, plain, printable

if TYPE_CHECKING:
    from medai_pipeline.storage.audit_trail import AuditFilter


class Moment(click.ParamType):
    """A date or time by ISO 8601; without a zone it is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            told = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date or time: 2026-05-01, or 2026-05-01T08:30+02:00", param, ctx)
        return told if told.tzinfo else told.replace(tzinfo=UTC)


class NotedHead(click.ParamType):
    name = "number:hash"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from medai_pipeline.storage.audit import Head

        try:
            return Head.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group()
def audit() -> None:
    """The audit chain: who saw or decided what. It can be read and verified, and never changed."""


@audit.command()
@click.option(
    "--head", "noted", type=NotedHead(), help="A head noted earlier: finds that all records since were cut off."
)
def verify(noted: Any) -> None:
    """Checks every record since the first. Exit code 1 names the first one that is not as it was written.

    \b
    Examples:
      medai audit verify
      medai audit verify --head 5120:9f3c...
    """
    check = attached_services().audit.verify(noted)
    if check.ok:
        click.echo(f"{check.records} records, all as they were written; head {check.records}:{check.head}")
    else:
        console.print(f"[red]record {check.first_bad_seq}:[/] {plain(check.reason)}", soft_wrap=True)
        console.print(f"the {check.records} records before it are as they were written", soft_wrap=True)
        sys.exit(1)


@audit.command()
def head() -> None:
    """Where the chain ends, as NUMBER:HASH. Note it where who administers the database cannot write.

    \b
    Examples:
      medai audit head | ssh notary 'cat >> medai-heads'
    """
    click.echo(str(attached_services().audit.head()))


def _filters(command: Any) -> Any:
    for option in reversed(
        (
            click.option("--since", type=Moment(), help="Records from then on."),
            click.option("--until", type=Moment(), help="Records before then."),
            click.option("--actor", default="", help="Who: user:anna, pipeline:*"),
            click.option("--action", default="", help="What: identity.read, keys.*"),
            click.option("--subject", default="", help="Whom: a study key."),
        )
    ):
        command = option(command)
    return command


def _wanted(limit: int | None, **given: Any) -> AuditFilter:
    from medai_pipeline.storage.audit_trail import AuditFilter

    return AuditFilter(limit=limit, **given)


@audit.command("list")
@_filters
@click.option("--limit", default=50, show_default=True, help="The last so many.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one record a line.")
def audit_list(limit: int, as_json: bool, **given: Any) -> None:
    """The last records that fit. The looking is itself recorded.

    \b
    Examples:
      medai audit list --action 'identity.*' --since 2026-05-01
      medai audit list --subject QAAJPTPRSI7L32AHBF4BHS4LDE
    """
    from medai_pipeline.local import privacy_commands as page

    rows = page.records(attached_services(), _wanted(limit, **given))
    if as_json:
        for row in rows:
            click.echo(json.dumps(page.as_json(row)))
    else:
        page.show_records(rows)


@audit.command()
@_filters
@click.option("--format", "form", type=click.Choice(["fhir", "ndjson", "json"]), default="fhir", show_default=True,
              help="A FHIR R4B Bundle of AuditEvent; the same one a line; our records one a line.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A file instead of standard output.")
def export(form: str, out: Path | None, **given: Any) -> None:
    """Records for another system. The export is itself recorded.

    \b
    Examples:
      medai audit export --out audit.json
      medai audit export --format ndjson --since 2026-05-01 | curl -T - https://siem...
    """
    from medai_pipeline.local import privacy_commands as page

    pieces = page.exported(attached_services(), _wanted(None, **given), form)
    if out is None:
        for piece in pieces:
            click.echo(piece, nl=False)
    else:
        click.echo(f"{page.write_pieces(out, pieces)} bytes in {out}")


@click.group()
def keys() -> None:
    """The site's secrets: which one seals now, and another in its place while everything runs."""


@keys.command("list")
def keys_list() -> None:
    """Every secret by its id, what it is, and how many study keys are sealed under it. The secrets are not shown."""
    from medai_pipeline.local import privacy_commands as page

    page.show_keys(attached_services())


@keys.command()
@click.option("--prepare", is_flag=True, help="Only add the new secret, to be copied to the other machines first.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the keys, where they come from MEDAI_KEY.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def rotate(prepare: bool, out: Path | None, yes: bool) -> None:
    """Another secret in place of the present one, while everything runs; then the old one is destroyed.

    Study keys and new UIDs stay as they are. What was cut off goes on where it was: run it again.

    \b
    Examples:
      medai keys rotate
      medai keys rotate --prepare      then copy the key file to every machine, then: medai keys rotate
      medai keys rotate --out new.keys  with MEDAI_KEY: set it to what new.keys holds, start again, and run it again
    """
    from medai_pipeline.local import privacy_commands as page

    if not yes and not prepare:
        click.confirm(
            "The present secret is destroyed at the end; copies of the key file made before are void. Go on?",
            abort=True,
        )
    page.rotate(attached_services(), prepare, out, click.echo)


@click.command()
@click.argument("study_keys", metavar="KEY...", nargs=-1)
@click.option("--patient", metavar="ID", help="All studies of this Patient ID instead; `-` asks for it.")
@click.option("--reason", default="", help="Why; kept in the audit chain. Must not name anybody.")
@click.option("--lift", is_flag=True, help="The other way: forgotten studies may come again, as new ones.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(study_keys: tuple[str, ...], patient: str | None, reason: str, lift: bool, yes: bool) -> None:
    """Destroys the key, the identity and the results of studies: nothing of them can be read from then on.

    Not in the database, not in the store, not in copies of the store. What came by C-STORE or the inbox and is not in the PACS
    yet, or was refused, goes with it: `medai pacs status` says how much waits. What a backup of the database means:
    docs/privacy.md. The PACS keeps what it holds; a forgotten study is left alone there until --lift.

    \b
    Examples:
      medai forget QAAJPTPRSI7L32AHBF4BHS4LDE --reason "request 2026-17"
      medai forget --patient - --reason "request 2026-17"
    """
    from medai_pipeline.local import privacy_commands as page

    if bool(study_keys) == bool(patient):
        raise click.UsageError("name study keys, or a patient with --patient")
    services = attached_services()
    if patient == "-":
        patient = click.prompt("Patient ID", hide_input=not sys.stdin.isatty())
    wanted = page.wanted(services, study_keys, patient)
    loose = 0 if lift else page.loose(services, wanted, patient)
    if not wanted and not loose:
        console.print("no study of this patient is known here")
        sys.exit(1)
    words = "may come again as new ones" if lift else "are forgotten for good: nobody can bring them back"
    words = f"and {loose} files of no study {words}" if loose else words
    if not yes:
        click.confirm(f"{len(wanted)} studies {words}. Go on?", abort=True)
    missing = (
        page.lift(services, wanted, reason) if lift else page.forget(services, wanted, patient, reason, click.echo)
    )
    for key in missing:
        console.print(f"{plain(printable(key))}: not known here, or not forgotten", soft_wrap=True)
    sys.exit(1 if missing else 0)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be deleted.")
def retention(dry_run: bool) -> None:
    """Deletes what MEDAI_RETENTION says is too old; a running stack does so by itself once an hour.

    \b
    Examples:
      MEDAI_RETENTION=raw=30,tensors=90 medai retention --dry-run
    """
    from medai_pipeline.local import privacy_commands as page

    page.show_retention(attached_services(), dry_run)

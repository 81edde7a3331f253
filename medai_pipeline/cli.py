"""`medai`: thin commands. Each reads the settings, calls one function, and prints. No traceback reaches a person."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from medai_pipeline import DISCLAIMER, __version__
from medai_pipeline.errors import MedaiError
from medai_pipeline.local.attached import attached_services, attached_settings
from medai_pipeline.local.model_cli import models
from medai_pipeline.local.pacs_cli import pacs, receive
from medai_pipeline.local.privacy_cli import audit, forget, keys, retention
from medai_pipeline.local.results_cli import deliveries, lineage
from medai_pipeline.local.terminal import console, plain, printable, progress, quiet_logs
from medai_pipeline.local.user_cli import users
from medai_pipeline.memory import keep_buffers, no_core_files
from medai_pipeline.settings import read_settings

PATHS = click.Path(exists=True, path_type=Path)


class Commands(click.Group):
    """Turns our errors into one line and exit code 1; anything else into one line that asks for a report."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MedaiError as error:
            console.print(f"[red]medai:[/] {plain(error.reason)}", soft_wrap=True)
        except BrokenPipeError:
            ctx.exit(1)
        except (click.ClickException, click.exceptions.Exit, click.Abort, KeyboardInterrupt):
            raise
        except Exception as error:
            if logging.getLogger().isEnabledFor(logging.DEBUG):
                raise
            # The message of an unforeseen error could hold what it choked on: its kind is enough to report it.
            console.print(f"[red]medai:[/] unexpected {type(error).__name__}; MEDAI_LOG_LEVEL=DEBUG shows where")
        ctx.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="medai")
def main() -> None:
    """Beside a PACS: de-identify each study, predict, explain, triage, report. Research use only."""
    quiet_logs(read_settings().log_level)
    keep_buffers()
    no_core_files()


@main.command()
def up() -> None:
    """The whole stack on this machine, in the foreground, until Ctrl-C.

    Starts an embedded Postgres unless DATABASE_URL is set, an Orthanc unless ORTHANC_URL is set, Dagster, and the
    worklist with its REST API. The first start makes a user `admin` and shows the password once.

    \b
    Examples:
      medai up
      MEDAI_WEB_PORT=3100 MEDAI_HOME=/srv/medai medai up
      ORTHANC_URL=http://pacs:8042 ORTHANC_PASSWORD=... medai up
    """
    from medai_pipeline.local.stack import Stack

    with Stack(read_settings(), echo=click.echo) as stack:
        stack.wait()


@main.command()
@click.option("--exit", "leave", is_flag=True, help="Stop after the worklist instead of staying up.")
@click.option("--timeout", "timeout_s", default=600.0, show_default=True, help="Seconds to wait for all reports.")
def demo(leave: bool, timeout_s: float) -> None:
    """Synthetic studies through the real stack: sent to Orthanc, noticed, reported, listed by urgency.

    \b
    Examples:
      medai demo           stays up until Ctrl-C: look at the pages it names
      medai demo --exit    stops afterwards; exit code 0 only if every study was reported
    """
    from medai_pipeline.local.demo import demo_settings, run_demo
    from medai_pipeline.local.stack import Stack

    with Stack(demo_settings(read_settings()), echo=click.echo, demo=True) as stack:
        complete = run_demo(stack, timeout_s, echo=click.echo, progress=progress)
        if not leave:
            click.echo("Stays up; Ctrl-C stops everything.")
            stack.wait()
    sys.exit(0 if complete else 1)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=PATHS)
@click.option("--dicom", "node", metavar="HOST:PORT", help="Send by C-STORE to this node instead of Orthanc's REST.")
@click.option("--aet", default="ORTHANC", show_default=True, help="Called AE title, with --dicom.")
@click.option(
    "--tls",
    is_flag=True,
    help="By TLS, with --dicom: MEDAI_DICOM_TLS_AUTHORITIES, MEDAI_DICOM_TLS_CERTIFICATE, MEDAI_DICOM_TLS_KEY.",
)
def send(paths: tuple[Path, ...], node: str | None, aet: str, tls: bool) -> None:
    """Send DICOM files or folders to the PACS.

    \b
    Examples:
      medai send study/ more/*.dcm
      medai send --dicom 127.0.0.1:4242 study/
      MEDAI_DICOM_TLS_AUTHORITIES=hospital.pem medai send --dicom pacs.example:2762 --aet ARCHIVE --tls study/
    """
    from medai_pipeline.local.sending import send_files

    if tls and not node:
        raise click.UsageError("--tls belongs to --dicom HOST:PORT")
    files = _files(paths)
    with progress("sending", len(files)) as advance:
        summary = send_files(attached_settings(read_settings()), files, node, aet, advance, tls)
    click.echo(summary.text)
    sys.exit(0 if summary.complete else 1)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=PATHS)
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where to write.")
@click.option("--model", "models", multiple=True, help="A model to use for what it is made for, before MEDAI_MODELS.")
def analyze(paths: tuple[Path, ...], out: Path, models: tuple[str, ...]) -> None:
    """Every study found under PATH through all stages, without any server.

    Writes OUT/<study key>/report.json, report.html, fhir.json, anonymized/*.dcm, overlays/*.png and results/*.dcm, all
    about the de-identified study. Exit code 0 only if every study was reported and no file that looks like DICOM was
    left out.

    \b
    Examples:
      medai analyze ~/studies --out results
      MODEL_PATH=~/weights medai analyze ~/studies --out results --model chest-xray-resnet50
    """
    from medai_pipeline.local.one_shot import run_analyze
    from medai_pipeline.models.catalog import entry

    settings = read_settings()
    preferred = (*models, *settings.models)
    for name in preferred:
        entry(name)  # a name that is not known is said before any work
    sys.exit(run_analyze(replace(settings, models=preferred), paths, out))


@main.command()
@click.argument("paths", nargs=-1, type=PATHS)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Where to write.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME",
    help="An option of PS3.15 Annex E; more than once for several. Default: MEDAI_DEIDENTIFY_OPTIONS.",
)
@click.option("--dicomdir", is_flag=True, help="Also write OUT/fileset, a file-set with a new DICOMDIR.")
@click.option("--describe", is_flag=True, help="Print the conformance statement for these options, and do nothing.")
def deidentify(
    paths: tuple[Path, ...], out: Path | None, options: tuple[str, ...], dicomdir: bool, describe: bool
) -> None:
    """De-identify DICOM files by PS3.15 Annex E, without any server.

    The Basic Profile, with the options chosen. A DICOMDIR in PATH is left out: it names every patient.

    \b
    Examples:
      medai deidentify ~/studies --out clean
      medai deidentify ~/studies --out clean --option retain-modified-dates --option clean-descriptors
      medai deidentify --describe --option retain-uids
    """
    from medai_pipeline.dicom.options import parse_options
    from medai_pipeline.local.one_shot import run_deidentify

    chosen_here: dict[str, Any] = {"deidentify_options": ",".join(options)} if options else {}
    settings = read_settings(**chosen_here)
    chosen = parse_options(settings.deidentify_options)
    if describe:
        from medai_pipeline.dicom.conformance import statement

        click.echo(statement(chosen), nl=False)
        return
    if not paths or out is None:
        raise click.UsageError("name files or folders, and where to write with --out; or ask with --describe")
    sys.exit(run_deidentify(settings, paths, out, (out / "fileset") if dicomdir else None))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option(
    "--export", type=click.Path(path_type=Path, file_okay=False), help="Also write each report to this folder."
)
def worklist(as_json: bool, export: Path | None) -> None:
    """Studies in the order of reading, the last that were read, and those still on their way or failed.

    Urgent studies come first as long as everybody else's promise can be kept (MEDAI_READING_LIMIT_HOURS). A study is read
    when somebody decided about its newest report. "reads by" is local time.

    \b
    Examples:
      medai worklist
      medai worklist --json | jq '.studies[] | select(.priority == "critical")'
    """
    from medai_pipeline.local import worklist as page

    services = attached_services()
    if export:
        page.export_reports(services, export)
    if as_json:
        click.echo(json.dumps(page.as_json(services), indent=2))
    else:
        page.terminal().print(page.as_table(services))
        for warning in page.warnings(services):
            console.print(f"[bold red]warning[/] {plain(warning)}", soft_wrap=True)
        click.echo(DISCLAIMER)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def status(as_json: bool) -> None:
    """How the pipeline is doing. Exit code 1 when something asks for a person: overdue or failed studies, no heartbeat.

    \b
    Examples:
      medai status
      medai status --json | jq .warnings
    """
    from medai_pipeline.local import status as page

    seen = page.look(attached_services())
    if as_json:
        click.echo(json.dumps(page.as_json(seen), indent=2))
    else:
        click.echo("\n".join(page.as_lines(seen)))
        for warning in seen.warnings():
            console.print(f"[bold red]warning[/]       {plain(warning)}", soft_wrap=True)
    sys.exit(1 if seen.warnings() else 0)


@main.command()
@click.argument("study_keys", metavar="KEY...", nargs=-1)
@click.option("--failed", is_flag=True, help="All studies that have failed.")
def retry(study_keys: tuple[str, ...], failed: bool) -> None:
    """Try failed studies again, at once and with all attempts before them.

    \b
    Examples:
      medai retry QAAJPTPRSI7L32AHBF4BHS4LDE
      medai retry --failed
    """
    from medai_pipeline.local.study_commands import retry_studies

    if not study_keys and not failed:
        raise click.UsageError("name study keys, or say --failed")
    outcome = retry_studies(attached_services(), study_keys, failed)
    for key in outcome.not_failed:
        console.print(f"{plain(printable(key))}: not failed, or not known here: nothing to try again", soft_wrap=True)
    click.echo(f"{len(outcome.again)} studies are tried again; `medai worklist` shows what becomes of them")
    sys.exit(1 if outcome.not_failed else 0)


@main.command()
@click.argument("study_key", metavar="KEY")
def whois(study_key: str) -> None:
    """Who a study is about. Each asking is kept in the audit chain.

    \b
    Examples:
      medai whois QAAJPTPRSI7L32AHBF4BHS4LDE
    """
    from medai_pipeline.local.study_commands import whois as ask

    for what, value in ask(attached_services(), study_key):
        click.echo(f"{what:<13} {value}")


@main.command()
@click.option("--model", required=True, metavar="NAME@VERSION", help="The active version that is to read them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def backfill(model: str, yes: bool) -> None:
    """Compute again the older studies that another version has read, behind new ones and without the PACS.

    \b
    Examples:
      medai backfill --model chest@2
    """
    from medai_pipeline.local.model_commands import split, what_follows
    from medai_pipeline.local.study_commands import user

    services = attached_services()
    name, version = split(model)
    services.registry.version(name, version)
    count, words = what_follows(services, model)
    click.echo(words)
    if count and not yes:
        click.confirm("Compute them again?", abort=True)
    services.registry.want_backfill(name, version, user(), services.now())
    if count:
        click.echo("the backfill starts within seconds: see Backfills in the Dagster page")


for command in (models, deliveries, lineage, users, audit, keys, forget, retention, pacs, receive):
    main.add_command(command)


# what the commands share -------------------------------------------------------------------------------------


def _files(paths: Sequence[Path]) -> list[Path]:
    from medai_pipeline.dicom.read import find_files

    files = list(find_files(paths))
    if not files:
        raise MedaiError("no file found: name files or folders")
    return files


if __name__ == "__main__":
    main()

"""`medai pacs ...` and `medai receive`: thin commands, as those in `cli`; what they do stands in `pacs_commands` and `receiving`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from medai_pipeline.local.attached import attached_services
from medai_pipeline.local.terminal import plain, printable, progress

if TYPE_CHECKING:
    pass

NODE = click.option(
    "--node", metavar="dicom://AET@HOST:PORT", help="A DICOM node (dicoms:// by TLS); default: the PACS."
)


@click.group()
def pacs() -> None:
    """Ask the PACS, or any DICOM node: C-ECHO, C-FIND, C-GET, C-MOVE. What they tell identifies patients.

    \b
    TLS (dicoms://) uses MEDAI_DICOM_TLS_AUTHORITIES and, where the node wants one, MEDAI_DICOM_TLS_CERTIFICATE and MEDAI_DICOM_TLS_KEY.
    Our AE title is MEDAI_AET: the node must know it.
    """


@pacs.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def status(as_json: bool) -> None:
    """Whether the PACS answers, and what came in and waits or was not taken.

    \b
    Examples:
      medai pacs status
      medai pacs status --json | jq .in_quarantine
    """
    from medai_pipeline.local import pacs_commands as page

    told = page.status(attached_services())
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    for what, value in told.items():
        click.echo(f"{what.replace('_', ' '):<24} {value}")


@pacs.command()
@NODE
def echo(node: str | None) -> None:
    """C-ECHO: does the node answer, and does it know us?

    \b
    Examples:
      medai pacs echo --node dicom://ARCHIVE@10.0.0.5:104
      MEDAI_DICOM_TLS_AUTHORITIES=hospital.pem medai pacs echo --node dicoms://ARCHIVE@pacs.example:2762
    """
    from medai_pipeline.local import pacs_commands as page
    from medai_pipeline.pacs.dimse import echo_node

    asked = page.node_of(attached_services().settings, node)
    echo_node(asked)
    click.echo(f"{asked.called_ae} at {asked.address} answers{' by TLS' if asked.tls else ''}")


@pacs.command()
@NODE
@click.argument("keys", nargs=-1, metavar="[KEYWORD=VALUE]...")
@click.option(
    "--level",
    type=click.Choice(["patient", "study", "series", "image", "worklist"]),
    default="study",
    show_default=True,
    help="Below study, give the UIDs of what is above.",
)
@click.option("--limit", default=100, show_default=True, help="At most so many answers.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def find(node: str | None, keys: tuple[str, ...], level: str, limit: int, as_json: bool) -> None:
    """What is there. Kept in the audit chain where a database is known.

    \b
    Examples:
      medai pacs find 'PatientName=DOE*' StudyDate=20261101-
      medai pacs find --node dicom://ARCHIVE@10.0.0.5:104 --level series StudyInstanceUID=1.2.3
      medai pacs find --node dicom://RIS@10.0.0.6:104 --level worklist
    """
    from rich.table import Table

    from medai_pipeline.local import pacs_commands as page
    from medai_pipeline.local.worklist import terminal

    pairs = [key.partition("=") for key in keys]
    if not all(separator for _, separator, _ in pairs):
        raise click.UsageError("expected KEYWORD=VALUE, for example PatientID=4711")
    wanted = {keyword: value for keyword, _, value in pairs}
    answers = page.found(page.asking(attached_services(), node), level, wanted, limit)
    if as_json:
        click.echo(json.dumps(answers, indent=2, ensure_ascii=False))
        return
    table = Table(*page.SHOWN[level])
    for answer in answers:
        table.add_row(*(plain(printable(value)) for value in answer.values()))
    terminal().print(table)
    click.echo(
        f"{len(answers)} found" + (f"; there may be more: --limit {10 * limit}" if len(answers) == limit else "")
    )


@pacs.command()
@NODE
@click.argument("study_uids", nargs=-1, required=True, metavar="STUDY_INSTANCE_UID...")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Where to write.")
def get(node: str | None, study_uids: tuple[str, ...], out: Path) -> None:
    """Studies as files, as the PACS has them: they identify, and are for you alone (0600). Kept in the audit chain.

    \b
    Examples:
      medai pacs get 1.2.3.4 --out study
      medai pacs get --node dicom://ARCHIVE@10.0.0.5:104 1.2.3.4 --out study && medai analyze study --out results
    """
    from medai_pipeline.local import pacs_commands as page

    with progress("fetching", 0) as advance:
        count = page.fetch(page.asking(attached_services(), node), study_uids, out, advance)
    click.echo(f"{count} files in {out}")


@pacs.command()
@NODE
@click.argument("study_uids", nargs=-1, required=True, metavar="STUDY_INSTANCE_UID...")
@click.option("--to", "destination", required=True, metavar="AET", help="An AE title that the node knows.")
def move(node: str | None, study_uids: tuple[str, ...], destination: str) -> None:
    """C-MOVE: the node sends studies to another one.

    \b
    Examples:
      medai pacs move --node dicom://ARCHIVE@10.0.0.5:104 --to ORTHANC 1.2.3.4
    """
    from medai_pipeline.local import pacs_commands as page

    services = attached_services()
    count = page.move_to(page.node_of(services.settings, node), services, study_uids, destination)
    click.echo(f"{count} instances sent to {destination}")


@pacs.command()
@click.argument("digests", nargs=-1, metavar="[DIGEST]...")
@click.option("--again", "what", flag_value="again", help="Offer them to the PACS once more.")
@click.option("--forget", "what", flag_value="forget", help="Delete them for good.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Write them here, in clear, to look at them."
)
def quarantine(digests: tuple[str, ...], what: str | None, out: Path | None) -> None:
    """What came in by C-STORE or the inbox and the PACS did not take, and why. A DIGEST may be its beginning.

    \b
    Examples:
      medai pacs quarantine
      medai pacs quarantine --again
      medai pacs quarantine --out look 3f2a
      medai pacs quarantine --forget 3f2a
    """
    from medai_pipeline.local import pacs_commands as page

    services = attached_services()
    if what == "forget" and not digests:
        raise click.UsageError("name what is to be deleted for good")
    entries = page.quarantined(services, digests)
    if what or out:
        page.act(services, entries, what or "out", out)
    for entry in entries:
        name = f"  ({printable(entry.file_name)})" if entry.file_name else ""
        click.echo(f"{entry.digest[:12]}  {entry.since}  {entry.reason}{name}")
    done = {"again": "offered to the PACS again", "forget": "deleted", None: "in quarantine"}
    click.echo(f"{len(entries)} {done[what]}")


@click.command()
def receive() -> None:
    """Take C-STORE and the files of an inbox, and pass them on to the PACS, until Ctrl-C. `medai up` does it by itself.

    A file is acknowledged, or taken from the inbox, once it is sealed on the disk; it leaves there when the PACS has it.

    \b
    Examples:
      MEDAI_SCP_PORT=11112 medai receive                 C-STORE from this machine
      MEDAI_SCP_PORT=11112 MEDAI_SCP_ADDRESS=0.0.0.0 MEDAI_SCP_PEERS='CT1@10.0.0.7' medai receive
      MEDAI_INBOX=/srv/inbox medai receive
    """
    from medai_pipeline.local.receiving import main

    sys.exit(main())

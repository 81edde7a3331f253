"""`medai deliveries|lineage`: thin commands over results, where they go and where they come from."""

from __future__ import annotations

import json
from pathlib import Path

import click

from medai_pipeline.local.attached import attached_services


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.option("--problems", is_flag=True, help="Only what has not arrived and was tried.")
@click.pass_context
def deliveries(context: click.Context, as_json: bool, problems: bool) -> None:
    """Results on their way back to the PACS, and what hinders them.

    \b
    Examples:
      medai deliveries
      medai deliveries --problems
      medai deliveries retry --all
      medai deliveries send QAAJPTPRSI7L32AHBF4BHS4LDE
    """
    from medai_pipeline.local import deliveries as page
    from medai_pipeline.local.worklist import terminal

    if context.invoked_subcommand:
        return
    services = attached_services()
    if not as_json:
        terminal().print(page.as_table(services, problems))
        return
    found = {
        key: page.as_records([row for row in rows if row.troubled or not problems])
        for key, rows in page.by_study(services).items()
    }
    click.echo(json.dumps({key: records for key, records in found.items() if records}, indent=2))


@deliveries.command("retry")
@click.argument("study_keys", metavar="KEY...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that has not arrived.")
def retry_deliveries(study_keys: tuple[str, ...], everything: bool) -> None:
    """Send what has not arrived once more, at once and with all tries before it.

    \b
    Examples:
      medai deliveries retry QAAJPTPRSI7L32AHBF4BHS4LDE
      medai deliveries retry --all
    """
    from medai_pipeline.local import deliveries as page

    page.pick(study_keys, everything)
    done = page.retry(attached_services(), study_keys, everything)
    click.echo(f"{len(done)} studies are delivered again; `medai deliveries` shows what becomes of them")


@deliveries.command("send")
@click.argument("study_keys", metavar="KEY...", nargs=-1, required=True)
def send_deliveries(study_keys: tuple[str, ...]) -> None:
    """Return results that are older than MEDAI_RETURN_DAYS. With after-review only what was accepted or edited.

    \b
    Examples:
      medai deliveries send QAAJPTPRSI7L32AHBF4BHS4LDE
    """
    from medai_pipeline.local import deliveries as page

    done = page.send(attached_services(), study_keys)
    click.echo(f"{len(done)} studies are due; the others were sent, are not reviewed, or are not known here")


@click.command()
@click.argument("name", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Every image of every report, for programs.")
def lineage(name: str, as_json: bool) -> None:
    """From a result back to what made it: source bytes, de-identification, weights, checks, rules, review, delivery.

    ID is a study key, a report, inference or run, the (new) UID of an image or series, a delivered object's UID, or the
    beginning of a SHA-256. The view medai.lineage in Postgres holds the same. A report.json that `medai analyze` wrote tells
    its own, without any server.

    \b
    Examples:
      medai lineage QAAJPTPRSI7L32AHBF4BHS4LDE
      medai lineage b20df502 --json
      medai lineage out/QAAJPTPRSI7L32AHBF4BHS4LDE/report.json
    """
    from medai_pipeline.local import lineage as shown
    from medai_pipeline.local.worklist import terminal

    if name.endswith(".json"):
        content, tree = shown.of_file(Path(name))
        click.echo(json.dumps(content, indent=2)) if as_json else terminal().print(tree, soft_wrap=True)
        return

    services = attached_services()
    found = shown.chains(services, name)
    if as_json:
        click.echo(json.dumps([shown.as_json(chain) for chain in found], indent=2))
        return
    for chain in found:
        terminal().print(shown.as_tree(chain, services.settings.run_page), soft_wrap=True)

"""`medai models ...`: thin commands over the registry, as those in `cli`; what they do stands in `model_commands`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from medai_pipeline import DISCLAIMER
from medai_pipeline.errors import ModelError
from medai_pipeline.local.attached import attached_services
from medai_pipeline.local.terminal import console, printable


@click.group()
def models() -> None:
    """The model registry: versions, and which of them answer. Without a running stack, the packaged models.

    \b
    A version goes registered -> shadow -> active -> retired. Promotion makes one active for its modalities and body
    parts; the version that was active for them is registered again, and promoting that one goes back to it.
    """


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def models_list(as_json: bool) -> None:
    """Versions, their state, what they are for, and whether their weights are here.

    \b
    Examples:
      medai models list
      medai models list --json | jq '.[] | select(.state == "active") | .name'
    """
    from medai_pipeline.local import model_commands as page
    from medai_pipeline.local.worklist import terminal

    services = attached_services()
    stack = bool(services.settings.database_url)
    rows = page.registry_rows(services) if stack else page.packaged_rows(services.settings)
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        terminal().print(page.as_table(rows))


@models.command("show")
@click.argument("model", metavar="NAME[@VERSION]")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
def models_show(model: str, as_json: bool) -> None:
    """All that the registry knows of a version: card, digest, measurements, calibration, who registered and promoted it.

    \b
    Examples:
      medai models show demo-chest-xray@1
    """
    from medai_pipeline.local import model_commands as page

    services = attached_services()
    name, _, version = model.partition("@")
    values = page.shown(services, services.registry.version(name, version))
    click.echo(json.dumps(values, indent=2) if as_json else "\n".join(page.version_lines(values)))


@models.command("register")
@click.argument("card", metavar="CARD.toml", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--weights", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="The file; an ensemble has none."
)
@click.option(
    "--features",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Its training's features, where they do not lie beside the weights (NAME.features).",
)
@click.option(
    "--accept-insensitive-maps", is_flag=True, help="Also when its heatmaps do not depend on what it learned."
)
def models_register(card: Path, weights: Path | None, features: Path | None, accept_insensitive_maps: bool) -> None:
    """Bring in a version: examined on fixed phantoms, measured, and kept by its digest. It answers nothing yet.

    docs/models.md says what stands in a card. Weights are safetensors (`medai models convert` makes them), or a program
    saved by torch.jit.save or torch.export.save.

    \b
    Examples:
      medai models register chest-2.toml --weights chest-2.safetensors
    """
    from medai_pipeline.local.model_commands import as_lines, register_version

    services = attached_services()
    with console.status("examining"):
        row, new, hindrance = register_version(services, card, weights, features, accept_insensitive_maps)
    click.echo(f"{row.label} is {row.state}" + ("" if new else " already, with the same weights and card"))
    click.echo("\n".join(as_lines(row.measured, "  ")))
    if hindrance:
        click.echo(f"not prepared: {hindrance}; plain torch serves until `medai models prepare {row.label}`", err=True)
    if row.state == "registered":
        click.echo(f"next: medai models promote {row.label} [--shadow]")


@models.command("promote")
@click.argument("model", metavar="NAME@VERSION")
@click.option("--shadow", is_flag=True, help="Only beside the active version, on new studies; the worklist stays.")
@click.option("--new-only", is_flag=True, help="Leave older studies as they are; `medai backfill` does them later.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def models_promote(model: str, shadow: bool, new_only: bool, yes: bool) -> None:
    """Make a version active for its modalities and body parts, or a shadow of the active one.

    Says first how many older studies are affected and about how long they take; they are computed again behind new ones,
    and nothing is fetched from the PACS. Promoting an older version goes back to it: what it has said is put back.

    \b
    Examples:
      medai models promote chest@2 --shadow
      medai models promote chest@2
      medai models promote chest@1 --yes
    """
    from medai_pipeline.local import model_commands as page
    from medai_pipeline.local.study_commands import user

    services = attached_services()
    name, version = page.split(model)
    row = services.registry.version(name, version)
    page.require_weights(row, services)
    if row.state == "active" and not shadow:
        raise ModelError(
            f"{model} is active already; `medai backfill --model {model}` reads older studies again with it"
        )
    if shadow:
        services.registry.shadow(name, version, user(), services.now())
        click.echo(f"{model} is asked beside the active version from now on")
        return
    count, words = page.what_follows(services, model)
    click.echo(words)
    if count and not new_only and not yes:
        click.confirm(f"Promote {model}, and compute them again?", abort=True)
    replaced = services.registry.promote(name, version, user(), services.now(), backfill=not new_only)
    click.echo(f"{model} is active" + (f" instead of {', '.join(replaced)}" if replaced else ""))
    if count and not new_only:
        click.echo("the backfill starts within seconds: see Backfills in the Dagster page")


@models.command("compare")
@click.argument("versions", metavar="[OLD] NEW", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Every finding of every study as JSON, for programs.")
@click.option(
    "--plots", type=click.Path(path_type=Path, file_okay=False), help="Also write two pictures to this folder."
)
def models_compare(versions: tuple[str, ...], as_json: bool, plots: Path | None) -> None:
    """Two versions over the studies that both have read: findings that flipped, priorities that rose or fell.

    With one NAME@VERSION: a shadow against the active version, an active version against the one it took the place of.
    The asset model_comparison in the Dagster page shows the same.

    \b
    Examples:
      medai models compare chest@2
      medai models compare chest@1 chest@2 --plots comparison
    """
    from medai_pipeline.local import comparing as page
    from medai_pipeline.local.worklist import terminal

    if len(versions) > 2:
        raise click.UsageError("name one version, or two: OLD NEW")
    found = page.comparison(attached_services(), *versions)
    if as_json:
        click.echo(json.dumps(page.as_json(found), indent=2))
    else:
        for table in page.as_tables(found):
            terminal().print(table)
        click.echo(page.in_words(found))
        click.echo(DISCLAIMER)
    if plots:
        for path in page.write_plots(found, plots):
            click.echo(f"written: {path}", err=True)


@models.command("retire")
@click.argument("model", metavar="NAME@VERSION")
@click.option("--yes", is_flag=True, help="Do not ask.")
def models_retire(model: str, yes: bool) -> None:
    """Take a version out of service. Its results stay; registering it again brings it back.

    \b
    Examples:
      medai models retire chest@1
    """
    from medai_pipeline.local.model_commands import split
    from medai_pipeline.local.study_commands import user

    registry = attached_services().registry
    row = registry.version(*split(model))
    if row.state == "active" and not yes:
        scopes = ", ".join(f"{modality} {part}" for modality, part in registry.scopes(row.name, row.version))
        click.confirm(f"{row.label} is active: no model will read {scopes}. Retire it?", abort=True)
    registry.retire(row.name, row.version, user())
    click.echo(f"{row.label} is retired")


@models.command("convert")
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace TARGET where it is there already; never SOURCE itself.")
def models_convert(source: Path, target: Path, overwrite: bool) -> None:
    """A PyTorch checkpoint (.pt, .pth, .ckpt) as safetensors, which is what MODEL_PATH takes. No code in it is run.

    Says what else the checkpoint holds and was left out: an optimizer, a second network, figures.

    \b
    Examples:
      medai models convert best.ckpt $MODEL_PATH/chest-xray-resnet50-1.safetensors
    """
    from medai_pipeline.models.checkpoint import convert

    for line in convert(source, target, overwrite):
        click.echo(printable(line))


@models.command("prepare")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--backend", "candidates", multiple=True, help="Try only these beside plain torch; repeatable.")
@click.option("--missing", is_flag=True, help="Only what was not prepared for this machine yet, in lines for a log.")
def models_prepare(names: tuple[str, ...], candidates: tuple[str, ...], missing: bool) -> None:
    """Measure how a model is computed fastest on this machine, and keep what was chosen under MODEL_PATH.

    Without a NAME every model whose weights are here. A minute or two; a worker uses it from its next study on.
    `medai up` runs it with --missing in the background once everything serves.

    \b
    Examples:
      medai models prepare
      medai models prepare chest-xray-resnet50 --backend onnxruntime
    """
    from medai_pipeline.local.preparing import prepare_missing, prepare_models

    services = attached_services()
    if missing:
        sys.exit(prepare_missing(services, names, candidates or None, click.echo))
    with console.status("preparing") as status:
        progress = status.update if console.is_terminal else None
        for table in prepare_models(services, names, candidates or None, progress):
            console.print(table)


@models.command("train")
@click.argument("manifest", required=False, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--demo", "is_demo", is_flag=True, help="Train the demo models again, on synthetic phantoms.")
@click.option(
    "--measure-only", is_flag=True, help="With --demo: held-out figures, features, cards again; the weights stay."
)
@click.option(
    "--model", "name", default="all", show_default=True, help="With --demo one model, or all; else the new name."
)
@click.option("--version", default="1", show_default=True, help="The new model's version.")
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the manifest's files lie (default: beside it).",
)
@click.option("--architecture", default="resnet18", show_default=True, help="A timm network with a linear head.")
@click.option("--set", "settings", multiple=True, metavar="KEY=JSON", help="An option of the architecture; repeatable.")
@click.option("--modality", multiple=True, help="DX, CT, MR, ...; repeatable.")
@click.option("--body-part", "body_parts", multiple=True, help="CHEST, BRAIN, ...; repeatable.")
@click.option(
    "--scaling", type=click.Choice(["xray", "ct-chest", "ct-lung", "ct-brain", "mr"]), help="The intensity rule."
)
@click.option("--size", default=224, show_default=True, help="Height and width of the input, in pixels.")
@click.option("--multi-class", is_flag=True, help="Exactly one label an image (softmax); default: any number of them.")
@click.option("--mirror", is_flag=True, help="Train on mirrored images too: only where left and right mean nothing.")
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(min=1))
@click.option("--licence", default="the site's", show_default=True, help="Under which terms the weights may be used.")
@click.option("--about", default="", help="A line on the data, for the card.")
@click.option("--out", default=Path("trained"), show_default=True, type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", default=0, show_default=True)
def models_train(
    is_demo: bool, measure_only: bool, manifest: Path | None, name: str, out: Path, seed: int, **given: Any
) -> None:
    """Train a model on a MANIFEST of images and labels, or the demo models again; prints the held-out figures.

    MANIFEST is a CSV with the columns file and labels ("A|B", empty for none) and, where there are any, patient, split
    (train, validation, test) and boxes ("A:x:y:width:height|..." in pixels), which teach the heatmaps where to point.
    Weights, figures and cards are written to --out. What `medai models register` would refuse of the card is refused first.

    \b
    Examples:
      medai models train --demo --model demo-chest-xray --out trained
      medai models train films.csv --images films/ --model our-films --modality DX --body-part CHEST --scaling xray
      medai models train mri.csv --model tumours --modality MR --body-part BRAIN --scaling mr --mirror \\
          --architecture resnet10t --set output_stride=8
    """
    from medai_pipeline.demo_training import measure_demo, train_demo
    from medai_pipeline.manifest_training import train_site
    from medai_pipeline.models.metrics import temperature_warning

    if is_demo == (manifest is not None):
        raise click.UsageError("give a MANIFEST, or --demo")
    if measure_only and not is_demo:
        raise click.UsageError("--measure-only goes with --demo")
    with console.status("training") as status:
        progress = status.update if console.is_terminal else console.print
        if measure_only:
            metrics = measure_demo(name, out, progress=progress)
        elif is_demo:
            metrics = train_demo(name, out, seed, progress=progress)
        else:
            metrics = train_site(manifest, name, out, seed=seed, progress=progress, **given)
    made: dict[str, Any] = metrics if is_demo else {name: metrics}
    for model, facts in made.items():
        if warning := temperature_warning(facts["temperature"]):
            click.echo(f"{model}: {warning}", err=True)
    click.echo(json.dumps(metrics, indent=2))

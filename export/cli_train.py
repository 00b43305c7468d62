"""The command that trains; what needs torch is imported inside it."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from export.extra import need_extra
from service.errors import SetupError

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint
    from export.recipes import Recipe


def train(
    recipe: Annotated[str, typer.Argument(help="Recipe; without one they are listed.", show_default=False)] = "",
    *,
    run: Annotated[Path | None, typer.Option(help="Folder of the run. [default: runs/RECIPE]")] = None,
    data_folder: Annotated[
        Path | None, typer.Option(help="Folder or zip file of the data. [default: data/NAME, where there is one]")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch public data that are not there.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out pictures that cannot be read.")] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    batch_size: Annotated[str, typer.Option(help="Instead of the recipe's: all, or a number.", metavar="N|all")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    start: Annotated[str, typer.Option(help="Run or weights to fine-tune.", metavar="RUN|FILE")] = "",
    teacher: Annotated[str, typer.Option(help="Runs whose answers to learn from besides.", metavar="RUN,RUN")] = "",
    freeze: Annotated[str, typer.Option(help="Parts that stay as they are.", metavar="NAME,NAME")] = "",
    fields: Annotated[
        list[str] | None, typer.Option("--set", help="Any field of the recipe; repeatable.", metavar="FIELD=VALUE")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the run's last whole epoch.")] = False,
    repository: Annotated[
        Path | None, typer.Option(help="Then export the network, verify it, and publish it to this model repository.")
    ] = None,
    name: Annotated[
        str, typer.Option(help="With --repository: name of the model. [default: the recipe's]", show_default=False)
    ] = "",
    serve: Annotated[
        bool, typer.Option("--serve", help="With --repository: then serve it; settings are SACCADE_* variables.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result for a program to read.")] = False,
) -> None:
    """Train a network by a recipe. Without a recipe, list them.

    Under torchrun several processes or GPUs train one network together. Recipes for photos mirror half of the pictures:
    --set flip=false where a mirrored one is of another class (letters, signs); for digits that is done.

    Examples:

        saccade train

        saccade train lenet5-digits --epochs 5 --run runs/short

        saccade train lenet5-mnist --download

        saccade train resnet20-cifar10 --data-folder cifar-10-batches-bin --set learning_rate=0.1 --set clip=1

        saccade train resnet20-cifar10 --resume

        saccade train pictures-small --data-folder photos.zip --repository models --name photos --serve

        saccade train pictures --data-folder photos.zip --start resnet18.pth --freeze conv1,layer1

        saccade train resnet20-cifar10 --set data=folder --data-folder photos.zip --run runs/photos
        --start runs/resnet20-cifar10 --freeze stem,stages.0 --set body_rate=0.1

        saccade train lenet5-digits --set architecture='convnet:input28,[[conv16]*1,pool]*2,[fc64]*1' --run runs/mine

        saccade train resnet20-cifar10 --teacher runs/resnet110-cifar10 --run runs/taught

        torchrun --nproc-per-node 2 --no-python -- saccade train resnet20-cifar10 --run runs/two
    """
    need_extra()
    from export import recipes, settings
    from export.finetune import check_own

    if not recipe:
        _list(as_json)
        return
    _check_ways_on(repository, name, serve=serve)
    named = {
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "start": start,
        "teacher": teacher,
        "freeze": freeze,
    }
    given = [f"{name}={value}" for name, value in named.items() if value is not None and value != ""]
    chosen = settings.change(recipes.find(recipe), [*given, *(fields or [])])
    run = run or Path("runs") / chosen.name
    check_own(chosen, run, resume=resume)
    _refuse_to_lose(run, resume=resume)
    if download:
        _download(chosen, data_folder, quiet=as_json)
    trained = run_training(chosen, run, data_folder, resume=resume, skip_bad=skip_bad, quiet=as_json)
    if trained is None:
        return
    if as_json:
        typer.echo(json.dumps({"run": str(run), "accuracy": trained.accuracy, "recipe": chosen.fields()}))
    elif repository is None:
        typer.echo(
            f"{run}: {trained.accuracy:.2%} of the validation split; next: saccade export {run} --repository models"
            + (f" --data-folder {data_folder}" if data_folder else "")
        )
    if repository is not None:
        _publish(run, repository, name, data_folder, quiet=as_json)
    if serve:
        _serve(repository)


def _check_ways_on(repository: Path | None, name: str, *, serve: bool) -> None:
    """Refuse before the training what would not work after it."""
    if repository is None and (name or serve):
        raise typer.BadParameter("--name and --serve go with --repository FOLDER")
    if name:
        from export.publish import check_name

        check_name(name)
    if serve and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise typer.BadParameter("--serve is for one process: under torchrun, serve when it has ended")


def _publish(run: Path, repository: Path, name: str, data_folder: Path | None, *, quiet: bool) -> None:
    from export.release import release, summary

    version, parity = release(run, repository, name, data_folder)
    if not quiet:
        typer.echo(f"{version}: {summary(parity)}; next: saccade serve --repository {repository}")


def _serve(repository: Path | None) -> None:
    """Become `saccade serve`: what training holds in memory is given back."""
    sys.stdout.flush()
    command = [sys.executable, "-m", "service.cli", "serve", "--repository", str(repository)]
    os.execv(sys.executable, command)  # noqa: S606 - our own command


def run_training(
    recipe: "Recipe",
    run: Path,
    data_folder: Path | None,
    *,
    resume: bool = False,
    skip_bad: bool = False,
    quiet: bool = False,
) -> "Checkpoint | None":
    """Train with a progress bar on the terminal; None in those of several processes that only help."""
    from export import data, finetune, processes, progress
    from export.train import input_of
    from export.train import train as train_by

    spec = input_of(recipe) if recipe.data == "folder" else None
    pictures = data.load(recipe.data, data_folder, seed=recipe.seed, spec=spec, skip_bad=skip_bad)
    with (
        processes.join() as among,
        progress.training(recipe.name, recipe.epochs, quiet=quiet or not among.first) as told,
    ):
        if pictures.bad and among.first:
            typer.echo(
                f"pictures left out, as they cannot be read: {len(pictures.bad)}: {'; '.join(pictures.bad)}", err=True
            )
        for text in finetune.doubts(recipe) if among.first else ():
            typer.echo(f"warning: {text}", err=True)
        trained = train_by(recipe, pictures, run, told, resume=resume, among=among)
        return trained if among.first else None


def _download(recipe: "Recipe", folder: Path | None, *, quiet: bool) -> None:
    """Fetch the recipe's data into the folder, else to where export.data looks for them."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SetupError("--download under torchrun would fetch once a process: run the command once without it")
    from export import progress
    from export.data import USUAL
    from export.data.download import fetch

    with progress.download(quiet=quiet) as on_bytes:
        fetch(recipe.data, folder or USUAL / recipe.data, on_bytes=on_bytes)


def _refuse_to_lose(run: Path, *, resume: bool) -> None:
    from export.run import held

    there = "" if resume else held(run)
    if there:
        raise SetupError(f"{run} holds {there} give another folder by --run, or delete {run} to start anew")


def _list(as_json: bool) -> None:  # noqa: FBT001 - passed on from the option
    """Print the recipes, what to expect of them, and where that was measured."""
    from rich.console import Console
    from rich.table import Table

    from export.recipes import RECIPES

    if as_json:
        typer.echo(json.dumps([recipe.fields() for recipe in RECIPES.values()]))
        return
    table = Table("recipe", "network", "data", "epochs", "accuracy", "measured")
    for recipe in RECIPES.values():
        told = recipe.measured or "by others, on the official test split"
        expected = f"{recipe.expected_accuracy:.2%}"
        if recipe.expected_accuracy == 0:
            expected, told = "", "not measured" if recipe.data != "folder" else "depends on the pictures"
        table.add_row(recipe.name, recipe.architecture, recipe.data, str(recipe.epochs), expected, told)
    # A log or a pipe has no width: rich would cut the words at 80 characters.
    Console(width=None if sys.stdout.isatty() else 160).print(table)

"""The commands that make models: train, export, demo. What needs torch is imported inside them."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.errors import SetupError

if TYPE_CHECKING:
    from export.checkpoint import Checkpoint
    from export.recipes import Recipe
    from export.train import Epoch
    from export.verify import Parity

Repository = Annotated[Path, typer.Option(help="Model repository; it is made if it is not there.")]
DataFolder = Annotated[Path | None, typer.Option(help="Folder of the data, where the recipe's data are files.")]


def train(
    recipe: Annotated[str, typer.Argument(help="Recipe, for example lenet5-digits.")],
    *,
    run: Annotated[Path | None, typer.Option(help="Folder for checkpoint and log. [default: runs/RECIPE]")] = None,
    data_folder: DataFolder = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the run's last whole epoch.")] = False,
) -> None:
    """Train a network by a recipe.

    Examples:

        saccade train lenet5-digits

        saccade train lenet5-digits --epochs 5 --run runs/short
    """
    _need_extra()
    from export import recipes

    chosen = recipes.find(recipe)
    chosen = replace(
        chosen,
        epochs=chosen.epochs if epochs is None else epochs,
        seed=chosen.seed if seed is None else seed,
    )
    run = run or Path("runs") / chosen.name
    trained = run_training(chosen, run, data_folder, resume=resume)
    typer.echo(f"{run}: {trained.accuracy:.2%} of the validation split; next: saccade export {run} --repository models")


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run.", exists=True, file_okay=False)],
    *,
    repository: Repository = Path("models"),
    name: Annotated[str, typer.Option(help="Name of the model. [default: the recipe's]", show_default=False)] = "",
    data_folder: DataFolder = None,
) -> None:
    """Export a trained network to ONNX, verify it, and publish it as the next version of a model.

    Examples:

        saccade export runs/lenet5-digits --repository models

        saccade export runs/short --name digits
    """
    _need_extra()
    version, parity = run_export(run, repository, name, data_folder)
    typer.echo(f"{version}: {summary(parity)}; next: saccade serve --repository {repository}")


def demo(
    *,
    repository: Repository = Path("models"),
    run: Annotated[Path, typer.Option(help="Folder for the training run and the pictures.")] = Path("runs/demo"),
) -> None:
    """Show the whole path on real handwritten digits: train, export, verify, publish, serve, classify, drain.

    Examples:

        saccade demo
    """
    _need_extra()
    from export.demo import show

    show(repository, run)


def run_training(recipe: "Recipe", run: Path, data_folder: Path | None, *, resume: bool = False) -> "Checkpoint":
    """Train with a progress bar on the terminal."""
    from export import data
    from export import train as training

    pictures = data.load(recipe.data, data_folder, seed=recipe.seed)
    with _epochs(recipe.epochs, f"training {recipe.name}") as advance:
        return training.train(recipe, pictures, run, advance, resume=resume)


def run_export(run: Path, repository: Path, name: str, data_folder: Path | None) -> tuple[Path, "Parity"]:
    """Export, verify, self-test and publish; return the version's folder and how close the file is."""
    import tempfile

    from rich.console import Console

    from export import checkpoint, data, onnx_export, verify
    from export.publish import publish

    trained = checkpoint.load(run)
    pictures = data.load(trained.recipe.data, data_folder, seed=trained.recipe.seed)
    with Console(stderr=True).status("exporting") as status, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx_export.export_graph(trained, path)
        status.update("verifying")
        parity = verify.verify(trained, path, pictures.validation)
        onnx_export.write_manifest(path, onnx_export.make_manifest(trained, pictures, accuracy=parity.accuracy))
        verify.check_loads(path)
        status.update("publishing")
        return publish(path, repository, name or trained.recipe.name), parity


def summary(parity: "Parity") -> str:
    """Return in one line how close a file is to the trained network."""
    return (
        f"parity {parity.probabilities:.1e} on probabilities, {parity.logits:.1e} on logits, "
        f"accuracy {parity.accuracy:.2%} through the serving path"
    )


@contextmanager
def _epochs(total: int, what: str) -> "Iterator[Callable[[Epoch], None]]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.2%}"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns) as progress:
        task = progress.add_task(what, total=total, loss=float("nan"), accuracy=0.0)

        def advance(epoch: "Epoch") -> None:
            progress.update(task, completed=epoch.epoch, loss=epoch.loss, accuracy=epoch.accuracy)
            if not progress.console.is_terminal:  # a bar is drawn on terminals only; a log gets lines
                left = (total - epoch.epoch) * epoch.seconds
                print(
                    f"epoch {epoch.epoch}/{total}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.2%}, {epoch.images_per_second:.0f} images/s, {left / 60:.0f} min left",
                    flush=True,
                )

        yield advance


def _need_extra() -> None:
    """Get ready for torch; where its packages are missing, say which command mends it."""
    # torch's threads spin while they wait for each other: with one busy neighbour on two cores the digits took 32 s
    # instead of 7, and 11 with this. It is read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    missing = [name for name in ("torch", "onnx", "onnxscript", "sklearn") if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(f"{', '.join(missing)} missing: run `pip install 'saccade[cpu,train]'`")

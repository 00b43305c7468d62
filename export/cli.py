"""The commands that make models: train, export, demo. What needs torch is imported inside them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from export.cli_train import run_training, train
from export.extra import need_extra

if TYPE_CHECKING:
    from export.verify import Parity

__all__ = ["demo", "export", "run_export", "run_training", "summary", "train"]

Repository = Annotated[Path, typer.Option(help="Model repository; it is made if it is not there.")]
DataFolder = Annotated[Path | None, typer.Option(help="Folder of the data, where the recipe's data are files.")]


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
    need_extra()
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
    need_extra()
    from export.demo import show

    show(repository, run)


def run_export(run: Path, repository: Path, name: str, data_folder: Path | None) -> tuple[Path, "Parity"]:
    """Export, verify, self-test and publish; return the version's folder and how close the file is."""
    import tempfile

    from rich.console import Console

    from export import checkpoint, data, onnx_export, verify
    from export.publish import publish

    trained = checkpoint.load(run)
    recipe = trained.recipe
    spec = trained.spec if recipe.data == "folder" else None
    pictures = data.load(recipe.data, data_folder, seed=recipe.seed, spec=spec)
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

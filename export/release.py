"""From a training run to a version that is served: export, verify, self-test, publish."""

import tempfile
from pathlib import Path

from rich.console import Console

from export import checkpoint, data, explain_graph, onnx_export, plan, report, verify
from export.data import named
from export.publish import publish
from export.verify import Parity
from service.errors import SetupError


def release(
    run: Path, repository: Path, name: str = "", data_folder: Path | None = None, *, explain: bool = False
) -> tuple[Path, Parity]:
    """Export, verify, self-test and publish; return the version's folder and how close the file is.

    Args:
        run: folder of the training run.
        repository: model repository; it is made if it is not there.
        name: of the model; by default the recipe's.
        data_folder: where the recipe's data are, where they are files.
        explain: whether explain.onnx is published beside the model.

    Raises:
        SetupError: there is no run, the data cannot be read or are others, or the repository cannot be written.
        ModelRejected: the file answers otherwise than the trained network; nothing is published.
    """
    trained = checkpoint.load(run)
    recipe = trained.recipe
    spec = trained.spec if recipe.data == "folder" else None
    # Training told of bad pictures, or there were none: without them the split is the same again.
    pictures = data.load(recipe.data, data_folder, seed=recipe.seed, spec=spec, skip_bad=True)
    if pictures.classes != trained.classes:
        raise SetupError(
            f"{pictures.name} has {named(pictures.classes)}, and {run} was trained on {named(trained.classes)}: "
            "give the data of the run by --data-folder"
        )
    with Console(stderr=True).status("exporting") as status, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx_export.export_graph(trained, path)
        status.update("verifying")
        parity = verify.verify(trained, path, pictures.validation)
        found = report.summary(pictures.name, "validation", pictures.validation.labels, parity.answers)
        onnx_export.write_manifest(
            path, onnx_export.make_manifest(trained, pictures, accuracy=parity.accuracy, evaluation=found)
        )
        verify.check_loads(path)
        status.update("publishing")
        return publish(path, repository, name or recipe.name, beside(path, explain=explain)), parity


def beside(path: Path, *, explain: bool) -> dict[str, Path]:
    """Return what is published beside a file, made next to it."""
    made = {plan.FILE: path.with_name(plan.FILE)} if explain else {}
    for target in made.values():
        explain_graph.write(path, target)
    return made


def summary(parity: Parity) -> str:
    """Return in one line how close a file is to the trained network."""
    return (
        f"parity {parity.probabilities:.1e} on probabilities, {parity.logits:.1e} on logits, "
        f"accuracy {parity.accuracy:.2%} through the serving path"
    )

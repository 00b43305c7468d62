"""The commands that make models: train, export, demo. What needs torch is imported inside them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from export.cli_train import train
from export.extra import need_extra
from service.errors import SetupError
from service.providers import ProviderChoice

if TYPE_CHECKING:
    from export.published import Published
    from export.tries import Wanted

__all__ = ["demo", "export", "train"]

Repository = Annotated[Path, typer.Option(help="Model repository; it is made if it is not there.")]
DataFolder = Annotated[Path | None, typer.Option(help="Folder of the data, where the recipe's data are files.")]


def export(
    source: Annotated[
        str, typer.Argument(help="Folder of a training run, an ONNX file, or with --weights an architecture.")
    ],
    *,
    repository: Repository = Path("models"),
    name: Annotated[
        str, typer.Option(help="Name of the model. [default: the recipe's, file's or network's]", show_default=False)
    ] = "",
    data_folder: DataFolder = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weight file of torch (.pth) or safetensors.", exists=True, dir_okay=False)
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Write explain.onnx too, from which `saccade explain` works without onnx.")
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(help="Of an ONNX file or with --weights: one label a line.", exists=True, dir_okay=False),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(help="Likewise: how to prepare pictures: imagenet, imagenet-v2, imagenet-caffe, cifar10, mnist."),
    ] = "",
    accuracy: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="With --weights: their top-1 in percent, as published; it is not measured."),
    ] = None,
    transform_input: Annotated[
        bool | None,
        typer.Option(help="With googlenet's weights: pixels from -1 to 1. [default: so]", show_default=False),
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"],
        typer.Option(help="Of a run or a fp32 file: what the new version computes in, accuracy measured."),
    ] = "fp32",
    max_drop: Annotated[
        float, typer.Option(min=0, max=100, help="With --precision: percentage points of top-1 that it may cost.")
    ] = 0.5,
    data: Annotated[
        str, typer.Option(help="With --precision: data set. [default: that of the recipe]", show_default=False)
    ] = "",
    provider: Annotated[
        ProviderChoice, typer.Option(help="With --precision: the provider to measure on; auto: all at hand.")
    ] = "auto",
) -> None:
    """Export a trained network to ONNX, verify it, and publish it as the next version of a model.

    The network is that of a training run, or an architecture with published weights: a state_dict with torchvision's
    names, as in torchvision's own files. A foreign ONNX file is made self-describing: labels, preparation and golden
    samples with its own answers are written into a copy. What is not said is inferred and told.

    With --precision the new version computes in fp16, bf16 or int8. It is calibrated on the training split and measured
    against fp32 on pictures that it was not trained on; beyond --max-drop nothing is published and the exit code is 1.

    Examples:

        saccade export runs/lenet5-digits --repository models

        saccade export runs/short --name digits

        saccade export resnet50 --weights resnet50.pth --labels imagenet_classes.txt --preset imagenet

        saccade export googlenet --weights googlenet.safetensors --labels imagenet_classes.txt --preset imagenet

        saccade export squeezenet1.0-9.onnx --labels imagenet_classes.txt --preset imagenet

        saccade export runs/lenet5-digits --precision int8

        saccade export lenet5-digits --repository models --precision int8 --max-drop 0.2
    """
    if precision != "fp32":
        if weights is not None or labels or preset or explain:
            raise typer.BadParameter("--precision starts from a run or a fp32 file that says everything of itself")
        need_extra("onnx")  # a file needs no torch: it may be measured where ONNX Runtime is another one
        from export.tries import Wanted

        wanted = Wanted(precision, max_drop, provider)
        _export_reduced(source, wanted, repository, name, data=data, data_folder=data_folder)
        return
    if weights is not None:
        if labels is None or not preset:
            raise typer.BadParameter("--weights needs --labels FILE (one label a line) and --preset NAME as well")
        need_extra()
        from export import published

        load = partial(
            published.load,
            source,
            weights,
            labels=labels,
            preset=preset,
            transform_input=transform_input,
            accuracy=None if accuracy is None else accuracy / 100,
        )
        version, summed_up = _export_published(load, repository, name, explain=explain)
    elif accuracy is not None or transform_input is not None:
        raise typer.BadParameter("--accuracy and --transform-input go with --weights FILE")
    elif Path(source).is_file():
        version, summed_up = _export_file(Path(source), repository, name, labels, preset, explain=explain)
    elif labels or preset:
        raise typer.BadParameter("--labels and --preset go with --weights or an ONNX file; a run knows its own")
    else:
        need_extra()
        from export.release import release, summary

        version, parity = release(_run_folder(source), repository, name, data_folder, explain=explain)
        summed_up = summary(parity)
    typer.echo(f"{version}: {summed_up}; next: saccade serve --repository {repository}")


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


def _export_reduced(
    source: str, wanted: "Wanted", repository: Path, name: str, *, data: str, data_folder: Path | None
) -> None:
    """Make, measure and publish a version of reduced precision, and say what it costs."""
    from export import cli_precision

    version, made = cli_precision.run(
        source, wanted, repository=repository, name=name, data_name=data, data_folder=data_folder
    )
    for warning in made.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(cli_precision.summary(made))
    typer.echo(f"{version}: {wanted.precision}, {made.setting}; next: saccade serve --repository {repository}")


def _export_file(
    path: Path, repository: Path, name: str, labels: Path | None, preset: str, *, explain: bool
) -> tuple[Path, str]:
    """Make a copy of a foreign file self-describing and publish it; return the version's folder and a summary."""
    from rich.console import Console

    from export.foreign import export_file

    with Console(stderr=True).status("reading") as status:
        done = export_file(
            path, repository, name=name, labels=labels, preset=preset, explain=explain, say=status.update
        )
    for sentence in done.inferred:
        typer.echo(f"inferred: {sentence}", err=True)
    return done.version, f"{done.samples} golden samples"


def _export_published(
    load: "Callable[[], Published]", repository: Path, name: str, *, explain: bool
) -> tuple[Path, str]:
    """Export, verify, self-test and publish weights; return the version's folder and how close the file is."""
    import tempfile

    from rich.console import Console

    from export import published
    from export.publish import publish
    from export.release import beside

    with Console(stderr=True).status("loading") as status, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        network = load()
        written = published.write(network, path, status.update)
        status.update("publishing")
        name = name or network.architecture.partition(":")[0]
        version = publish(path, repository, name, beside(path, explain=explain))
    for note in written.notes:
        typer.echo(f"note: {note}", err=True)
    apart = f"parity {written.difference.probabilities:.1e} on probabilities, {written.difference.logits:.1e} on logits"
    return version, apart if network.accuracy is None else f"{apart}, accuracy {network.accuracy:.2%} as stated"


def _run_folder(source: str) -> Path:
    """Return the folder of a run; where there is none of that name, say what there is."""
    from export import architectures, checkpoint

    if Path(source).is_dir():
        return Path(source)
    try:
        architectures.find(source)
    except SetupError as error:
        runs = ", ".join(str(path.parent) for path in sorted(Path("runs").glob(f"*/{checkpoint.FILE}")))
        raise typer.BadParameter(f"no training run {source} (runs here: {runs or 'none'}), and {error}") from None
    raise typer.BadParameter(
        f"{source} is an architecture: give published weights of it by --weights, --labels and --preset, "
        f"or the folder of a run that trained it"
    )

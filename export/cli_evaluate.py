"""The commands that look at what was made: evaluate, explain."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.errors import ModelRejected
from service.providers import ProviderChoice

if TYPE_CHECKING:
    from export.report import Comparison, Report

Model = Annotated[
    str, typer.Argument(help="A model.onnx, the folder of a version or a model, or a model's name in the repository.")
]
Repository = Annotated[
    Path | None, typer.Option(help="Model repository of MODEL where that is a name; else the bundled models.")
]
Provider = Annotated[ProviderChoice, typer.Option(help="Execution provider.")]


def evaluate(
    model: Model,
    *,
    data: Annotated[str, typer.Option(help="Data set. [default: the one of the model's recipe]")] = "",
    data_folder: Annotated[Path | None, typer.Option(help="Folder of the data, where they are files.")] = None,
    split: Annotated[
        Literal["validation", "test", "train", "all"] | None,
        typer.Option(help="Part of the data. [default: test where there is one, else validation]"),
    ] = None,
    repository: Repository = None,
    compare: Annotated[str | None, typer.Option(help="A second model, on the same pictures.", metavar="MODEL")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for report.json and report.html. [default: reports/MODEL]")
    ] = None,
    provider: Provider = "cpu",
    min_accuracy: Annotated[
        float | None, typer.Option(min=0, max=1, help="Exit with 1 if the accuracy is below, for example 0.99.")
    ] = None,
    write_manifest: Annotated[
        bool,
        typer.Option(
            "--write-manifest",
            help="Write the summary into the file's manifest. It changes the file's sha256.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json for a program to read.")] = False,
) -> None:
    """Measure a model file on data that it was not trained on, through the path that serving takes.

    Examples:

        saccade evaluate lenet5-digits --repository models

        saccade evaluate lenet5-mnist --data-folder mnist --split validation

        saccade evaluate models/digits/2 --compare models/digits/1 --output reports/2-against-1

        saccade evaluate new.onnx --data folder --data-folder pictures --json --min-accuracy 0.95
    """
    from export import evaluation, model_file

    first, second = model_file.find(model, repository), model_file.find(compare, repository) if compare else None
    if second and second.title == first.title:
        second = replace(second, name=str(second.path), version=0)  # else nobody could tell them apart
    evaluated = evaluation.run(first, data, data_folder, split, provider=provider, progress=progress)
    beside = evaluation.beside(evaluated, second, data_folder, provider=provider, progress=progress) if second else None
    folder = output or Path("reports") / first.name
    text = evaluation.write(evaluated, folder, beside)
    if write_manifest:
        evaluation.record(evaluated)
    if as_json:
        sys.stdout.write(text)
    else:
        typer.echo(_summary(evaluated.report, beside))
        typer.echo(f"{'the manifest has the summary; ' if write_manifest else ''}next: open {folder / evaluation.PAGE}")
    for warning in evaluated.report.warnings + (beside.report.warnings if beside else ()):
        typer.echo(f"warning: {warning}", err=True)
    reached = evaluated.report.accuracy
    if min_accuracy is not None and reached < min_accuracy:
        raise ModelRejected(f"the accuracy is {reached:.4%}; --min-accuracy asks for {min_accuracy:.4%}")


def explain(
    model: Model,
    picture: Annotated[Path, typer.Argument(help="Picture file.", exists=True, dir_okay=False)],
    *,
    repository: Repository = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Class whose evidence is shown, several times for several.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=20, help="Without --label: how many of the most probable.")] = 3,
    method: Annotated[
        Literal["auto", "cam", "occlusion"], typer.Option(help="auto: cam where the network allows it.")
    ] = "auto",
    output: Annotated[
        Path | None, typer.Option(help="A .html or a .png file. [default: PICTURE-explained.html]", dir_okay=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Show what a model sees in a picture: feature maps stage by stage, first filters, and where the evidence lies.

    It works from explain.onnx beside the model, which `saccade export --explain` writes; else one is made in memory.

    Examples:

        saccade explain lenet5-mnist digit.png

        saccade explain resnet20 cat.jpg --repository models --label cat --label dog --output cat.png
    """
    from export import explain as command
    from export import explain_page, measure, model_file

    if output is not None and output.suffix not in {".html", ".png"}:
        raise typer.BadParameter(f"{output} ends in neither .html nor .png", param_hint="--output")
    opened = measure.open_model(model_file.find(model, repository))
    classes = measure.indices_of(label or [], opened.manifest.labels)
    found = command.explain(
        opened,
        command.tap(opened),
        command.read_picture(opened, picture),
        classes=classes,
        best=top,
        method=None if method == "auto" else method,
        progress=progress,
    )
    output = output or Path(f"{picture.stem}-explained.html")
    explain_page.write(found, output, model=opened.file.title, picture=picture.name)
    if as_json:
        sys.stdout.write(
            json.dumps({"output": str(output), "evidence": [one.to_json() for one in found.evidence]}) + "\n"
        )
        return
    for one in found.evidence:
        down, across = one.peak
        typer.echo(
            f"{one.label}: {one.probability:.2%}, most evidence {down:.0%} down and {across:.0%} across ({one.method})"
        )
    typer.echo(f"next: open {output}")


def _summary(report: "Report", comparison: "Comparison | None") -> str:
    """Return what was found, in a few lines."""
    data, (low, high) = report.data, report.accuracy_interval
    parts = [f"accuracy {report.accuracy:.2%} ({low:.2%} to {high:.2%})"]
    if report.top5_accuracy is not None:
        parts.append(f"top-5 {report.top5_accuracy:.2%}")
    parts.append(f"cross-entropy {report.cross_entropy:.4f}")
    parts.append(f"macro F1 {report.macro.f1:.2%}")
    parts.append(f"calibration error {report.calibration.error:.2%}")
    text = f"{data.pictures:,} pictures of {data.name} ({data.split}): {', '.join(parts)}"
    if comparison is None:
        return text
    other, test = comparison.report, comparison.mcnemar
    return (
        f"{text}\n{other.model.title}: accuracy {other.accuracy:.2%}; only the first is "
        f"right on {test.only_first_right:,}, only the second on {test.only_second_right:,}, "
        f"p = {test.p_value:.3g} (McNemar)"
    )


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on standard error while something is done to `total` things."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda more: progress.advance(task, more)

"""One evaluation, from a model file and a data set to report.json and report.html."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export import evaluate, foreign, measure, report_page
from export import report as reports
from export.data import Data, Images, Indices
from export.evaluate import Probabilities
from export.measure import Opened, Part, Split
from export.model_file import ModelFile
from export.report import Comparison, Report
from service import image
from service.errors import SetupError
from service.manifest import KEY, Preprocessing, metadata

JSON, PAGE = "report.json", "report.html"
SHEET_SIDE = 112
"""Pixels of the longer side of a picture on the contact sheet, at most."""

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Opened with what is done and how many pictures there are; told how many were done more."""


def silent(_what: str, _total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Show no progress."""
    return nullcontext(lambda _: None)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One model on one part of a data set.

    Attributes:
        opened: the model.
        source: the data set that `part` is of, and how export.data calls it.
        part: the pictures.
        true: their classes, by the model's index.
        probabilities: what the model answered, [N, classes].
        report: what follows from that.
    """

    opened: Opened
    source: tuple[Data, str]
    part: Part
    true: Indices
    probabilities: Probabilities
    report: Report

    @property
    def right(self) -> evaluate.Flags:
        """Which pictures were classified right."""
        return np.asarray(self.probabilities.argmax(axis=1) == self.true)


def run(
    file: ModelFile,
    name: str = "",
    folder: Path | None = None,
    split: Split | None = None,
    *,
    provider: str = "cpu",
    progress: Progress = silent,
) -> Evaluated:
    """Measure a model file.

    Args:
        file: the model.
        name: of the data set, see export.data; the one of the model's recipe if empty.
        folder: of the data, where they are files.
        split: which part; see measure.choose.
        provider: execution provider.
        progress: shows how far it is.

    Raises:
        ModelRejected: the file cannot be served.
        SetupError: the data cannot be read, or their classes are not the model's.
    """
    opened = measure.open_model(file, provider)
    source = measure.load(opened.manifest, file.path, name, folder)
    return _measured(opened, source, measure.choose(source[0], split, measure.seed_of(opened.manifest)), progress)


def beside(
    first: Evaluated,
    file: ModelFile,
    folder: Path | None = None,
    *,
    provider: str = "cpu",
    progress: Progress = silent,
) -> Comparison:
    """Measure a second model on the very pictures of the first.

    Args:
        first: what the first one gave.
        file: the second model.
        folder: of the data, as it was given to `run`.
        provider: execution provider.
        progress: shows how far it is.

    Raises:
        ModelRejected: the file cannot be served.
        SetupError: the data's classes are not the model's.
    """
    opened, source, part = measure.open_model(file, provider), first.source, first.part
    if part.pictures.fitted not in {None, opened.manifest.preprocessing}:  # they were read as the first one takes them
        source = measure.load(opened.manifest, file.path, source[1], folder, seed=part.seed)
        part = measure.choose(source[0], part.split, part.seed)
    second = _measured(opened, source, part, progress)
    return Comparison(second.report, evaluate.mcnemar(first.right, second.right))


def _measured(opened: Opened, source: tuple[Data, str], part: Part, progress: Progress) -> Evaluated:
    true = measure.true_indices(part, opened.manifest.labels)
    with progress(f"evaluating {opened.file.title}", len(true)) as advance:
        probabilities = measure.answers(opened, part, advance)
    doubts = [f"{opened.file.title}: {text}" for text in measure.doubts(opened.manifest, *source, part)]
    report = reports.make(opened, part, true, probabilities, doubts)
    return Evaluated(opened, source, part, true, probabilities, report)


def write(evaluated: Evaluated, folder: Path, comparison: Comparison | None = None) -> str:
    """Write report.json and report.html into a folder, which is made; return the text of report.json.

    Raises:
        SetupError: it cannot be written.
    """
    text = reports.to_json(evaluated.report, comparison)
    page = report_page.render(evaluated.report, _mistakes(evaluated), comparison)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / JSON).write_text(text, encoding="utf-8")
        (folder / PAGE).write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise SetupError(f"{folder} cannot be written: {error.strerror}; name another folder by --output") from None
    return text


def _mistakes(evaluated: Evaluated) -> list[Images]:
    """Return the pictures of the report's mistakes as the model sees them, small enough for a page."""
    numbers = [mistake.picture for mistake in evaluated.report.mistakes]
    spec = evaluated.opened.manifest.preprocessing
    if not numbers:
        return []
    seen = measure.pixels(evaluated.part.pictures, spec, numbers)
    scale = min(1.0, SHEET_SIDE / max(spec.height, spec.width))
    small = Preprocessing(
        height=max(1, round(spec.height * scale)), width=max(1, round(spec.width * scale)), channels=spec.channels
    )
    return [image.from_array(picture, small) for picture in seen]


def record(evaluated: Evaluated) -> None:
    """Write the summary into the manifest inside the model file, by rename; the file's sha256 changes.

    A manifest that does not yet say how accurate the file is learns that too, of pictures that it was not trained on.

    Raises:
        SetupError: the file carries no manifest, or cannot be written; it is left as it was.
    """
    path, part = evaluated.opened.file.path, evaluated.part
    summary = reports.summary(part.data, part.split, evaluated.true, evaluated.probabilities)
    text = metadata(path).get(KEY)
    if text is None:
        raise SetupError(f"{path} carries no manifest to write into; make it with `saccade export` first")
    fields = json.loads(text)  # a manifest may say a part only, and what another version of saccade knows
    fields["evaluation"] = summary.model_dump(mode="json")
    if fields.get("accuracy") is None and part.split in {"validation", "test"}:
        fields["accuracy"] = summary.accuracy
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # two may measure one file at once
    try:
        foreign.write_manifest(path, partial, json.dumps(fields))
        shutil.copymode(path, partial)
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise SetupError(f"{path} cannot be written: {error.strerror}") from None

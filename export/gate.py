"""The accuracy gate: how a file of reduced precision answers, beside the fp32 file, on each provider at hand."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from export import evaluate, measure
from export.evaluate import Probabilities
from export.evaluation import Progress
from export.measure import Opened, Part
from export.model_file import ModelFile
from service import cores, foreign
from service.errors import ModelRejected
from service.graph import read_graph
from service.hosts import cpu_name
from service.loading import open_session, said_precision
from service.manifest import Precision, Verdict, read_fields, sha256
from service.model import Options
from service.providers import Provider
from service.selftest import check_against_manifest
from service.session import check_runtime

SPEED_SECONDS = 0.5
"""How long each batch size is timed, each time."""
SPEED_ROUNDS = 3
SPEED_BATCHES = (1, 8, measure.BATCH)


@dataclass(frozen=True, slots=True)
class Answered:
    """What a file answered for a part of the data on one provider."""

    opened: Opened
    true: evaluate.Indices
    probabilities: Probabilities = field(repr=False)

    @property
    def accuracy(self) -> float:
        """Share of the pictures that were classified right."""
        return float((self.probabilities.argmax(axis=1) == self.true).mean())

    @property
    def calibration_error(self) -> float:
        """See evaluate.calibration_error."""
        right = np.asarray(self.probabilities.argmax(axis=1) == self.true)
        return evaluate.calibration_error(evaluate.reliability(self.probabilities.max(axis=1), right))


def open_on(path: Path, provider: Provider) -> Opened:
    """Open a file on one provider, without asking for golden samples or verdicts.

    Raises:
        ModelRejected: the provider cannot run it.
    """
    fields, graph = read_fields(path), read_graph(path)
    options, expected = Options(max_batch_size=measure.BATCH), foreign.expected(fields, graph)
    session = open_session(path, provider, options, expected, precision=said_precision(fields))
    manifest, _ = foreign.complete(fields, session.input, session.classes, graph)
    check_against_manifest(session, manifest)
    return Opened(ModelFile(path, path.stem), manifest, session, verified=False, sha256=sha256(path))


def answer(opened: Opened, part: Part, advance: Callable[[int], None] = lambda _: None) -> Answered:
    """Return a file's answers for a part.

    Raises:
        ModelRejected: an answer is no probability, as where numbers are too large for fp16.
        SetupError: a picture cannot be decoded, or its class is none of the model's.
    """
    true = measure.true_indices(part, opened.manifest.labels)
    return Answered(opened, true, measure.answers(opened, part, advance))


class Answers:
    """The answers of a fp32 file, asked for once each, and those of others.

    Args:
        source: the fp32 file.
        progress: shows how far it is.
    """

    def __init__(self, source: Path, progress: Progress) -> None:
        self.source, self._progress = source, progress
        self._references: dict[tuple[Provider, str], Answered] = {}

    def reference(self, provider: Provider, part: Part) -> Answered:
        """Return what the fp32 file answers for a part on a provider."""
        key = (provider, part.split)
        if key not in self._references:
            self._references[key] = self.of(self.source, provider, part, f"{provider}: fp32")
        return self._references[key]

    def of(self, path: Path, provider: Provider, part: Part, what: str) -> Answered:
        """Return what a file answers for a part on a provider; `what` is shown meanwhile.

        Raises:
            ModelRejected, SetupError: see `open_on` and `answer`.
        """
        with self._progress(what, len(part.pictures)) as advance:
            return answer(open_on(path, provider), part, advance)


def judge(reference: Answered, reduced: Answered, part: Part, precision: Precision, max_drop: float) -> Verdict:
    """Return the verdict on a file of reduced precision, speeds measured in turns with the reference.

    Args:
        reference: the fp32 file on this provider.
        reduced: the other one on the same provider and pictures.
        part: what both were measured on.
        precision: what the reduced one computes in.
        max_drop: most percentage points of top-1 that it may cost.
    """
    apart = np.abs(reduced.probabilities - reference.probabilities)
    same = reduced.probabilities.argmax(axis=1) == reference.probabilities.argmax(axis=1)
    theirs, ours = speeds(reference.opened, reduced.opened)
    return Verdict(
        provider=reduced.opened.session.provider,
        precision=precision,
        data=part.data,
        split=part.split,
        pictures=len(part.pictures),
        accuracy=reduced.accuracy,
        reference_accuracy=reference.accuracy,
        max_drop=max_drop,
        agreement=float(same.mean()),
        largest_difference=float(apart.max()),
        mean_difference=float(apart.mean()),
        calibration_error=reduced.calibration_error,
        reference_calibration_error=reference.calibration_error,
        images_per_second=ours,
        reference_images_per_second=theirs,
        machine=f"{cores.count()} cores, {cpu_name()}, {check_runtime()}",
    )


def speeds(*models: Opened, seconds: float = SPEED_SECONDS, rounds: int = SPEED_ROUNDS) -> list[float]:
    """Return images a second of each bare session at its best batch size, the median of rounds taken in turns."""
    rates: list[list[float]] = [[] for _ in models]
    for _ in range(rounds):
        for model, found in zip(models, rates, strict=True):
            found.append(max(_rate(model, size, seconds / len(SPEED_BATCHES)) for size in SPEED_BATCHES))
    return [float(np.median(found)) for found in rates]


def _rate(opened: Opened, size: int, seconds: float) -> float:
    batch = opened.session.input.generated(size)
    opened.session.run(batch)
    started, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - started < seconds:
        opened.session.run(batch)
        count += size
    return count / (time.perf_counter() - started)


def refuse(verdicts: Sequence[Verdict], tried: Sequence[str]) -> None:
    """Refuse what passed on no provider.

    Raises:
        ModelRejected: says by how much each is over the limit, and what was tried.
    """
    if any(verdict.passed for verdict in verdicts):
        return
    costs = "; ".join(
        f"on {each.provider} {each.precision} costs {each.drop:.2f} points of accuracy ({each.accuracy:.2%} instead of "
        f"{each.reference_accuracy:.2%} of {each.pictures:,} pictures), {each.drop - each.max_drop:.2f} over the "
        f"limit of {each.max_drop:.2f}"
        for each in verdicts
    )
    raise ModelRejected(f"nothing was published: {costs}. Tried: {'; '.join(tried)}")

"""One served version of a model: pictures in, top-k labels out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from service import foreign, image, logs
from service.batcher import Batcher, BatchRun, Outcome, Watch
from service.budget import PixelBudget
from service.errors import InferenceFailed, InvalidInput, ModelRejected
from service.graph import external_files, read_graph
from service.manifest import Manifest, Precision, read_fields, sha256
from service.metrics import Metrics
from service.normalise import Normalise
from service.scores import check_probabilities
from service.session import Create, Provider, Session, candidates
from service.tensors import Tensor, with_classes

Sample: TypeAlias = npt.NDArray[Any]
"""One sample as the graph takes it: shape and datatype of `Model.input`, less the first dimension."""
Picture: TypeAlias = bytes | image.Pixels | Sample
Pixels: TypeAlias = npt.NDArray[np.uint8]
Probabilities: TypeAlias = npt.NDArray[np.float32]

DEFAULT_TOP_K = 5

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 3e-2, "int8": 3e-2}
"""Largest difference from a golden sample's probabilities. fp32 differs by 2e-8 between batch sizes and by up to 1e-5
between providers; a broken kernel, a wrong channel order or a wrong file differ by tenths."""


@dataclass(slots=True)  # not frozen: five of them are made for each picture, and frozen ones cost three times as much
class Category:
    """One class and its probability."""

    index: int
    label: str
    probability: float


class Answer(NamedTuple):
    """What one request gets: categories for each picture, and where the time went, in seconds."""

    classifications: list[list[Category]]
    decode: float
    queue: float
    inference: float
    batch_size: int


class _Item(NamedTuple):
    """One picture in the queue as the graph takes it, and how many classes its caller asks for."""

    pixels: Sample
    k: int


class _Best(NamedTuple):
    """The best classes of one picture, falling, and their probabilities; None where they are not finite."""

    indices: list[int]
    probabilities: list[float]


@dataclass(frozen=True, slots=True)
class Options:
    """What a version is loaded with; see service.config for the meaning and bounds."""

    provider: str = "auto"
    intra_op_threads: int = 0
    max_batch_size: int = 32
    queue_size: int = 256
    queue_delay_ms: float = 0.0
    max_pixels: int = 50_000_000
    budget: PixelBudget | None = field(default=None, repr=False)
    """Shared by all models of a server."""
    create_session: Create | None = field(default=None, repr=False)
    available: Sequence[str] | None = None
    """ONNX Runtime's names of the providers that there are; None: ask it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is said about a served version wherever it is shown."""

    name: str
    version: int
    provider: Provider
    precision: Precision
    verified: bool
    sha256: str
    inferred: tuple[str, ...] = ()
    """What the file does not say of itself, and how it is taken; see service.foreign."""


class Model:
    """A session that passed its self-test, behind a batcher.

    Args:
        facts: name, version and what the self-test found.
        manifest: what the file says about itself.
        session: warmed up.
        costs: seconds a batch, by bucket.
        options: what it was loaded with.
        metrics: where it records what it does.
    """

    def __init__(
        self,
        facts: Facts,
        manifest: Manifest,
        session: Session,
        *,
        costs: dict[int, float],
        options: Options,
        metrics: Metrics,
    ) -> None:
        self.facts = facts
        self.manifest = manifest
        self._session = session
        self._normalise = Normalise(manifest.preprocessing, session.input)
        self._max_pixels, self._budget = options.max_pixels, options.budget
        self._faults = 0
        self._batcher: Batcher[_Item, _Best | None] = Batcher(
            self._run,
            costs=costs,
            queue_size=options.queue_size,
            queue_delay=options.queue_delay_ms / 1000,
            direct=not session.on_own_thread,
            on_batch=self._record_batch,
            name=f"{facts.name}/{facts.version}",
        )
        self._metrics = metrics.version(facts, manifest.labels, lambda: self._batcher.waiting)
        self._metrics.served(now=True)

    @property
    def notice(self) -> str:
        """What an operator should know of it while it is served; empty when there is nothing."""
        notices = [] if self.facts.verified else ["unverified: the file carries no golden samples"]
        if self.facts.inferred:
            inferred = ", ".join(self.facts.inferred)
            notices.append(f"inferred, unless manifest.json or labels.txt beside it say otherwise: {inferred}")
        if self._faults:
            notices.append(f"{self._faults} calls got values that are not finite")
        return "; ".join(notices)

    @property
    def input(self) -> Tensor:
        """What the graph takes; of our own `image`, uint8 [-1, height, width, channels]."""
        return self._session.input

    @property
    def output(self) -> Tensor:
        """What every model gives: `probabilities`, float32 [-1, classes], whatever its graph calls its scores."""
        return with_classes(len(self.manifest.labels))

    @property
    def max_batch_size(self) -> int:
        """The most pictures that run together."""
        return self._batcher.max_batch_size

    def classify(
        self,
        pictures: Sequence[Picture],
        *,
        top_k: int = 0,
        deadline: float | None = None,
        watch: Watch = lambda _: True,
    ) -> Answer:
        """Return the most probable categories of each picture.

        Args:
            pictures: encoded files, raw pixels or samples as the graph takes them, at least one.
            top_k: how many categories each; 0 means 5, more than there are gives all.
            deadline: on `time.monotonic`; None for no deadline.
            watch: registers what to call when the caller leaves.

        Raises:
            InvalidInput: a picture is no picture; names `images[i]`.
            Overloaded, Unavailable, DeadlineExceeded, Cancelled, InferenceFailed: see service.errors.
        """
        k = self._most(pictures, top_k)
        with self._batcher.admit(len(pictures), deadline=deadline) as ticket:
            items, decode = self._decode(pictures, k, deadline)
            outcome = ticket.submit(items, watch)
        return self._answer(outcome, k, decode)

    def start(
        self,
        pictures: Sequence[Picture],
        *,
        top_k: int = 0,
        deadline: float | None = None,
        on_done: Callable[[Callable[[], Answer]], None],
    ) -> Callable[[], None]:
        """Begin as `classify` does; return, once the pictures are queued, what gives them up.

        Args:
            pictures: see `classify`.
            top_k: see `classify`.
            deadline: see `classify`.
            on_done: given what returns the answer, or raises as `classify` does, when it is there; must not block.

        Raises:
            InvalidInput, Overloaded, Unavailable: see `classify`.
        """
        k = self._most(pictures, top_k)
        with self._batcher.admit(len(pictures), deadline=deadline) as ticket:
            items, decode = self._decode(pictures, k, deadline)
            pending = ticket.start(items, lambda pending: on_done(lambda: self._answer(pending.outcome(), k, decode)))
        return lambda: self._batcher.leave(pending)

    def drain(self, seconds: float) -> None:
        """Answer what was admitted, for at most `seconds`, and stop."""
        self._batcher.drain(seconds)
        self._batcher.close()
        self._metrics.served(now=False)

    def _most(self, pictures: Sequence[Picture], top_k: int) -> int:
        """Return how many classes each picture gets."""
        if not pictures:
            raise InvalidInput("images", "is empty; send at least 1 picture")
        return min(top_k or DEFAULT_TOP_K, len(self.manifest.labels))

    def _decode(self, pictures: Sequence[Picture], k: int, deadline: float | None) -> tuple[list[_Item], float]:
        """Return what goes into the queue, and the seconds that it took to make."""
        started = time.monotonic()
        items = [_Item(self._pixels(number, picture, deadline), k) for number, picture in enumerate(pictures)]
        return items, time.monotonic() - started

    def _answer(self, outcome: Outcome[_Best | None], k: int, decode: float) -> Answer:
        """Return and record what a request gets."""
        classifications = self._categories(outcome.results, k)
        self._metrics.answer(
            decode=decode,
            queue=outcome.queue_seconds,
            inference=outcome.run_seconds,
            top=[(best[0].index, best[0].probability) for best in classifications],
        )
        return Answer(classifications, decode, outcome.queue_seconds, outcome.run_seconds, outcome.batch_size)

    def _pixels(self, number: int, picture: Picture, deadline: float | None) -> Sample:
        spec, most, budget = self.manifest.preprocessing, self._max_pixels, self._budget
        try:
            if isinstance(picture, bytes):
                pixels = image.decode(picture, spec, max_pixels=most, budget=budget, deadline=deadline)
            elif isinstance(picture, image.Pixels):
                pixels = image.from_pixels(picture, spec, max_pixels=most, budget=budget, deadline=deadline)
            else:
                self.input.check(picture)
                return picture
            return self._normalise(pixels)
        except InvalidInput as error:
            raise InvalidInput(error.field.replace("image", f"images[{number}]", 1), error.reason) from None

    def _run(self, items: Sequence[_Item]) -> list[_Best | None]:
        """Run one batch and return the best classes of each picture, as many as the most that anybody asks for."""
        pixels = [item.pixels for item in items]
        probabilities = self._session.run(pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels))
        best = top_k(probabilities, max(item.k for item in items))
        values = probabilities[np.arange(len(best))[:, np.newaxis], best]
        rows = map(_Best, best.tolist(), values.tolist())
        if np.isfinite(probabilities).all():
            return list(rows)
        finite = [bool(np.isfinite(row).all()) for row in probabilities]
        return [row if fine else None for row, fine in zip(rows, finite, strict=True)]

    def _record_batch(self, batch: BatchRun) -> None:
        self._metrics.batch(batch.size)

    def _categories(self, rows: Sequence[_Best | None], k: int) -> list[list[Category]]:
        """Return the k best of each row with their labels."""
        labels = self.manifest.labels
        if None in rows:
            self._faults += 1
            self._metrics.fault()
            raise InferenceFailed("the output holds values that are not finite")
        return [
            [
                Category(index, labels[index], value)
                for index, value in zip(row.indices[:k], row.probabilities[:k], strict=True)
            ]
            for row in rows
            if row is not None
        ]


def top_k(probabilities: Probabilities, k: int) -> npt.NDArray[np.intp]:
    """Return the indices [N, k] of the k largest of each row, falling, ties by index."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :k]


def load_model(path: Path, name: str, version: int, options: Options, metrics: Metrics) -> Model:
    """Load, warm up and self-test a model file on the best provider that passes.

    Raises:
        ModelRejected: no provider that was asked for can run it right; the text says why for each.
    """
    fields, graph = read_fields(path), read_graph(path)
    files = [path, *external_files(path, graph)]
    expected = foreign.expected(fields, graph)
    reasons = []
    for provider in candidates(options.provider, options.available):
        try:
            session = Session(
                path,
                provider,
                intra_op_threads=options.intra_op_threads,
                max_batch_size=options.max_batch_size,
                expected=expected,
                create=options.create_session,
            )
            manifest, inferred = foreign.complete(fields, session.input, session.classes, graph)
            check_against_manifest(session, manifest)
            costs = session.warm_up()
            verified = self_test(on_pixels(session, manifest), manifest, options)
        except ModelRejected as error:
            reasons.append(f"{provider}: {error}")
            continue
        except Exception as error:  # noqa: BLE001 - a provider that loads and cannot run: no memory, no kernel, no cuDNN
            logs.failure("provider failed", error, model=name, version=version, provider=provider)
            reasons.append(f"{provider}: it cannot run the model; the log says why")
            continue
        if reasons:
            logs.warning("provider passed over", model=name, version=version, reasons="; ".join(reasons))
        inferred = (*session.assumed, *inferred)
        if inferred:
            logs.warning("manifest inferred", model=name, version=version, inferred=", ".join(inferred))
        facts = Facts(name, version, provider, manifest.precision, verified, sha256(*files), inferred)
        return Model(facts, manifest, session, costs=costs, options=options, metrics=metrics)
    raise ModelRejected("; ".join(reasons) or f"no provider for --provider {options.provider}")


def on_pixels(session: Session, manifest: Manifest) -> Callable[[Pixels], Probabilities]:
    """Return what gives the probabilities of pictures uint8 [N, height, width, channels], whatever the graph takes."""
    normalise = Normalise(manifest.preprocessing, session.input)
    return lambda pixels: session.run(normalise.batch(pixels))


def check_against_manifest(session: Session, manifest: Manifest) -> None:
    """Refuse a file whose graph is not what its manifest says.

    Raises:
        ModelRejected: sizes or classes differ.
    """
    spec = manifest.preprocessing
    said = (spec.height, spec.width, spec.channels)
    if session.input_shape != said:
        raise ModelRejected(
            f"the graph takes {session.input_shape} (height, width, channels), the manifest says {said}"
        )
    if session.classes != len(manifest.labels):
        raise ModelRejected(
            f"the graph gives {session.classes} classes, the manifest has {len(manifest.labels)} labels"
        )


def self_test(run: Callable[[Pixels], Probabilities], manifest: Manifest, options: Options) -> bool:
    """Return whether golden samples gave the expected probabilities here; False where the file carries none.

    Raises:
        ModelRejected: a sample gave something else; names the sample, the difference and the limit.
    """
    samples, spec, limit = manifest.golden_samples, manifest.preprocessing, TOLERANCE[manifest.precision]
    for first in range(0, len(samples), options.max_batch_size):
        chunk = samples[first : first + options.max_batch_size]
        try:
            pixels = np.stack([image.decode(sample.picture, spec, max_pixels=options.max_pixels) for sample in chunk])
        except InvalidInput as error:
            raise ModelRejected(f"self-test: a golden sample cannot be decoded: {error.reason}") from None
        probabilities = run(pixels)
        check_probabilities(probabilities, len(chunk), len(manifest.labels))
        apart = np.abs(probabilities - np.array([sample.probabilities for sample in chunk], np.float32)).max(axis=1)
        if apart.max() > limit:
            worst = int(apart.argmax())
            raise ModelRejected(
                f"self-test: golden sample {first + worst} is {apart[worst]:.2g} from its expected probabilities; "
                f"the limit for {manifest.precision} is {limit:g}"
            )
    return bool(samples)

"""One served version of a model: pictures in, top-k labels out."""

import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from service import cores, image, verdicts
from service.batcher import Batcher, BatchRun, Later, Ticket
from service.budget import PixelBudget
from service.decoder import Decoder, Work
from service.errors import Cancelled, DeadlineExceeded, InferenceFailed, InvalidInput, raising
from service.manifest import Manifest
from service.metrics import Metrics
from service.normalise import Normalise
from service.providers import Computed, Provider, ProviderChoice, ProviderOptions
from service.requests import Outcome, Pending
from service.scores import Best, best_of, joined
from service.session import Create, Session
from service.tensors import Tensor, with_classes

Sample: TypeAlias = npt.NDArray[Any]
"""One sample as the graph takes it: shape and datatype of `Model.input`, less the first dimension."""
Picture: TypeAlias = bytes | image.Pixels | Sample
Pixels: TypeAlias = npt.NDArray[np.uint8]
Probabilities: TypeAlias = npt.NDArray[np.float32]

DEFAULT_TOP_K = 5
WHOLE_ROWS = -1
"""As `top_k`: instead of categories the probabilities of all classes."""

DIRECT_SECONDS = 0.0005
"""A batch that takes at most this runs on the thread that brings it, which is gRPC's own: to hand it over and wake a
thread costs 0.15 ms, and a longer one would keep other calls waiting."""


@dataclass(slots=True)
class Category:
    """One class and its probability."""

    index: int
    label: str
    probability: float


class Answer(NamedTuple):
    """What one request gets: the best classes of each picture, and where the time went, in seconds.

    Attributes:
        best: classes of each picture, as many as were asked for.
        labels: of all classes.
    """

    best: Best
    labels: tuple[str, ...]
    decode: float
    queue: float
    inference: float
    batch_size: int

    @property
    def probabilities(self) -> Probabilities | None:
        """[N, classes], where WHOLE_ROWS were asked for; then there are no best classes."""
        return None if self.best.k else self.best.rows

    @property
    def classifications(self) -> list[list[Category]]:
        """The best classes with their labels; made when asked for, since an answer on the wire is written without."""
        pairs = zip(self.best.indices, self.best.probabilities, strict=True)
        all_of_them = [Category(index, self.labels[index], value) for index, value in pairs]
        k = self.best.k
        return [all_of_them[first : first + k] for first in range(0, len(all_of_them), k or 1)]


class _Samples(NamedTuple):
    """What a request puts into the queue: samples [N, ...] as the graph takes them, all in one piece of memory.

    Attributes:
        k: how many classes its caller asks for; 0: the whole row.
    """

    array: Sample
    k: int

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, part: slice) -> "_Samples":  # type: ignore[override]
        return _Samples(self.array[part], self.k)


@dataclass(frozen=True, slots=True)
class Options:
    """What a version is loaded with; see service.config for the meaning and bounds."""

    provider: ProviderChoice = "auto"
    provider_options: Mapping[Provider, ProviderOptions] = field(default_factory=dict)
    intra_op_threads: int = 0
    cores: int = 0
    """That its sessions share where `intra_op_threads` is 0; 0: all that the process may use."""
    max_batch_size: int = 32
    queue_size: int = 256
    queue_delay_ms: float = 0.0
    instances: int = 1
    pin: int | None = None
    """The core of gRPC's threads, where a small model's own thread belongs too; see service.cores."""
    allow_unverified: bool = False
    """Whether a reduced precision is served without a verdict."""
    require_verified: bool = False
    """Whether a file without golden samples is refused."""
    host: str = ""
    """The kind of this machine, whose tuned settings are taken; empty: none are. See service.tuned."""
    by_hand: str = ""
    """What was set by hand, so that no tuned settings are taken: the flags."""
    max_pixels: int = 50_000_000
    budget: PixelBudget | None = field(default=None, repr=False)
    """Shared by all models of a server; likewise `decoder`."""
    decoder: Decoder | None = field(default=None, repr=False)
    create_session: Create | None = field(default=None, repr=False)
    onnxruntime: Any = field(default=None, repr=False)
    """A fake of the whole module; None: the real one."""
    available: Sequence[str] | None = None
    """ONNX Runtime's names of the providers that there are; None: ask it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is said about a served version wherever it is shown."""

    name: str
    version: int
    provider: Provider
    precision: Computed
    verified: bool
    sha256: str
    inferred: tuple[str, ...] = ()
    """What the file does not say of itself, and how it is taken; see service.foreign."""
    device: str = ""
    """Where its sessions run; see service.session.About."""
    notes: tuple[str, ...] = ()
    """What an operator should know of how it runs."""
    unverified: str = ""
    """Why it is not verified, where that is not for want of golden samples; see service.verdicts."""


class Model:
    """A session that passed its self-test, behind a batcher.

    Args:
        facts: name, version and what the self-test found.
        manifest: what the file says about itself.
        sessions: one for each instance, warmed up.
        costs: seconds a batch, by bucket.
        options: what it was loaded with.
        metrics: where it records what it does.

    Raises:
        Exception: whatever a session raises that cannot run on the thread that is to serve it.

    Attributes:
        queue_size: the most pictures that may wait, and so the most that one request may hold.
        instances: how many sessions there are, each with a thread of its own.
    """

    def __init__(
        self,
        facts: Facts,
        manifest: Manifest,
        sessions: Sequence[Session],
        *,
        costs: dict[int, float],
        options: Options,
        metrics: Metrics,
    ) -> None:
        self.facts = facts
        self.manifest = manifest
        self.input: Tensor = sessions[0].input
        self._normalise = Normalise(manifest.preprocessing, self.input)
        self._shape, self._size = self.input.shape, self.input.picture
        self._bytes = math.prod(self._size)
        self.queue_size = options.queue_size
        self.instances = len(sessions)
        self._max_pixels, self._budget = options.max_pixels, options.budget
        self._decoder = options.decoder or Decoder(cores.count(), cores.unpin)
        self._faults = 0
        own_thread = any(session.on_own_thread for session in sessions)
        small = not own_thread and len(sessions) == 1 and min(costs.values()) <= DIRECT_SECONDS
        self._one_core = small and options.pin is not None
        begun: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._batcher: Batcher[Any, Any] = Batcher(
            [partial(self._run, session) for session in sessions],
            join=list,
            costs=costs,
            queue_size=options.queue_size,
            queue_delay=options.queue_delay_ms / 1000,
            direct=0.0 if own_thread else DIRECT_SECONDS,
            on_thread=partial(self._begin_thread, sessions, options.pin if small else None, begun.put),
            on_batch=self._record_batch,
            name=f"{facts.name}/{facts.version}",
        )
        failures = [failure for failure in [begun.get() for _ in sessions] if failure]
        if failures:
            self._batcher.close()
            raise failures[0]
        self._metrics = metrics.version(facts, manifest.labels, lambda: self._batcher.waiting)
        self._metrics.served(now=True)

    @property
    def notice(self) -> str:
        """What an operator should know of it while it is served; empty when there is nothing."""
        reason = self.facts.unverified or verdicts.NO_SAMPLES
        notices = [] if self.facts.verified else [f"unverified: {reason}"]
        if self.facts.inferred:
            inferred = ", ".join(self.facts.inferred)
            notices.append(f"inferred, unless manifest.json or labels.txt beside it say otherwise: {inferred}")
        notices += self.facts.notes
        if self._faults:
            notices.append(f"{self._faults} calls got values that are not finite")
        return "; ".join(notices)

    @property
    def output(self) -> Tensor:
        """What every model gives: `probabilities`, float32 [-1, classes], whatever its graph calls its scores."""
        return with_classes(len(self.manifest.labels))

    @property
    def max_batch_size(self) -> int:
        """The most pictures that run together."""
        return self._batcher.max_batch_size

    @property
    def least_wait(self) -> float:
        """Seconds below which no call that comes now would be answered; see service.batcher."""
        return self._batcher.least_wait

    @property
    def most_calls(self) -> int:
        """How many calls there are when the queue is full and every instance runs its largest batch."""
        return self.queue_size + self.instances * self.max_batch_size

    def classify(self, pictures: Sequence[Picture], *, top_k: int = 0, deadline: float | None = None) -> Answer:
        """Return the most probable categories of each picture; for callers with a thread to wait on.

        Args:
            pictures: encoded files, raw pixels or samples as the graph takes them, at least one.
            top_k: how many categories each; 0 means 5, more than there are gives all; see WHOLE_ROWS too.
            deadline: on `time.monotonic`; None for no deadline.

        Raises:
            InvalidInput: a picture is no picture; names `images[i]`.
            Overloaded, Unavailable, DeadlineExceeded, InferenceFailed: see service.errors.
        """
        done: queue.SimpleQueue[Callable[[], Answer]] = queue.SimpleQueue()
        leave = self.start(pictures, top_k=top_k, deadline=deadline, alone=True, on_done=done.put)
        try:
            left = threading.TIMEOUT_MAX if deadline is None else max(0.0, deadline - time.monotonic())
            answer = done.get(timeout=min(left, threading.TIMEOUT_MAX))
        except queue.Empty:
            leave()
            raise DeadlineExceeded("the deadline passed before the answer was there") from None
        return answer()

    def start(
        self,
        pictures: Sequence[Picture],
        *,
        top_k: int = 0,
        deadline: float | None = None,
        alone: bool = False,
        later: Later | None = None,
        on_done: Callable[[Callable[[], Answer]], None],
    ) -> Callable[[], None]:
        """Begin to classify and return what gives it up: it may be called at any time, by any thread.

        Args:
            pictures: see `classify`.
            top_k: see `classify`.
            deadline: see `classify`.
            alone: nothing else is on its way, so that a small model may run right here.
            later: see service.batcher.
            on_done: given what returns the answer, or raises as `classify` does; told once, by whatever thread ended
                it, this one included, unless it was given up. It must not block.

        Raises:
            InvalidInput, Overloaded, Unavailable: see `classify`.
        """
        if not pictures:
            raise InvalidInput("images", "is empty; send at least 1 picture")
        k = 0 if top_k == WHOLE_ROWS else min(top_k or DEFAULT_TOP_K, len(self.manifest.labels))
        raw = all(self._is_input(picture) for picture in pictures)
        sizes = [] if raw else [_bytes(picture) for picture in pictures]
        prepare = 0.0 if raw else self._decoder.predict(sizes)
        ticket = self._batcher.admit(len(pictures), deadline=deadline, prepare=prepare)
        request = _Request(self, ticket, k, on_done)
        if raw:
            # Many pictures, and several instances, are better run beside the thread that brings more of them.
            here = self._one_core or (len(pictures) == self.instances == 1)
            request.queue(lambda: self._samples(pictures, deadline), alone=alone, later=later if here else None)
            return request.leave

        def decode(number: int) -> Pixels:
            request.check()
            return self._pixels(number, pictures[number], deadline)

        self._decoder.submit(sizes, decode, request.decoded)
        return request.leave

    def drain(self, seconds: float) -> None:
        """Answer what was admitted, for at most `seconds`, and stop."""
        self._batcher.drain(seconds)
        self._batcher.close()
        self._metrics.served(now=False)

    @staticmethod
    def _begin_thread(
        sessions: Sequence[Session], pin: int | None, begun: Callable[[Exception | None], None], number: int
    ) -> None:
        """Begin on an instance's own thread: what a GPU's session records is of the thread that records it."""
        failure = None
        try:
            cores.unpin()  # whatever thread loads it
            cores.pin(pin)
            sessions[number].take_over()
        except Exception as error:  # noqa: BLE001 - raised where the version is loaded
            failure = error
        begun(failure)

    def _is_input(self, picture: Picture) -> bool:
        """Return whether a picture is already what the network takes, so that next to nothing is left to do."""
        if isinstance(picture, image.Pixels):
            return picture[:3] == self._size and self._normalise.as_it_is
        return not isinstance(picture, bytes)

    def _answer(self, outcome: Outcome, k: int, decode: float) -> Answer:
        """Return and record what a request gets."""
        best = joined(outcome.parts, k)
        if not best.finite:
            self._faults += 1
            self._metrics.fault()
            raise InferenceFailed("the output holds values that are not finite")
        if best.k or best.rows is None:
            classes, confidences = best.indices[:: best.k], best.probabilities[:: best.k]
        else:
            classes, confidences = best.rows.argmax(axis=1).tolist(), best.rows.max(axis=1).tolist()
        self._metrics.answer(
            decode=decode,
            queue=outcome.queue_seconds,
            inference=outcome.run_seconds,
            classes=classes,
            confidences=confidences,
        )
        return Answer(
            best,
            self.manifest.labels,
            decode,
            outcome.queue_seconds,
            outcome.run_seconds,
            outcome.batch_size,
        )

    def _samples(self, pictures: Sequence[Picture], deadline: float | None) -> Sample:
        """Return samples [N, ...] of pictures that are already what the network takes."""
        if all(isinstance(picture, image.Pixels) and len(picture.data) == self._bytes for picture in pictures):
            data = [picture.data for picture in pictures if isinstance(picture, image.Pixels)]
            return np.frombuffer(data[0] if len(data) == 1 else b"".join(data), np.uint8).reshape(self._shape)
        return np.stack([self._pixels(number, picture, deadline) for number, picture in enumerate(pictures)])

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

    def _run(self, session: Session, parts: Sequence[_Samples]) -> Best:
        """Run one batch and return the best classes of each picture, as many as the most that anybody asks for."""
        arrays = [part.array for part in parts]
        probabilities = session.run(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))
        most = max(part.k for part in parts)
        best = best_of(probabilities, most) if most else Best(0, [], [])
        if all(part.k for part in parts):
            return best
        rows = probabilities.copy()  # a provider may use its output again for the next batch
        return Best(best.k, best.indices, best.probabilities, rows)

    def _record_batch(self, batch: BatchRun) -> None:
        self._metrics.batch(batch.size, batch.seconds)


class _Request:
    """One request between its admission and its answer."""

    def __init__(
        self,
        model: Model,
        ticket: Ticket[Any, Any],
        k: int,
        on_done: Callable[[Callable[[], Answer]], None],
    ) -> None:
        self._model = model
        self._ticket = ticket
        self._k = k
        self._on_done = on_done
        self._decode = 0.0
        self._left = False
        self._pending: Pending[Any, Any] | None = None

    def leave(self) -> None:
        """Give it up: what has not run yet never will."""
        self._left = True
        if self._pending is not None:
            self._model._batcher.leave(self._pending)

    def check(self) -> None:
        """Raise what makes further work useless, if anything does."""
        if self._left:
            raise Cancelled("the caller left")
        if self._ticket.deadline is not None and time.monotonic() >= self._ticket.deadline:
            raise DeadlineExceeded("the deadline passed before the pictures were decoded")

    def decoded(self, work: Work[Pixels]) -> None:
        """Go on with decoded pictures; on a thread that decodes."""
        self._decode = work.seconds
        try:
            self.queue(lambda: np.stack(work.results()))
        except Exception as error:  # noqa: BLE001 - raised where the caller is answered
            if not self._left:
                self._on_done(raising(error))

    def queue(self, samples: Callable[[], Sample], *, alone: bool = False, later: Later | None = None) -> None:
        """Put what `samples` returns into the queue; whatever goes wrong, the places are given back."""
        with self._ticket as ticket:
            self.check()
            self._pending = ticket.start(_Samples(samples(), self._k), self._ended, alone=alone, later=later)
        if self._left:
            self.leave()

    def _ended(self, pending: Pending[Any, Any]) -> None:
        self._on_done(lambda: self._model._answer(pending.outcome(), self._k, self._decode))


def _bytes(picture: Picture) -> int:
    if isinstance(picture, np.ndarray):
        return picture.nbytes
    return len(picture if isinstance(picture, bytes) else picture.data)

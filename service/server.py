"""Builds the server top to bottom; starts it, keeps its health true, drains it."""

import contextlib
import gc
import math
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service import cores, logs
from service.budget import PixelBudget
from service.config import TUNED, Settings, flag
from service.counts import Counts
from service.decoder import Decoder
from service.errors import SetupError
from service.hosts import host_type
from service.loading import check_files, load_model
from service.looks import RESERVED
from service.metrics import Metrics
from service.model import Model, Options
from service.polling import Polling
from service.providers import parse_options
from service.repository import Repository
from service.rpc import classifier, health, inference, wire
from service.rpc.calls import Calls, Handler
from service.rpc.deadlines import Deadlines
from service.rpc.gate import Gate
from service.rpc.infer import ModelStream
from service.rpc.inference import Change
from service.rpc.streams import WINDOW, Streams
from service.security import Security
from service.session import check_runtime
from service.signals import StopSignals
from service.switch import Load
from service.versions import State
from service.watched import Watch

BUNDLED = Path(__file__).parent / "bundled/models"
BUNDLED_DEFAULT = "lenet5-mnist"

_SERVICES = (classifier.SERVICE, inference.SERVICE)
_REFUSE_SECONDS = 0.5
"""How long new calls are answered UNAVAILABLE before gRPC stops: it answers CANCELLED in a race, 122 times in 20 stops
without this and once in 15 with it."""


def open_repository(
    settings: Settings,
    metrics: Metrics,
    load: Load | None = None,
    around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> Repository:
    """Return the model repository that the settings mean, the bundled one if they name none; nothing is loaded yet.

    Args:
        settings: see service.config.
        metrics: what the models count into.
        load: loads one version; a test passes a fake.
        around: is entered while a version is loaded.
    """
    threads = cores.each(settings.workers)
    options = Options(
        provider=settings.provider,
        provider_options=parse_options(settings.provider, settings.provider_options),
        intra_op_threads=settings.intra_op_threads,
        cores=threads,
        max_batch_size=settings.max_batch_size,
        queue_size=settings.queue_size,
        queue_delay_ms=settings.queue_delay_ms,
        instances=settings.instances,
        allow_unverified=settings.allow_unverified,
        require_verified=settings.require_verified,
        host=host_type(threads, check_runtime()) if settings.tuned else "",
        by_hand=", ".join(flag(name) for name in TUNED if name in settings.model_fields_set),
        pin=cores.home(settings.pin),
        max_pixels=settings.max_pixels,
        budget=PixelBudget(settings.decode_pixels),
        decoder=Decoder(threads, cores.unpin),
    )
    load_one = load or partial(load_model, options=options, metrics=metrics)

    def loaded(path: Path, name: str, version: int) -> Model:
        with around():
            return load_one(path, name, version)

    return Repository(
        settings.repository or BUNDLED,
        loaded,
        keep_versions=settings.keep_versions,
        default_model=settings.default_model or (None if settings.repository else BUNDLED_DEFAULT),
        metrics=metrics,
        reload=settings.reload,
        check=check_files if load is None else lambda _: None,
        may_be_empty=settings.allow_empty,
    )


class Colleagues(Protocol):
    """The servers that share a port, as one of them sees them."""

    def change(self, change: Change, model: str) -> None:
        """Load new versions of a model, or unload it, in every server."""

    def counts(self, versions: Sequence[tuple[str, int]]) -> list[Counts]:
        """Return what was counted of each version by all of them together."""

    def tell(self, *, ready: bool, models: Sequence[str]) -> None:
        """Hear what this one serves, and whether that makes it READY."""

    def loading(self) -> AbstractContextManager[None]:
        """Know that this one loads a version, for as long as it does."""


class Server:
    """One server: gRPC on one port, metrics on another.

    Args:
        settings: see service.config.
        load: loads one version; a test passes a fake.
        metrics: what it counts into; its own if none are given.
        colleagues: the other servers on its port; none if none are given.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        load: Load | None = None,
        metrics: Metrics | None = None,
        colleagues: "Colleagues | None" = None,
    ) -> None:
        self._settings = settings
        self._colleagues = colleagues
        self.metrics = metrics or Metrics(most_labels=settings.metrics_labels)
        self._watch = Watch()
        self._security = Security(settings, self._watch)
        self._drained = False
        self._loaded = False
        self._reporting = threading.Lock()  # or what one thread saw before could be told after what another did
        self._reported: dict[str, Any] = {}  # the health that was told, by service and model
        around = colleagues.loading if colleagues else contextlib.nullcontext
        self.repository = open_repository(settings, self.metrics, load, around)
        self.repository.on_change(self._report_health)
        self._polling = Polling(
            partial(self.repository.refresh, settings.grace), settings.poll_seconds, name="repository"
        )
        # Threads for what takes a while (lists); nothing that waits for a model, or for a caller, is here.
        # gRPC's thread makes them, which is pinned: with its mask a model that is loaded later would have one core.
        self._control = ThreadPoolExecutor(4, thread_name_prefix="control", initializer=cores.unpin)
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="repository", initializer=cores.unpin)  # takes minutes
        self._statistics = ThreadPoolExecutor(1, thread_name_prefix="statistics", initializer=cores.unpin)  # waits too
        self._health = health.Health()
        self._health.set("", health.NOT_SERVING)
        deadlines = Deadlines()
        self._calls = Calls(
            self._most_calls(), self.metrics, deadlines, idle=settings.stream_idle, access_log=settings.access_log
        )
        self._streams = Streams(self.metrics, deadlines, **_stream_limits(settings))
        self._pin = cores.home(settings.pin)
        with cores.pinned(self._pin):
            self._grpc = grpc.server(self._control, options=_channel_options(settings))
        self.gate = Gate(self._security.tokens, self.metrics, most=settings.max_caller_calls)
        for service, handlers in self._services().items():
            self.gate.add_registered_method_handlers(service, handlers)
        if settings.reflection:
            _add_reflection(self.gate)
        self._grpc.add_generic_rpc_handlers((self.gate,))
        self.grpc_port = self.metrics_port = 0
        self._stop_metrics: Callable[[], None] = lambda: None

    def _services(self) -> dict[str, dict[str, Handler]]:
        """Return the handlers of every service but reflection, by method."""
        own = classifier.Classifier(self.repository)
        protocol = inference.Inference(
            self.repository,
            self._settings,
            ready=lambda: self.ready() and not self._drained,
            change=self._colleagues.change if self._colleagues else self.change,
            counts=self._colleagues.counts if self._colleagues else self.counts,
        )
        return {
            classifier.SERVICE: {
                **own.handlers(self._calls, self._control),
                "ClassifyStream": self._streams.handler(classifier.ClassifyStream(own)),
            },
            inference.SERVICE: {
                **protocol.handlers(self._calls, self._control, self._changes, self._statistics),
                "ModelStreamInfer": self._streams.handler(ModelStream(self.repository)),
            },
            health.SERVICE: self._health.handlers(),
        }

    def start(self) -> None:
        """Listen, load every model, and report what there is; for the only server on its port.

        Raises:
            SetupError: a port is taken, the repository cannot be read, or ONNX Runtime is missing.
        """
        started = time.monotonic()
        runtime = self.open()
        self.metrics_port, self._stop_metrics = self.metrics.serve(
            self._settings.host, self._settings.metrics_port, self._security.context
        )
        self.listen()
        self._report_health()
        self.load()
        logs.info(
            "ready" if self.ready() else "not ready",
            grpc_port=self.grpc_port,
            metrics_port=self.metrics_port,
            models=self.served(),
            runtime=runtime,
            seconds=round(time.monotonic() - started, 3),
        )

    def open(self, without: Sequence[str] = ()) -> str:
        """Look what there is to serve; return the runtime that will.

        Args:
            without: models that callers had unloaded, which are not even loaded.

        Raises:
            SetupError: the repository cannot be read, or ONNX Runtime is missing.
        """
        wire.check()
        runtime = check_runtime()
        self.repository.scan()
        self.repository.leave_out(without)
        return runtime

    def load(self) -> None:
        """Load every model, tell by the health what came of it, and look for changes from then on."""
        self.repository.load_all()
        self._loaded = True
        self._report_health()
        self._polling.start()

    def served(self) -> list[str]:
        """Return the models of which a version is served."""
        return sorted(name for name, served in self.repository.readiness().items() if served)

    def change(self, change: Change, model: str) -> None:
        """Load new versions of a model, or unload it, here.

        Raises:
            UnknownModel, Unavailable: see Repository.
        """
        (self.repository.load if change == "load" else self.repository.unload)(model, self._settings.grace)

    def counts(self, versions: Sequence[tuple[str, int]]) -> list[Counts]:
        """Return what was counted of each version here."""
        return [self.metrics.counts(*version) for version in versions]

    def ready(self) -> bool:
        """Return whether the whole server counts as ready, by `--ready` and `--allow-empty`."""
        expected = self.repository.expected()
        if not expected:
            return self._settings.allow_empty
        if not any(self.repository.readiness().values()):
            return False  # nothing can be answered
        return self._settings.ready == "any" or all(expected.values())

    def drain(self, *, delay: float, refuse: float = _REFUSE_SECONDS) -> None:
        """Stop so that no accepted call is lost: see the design's "Drain".

        Args:
            delay: seconds to go on serving while callers learn that this server leaves.
            refuse: seconds to answer new calls UNAVAILABLE before gRPC stops.
        """
        if self._drained:
            return
        self._drained = True
        self._polling.stop()
        self.repository.stop()
        logs.info("draining", delay=delay)
        self._health.leave(_REFUSE_SECONDS)
        time.sleep(delay)
        self._calls.close()
        self._streams.close()
        time.sleep(refuse)
        self._grpc.stop(self._settings.grace)
        self._streams.drain()
        self._calls.wait_idle(self._settings.grace)
        self._streams.wait_idle(self._settings.grace)
        self._grpc.stop(None)  # idle Watches, reflection: one of them alone would hold stop(grace) to its end
        self.repository.close(self._settings.grace)
        self._stop_metrics()
        self._watch.stop()
        for pool in (self._control, self._changes, self._statistics):
            pool.shutdown(wait=False, cancel_futures=True)
        logs.info("stopped")

    def listen(self) -> None:
        """Take calls.

        Raises:
            SetupError: the port is taken.
        """
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        try:
            port = self._security.add_port(self._grpc, f"{host}:{self._settings.grpc_port}")
        except RuntimeError:
            port = 0
        if not port:
            self._stop_metrics()
            raise SetupError(
                f"--grpc-port {self._settings.grpc_port} on {self._settings.host} cannot be had; is it taken? "
                "Choose another, or 0 for a free one"
            )
        with cores.pinned(self._pin):
            self._grpc.start()
        self._watch.start()
        self.grpc_port = port

    def _most_calls(self) -> int:
        """Return how many calls there are when every queue is full and every instance runs its largest batch."""
        each = max(
            [
                _most_calls_of_a_model(self._settings),
                *(entry.model.most_calls for entry in self.repository.versions() if entry.model),
            ]
        )
        return each * max(1, len(self.repository.readiness()))

    def _report_health(self) -> None:
        with self._reporting:
            self._calls.limit = self._most_calls()
            versions = self.repository.versions()
            self._calls.answerers = [entry.model for entry in versions if entry.model and entry.state is State.READY]
            readiness = self.repository.readiness()
            overall = health.SERVING if self.ready() else health.NOT_SERVING
            report = {"": overall, **dict.fromkeys(_SERVICES, overall), RESERVED: health.SERVING}
            report |= dict.fromkeys(self._reported.keys() - report.keys(), health.NOT_SERVING)  # models that are gone
            report |= {name: health.SERVING if served else health.NOT_SERVING for name, served in readiness.items()}
            for service, status in report.items():
                if self._reported.get(service) != status:  # a Watch hears of every status that is set
                    self._health.set(service, status)
            self._reported = report
            if self._colleagues and self._loaded:  # not after each of the first: who told this is told to listen
                self._colleagues.tell(ready=self.ready(), models=self.served())


def serve(settings: Settings) -> None:
    """Serve until SIGTERM (drains after `drain_delay`) or SIGINT (drains at once); a second signal ends the process.

    Raises:
        SetupError: see `Server.start`.
    """
    stop = StopSignals()
    stop.listen()
    server = Server(settings)
    stop.first = server.repository.stop  # of many models only the one that is being loaded is waited for
    server.start()
    spare_collector()
    server.drain(delay=drain_delay(settings, stop.wait()))


def drain_delay(settings: Settings, number: int) -> float:
    """Return how many seconds to go on serving after a signal."""
    return settings.drain_delay if number == signal.SIGTERM else 0.0


def spare_collector() -> None:
    """Spare the collector what is loaded by now, since it stays: a full collection held all calls for 34 ms."""
    gc.collect()
    gc.freeze()


def _stream_limits(settings: Settings) -> dict[str, Any]:
    most = settings.max_caller_calls or WINDOW
    return {
        "limit": settings.max_streams,
        "idle": settings.stream_idle,
        "window": min(WINDOW, most),
        "age": settings.max_connection_age or math.inf,
    }


def _channel_options(settings: Settings) -> list[tuple[str, int]]:
    message_bytes = settings.max_message_mb * 1024 * 1024
    most = _most_of_a_connection(settings)
    age = settings.max_connection_age
    # A stream may begin when its connection is about to end, and grow as old as a connection does: both ages and the
    # grace are what gRPC waits for in all, so that it cuts no call and streams end by themselves.
    ends = [
        ("grpc.max_connection_age_ms", int(age * 1000)),
        ("grpc.max_connection_age_grace_ms", int((age + settings.grace) * 1000)),
    ]
    return [
        *(ends if age else []),
        # gRPC takes calls faster than Python hears of them, and cancels any when so many are in between, by default
        # some from 1,000 on and all from 3,000: 20,000 calls of one caller, begun and reset at once, failed everybody's
        # for seconds. So one connection is bounded, and there is room for many that are at their bound.
        ("grpc.max_concurrent_streams", most),
        ("grpc.server.max_pending_requests", 16 * most),
        ("grpc.server.max_pending_requests_hard_limit", 32 * most),
        ("grpc.max_receive_message_length", message_bytes),
        ("grpc.max_send_message_length", message_bytes),
        # Clients test idle connections every 20 s; by default more than once in 5 minutes is too often for gRPC.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Alone: a second server on the same port would take half of the calls without an error.
        ("grpc.so_reuseport", int(settings.workers > 1)),
    ]


def _most_of_a_connection(settings: Settings) -> int:
    """Return how many calls a connection may have under way.

    More than the queues and streams of a model allow, so that who sends too much hears of it instead of waiting.
    """
    return max(1000, 4 * _most_calls_of_a_model(settings) + settings.max_streams)


def _most_calls_of_a_model(settings: Settings) -> int:
    """Return how many calls there are when a model's queue is full and its instances run their largest batches."""
    return settings.queue_size + settings.instances * settings.max_batch_size


def _add_reflection(gate: Gate) -> None:
    """Register reflection; each open stream holds a thread, so they have a pool of their own."""
    names = [*_SERVICES, health.SERVICE, reflection.SERVICE_NAME]
    pool = wire.Threads(16, thread_name_prefix="reflection")
    servicer = reflection.ReflectionServicer(service_names=names)

    def behavior(requests: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - typed as returning nothing
        return servicer.ServerReflectionInfo(requests, context)

    behavior.experimental_thread_pool = pool  # type: ignore[attr-defined]
    handler = grpc.stream_stream_rpc_method_handler(
        behavior,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    gate.add_registered_method_handlers(reflection.SERVICE_NAME, {"ServerReflectionInfo": handler})

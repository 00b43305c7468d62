"""One worker: a server that shares its port with others, under a supervisor. It listens when its models are loaded."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from service import logs, metrics
from service.control import (
    CHANGES,
    Ask,
    Failed,
    Listen,
    Listening,
    Loaded,
    Loading,
    Ping,
    Pong,
    Question,
    Replies,
    Reply,
    Start,
    Stop,
)
from service.counts import Counts, together
from service.errors import SaccadeError, SetupError, Unavailable
from service.rpc.inference import Change
from service.server import Server, drain_delay, spare_collector
from service.session import load_runtime
from service.signals import StopSignals

_NOBODY = "the supervisor of the workers is gone"
_COUNTS_SECONDS = 2.0
"""Most that one waits for what the others counted: an answer takes milliseconds; who hangs is killed, but later."""


class Colleagues:
    """The servers on the port of this one; all that they say goes through the supervisor.

    Args:
        pipe: to the supervisor.
        worker: the number of this one.
        patience: most seconds to wait for `counts`.
    """

    def __init__(self, pipe: Connection, worker: int, patience: float = _COUNTS_SECONDS) -> None:
        self._pipe = pipe
        self._worker = worker
        self._patience = patience
        self._sending = threading.Lock()
        self._numbers = count()
        self._asking = threading.Lock()
        self._asked: dict[int, Future[dict[int, Reply]]] = {}
        self._late: Future[dict[int, Reply]] | None = None
        self._gone = False

    def change(self, change: Change, model: str) -> None:
        """Load new versions of a model, or unload it, in every worker.

        Raises:
            UnknownModel, Unavailable: what went wrong here; else Unavailable: what went wrong elsewhere.
        """
        replies = self._ask(change, model)
        own = replies.get(self._worker)
        if own is not None and own.error is not None:
            raise own.error
        for worker, reply in replies.items():
            if reply.error is not None:
                raise Unavailable(f"worker {worker}: {reply.error}")

    def counts(self, versions: Sequence[tuple[str, int]]) -> list[Counts]:
        """Return what was counted of each version by all workers together.

        Raises:
            Unavailable: one of them does not say it in time. What the others counted would be a sum that falls.
        """
        late = self._late
        if late is not None and not late.done():  # asked again and again, one that hangs would fill its pipe
            raise self._not_said()
        replies = self._ask("counts", tuple(versions), self._patience)
        counted = [reply.value for reply in replies.values() if reply.error is None]
        return [together(parts) for parts in zip(*counted, strict=True)] or [Counts() for _ in versions]

    def tell(self, *, ready: bool, models: Sequence[str]) -> None:
        """Tell the supervisor what this one serves."""
        self.send(Loaded(ready, tuple(models)))

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Tell the supervisor that a version is being loaded, for as long as it is."""
        self.send(Loading(now=True))
        try:
            yield
        finally:
            self.send(Loading(now=False))

    def send(self, message: object) -> None:
        """Send a message to the supervisor; if it is gone, the end of the pipe tells so elsewhere."""
        with self._sending:
            try:
                self._pipe.send(message)
            except OSError:
                return

    def answered(self, replies: Replies) -> None:
        """Take what the supervisor answered; who asked may wait no more."""
        self._asked.pop(replies.number).set_result(replies.by_worker)

    def gone(self) -> None:
        """Take note that nobody will answer any more, neither those who wait nor those who still come in the drain."""
        with self._asking:
            self._gone = True
        for waiting in list(self._asked.values()):
            waiting.set_exception(Unavailable(_NOBODY))

    def _ask(self, question: Question, about: Any, most: float | None = None) -> dict[int, Reply]:  # noqa: ANN401 - see Ask
        number = next(self._numbers)
        waiting: Future[dict[int, Reply]] = Future()
        with self._asking:
            if self._gone:
                raise Unavailable(_NOBODY)
            self._asked[number] = waiting
        self.send(Ask(number, question, about))
        try:
            return waiting.result(most)
        except NotYet:
            self._late = waiting
            raise self._not_said() from None

    def _not_said(self) -> Unavailable:
        return Unavailable(f"not every worker said within {self._patience:g} s what it counted; try again")


class Worker:
    """Serves, and does what its supervisor says.

    Args:
        pipe: to the supervisor.
        start: what to serve.
        stop: asks it to end.
    """

    def __init__(self, pipe: Connection, start: Start, stop: StopSignals) -> None:
        self._pipe = pipe
        self._start = start
        self._stop = stop
        self._colleagues = Colleagues(pipe, start.worker)
        self._metrics = metrics.Metrics(most_labels=start.settings.metrics_labels, shared=True)
        self._server = Server(start.settings, metrics=self._metrics, colleagues=self._colleagues)
        self._changes = ThreadPoolExecutor(1, thread_name_prefix="changes")  # in the order they came, Listen too
        self._answers: SimpleQueue[Pong | Reply] = SimpleQueue()

    def run(self) -> None:
        """Load, listen when told to, and drain in the end.

        Raises:
            SetupError: see `Server.open`.
        """
        self._server.open(without=self._start.unloaded)
        threading.Thread(target=self._hear, name="supervisor", daemon=True).start()
        threading.Thread(target=self._send_answers, name="answers", daemon=True).start()
        self._server.load()
        spare_collector()
        self._server.drain(delay=drain_delay(self._start.settings, self._stop.wait()))
        self._metrics.flush()

    def _hear(self) -> None:
        """Do what the supervisor says; when it is gone, drain as if it had said so."""
        while True:
            try:
                message = self._pipe.recv()
            except (EOFError, OSError):
                if not self._server.grpc_port:
                    os._exit(1)  # nobody has called yet
                logs.warning("supervisor gone")
                self._colleagues.gone()
                self._stop.put(signal.SIGTERM)
                return
            match message:
                case Listen():
                    self._changes.submit(self._listen)
                case Stop(number):
                    self._stop.put(number)
                case Ping():
                    self._answers.put(Pong())
                case Replies():
                    self._colleagues.answered(message)
                case Ask(_, question, _) if question in CHANGES:
                    self._changes.submit(self._reply, message)
                case Ask():
                    self._reply(message)

    def _listen(self) -> None:
        try:
            self._server.listen()
        except SetupError as error:
            self._colleagues.send(Failed(str(error)))
            self._stop.put(signal.SIGINT)
        else:
            self._colleagues.send(Listening())

    def _reply(self, ask: Ask) -> None:
        try:
            value, error = self._answer(ask), None
        except SaccadeError as raised:
            value, error = None, raised
        except Exception as raised:  # noqa: BLE001 - who asked must hear of it
            logs.failure("change failed", raised, about=ask.about)
            value, error = None, Unavailable("it failed; the log says why")
        self._answers.put(Reply(ask.number, value, error))

    def _send_answers(self) -> None:
        """Send what was asked for, one after the other; who hears goes on hearing meanwhile.

        What was counted of 180 versions is more than the pipe holds: while its sender waits for the supervisor to read,
        the supervisor, which sends before it reads, must not wait for this worker.
        """
        while True:
            self._colleagues.send(self._answers.get())

    def _answer(self, ask: Ask) -> object:
        match ask.question:
            case "load" | "unload":
                self._server.change(ask.question, ask.about)
            case "counts":
                return self._server.counts(ask.about)
            case "flush":
                self._metrics.flush()
        return None


def main(pipe: int) -> None:
    """Be a worker, or its stand-by until one is needed; the supervisor starts a process with this.

    Args:
        pipe: the descriptor of its end of the pipe.
    """
    connection = Connection(pipe)
    with suppress(SetupError):  # whoever has a place says so
        load_runtime()
    start = _wait_for_start(connection)
    if start is None:
        return
    stop = StopSignals([signal.SIGTERM])
    stop.listen()
    logs.setup(start.settings.log_format, worker=start.worker)
    metrics.share(start.folder, start.worker)
    try:
        Worker(connection, start, stop).run()
    except SetupError as error:
        connection.send(Failed(str(error)))
        sys.exit(1)


def _wait_for_start(pipe: Connection) -> Start | None:
    """Return what to serve; None when the supervisor is gone."""
    with suppress(EOFError, OSError):
        while not isinstance(message := pipe.recv(), Start):
            pipe.send(Pong())
        return message
    return None

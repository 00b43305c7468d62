"""Several workers on one port: starts them, replaces those that end, stops them all; needs neither grpc nor a runtime.

The supervisor holds the port bound and does not listen on it, so the kernel gives calls to the workers only, and the
port stays theirs while none of them listens.
"""

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, Protocol

from service import cores, logs, metrics, tls
from service.config import Settings
from service.control import CHANGES, Ask, Failed, Listen, Listening, Loaded, Question, Replies, Reply, Start, Stop
from service.errors import SetupError
from service.signals import StopSignals
from service.watched import Watch

_YOUNG = 1.0
"""Seconds: a worker that ends sooner after it began to listen, or before, is put off: it may be the start of a loop."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_FLUSH_SECONDS = 1.0
"""Most that a scrape waits for busy workers; what they have not told by then is a scrape late."""
_END_SECONDS = 5.0
"""Most that a worker may take to end after its pipe did, and all of them beyond the grace of every step of a drain."""


class Process(Protocol):
    """What is needed of a worker's process; subprocess.Popen is one."""

    @property
    def pid(self) -> int: ...  # noqa: D102
    def wait(self, timeout: float | None = None) -> int: ...  # noqa: D102
    def kill(self) -> None: ...  # noqa: D102


Spawn = Callable[[Start], tuple[Process, Connection]]
"""Starts a worker; returns its process and this side of the pipe to it."""


@dataclass(eq=False)
class _Worker:
    """One worker that runs."""

    number: int
    process: Process
    pipe: Connection
    ready: bool = False
    loaded: bool = False
    told_to_listen: bool = False
    listens_since: float | None = None
    models: tuple[str, ...] = ()


@dataclass
class _Place:
    """One worker's place, whoever has it."""

    settings: Settings
    worker: _Worker | None = None
    ended_young: int = 0
    start_at: float = 0.0


@dataclass(eq=False)
class _Round:
    """One question to all workers that listen."""

    question: Question
    about: object
    done: Callable[[dict[int, Reply]], None]
    number: int = 0
    waiting: set[_Worker] = field(default_factory=set)
    replies: dict[int, Reply] = field(default_factory=dict)


class Supervisor:
    """Keeps `--workers` workers on one port until it is asked to stop.

    Args:
        settings: see service.config.
        folder: an empty folder where the workers keep their metrics.
        spawn: starts a worker; a test passes a fake.
        clock: of `time.monotonic`.
    """

    def __init__(
        self, settings: Settings, folder: Path, *, spawn: Spawn, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._spawn = spawn
        self._clock = clock
        self._places: list[_Place] = []
        self._unloaded: set[str] = set()
        self._rounds: dict[int, _Round] = {}
        self._changes: deque[_Round] = deque()  # one at a time, the first is under way
        self._asked = 0
        self._inbox: deque[Callable[[], None]] = deque()  # from other threads
        self._wake_here, self._wake_there = socket.socketpair()
        self._wake_here.setblocking(False)
        self._wake_there.setblocking(False)
        self._at_strength = False
        self._served = False
        self._stop_by = float("inf")
        self._stopping = False
        self._failed = ""
        self._killed = 0
        self._started = clock()
        self._watch = Watch()
        self._certificates = tls.certificates(settings)
        if self._certificates is not None:
            self._watch.add(self._certificates)
        self.stop = StopSignals(last=self._end_at_once)
        self.grpc_port = self.metrics_port = 0
        self.metrics = metrics.Merged(
            folder,
            flush=self.flush,
            processes=lambda: [worker.process.pid for worker in self._workers()],
            listening=lambda: len(self._listening()),
        )

    def run(self) -> int:
        """Serve until a signal asks to stop; return the exit code: 0, or 1 if a worker had to be killed.

        Raises:
            SetupError: a port is taken, or the first workers cannot serve.
        """
        with contextlib.ExitStack() as after:
            after.callback(self.close)
            holder = after.enter_context(hold(self._settings.host, self._settings.grpc_port))
            self.begin(holder.getsockname()[1])
            self.metrics_port, stop_metrics = self.metrics.serve(
                self._settings.host, self._settings.metrics_port, self._context
            )
            self._watch.start()
            after.callback(self._watch.stop)
            after.callback(stop_metrics)
            before = signal.set_wakeup_fd(self._wake_there.fileno(), warn_on_full_buffer=False)
            after.callback(signal.set_wakeup_fd, before)
            self.stop.listen()
            while not self._stopping or self._workers():
                self.step()
        return self.end()

    def begin(self, grpc_port: int) -> None:
        """Make a place for each worker.

        Raises:
            SetupError: `--pin` fits no several workers.
        """
        self.grpc_port = grpc_port
        homes = cores.homes(self._settings.pin, self._settings.workers)
        self._places = [
            _Place(self._settings.model_copy(update={"grpc_port": grpc_port, "pin": home})) for home in homes
        ]

    def end(self) -> int:
        """Return the exit code, when no worker is left; see `run`."""
        if self._failed:
            raise SetupError(self._failed)
        logs.info("stopped", killed=self._killed)
        return 1 if self._killed else 0

    def close(self) -> None:
        """Give back what it holds of the system, when nothing runs any more."""
        self._wake_here.close()
        self._wake_there.close()

    def _context(self) -> ssl.SSLContext | None:
        return None if self._certificates is None else self._certificates.value.context

    def step(self, most: float = float("inf")) -> None:
        """Start what is due, wait for what comes next, for at most so many seconds, and see to it."""
        now = self._clock()
        if self._stopping and now >= self._stop_by:
            self._kill_all()
        due = [] if self._stopping else [place for place in self._places if place.worker is None]
        for number, place in enumerate(self._places):
            if place in due and place.start_at <= now:
                self._start(number, place)
                due.remove(place)
        pipes = {worker.pipe: worker for worker in self._workers()}
        until = min([most, self._stop_by - now, *(place.start_at - now for place in due)])
        for ready in wait([*pipes, self._wake_here], None if until == float("inf") else max(0.0, until)):
            if ready is self._wake_here:
                self._woken()
            else:
                self._hear(pipes[ready])  # type: ignore[index]

    def wake(self) -> None:
        """Have the loop look what came; any thread may."""
        with contextlib.suppress(BlockingIOError):
            self._wake_there.send(b"\0")

    def _woken(self) -> None:
        """See to what came from signals and from other threads."""
        with contextlib.suppress(BlockingIOError):
            self._wake_here.recv(4096)
        while self._inbox:
            self._inbox.popleft()()
        number = self.stop.came()
        if number is not None:
            self._begin_stop(number)

    def _start(self, number: int, place: _Place) -> None:
        process, pipe = self._spawn(Start(number, place.settings, tuple(sorted(self._unloaded)), self._folder))
        place.worker = _Worker(number, process, pipe)

    def _hear(self, worker: _Worker) -> None:
        """See to what a worker says; the end of its pipe is its own."""
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._ended(worker)
            return
        match message:
            case Loaded(ready, models):
                worker.loaded, worker.ready, worker.models = True, ready, models
                self._let_listen()
            case Listening():
                self._listens(worker)
            case Failed(reason):
                logs.warning("worker failed", worker=worker.number, reason=reason)
                self._fail(reason)
            case Ask(number, question, about):
                self._put(_Round(question, about, lambda replies: _send(worker, Replies(number, replies))))
            case Reply():
                self._reply(worker, message)

    def _let_listen(self) -> None:
        """Let those listen that are READY, and others where nobody is: better than nothing, and their health tells."""
        for worker in self._workers():
            better = [each for each in self._workers() if each.told_to_listen and each.ready]
            if worker.loaded and not worker.told_to_listen and (worker.ready or not better):
                worker.told_to_listen = True
                _send(worker, Listen())

    def _listens(self, worker: _Worker) -> None:
        worker.listens_since = self._clock()
        self._served = True
        logs.info("worker listening", worker=worker.number, pid=worker.process.pid, ready=worker.ready)
        if len(self._listening()) == len(self._places) and not self._at_strength:
            self._at_strength = True
            logs.info(
                "ready" if all(each.ready for each in self._workers()) else "not ready",
                grpc_port=self.grpc_port,
                metrics_port=self.metrics_port,
                workers=len(self._places),
                models=list(worker.models),
                seconds=round(self._clock() - self._started, 3),
            )

    def _ended(self, worker: _Worker) -> None:
        """See to what a worker leaves behind, and when its place is taken again."""
        code = self._reap(worker)
        place = self._places[worker.number]
        place.worker = None
        self.metrics.dead(worker.number)
        for asked in list(self._rounds.values()):
            asked.waiting.discard(worker)
            self._close(asked)
        if self._stopping:
            return
        if not self._served:
            self._fail(f"worker {worker.number} ended while it loaded the models: {_how(code)}")
            return
        now = self._clock()
        young = worker.listens_since is None or now - worker.listens_since < _YOUNG
        place.ended_young = place.ended_young + 1 if young else 0
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (place.ended_young - 1)) if young else 0.0
        place.start_at = now + pause
        self.metrics.restarted()
        logs.warning("worker ended", worker=worker.number, how=_how(code), replaced_in=pause)
        self._let_listen()

    def _reap(self, worker: _Worker) -> int:
        worker.pipe.close()
        try:
            return worker.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            return worker.process.wait()

    def _fail(self, reason: str) -> None:
        """Give up if nobody has served yet: what keeps the first worker from it is likely to keep all of them."""
        if not self._served and not self._stopping:
            self._failed = reason
            self._begin_stop(signal.SIGINT)

    def _begin_stop(self, number: int) -> None:
        """Drain those that listen; the others have no calls to lose."""
        if self._stopping:
            return
        self._stopping = True
        delay = self._settings.drain_delay if number == signal.SIGTERM else 0.0
        self._stop_by = self._clock() + delay + 3 * self._settings.grace + _END_SECONDS
        logs.info("draining", delay=delay, workers=len(self._workers()))
        for worker in self._workers():
            if worker.told_to_listen:
                _send(worker, Stop(number))
            else:
                worker.process.kill()

    def _kill_all(self) -> None:
        for worker in self._workers():
            logs.warning("worker killed", worker=worker.number, reason="it did not end within the grace")
            worker.process.kill()
            self._killed += 1
        self._stop_by = float("inf")

    def _end_at_once(self) -> None:
        """On a second signal: leave nothing behind."""
        for worker in self._workers():
            worker.process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _put(self, asked: _Round) -> None:
        """Ask all workers that take calls; changes of the repository wait for each other."""
        if asked.question in CHANGES:
            self._changes.append(asked)
            if self._changes[0] is not asked:
                return
        self._ask(asked)

    def _ask(self, asked: _Round) -> None:
        self._asked += 1
        asked.number = self._asked
        asked.waiting = {worker for worker in self._workers() if worker.told_to_listen}
        if asked.question == "flush":  # a worker that hangs gets one such question, and keeps nobody waiting again
            asked.waiting -= {
                each for other in self._rounds.values() if other.question == "flush" for each in other.waiting
            }
        self._rounds[asked.number] = asked
        # Those that still load hear of a change too, before they listen; nobody waits for them.
        for worker in self._workers() if asked.question in CHANGES else list(asked.waiting):
            _send(worker, Ask(asked.number, asked.question, asked.about))
        self._close(asked)

    def _reply(self, worker: _Worker, reply: Reply) -> None:
        asked = self._rounds.get(reply.number)
        if asked is not None and worker in asked.waiting:
            asked.waiting.remove(worker)
            asked.replies[worker.number] = reply
            self._close(asked)

    def _close(self, asked: _Round) -> None:
        """Tell who asked, once everybody has answered."""
        if asked.waiting or self._rounds.pop(asked.number, None) is None:
            return
        if asked.question in CHANGES:
            (self._unloaded.add if asked.question == "unload" else self._unloaded.discard)(str(asked.about))
        asked.done(asked.replies)
        if self._changes and self._changes[0] is asked:
            self._changes.popleft()
            if self._changes:
                self._ask(self._changes[0])

    def flush(self) -> None:
        """Ask the workers to bring their metrics up to date; called by the threads that serve the metrics."""
        flushed: Future[dict[int, Reply]] = Future()
        asked = _Round("flush", None, flushed.set_result)
        self._inbox.append(partial(self._put, asked))
        self.wake()
        with contextlib.suppress(NotYet):
            flushed.result(_FLUSH_SECONDS)

    def _workers(self) -> list[_Worker]:
        return [place.worker for place in self._places if place.worker is not None]

    def _listening(self) -> list[_Worker]:
        return [worker for worker in self._workers() if worker.listens_since is not None]


def supervise(settings: Settings) -> int:
    """Serve with several workers until a signal asks to stop; see `Supervisor.run`."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="saccade-"))
    except OSError as error:
        raise SetupError(
            f"--workers {settings.workers} needs a folder for their metrics: {error.strerror}; "
            "let TMPDIR name one that can be written, /dev/shm for example"
        ) from None
    try:
        return Supervisor(settings, folder, spawn=spawn).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spawn(start: Start) -> tuple[Process, Connection]:
    """Start a worker in a process of its own, which has nothing of this one but one end of a pipe.

    A fork would take gRPC's and ONNX Runtime's threads half along. It is in a process group of its own, so that Ctrl-C
    reaches the supervisor only; and it finds its modules where this process found them, whatever lies in the folder.
    """
    here, there = Pipe()
    code = f"import sys; sys.path[:] = {sys.path!r}; from service.worker import main; main({there.fileno()})"
    process = subprocess.Popen(  # noqa: S603 - our own
        [sys.executable, *(f"-W{option}" for option in sys.warnoptions), "-P", "-c", code],
        stdin=subprocess.DEVNULL,
        pass_fds=[there.fileno()],
        process_group=0,
        env={**os.environ, metrics.FOLDER: str(start.folder)},
    )
    there.close()
    here.send(start)
    return process, here


def hold(host: str, port: int) -> socket.socket:
    """Hold a port bound, for the workers to listen on.

    Nobody else can have it, with SO_REUSEADDR and SO_REUSEPORT neither: that both are set, as gRPC sets them, lets in
    who comes before anybody listens. So it is first listened on alone, and the first flag is taken off.

    Raises:
        SetupError: it is taken, or there is no such address.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if port:
            with _bound(family, kind, address) as alone:
                alone.listen()
        holder = _bound(family, kind, address)
    except OSError as error:
        raise SetupError(
            f"--grpc-port {port} on {host} cannot be had: {error.strerror}; choose another, or 0 for a free one"
        ) from None
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return holder


def _bound(family: int, kind: int, address: Any) -> socket.socket:  # noqa: ANN401 - each family has its own
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that ended a minute ago do not count
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _send(worker: _Worker, message: object) -> None:
    with contextlib.suppress(OSError):  # it is gone; the end of its pipe says so next
        worker.pipe.send(message)


def _how(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"

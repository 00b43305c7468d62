"""Several workers on one port: starts them, replaces those that end or hang, stops all; needs no grpc and no runtime.

The supervisor holds the port bound and does not listen on it, so the kernel gives calls to the workers only, and the
port stays theirs while none of them listens. A stand-by has imported all that a worker needs, two thirds of a second of
a core, and loads nothing: it takes the place of the next worker that ends.
"""

import contextlib
import shutil
import signal
import socket
import ssl
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path

from service import cores, logs, metrics, tls
from service.config import Settings
from service.control import Ask, Failed, Listen, Listening, Loaded, Loading, Pong, Replies, Reply, Start, Stop
from service.errors import Ended, SetupError
from service.places import BEAT, Place, Running, Spawn, cpu_ticks, how, spawn
from service.port import hold
from service.rounds import Round, Rounds
from service.signals import StopSignals
from service.watched import Watch

_FLUSH_SECONDS = 1.0
"""Most that a scrape waits for busy workers; what they have not told by then is a scrape late."""
_END_SECONDS = 5.0
"""Most that all of them may take to end beyond the grace of every step of a drain."""
_STANDBY_PAUSE = 30.0
"""Seconds until a stand-by that ended by itself is followed by another."""


class Supervisor:
    """Keeps `--workers` workers on one port until it is asked to stop.

    Args:
        settings: see service.config.
        folder: an empty folder where the workers keep their metrics.
        spawn: starts a worker's process; a test passes a fake.
        clock: of `time.monotonic`.
        cpu: see `cpu_ticks`.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        spawn: Spawn,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[int], int] = cpu_ticks,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._spawn = spawn
        self._clock = clock
        self._cpu = cpu
        self._places: list[Place] = []
        self._standby: Running | None = None
        self._standby_at = 0.0
        self._rounds = Rounds(self._workers)
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
        self._beat_at = self._started + BEAT
        self._watch = Watch()
        self._certificates = tls.certificates(settings)
        if self._certificates is not None:
            self._watch.add(self._certificates)
        self.stop = StopSignals(last=self._end_at_once)
        self.grpc_port = self.metrics_port = 0
        self.metrics = metrics.Merged(
            folder,
            flush=self.flush,
            processes=lambda: [running.process.pid for running in self._running()],
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
            Place(self._settings.model_copy(update={"grpc_port": grpc_port, "pin": home})) for home in homes
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
        if now >= self._beat_at:
            self._beat_at = now + BEAT
            self._beat()
        due = [self._beat_at, self._stop_by, *(() if self._stopping else self._fill(now))]
        pipes = {running.pipe: running for running in self._running()}
        for ready in wait([*pipes, self._wake_here], max(0.0, min(most, min(due) - now))):
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

    def _fill(self, now: float) -> list[float]:
        """Fill the places that are due, then that of the stand-by; return when others will be."""
        later = []
        for number, place in enumerate(self._places):
            if place.worker is None and place.start_at <= now and not self._stopping:
                self._start(number, place)
            if place.worker is None:
                later.append(place.start_at)
        if self._standby is None and len(self._listening()) == len(self._places):
            if self._standby_at <= now:
                self._start_standby(now)
            if self._standby is None:
                later.append(self._standby_at)
        return later

    def _start_standby(self, now: float) -> None:
        """Start a stand-by; where the system has no process to give, those that serve go on without."""
        try:
            self._standby = Running(*self._spawn(self._folder), self._cpu)
        except OSError as error:
            self._standby_at = now + _STANDBY_PAUSE
            logs.warning("stand-by not started", reason=error.strerror, again_in=_STANDBY_PAUSE)
        else:
            self._standby.beat()

    def _start(self, number: int, place: Place) -> None:
        """Fill a place with the stand-by, else with a new process; where neither can be had, later."""
        if self._standby is not None and self._standby.pipe.poll():
            self._hear(self._standby)  # it may have ended as well
        try:
            worker = self._standby or Running(*self._spawn(self._folder), self._cpu)
        except OSError as error:
            pause = place.ended(self._clock())
            logs.warning("worker not started", worker=number, reason=error.strerror, again_in=pause)
            self._fail(f"worker {number} cannot be started: {error.strerror}")
            return
        self._standby = None
        worker.number, worker.loading, place.worker = number, True, worker
        worker.send(Start(number, place.settings, tuple(sorted(self._rounds.unloaded)), self._folder))

    def _hear(self, worker: Running) -> None:
        """See to what a worker says; the end of its pipe is its own."""
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            self._ended(worker)
            return
        if worker.number is None and not worker.prepared:
            logs.info("stand-by ready", pid=worker.process.pid)
        worker.heard(answer=isinstance(message, Pong))
        match message:
            case Loading(now):
                worker.loading = now
            case Loaded(ready, models):
                worker.loaded, worker.ready, worker.models, worker.loading = True, ready, models, False
                self._let_listen()
            case Listening():
                self._listens(worker)
            case Failed(reason):
                logs.warning("worker failed", worker=worker.number, reason=reason)
                self._fail(reason)
            case Ask(number, question, about):
                self._rounds.put(Round(question, about, lambda replies: worker.send(Replies(number, replies))))
            case Reply():
                self._rounds.reply(worker, message)

    def _beat(self) -> None:
        """Ask all whether they live, and kill those that have not answered for too long: the next steps replace them.

        A worker that hangs keeps its connections, and their calls wait until it is gone.
        """
        for running in self._running():
            running.beat()
            if running.hangs() and not running.hung:
                running.hung = True
                logs.warning("worker hangs", worker=running.number, pid=running.process.pid, silent_for=running.silent)
                self._killed += self._stopping
                running.process.kill()

    def _let_listen(self) -> None:
        """Let those listen that are READY, and others where nobody is: better than nothing, and their health tells."""
        for worker in self._workers():
            better = [each for each in self._workers() if each.told_to_listen and each.ready]
            if worker.loaded and not worker.told_to_listen and (worker.ready or not better):
                worker.told_to_listen = True
                worker.send(Listen())

    def _listens(self, worker: Running) -> None:
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

    def _ended(self, worker: Running) -> None:
        """See to what a worker, or the stand-by, leaves behind, and when its place is taken again."""
        code, now = worker.reap(), self._clock()
        if worker.number is None:
            self._standby, self._standby_at = None, now + _STANDBY_PAUSE
            if not self._stopping:
                logs.warning("stand-by ended", how=how(code), replaced_in=_STANDBY_PAUSE)
            return
        self.metrics.dead(worker.number)
        pause = self._places[worker.number].ended(now)
        self._rounds.gone(worker)
        if self._stopping:
            return
        if not self._served:
            self._fail(f"worker {worker.number} ended while it loaded the models: {how(code)}")
            return
        reason: Ended = "hung" if worker.hung else "crashed" if code else "left"
        self.metrics.restarted(reason)
        logs.warning("worker ended", worker=worker.number, how=how(code), reason=reason, replaced_in=pause)
        self._let_listen()

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
        for running in self._running():
            if running.told_to_listen:
                running.send(Stop(number))
            else:
                running.process.kill()

    def _kill_all(self) -> None:
        for worker in self._workers():
            logs.warning("worker killed", worker=worker.number, reason="it did not end within the grace")
            worker.process.kill()
            self._killed += 1
        self._stop_by = float("inf")

    def _end_at_once(self) -> None:
        """On a second signal: leave nothing behind."""
        for running in self._running():
            running.process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def flush(self) -> None:
        """Ask the workers to bring their metrics up to date; called by the threads that serve the metrics."""
        flushed: Future[dict[int, Reply]] = Future()
        asked = Round("flush", None, flushed.set_result)
        self._inbox.append(partial(self._rounds.put, asked))
        self.wake()
        with contextlib.suppress(NotYet):
            flushed.result(_FLUSH_SECONDS)

    def _running(self) -> list[Running]:
        standby = self._standby  # looked at once, as in `_workers`: a scrape's thread asks while the loop changes it
        return [*self._workers(), *([] if standby is None else [standby])]

    def _workers(self) -> list[Running]:
        return [worker for place in self._places if (worker := place.worker) is not None]

    def _listening(self) -> list[Running]:
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

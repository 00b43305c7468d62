"""The supervisor with workers that the test plays: who may listen, who is replaced and when, what ends it."""

import errno
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import pytest

from service.config import load_settings
from service.control import Ask, Failed, Listen, Listening, Loaded, Loading, Ping, Pong, Replies, Reply, Start, Stop
from service.errors import Ended, SetupError
from service.places import Place, cpu_ticks
from service.port import hold
from service.supervisor import Supervisor
from tests.conftest import Lines
from tests.fakes import WAIT


class FakeWorker:
    """A worker's process, and the worker's end of the pipe, which the test holds."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.answers = self.dies_at_once = True
        self.supervisors, self.pipe = Pipe()
        self._start: Start | None = None
        self._heard: deque[object] = deque()
        self._code: int | None = None

    @property
    def start(self) -> Start:
        """What it was told to serve."""
        self.look()
        assert self._start is not None
        return self._start

    @property
    def stands_by(self) -> bool:
        """Whether it was told nothing to serve."""
        self.look()
        return self._start is None

    def hear(self) -> object:
        """Return the next message."""
        while not self._heard:
            assert self.pipe.poll(WAIT), "nothing was said"
            self.look()
        return self._heard.popleft()

    def look(self) -> None:
        """Hear what there is, and say that it lives where it is asked."""
        while self._code is None and self.pipe.poll():
            message = self.pipe.recv()
            if isinstance(message, Start):
                self._start = message
            elif not isinstance(message, Ping):
                self._heard.append(message)
            elif self.answers:
                self.pipe.send(Pong())

    def hears_nothing(self) -> bool:
        """Return whether nothing was said until now, beyond what it is to serve and whether it lives."""
        self.look()
        return not self._heard

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return self._code is not None

    def end(self, code: int) -> None:
        """End as a process does."""
        self._code = code
        self.pipe.close()

    def kill(self) -> None:
        """Be killed."""
        if self._code is None and self.dies_at_once:
            self.end(-signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code."""
        if self._code is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return self._code


class Played:
    """A supervisor whose loop the test turns, with a clock that the test sets."""

    def __init__(self, folder: Path, *, refused: bool = False, **settings: object) -> None:
        self.now = 0.0
        self.refused = refused
        self.computed = 0
        self.folder = folder
        self.started: list[FakeWorker] = []
        given = load_settings(**{"workers": 2, "pin": "off", "grace": 1.0, "drain_delay": 2.0, **settings})
        self.supervisor = Supervisor(
            given, folder, spawn=self._spawn, clock=lambda: self.now, cpu=lambda _: self.computed
        )
        self.supervisor.begin(8001)
        self.turn()

    def turn(self) -> None:
        """Let the supervisor see to all there is."""
        for _ in range(2 * len(self.started) + 2):
            self.supervisor.step(0)
            for worker in self.started:
                worker.look()

    def beats(self, count: int, *, computing: bool = False) -> None:
        """Let so many seconds pass, in which the workers compute or do not."""
        for _ in range(count):
            self.now += 1.0
            self.computed += computing
            self.turn()

    def listening(self, worker: FakeWorker, *, ready: bool = True) -> FakeWorker:
        """Bring a worker to listen."""
        worker.pipe.send(Loaded(ready, ("linear",)))
        self.turn()
        assert isinstance(worker.hear(), Listen)
        worker.pipe.send(Listening())
        self.turn()
        return worker

    def ended(self, worker: FakeWorker, code: int = -signal.SIGKILL) -> None:
        """Let a worker end."""
        worker.end(code)
        self.turn()

    def _spawn(self, folder: Path) -> tuple[FakeWorker, Connection]:
        assert folder == self.folder
        if self.refused:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        self.started.append(FakeWorker(pid=os.getpid()))
        return self.started[-1], self.started[-1].supervisors


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    """Return a supervisor of two workers that were started."""
    played = Played(tmp_path)
    yield played
    played.supervisor.close()


@pytest.fixture
def serving(played: Played) -> Played:
    """Return a supervisor of two workers that listen for a minute."""
    for worker in played.started[:2]:
        played.listening(worker)
    played.now = 60.0
    return played


def value(played: Played, name: str, **labels: str) -> float | None:
    """Return what the merged metrics say."""
    return played.supervisor.metrics.registry.get_sample_value(name, labels)


def times(lines: Lines, event: str) -> int:
    """Return how often something was logged since this was asked last."""
    return [line["event"] for line in lines()].count(event)


def restarts(played: Played, reason: Ended) -> float | None:
    """Return how many workers were replaced for a reason."""
    return value(played, "saccade_worker_restarts_total", reason=reason)


def test_each_has_its_share(played: Played) -> None:
    """Each worker is told its number, the port that is held, and the core that is its own."""
    assert [worker.start.worker for worker in played.started] == [0, 1]
    assert {worker.start.settings.grpc_port for worker in played.started} == {8001}


def test_listens_when_loaded(played: Played) -> None:
    """A worker is told to listen when it has loaded its models, and not before."""
    first, second = played.started
    assert first.hears_nothing()
    played.listening(first)
    assert second.hears_nothing()


def test_unready_waits_while_another_is_ready(played: Played) -> None:
    """A worker that is not READY takes no calls while one that is does; it does when it becomes so."""
    first, second = played.started
    played.listening(first)
    second.pipe.send(Loaded(ready=False, models=()))
    played.turn()
    assert second.hears_nothing()
    second.pipe.send(Loaded(ready=True, models=("linear",)))
    played.turn()
    assert isinstance(second.hear(), Listen)


def test_unready_are_better_than_none(played: Played) -> None:
    """Where nobody is READY all listen, so that callers hear by health and ListModels what is the matter."""
    for worker in played.started[:2]:
        played.listening(worker, ready=False)


def test_replaced_at_once(serving: Played) -> None:
    """A worker that served for a while and is killed is replaced at once, in its own place."""
    serving.ended(serving.started[1])
    assert [worker.start.worker for worker in serving.started] == [0, 1, 1]
    assert restarts(serving, "crashed") == 1
    assert value(serving, "saccade_workers") == 1


def test_standby(serving: Played) -> None:
    """When all listen there is one process more, which is told nothing until a worker ends; it takes its place."""
    assert len(serving.started) == 3
    standby = serving.started[2]
    assert standby.stands_by
    serving.ended(serving.started[1])
    assert standby.start.worker == 1
    assert len(serving.started) == 3, "the next stand-by waits until all listen"
    serving.listening(standby)
    assert len(serving.started) == 4


def test_standby_ended_first(serving: Played) -> None:
    """A stand-by that has ended is put in nobody's place; another one is started when all listen, but not at once."""
    serving.started[2].end(1)
    serving.ended(serving.started[1])
    serving.listening(serving.started[3])
    assert serving.started[3].start.worker == 1
    assert len(serving.started) == 4
    serving.beats(31)
    assert len(serving.started) == 5
    assert restarts(serving, "crashed") == 1


def test_no_process_for_the_standby(played: Played, lines: Lines) -> None:
    """A stand-by for which the system has no process is tried again after a pause; those that serve go on."""
    first, second = played.started
    played.listening(first)
    played.refused = True
    played.listening(second)
    assert times(lines, "stand-by not started") == 1
    played.refused = False
    played.beats(29)
    assert len(played.started) == 2
    played.beats(2)
    assert [worker.ended for worker in played.started] == [False, False, False]


def test_no_process_for_a_place(serving: Played, lines: Lines) -> None:
    """A place for which the system has no process is tried again, later and later; the other worker goes on."""
    serving.refused = True
    serving.started[1].end(-signal.SIGKILL)
    serving.ended(serving.started[2])
    for pause in (0.5, 1, 2):
        lines()
        serving.now += pause + 0.01
        serving.turn()
        assert times(lines, "worker not started") == 1
    serving.refused = False
    serving.now += 4.01
    serving.turn()
    assert serving.started[3].start.worker == 1
    assert not serving.started[0].ended


def test_no_process_at_first(tmp_path: Path) -> None:
    """Where the system has no process for the first worker, the supervisor ends with that as its reason."""
    played = Played(tmp_path, refused=True)
    with pytest.raises(SetupError, match="worker 0 cannot be started: Resource temporarily unavailable"):
        played.supervisor.end()
    played.supervisor.close()


def test_two_end_at_once(serving: Played) -> None:
    """Of two workers that end at once, the stand-by replaces one and a new process the other."""
    serving.started[0].end(-signal.SIGKILL)
    serving.ended(serving.started[1])
    assert sorted(worker.start.worker for worker in serving.started[2:]) == [0, 1]


def test_hangs(serving: Played) -> None:
    """A worker that does not answer ten questions, one a second, is killed, counted and replaced; nobody else is."""
    first = serving.started[0]
    first.answers = False
    serving.beats(10)
    assert not first.ended
    serving.beats(1)
    assert first.wait() == -signal.SIGKILL
    assert serving.started[2].start.worker == 0
    assert (restarts(serving, "hung"), restarts(serving, "crashed")) == (1, 0)
    serving.beats(60)
    assert [worker.ended for worker in serving.started] == [True, False, False]


def test_late_answer(serving: Played) -> None:
    """A worker that answers late, after a long batch, is left alone, and so is the next silence of as long."""
    first = serving.started[0]
    for _ in range(3):
        first.answers = False
        serving.beats(10)
        first.answers = True
        first.pipe.send(Pong())
        serving.turn()
    assert not first.ended


def test_silent_while_it_loads(serving: Played) -> None:
    """A worker that loads a version has two minutes to answer, and less again when it has loaded it."""
    first = serving.started[0]
    first.answers = False
    first.pipe.send(Loading(now=True))
    serving.beats(60)
    assert not first.ended
    first.pipe.send(Loading(now=False))
    serving.beats(12)
    assert first.ended


def test_computes_while_it_loads(serving: Played) -> None:
    """A worker that computes while it loads may be silent for as long as it does, as the build of an engine takes."""
    first = serving.started[0]
    first.answers = False
    first.pipe.send(Loading(now=True))
    serving.beats(600, computing=True)
    assert not first.ended


def test_computes_no_more(serving: Played) -> None:
    """A worker that computed while it loaded and then stands still has two minutes from then on."""
    first = serving.started[0]
    first.answers = False
    first.pipe.send(Loading(now=True))
    serving.beats(600, computing=True)
    serving.beats(119)
    assert not first.ended
    serving.beats(2)
    assert first.ended


def test_computes_and_loads_nothing(serving: Played) -> None:
    """A worker that is silent and loads nothing hangs, however much it computes."""
    first = serving.started[0]
    first.answers = False
    serving.beats(11, computing=True)
    assert first.ended


def test_cpu_ticks_grow() -> None:
    """The ticks of a process that computes grow."""
    before, begun = cpu_ticks(os.getpid()), time.process_time()
    while time.process_time() - begun < 0.1:
        pass
    assert cpu_ticks(os.getpid()) > before


def test_cpu_ticks_of_nobody() -> None:
    """A process that is gone has no ticks, and asking for them fails nobody."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert cpu_ticks(gone.pid) == 0


def test_silent_from_the_start(played: Played) -> None:
    """A worker that never says anything, as its start takes long, has two minutes."""
    first, second = played.started
    played.listening(second)
    first.answers = False
    played.beats(119)
    assert not first.ended
    played.beats(2)
    assert first.ended


def test_a_pause_of_all_is_no_silence(serving: Played) -> None:
    """After the whole machine stood still for an hour nobody hangs: questions count, not the time."""
    for worker in serving.started:
        worker.answers = False
    serving.beats(1)
    serving.now += 3600.0
    serving.turn()
    assert not any(worker.ended for worker in serving.started)


def test_standby_hangs(serving: Played) -> None:
    """A stand-by that does not answer any more is killed before it is needed."""
    standby = serving.started[2]
    standby.answers = False
    serving.beats(11)
    assert standby.ended
    assert restarts(serving, "hung") == 0
    serving.beats(31)
    assert len(serving.started) == 4


def test_hangs_while_it_drains(serving: Played) -> None:
    """A worker that hangs is killed in a drain too, which does not wait for the whole grace; the exit code says so."""
    first, second = serving.started[:2]
    first.answers = False
    serving.beats(6)
    serving.supervisor.stop.put(signal.SIGTERM)
    serving.supervisor.wake()
    serving.ended(second, 0)
    serving.beats(5)
    assert first.ended
    assert serving.supervisor.end() == 1


def test_closes_its_pipe_and_does_not_end(serving: Played) -> None:
    """A worker whose pipe has ended and whose process has not is killed and replaced."""
    first = serving.started[0]
    first.pipe.close()
    serving.turn()
    assert first.wait() == -signal.SIGKILL
    assert serving.started[2].start.worker == 0


def test_back_off_for_days() -> None:
    """A place whose workers end for days is left alone for 30 s each time, however often that was."""
    place = Place(load_settings())
    assert [place.ended(0.0) for _ in range(1500)][-1] == 30.0


def test_back_off(serving: Played) -> None:
    """A place whose workers end before they serve is left alone for longer and longer, up to 30 s, until one serves."""
    serving.ended(serving.started[0])
    for pause in (0.5, 1, 2, 4, 8, 16, 30, 30):
        before = len(serving.started)
        serving.ended(serving.started[-1])
        serving.now += pause - 0.01
        serving.turn()
        assert len(serving.started) == before
        serving.now += 0.02
        serving.turn()
        assert len(serving.started) == before + 1
    serving.listening(serving.started[-1])
    serving.now += 60
    serving.ended(serving.started[-1])
    assert len(serving.started) == before + 2


def test_the_last_ready_one_ends(serving: Played) -> None:
    """When the READY ones are gone, one that waits because it is not READY may listen."""
    first, second, _ = serving.started
    serving.ended(second)
    third = serving.started[2]
    third.pipe.send(Loaded(ready=False, models=()))
    serving.turn()
    assert third.hears_nothing()
    serving.ended(first)
    assert isinstance(third.hear(), Listen)


@pytest.mark.parametrize("how", ["failed", "ended"])
def test_first_worker_cannot_serve(played: Played, how: str) -> None:
    """What keeps a worker from serving before any has served ends the supervisor, with the reason."""
    first, second = played.started
    if how == "failed":
        first.pipe.send(Failed("--repository nowhere does not exist"))
        played.turn()
    else:
        played.ended(first)
    assert second.wait() == -signal.SIGKILL
    played.turn()
    with pytest.raises(
        SetupError, match="does not exist" if how == "failed" else "ended while it loaded .* by SIGKILL"
    ):
        played.supervisor.end()


@pytest.mark.parametrize(("number", "delay"), [(signal.SIGTERM, 2.0), (signal.SIGINT, 0.0)])
def test_drains_all(serving: Played, number: int, delay: float) -> None:
    """A signal is passed on to those that listen; when all have ended, the exit code is 0."""
    serving.ended(serving.started[1])
    serving.supervisor.stop.put(number)
    serving.supervisor.wake()
    serving.turn()
    assert serving.started[0].hear() == Stop(number)
    assert serving.started[2].wait() == -signal.SIGKILL, "it had no calls yet"
    serving.ended(serving.started[0], 0)
    assert serving.supervisor.end() == 0
    assert len(serving.started) == 3, "nobody is replaced any more"


@pytest.mark.parametrize(("number", "delay"), [(signal.SIGTERM, 2.0), (signal.SIGINT, 0.0)])
def test_kills_who_does_not_end(serving: Played, number: int, delay: float) -> None:
    """A worker that does not end within delay, three graces and a margin is killed, and the exit code says so."""
    serving.supervisor.stop.put(number)
    serving.supervisor.wake()
    serving.turn()
    serving.ended(serving.started[0], 0)
    serving.now += delay + 3 * 1.0 + 4.9
    serving.turn()
    assert not serving.started[1].ended
    serving.now += 0.3
    serving.turn()
    assert serving.started[1].wait() == -signal.SIGKILL
    assert serving.supervisor.end() == 1


def test_killed_once(serving: Played, lines: Lines) -> None:
    """A worker that the system takes its time to kill is killed and counted once."""
    first = serving.started[0]
    first.dies_at_once = False
    serving.supervisor.stop.put(signal.SIGINT)
    serving.supervisor.wake()
    serving.turn()
    serving.ended(serving.started[1], 0)
    serving.now += 3 * 1.0 + 5.1
    serving.turn()
    serving.ended(first)
    assert times(lines, "worker killed") == 1


def test_a_change_reaches_all_and_is_remembered(serving: Played) -> None:
    """A change is put to every worker; who asked hears when all are done; a later worker is told what was unloaded."""
    first, second, _ = serving.started
    first.pipe.send(Ask(7, "unload", "linear"))
    serving.turn()
    asked = [worker.hear() for worker in (first, second)]
    first.pipe.send(Reply(asked[0].number))  # type: ignore[attr-defined]
    serving.turn()
    assert first.hears_nothing()
    second.pipe.send(Reply(asked[1].number))  # type: ignore[attr-defined]
    serving.turn()
    replies = first.hear()
    assert isinstance(replies, Replies)
    assert (replies.number, set(replies.by_worker)) == (7, {0, 1})
    serving.ended(second)
    assert serving.started[2].start.unloaded == ("linear",)


def test_starts_while_a_model_is_unloaded(serving: Played) -> None:
    """A worker that starts while a model is unloaded in the others is told to do without it."""
    first, second, standby = serving.started
    first.pipe.send(Ask(1, "unload", "linear"))
    serving.turn()
    serving.ended(second)
    assert standby.start.unloaded == ("linear",)


def test_starts_while_a_model_is_loaded(serving: Played) -> None:
    """A worker that starts while a model that was unloaded is loaded in the others loads it too."""
    first, second, standby = serving.started
    first.pipe.send(Ask(1, "unload", "linear"))
    serving.turn()
    for worker in (first, second):
        asked = worker.hear()
        assert isinstance(asked, Ask)
        worker.pipe.send(Reply(asked.number))
    first.pipe.send(Ask(2, "load", "linear"))
    serving.turn()
    serving.ended(second)
    assert standby.start.unloaded == ()


def test_changes_take_turns(serving: Played) -> None:
    """Two changes at once are carried out in the same order everywhere, and one whose worker dies ends too."""
    first, second, _ = serving.started
    first.pipe.send(Ask(1, "unload", "linear"))
    serving.turn()
    second.pipe.send(Ask(1, "load", "linear"))
    serving.turn()
    one, _ = first.hear(), second.hear()
    assert isinstance(one, Ask)
    assert first.hears_nothing()
    first.pipe.send(Reply(one.number))
    serving.turn()
    serving.ended(second)
    assert isinstance(first.hear(), Replies)
    two = first.hear()
    assert isinstance(two, Ask)
    assert two.question == "load"


def test_a_scrape_does_not_wait_twice_for_who_hangs(serving: Played) -> None:
    """A worker that does not answer is asked to flush once; scrapes go on without it."""
    first, second, _ = serving.started
    for _ in range(2):
        scrape = threading.Thread(target=serving.supervisor.flush)
        scrape.start()
        while first.hears_nothing():
            serving.supervisor.step(0.01)
        asked = first.hear()
        assert isinstance(asked, Ask)
        first.pipe.send(Reply(asked.number))
        while scrape.is_alive():
            serving.supervisor.step(0.01)
        scrape.join()
    assert isinstance(second.hear(), Ask)
    assert second.hears_nothing()


@pytest.fixture(params=[[], [socket.SO_REUSEADDR], [socket.SO_REUSEADDR, socket.SO_REUSEPORT]])
def other(request: pytest.FixtureRequest) -> Iterator[int]:
    """Return a port on which another program listens, which would share it in some cases."""
    with socket.socket() as other:
        for flag in request.param:
            other.setsockopt(socket.SOL_SOCKET, flag, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_hold_taken(other: int, host: str) -> None:
    """A port on which anybody listens cannot be held, even if both would share it."""
    with pytest.raises(SetupError, match=f"--grpc-port {other} on {host} cannot be had: Address already in use"):
        hold(host, other)


@pytest.mark.parametrize("flags", [[], [socket.SO_REUSEADDR]])
def test_hold_keeps_others_out(flags: list[int]) -> None:
    """A port that is held cannot be listened on by a program that does not share it, and no other can hold it."""
    with hold("127.0.0.1", 0) as held, socket.socket() as other:
        for flag in flags:
            other.setsockopt(socket.SOL_SOCKET, flag, 1)
        with pytest.raises(OSError, match="already in use"):
            other.bind(held.getsockname())
            other.listen()
        with pytest.raises(SetupError, match="cannot be had"):
            hold("127.0.0.1", held.getsockname()[1])


def test_hold_refuses_calls() -> None:
    """A port that is held refuses calls until a worker listens; it goes on to be held when the worker is gone."""
    with hold("127.0.0.1", 0) as held:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(held.getsockname())
            with socket.socket() as worker:
                worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                worker.bind(held.getsockname())
                worker.listen()
                socket.create_connection(held.getsockname()).close()


def test_hold_no_such_address() -> None:
    """An address that is none of this machine's is a SetupError that names it."""
    with pytest.raises(SetupError, match=r"--grpc-port 8001 on 192\.0\.2\.1 cannot be had: Cannot assign"):
        hold("192.0.2.1", 8001)

"""Whole benches of a server that the test controls: what interrupts them, what they see of its metrics."""

import multiprocessing
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.connection import Connection
from service.errors import SaccadeError, SetupError
from service.load import bench, scrape, targets
from service.load.bench import Options, Viewer
from service.load.objective import parse
from service.load.outcome import Outcome, Window
from service.load.processes import Watch
from service.load.report import Report, Row
from service.server import Server
from tests.certificates import Authority
from tests.conftest import StartServer
from tests.fake_server import METHOD, FakeServer

PAGE: scrape.Samples = {("saccade_images_total", ()): 1.0}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """Return a server that answers anything, of whose model nothing is asked."""
    prepared = targets.Prepared(METHOD, (b"",), "unary", "plain", "fake 1", "nothing")
    monkeypatch.setattr(targets, "prepare", lambda *_: prepared)
    with FakeServer() as started:
        yield started


class Bench:
    """Runs benches and keeps their rows and what was noted; `watch` sees how a load goes."""

    def __init__(self, watch: Watch | None = None) -> None:
        self.watch, self.rows, self.notes = watch, list[Row](), list[str]()
        self.row: Callable[[], object] = lambda: None  # what it does after a row

    def run(self, address: str, *, tls_ca: Path | None = None, **given: Any) -> Report:  # noqa: ANN401 - the options' own
        """Run a quick bench with its metrics at an address that the test answers for."""
        quick: dict[str, Any] = {"seconds": 0.3, "warm_up": 0.0, "metrics_url": "http://there"}
        options = Options("saccade", Connection((address,), tls_ca=tls_ca), targets.Ask(), **quick | given)
        return bench.run(options, Viewer(lambda *_: self.watch, self._keep, self.notes.append))

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        self.row()


def looks(monkeypatch: pytest.MonkeyPatch, *answers: scrape.Samples | BaseException) -> None:
    """Let looks at the metrics end so, one after the other."""
    left = list(answers)

    def look(*_: object) -> scrape.Samples:
        answer = left.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(scrape, "look", look)


def test_interrupt_between_loads_keeps_the_rows(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while no load runs ends the bench with the rows there are."""
    looks(monkeypatch, PAGE, PAGE, KeyboardInterrupt())
    assert [row.name for row in Bench().run(fake.address, rates=(20, 30)).rows] == ["20/s"]


def test_interrupt_of_a_look_keeps_the_row(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while a hung server's metrics are waited for ends the bench with the row that was measured already."""
    looks(monkeypatch, PAGE, KeyboardInterrupt())
    assert [row.name for row in Bench().run(fake.address, rates=(20, 30)).rows] == ["20/s"]


def test_interrupt_of_a_warm_up_is_no_row(fake: FakeServer) -> None:
    """Ctrl-C in a warm-up leaves no row, which would miss every objective."""

    def interrupt(_sample: object) -> None:
        raise KeyboardInterrupt

    assert not Bench(interrupt).run(fake.address, rates=(20,), seconds=30.0, warm_up=30.0, metrics_url=None).rows


def test_a_load_process_that_dies_keeps_the_rows(fake: FakeServer) -> None:
    """Rows that were measured before a process of the load died are kept, and the report says what happened."""

    def kill(_sample: object) -> None:
        if quick.rows:
            multiprocessing.active_children()[0].kill()

    quick = Bench(kill)
    found = quick.run(fake.address, rates=(20, 30), seconds=1.5, metrics_url=None)
    assert ([row.name for row in found.rows], found.broken) == (["20/s"], "30/s: a process of the load generator died")


def test_a_load_process_that_dies_at_once(fake: FakeServer) -> None:
    """Where there is no row to keep the bench fails."""

    def kill(_sample: object) -> None:
        multiprocessing.active_children()[0].kill()

    with pytest.raises(SaccadeError, match="a process of the load generator died"):
        Bench(kill).run(fake.address, rates=(20,), seconds=1.5, metrics_url=None)


def test_a_view_that_was_lost_comes_back(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that restarts is looked at again at the next load, and missed in one note."""
    looks(monkeypatch, PAGE, OSError("gone"), OSError("gone"), OSError("gone"), PAGE, PAGE)
    quick = Bench()
    assert [row.server is not None for row in quick.run(fake.address, rates=(20, 20, 20)).rows] == [False, False, True]
    assert len(quick.notes) == 1


def test_no_view_is_looked_for_once(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics that were never there are not looked for again: a silent host costs seconds a look."""
    looks(monkeypatch, OSError("nobody"))
    assert [row.server for row in Bench().run(fake.address, rates=(20, 20)).rows] == [None, None]


def test_search_ends_where_the_server_is_gone(fake: FakeServer) -> None:
    """A search whose server is gone ends at that rate, and says so."""
    fake.stop()
    quick = Bench()
    found = quick.run(fake.address, rates=(20,), objective=parse("p99<1s"), most=100.0, metrics_url=None)
    assert len(found.rows) == 2
    assert "the server was gone" in quick.notes[0]


def test_search_without_a_server_says_why(fake: FakeServer) -> None:
    """A search that cannot even begin says by status what came of its first calls."""
    fake.stop()
    with pytest.raises(SetupError, match=r"calls UNAVAILABLE in second"):
        Bench().run(fake.address, objective=parse("p99<1s"), most=100.0, metrics_url=None)


def test_search_that_ends_at_its_limit(monkeypatch: pytest.MonkeyPatch, fake: FakeServer) -> None:
    """Where no rate misses the objective it is said that the limit, not the server, ended the search."""
    monkeypatch.setattr(bench, "kept_up", lambda *_: True)
    quick = Bench()
    found = quick.run(fake.address, rates=(20,), objective=parse("p99<5s"), most=40.0, metrics_url=None)
    assert found.found == 40
    assert "--max-rate" in quick.notes[-1]


def test_trials_of_a_search_have_arrivals_of_their_own(monkeypatch: pytest.MonkeyPatch, fake: FakeServer) -> None:
    """No two trials have the same random moments, so that a lucky pattern is not lucky again when it is confirmed."""
    monkeypatch.setattr(bench, "kept_up", lambda *_: True)
    rows = Bench().run(fake.address, rates=(20,), objective=parse("p99<5s"), most=40.0, metrics_url=None).rows
    seeds = [row.load.seed for row in rows]
    assert len(set(seeds)) == len(seeds) == 4


def test_a_rate_that_fell_behind_is_missed(monkeypatch: pytest.MonkeyPatch, fake: FakeServer) -> None:
    """A row that the search counts as missed because the server fell behind says so, and is not met."""
    monkeypatch.setattr(bench, "kept_up", lambda _outcome, load: load.rate <= 20)
    rows = Bench().run(fake.address, rates=(20,), objective=parse("p99<5s"), most=21.0, metrics_url=None).rows
    assert {(row.name, row.behind, row.met) for row in rows} >= {("20/s", False, True), ("21/s", True, False)}


@pytest.mark.parametrize(("busy", "said"), [(20.1, True), (20.9, False)])
def test_the_client_is_blamed_for_the_limit_alone(
    monkeypatch: pytest.MonkeyPatch,
    fake: FakeServer,
    busy: float,
    said: bool,  # noqa: FBT001
) -> None:
    """A client that was busy is named where it was so at the lowest rate that missed, and not for any higher one."""
    monkeypatch.setattr(bench, "kept_up", lambda _outcome, load: load.rate <= 20)
    busy_from = property(lambda row: "busy" if row.load.rate >= busy else "")
    monkeypatch.setattr(Row, "client_limits", busy_from)
    quick = Bench()
    found = quick.run(fake.address, rates=(20,), objective=parse("p99<5s"), most=21.0, metrics_url=None)
    assert ("busy" in found.to_json()["max_rate_client_limit"], "busy" in "".join(quick.notes)) == (said, said)


@pytest.mark.parametrize("openly", [False, True])
def test_rounds_differ_by_the_server_not_by_arrivals(openly: bool) -> None:  # noqa: FBT001
    """Rounds of an open loop that were answered whole do not differ, however many calls came; a closed loop's do."""
    rounds = [Outcome(1.0, [Window(array("q", [1000] * calls))], arrived=calls) for calls in (90, 100, 110)]
    assert bench.spread(rounds, openly=openly) == pytest.approx(0 if openly else 0.2)


def test_rounds_beyond_the_limit_differ_by_what_was_answered() -> None:
    """Of an open loop that offers too much the answers a second count: more calls make no more of them."""
    windows = [Window(array("q", [1000] * 50), Counter({"RESOURCE_EXHAUSTED": failed})) for failed in (40, 50, 60)]
    rounds = [Outcome(1.0, [window], arrived=50) for window in windows]
    assert bench.spread(rounds, openly=True) == 0


def test_search_without_a_server_keeps_the_rows(fake: FakeServer) -> None:
    """A search that cannot begin, after loads that were measured, is a note; their rows stay."""
    quick = Bench()
    quick.row = fake.stop
    found = quick.run(fake.address, concurrency=(1,), objective=parse("p99<1s"), most=100.0, metrics_url=None)
    assert (len(found.rows), found.found) == (1, None)
    assert "UNAVAILABLE" in quick.notes[-1]


def test_metrics_over_tls(start_server: StartServer, repository: Path, tmp_path: Path) -> None:
    """The metrics of a server that asks for certificates are read with those of the calls."""
    authority = Authority(tmp_path)
    pair, caller = authority.sign("server"), authority.sign("caller")
    server: Server = start_server(
        repository, tls_certificate=pair.certificate_file, tls_key=pair.key_file, tls_client_ca=authority.file
    )
    connection = Connection(tls_ca=authority.file, tls_certificate=caller.certificate_file, tls_key=caller.key_file)
    page = scrape.look(f"https://localhost:{server.metrics_port}/metrics", scrape.context(connection))
    assert any(name == "saccade_model_ready" for name, _ in page)


def test_metrics_are_looked_for_as_calls_are(fake: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The usual place of a server over TLS is https://, as it has one certificate for both ports."""
    quick = Bench()
    monkeypatch.setattr(bench, "METRICS_PORT", 9)
    quick.run(fake.address, tls_ca=Authority(tmp_path).file, rates=(20,), metrics_url="")
    assert "https://127.0.0.1:9/metrics" in quick.notes[0]

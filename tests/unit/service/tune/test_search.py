"""The search, with settings whose speeds are known: time passes only while one is measured."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.errors import ModelRejected
from service.providers import Provider
from service.tune.running import Running
from service.tune.search import Outcome, Search
from service.tune.settings import MAX_INSTANCES, Kind, Setting, flags, settings, shapes

Speed = Callable[[int], float]
"""Images a second, by batch size."""
BUCKETS = (1, 2, 4, 8, 16, 32, 64)


def kind(provider: Provider = "cpu", options: str = "") -> Kind:
    """Return a way to run a model that is not there."""
    return Kind(Path("model.onnx"), 1, provider, options, "fp32")


def steady(rate: float) -> Speed:
    """Return the speed of a model that batches do not make faster."""
    return lambda _: rate


class World:
    """Settings of known speed on a machine whose clock this is; each look may be off by `noise`."""

    def __init__(self, speeds: dict[Setting, Speed], *, noise: float = 0.0, opening: float = 0.2) -> None:
        self.speeds, self.noise, self.opening = speeds, noise, opening
        self.now = 0.0
        self.spent: Counter[Setting] = Counter()
        self.random = np.random.default_rng(1)
        self.opened: list[Setting] = []
        self.alive: list[Setting] = []

    def clock(self) -> float:
        """Return the seconds that have passed."""
        return self.now

    @contextmanager
    def open(self, setting: Setting) -> Iterator[Running]:
        """Make a setting run."""
        self.now += self.opening
        self.opened.append(setting)
        self.alive.append(setting)
        try:
            yield _Runs(self, setting)
        finally:
            self.alive.remove(setting)

    def search(self, limit: float = 60.0, full: Callable[[Setting], bool] = lambda _: False) -> Outcome:
        """Search among all settings, the first being the default; those for which memory is full do not run."""

        @contextmanager
        def opened(setting: Setting) -> Iterator[Running]:
            if full(setting):
                raise ModelRejected("the GPU has too little memory")
            with self.open(setting) as running:
                yield running

        return Search(opened, self.clock, limit, default_batch=32).run(list(self.speeds))


class _Runs:
    def __init__(self, world: World, setting: Setting) -> None:
        self.world, self.setting = world, setting
        self.buckets: Sequence[int] = BUCKETS

    def rate(self, batch: int, seconds: float) -> float:
        rate = self.world.speeds[self.setting](batch)
        return self._measure(rate, max(seconds, batch / rate))

    def latency(self, seconds: float) -> float:
        alone = self.world.speeds[self.setting](1) / self.setting.instances
        return 1 / self._measure(alone, max(seconds, 1 / alone))

    def _measure(self, rate: float, seconds: float) -> float:
        self.world.now += seconds
        self.world.spent[self.setting] += seconds  # type: ignore[assignment]
        return rate * float(self.world.random.uniform(1 - self.world.noise, 1 + self.world.noise))


DEFAULT, FEWER, MANY = Setting(kind(), 1, 4), Setting(kind(), 1, 2), Setting(kind(), 4, 1)


def test_the_fastest_is_found() -> None:
    """The setting that is twice as fast as the default is chosen for throughput, in spite of noise."""
    world = World({DEFAULT: steady(50), FEWER: steady(40), MANY: steady(100)}, noise=0.05)
    choice = world.search().choice("throughput")
    assert choice.better
    assert choice.best.setting == MANY
    assert choice.gain == pytest.approx(2, rel=0.1)


def test_latency_is_a_goal_of_its_own() -> None:
    """Many instances with a thread each give most pictures a second; who comes alone is answered by all threads."""
    outcome = World({FEWER: steady(60), DEFAULT: steady(90), MANY: steady(120)}).search()
    assert outcome.choice("throughput").best.setting == MANY
    assert outcome.choice("latency").best.setting == DEFAULT


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_gain(seed: int) -> None:
    """Among equals that each look shows 15 % apart the default is best."""
    equals = [DEFAULT, FEWER, *(Setting(kind("openvino", f"streams={number}"), 1, 4) for number in range(1, 9))]
    world = World(dict.fromkeys(equals, steady(80)), noise=0.15)
    world.random = np.random.default_rng(seed)
    outcome = world.search()
    assert outcome.choice("throughput").best.setting == DEFAULT
    assert not outcome.choice("throughput").better


def test_a_small_gain_is_none() -> None:
    """2 % more are not worth a setting, however sure they are."""
    outcome = World({DEFAULT: steady(100), FEWER: steady(102)}).search()
    assert not outcome.choice("throughput").better


def test_the_slow_ones_are_dropped_early() -> None:
    """Of sixteen settings the eight slow ones are looked at once, the best ones again and longer."""
    slow = [Setting(kind("openvino", f"streams={number}"), 1, 4) for number in range(1, 9)]
    fast = [Setting(kind("openvino", f"threads={number}"), 1, 4) for number in range(1, 8)]
    speeds = {DEFAULT: steady(100), **{each: steady(20) for each in slow}}
    world = World(speeds | {each: steady(110 + number) for number, each in enumerate(fast)}, noise=0.01)
    outcome = world.search(120)
    looks = {each.setting: each.looks for each in outcome.measured}
    assert {looks[each] for each in slow} == {1}
    assert looks[fast[-1]] > 2
    assert outcome.choice("throughput").best.setting in fast[-3:]
    assert max(world.spent[each] for each in slow) < world.spent[fast[-1]]


@pytest.mark.parametrize("limit", [5.0, 20.0, 60.0])
def test_the_limit_holds(limit: float) -> None:
    """A slow model with many settings takes the limit and at most what had begun, and says what was not seen."""
    slow = [DEFAULT, *(Setting(kind("openvino", f"streams={number}"), 1, 4) for number in range(1, 30))]
    world = World(dict.fromkeys(slow, steady(40)), opening=0.5)
    outcome = world.search(limit)
    once = 1.0 + sum(BUCKETS) / 40  # opened, and a batch of each size
    assert world.now <= limit + once
    assert len(outcome.measured) + outcome.unseen == 30
    assert outcome.measured[0].setting == DEFAULT


def test_too_few_rounds_change_nothing() -> None:
    """Without the time for five rounds beside the default nothing is better than it."""
    world = World({DEFAULT: steady(1), MANY: steady(2)}, opening=0)
    outcome = world.search(20)
    assert outcome.tried["throughput"].best.setting == MANY
    assert not outcome.choice("throughput").better


def test_the_smallest_batch_that_is_fast_enough() -> None:
    """A larger batch is taken only for what it brings: of 8, 16 and 32 with 3 % between them the 8."""
    rates = {1: 100, 2: 150, 4: 180, 8: 198, 16: 200, 32: 201, 64: 201}
    outcome = World({DEFAULT: steady(90), FEWER: lambda batch: rates[batch]}).search()
    assert outcome.choice("throughput").batch == 8


def test_batches_that_bring_nothing_are_not_tried() -> None:
    """Two doublings that bring nothing end the look: a ResNet on a CPU is not run 64 at a time."""
    outcome = World({DEFAULT: steady(30), FEWER: steady(20)}).search()
    assert set(outcome.measured[0].rates) <= {1, 2, 4}


def test_the_default_with_another_batch() -> None:
    """The default's own sessions with another largest batch are a gain too."""
    outcome = World({DEFAULT: lambda batch: 100 if batch <= 8 else 50, FEWER: steady(40)}).search()
    choice = outcome.choice("throughput")
    assert (choice.best.setting, choice.better) == (DEFAULT, True)
    assert choice.batch <= 8


def test_as_good_with_fewer_instances() -> None:
    """Of settings that are about as good the one with fewer instances is taken: each holds its own weights."""
    world = World({Setting(kind(), 1, 8): steady(50), MANY: steady(101), Setting(kind(), 2, 2): steady(100)})
    assert world.search().choice("throughput").best.setting.instances == 2


def test_what_cannot_run_is_a_row() -> None:
    """A setting that does not run, for want of memory for example, is said to, and the others are measured."""
    world = World({DEFAULT: steady(50), MANY: steady(100), FEWER: steady(80)})
    outcome = world.search(full=lambda setting: setting == MANY)
    assert {each.setting: each.failed for each in outcome.measured}[MANY] == "the GPU has too little memory"
    assert outcome.choice("throughput").best.setting == FEWER


def test_what_fails_while_it_is_measured_is_a_row() -> None:
    """A setting that fails beside the default is said to, and the default is kept for both goals."""
    world = World({DEFAULT: steady(50), MANY: steady(100)})
    outcome = world.search(full=lambda _: bool(world.alive))
    assert outcome.measured[1].failed == "beside the default: the GPU has too little memory"
    assert not outcome.choice("throughput").better
    assert not outcome.decided("throughput")


def test_the_default_is_opened_once() -> None:
    """The default with another batch is measured in the default's own sessions: two may not fit."""
    world = World({DEFAULT: lambda batch: 100 if batch <= 8 else 50})
    assert world.search(full=lambda _: bool(world.alive)).choice("throughput").better


def test_a_default_that_fails_later_is_not_lost() -> None:
    """A default that does not run a second time with another batch is still the default of the next goal."""
    world = World({DEFAULT: lambda batch: 100 if batch <= 8 else 50})
    outcome = world.search(full=lambda _: bool(world.opened))
    assert outcome.choice("latency").best.setting == DEFAULT
    assert not outcome.measured[0].failed


@pytest.mark.parametrize(("limit", "decided"), [(60.0, True), (2.0, False)])
def test_the_default_is_best_only_where_all_were_seen(limit: float, decided: bool) -> None:  # noqa: FBT001 - a case
    """Where there was time for the default alone nothing says that it is best."""
    outcome = World({DEFAULT: steady(100), FEWER: steady(50)}, opening=1.5).search(limit)
    assert bool(outcome.unseen) is not decided
    assert outcome.decided("latency") is decided


def test_a_fixed_batch_is_the_default_one() -> None:
    """A model whose batch is fixed above the server's largest runs that batch by default."""
    world = World({DEFAULT: steady(100)})

    @contextmanager
    def fixed(setting: Setting) -> Iterator[Running]:
        running = _Runs(world, setting)
        running.buckets = (64,)
        yield running

    assert Search(fixed, world.clock, 60, default_batch=32).run([DEFAULT]).default.batch == 64


def test_a_default_that_cannot_run() -> None:
    """Without the default there is nothing to compare with: the reason is the error."""

    def failing(setting: Setting) -> AbstractContextManager[Running]:
        raise ModelRejected("no memory")

    with pytest.raises(ModelRejected, match=r"cpu, fp32, 1 x 4 threads: no memory"):
        Search(failing, lambda: 0.0, 60, default_batch=32).run([DEFAULT])


def test_every_core_is_used() -> None:
    """On a CPU instances times threads are the cores, or one instance has fewer threads; the default comes first."""
    found = shapes("cpu", 8, 1000)
    assert found[0] == (1, 8)
    assert sorted(found) == [(1, 1), (1, 2), (1, 4), (1, 8), (2, 4), (4, 2), (8, 1)]
    assert shapes("cpu", 1, 1000) == [(1, 1)]
    assert sorted(shapes("cpu", 6, 1000)) == [(1, 1), (1, 2), (1, 4), (1, 6), (3, 2), (6, 1)]


def test_the_default_is_that_of_the_server() -> None:
    """The server gives a fast model a thread less than there are cores: that is the default, and tried once."""
    fast = replace(kind("cpu"), threads=3)
    found = settings([fast], 4, 1000)
    assert [str(each) for each in found[:2]] == ["cpu, fp32, 1 x 3 threads", "cpu, fp32, 1 x 4 threads"]
    assert len(found) == len(shapes("cpu", 4, 1000)) + 1
    assert settings([replace(fast, threads=4)], 4, 1000)[0] == Setting(replace(fast, threads=4), 1, 4)
    assert len(settings([replace(fast, threads=2)], 4, 1000)) == len(shapes("cpu", 4, 1000))


def test_instances_are_bounded() -> None:
    """A large model on many cores gets no more instances than 4 GiB of weights, a small one 16."""
    assert max(instances for instances, _ in shapes("cpu", 64, 1 << 30)) == 4
    assert max(instances for instances, _ in shapes("cpu", 64, 1000)) == MAX_INSTANCES


def test_flags_are_those_of_serve() -> None:
    """What is printed is what a shell takes, options with spaces in quotes; a precision without verdict says so."""
    found = settings([kind("openvino", "streams=2 precision=fp32")], 2, 1000)[1]
    assert flags(found, 16) == (
        "--provider openvino --provider-options 'streams=2 precision=fp32' --instances 1 --intra-op-threads 1 "
        "--max-batch-size 16"
    )
    doubted = Kind(Path("model.onnx"), 1, "openvino", "precision=bf16", "bf16", unverified=True)
    assert flags(Setting(doubted, 1, 2), 4).endswith("--max-batch-size 4 --allow-unverified")

import pytest

from service.costs import Costs

NOW = 1000.0
SECONDS = {4: 80.0, 1: 20.0, 2: 30.0}  # not in order on purpose


def predict(count: int, *, ahead: int = 0, running: float = 0.0, instances: int = 1, prepare: float = 0.0) -> float:
    """Return the prediction of costs that have learned nothing."""
    return Costs(SECONDS).predict(count, NOW, ahead=ahead, running=running, instances=instances, prepare=prepare)


@pytest.mark.parametrize(("size", "seconds"), [(0, 20), (1, 20), (2, 30), (3, 80), (4, 80)])
def test_cost_is_that_of_the_bucket(size: int, seconds: float) -> None:
    """A batch costs what the smallest bucket that holds it costs."""
    assert Costs(SECONDS).of(size, NOW) == seconds


def test_largest_bucket_is_the_largest_batch() -> None:
    """The largest batch is the largest bucket, in whatever order they are given."""
    assert Costs(SECONDS).max_batch_size == 4


@pytest.mark.parametrize(("seconds", "cost"), [(130.0, 90.0), (50.0, 74.0), (80.0, 80.0)])
def test_learning(seconds: float, cost: float) -> None:
    """What a batch took moves the cost of its bucket by a fifth of the difference, and no other bucket's."""
    costs = Costs(SECONDS)
    costs.learn(3, seconds, NOW)
    assert [costs.of(size, NOW) for size in (1, 2, 3, 4)] == pytest.approx([20, 30, cost, cost])


def test_a_disturbed_warm_up() -> None:
    """A batch that takes less than half of its bucket at warm-up halves the rest of what is known, for good."""
    costs = Costs(SECONDS)
    costs.learn(4, 15.0, NOW)
    assert costs.of(4, NOW) == pytest.approx(30 + 0.2 * (15 - 30))
    assert costs.of(4, NOW + 60) == 30
    assert costs.of(2, NOW) == 30


def test_a_disturbance_that_fades() -> None:
    """Whatever was learned before, a cost never falls below what batches took: it is not counted off twice."""
    costs = Costs({1: 80.0})
    for seconds in (38.0, 34.0, 30.0, 26.0, 22.0, 18.0, 15.0):
        costs.learn(1, seconds, NOW)
        assert costs.of(1, NOW) >= seconds


def test_learning_leaves_what_was_given() -> None:
    """What is learned stays here: the seconds that were given are not changed."""
    given = dict(SECONDS)
    Costs(given).learn(1, 500.0, NOW)
    assert given == SECONDS


@pytest.mark.parametrize(("count", "seconds"), [(1, 20), (2, 30), (3, 80), (4, 80), (5, 80 + 20), (9, 80 + 80 + 20)])
def test_own_batches(count: int, seconds: float) -> None:
    """A request takes what its batches take one after the other, each by its bucket."""
    assert predict(count) == seconds


@pytest.mark.parametrize(
    ("ahead", "count", "seconds"),
    [
        (1, 1, 30),  # shares a batch
        (3, 1, 80),
        (4, 1, 80 + 20),
        (3, 2, 80 + 20),  # only its first shares it
        (9, 3, 160 + 80),
    ],
)
def test_items_ahead(ahead: int, count: int, seconds: float) -> None:
    """Items that wait before a request fill batches, and share the last of them with it."""
    assert predict(count, ahead=ahead) == seconds


def test_running_batch() -> None:
    """What is left of the batch that runs comes first."""
    assert predict(1, ahead=4, running=7.0) == 7 + 80 + 20


@pytest.mark.parametrize(
    ("instances", "ahead", "seconds"),
    [(2, 3, 80), (2, 4, 20), (2, 7, 80), (2, 8, 80 + 20), (2, 15, 80 + 80), (3, 8, 20), (3, 12, 80 + 20)],
)
def test_instances_run_side_by_side(instances: int, ahead: int, seconds: float) -> None:
    """Batches ahead are shared by the instances: a batch waits only for those that its instance runs before it."""
    assert predict(1, ahead=ahead, instances=instances) == seconds


@pytest.mark.parametrize(
    ("running", "ahead", "prepare", "seconds"),
    [(0, 0, 5, 5 + 20), (50, 0, 5, 50 + 20), (50, 0, 60, 60 + 20), (10, 8, 100, 170 + 20), (10, 8, 200, 200 + 20)],
)
def test_preparing(running: float, ahead: int, prepare: float, seconds: float) -> None:
    """While a request's items are made ready what waits before it runs: whichever takes longer counts."""
    assert predict(1, ahead=ahead, running=running, prepare=prepare) == seconds


@pytest.mark.parametrize(("count", "seconds"), [(5, 80), (8, 80), (9, 80 + 20), (12, 160)])
def test_large_request_on_two_instances(count: int, seconds: float) -> None:
    """A request that fills batches for two instances takes as long as the slower of them."""
    assert predict(count, instances=2) == seconds


@pytest.mark.parametrize(("count", "seconds"), [(5, 100 + 80 + 20), (8, 100 + 80 + 80)])
def test_large_request_that_is_prepared(count: int, seconds: float) -> None:
    """None of a request's own batches runs before its items are ready."""
    assert predict(count, prepare=100.0) == seconds


def test_a_slow_batch_is_forgotten() -> None:
    """A bucket that did not run for five seconds costs what it did at warm-up, and less and less more until then."""
    costs = Costs(SECONDS)
    costs.learn(1, 120.0, NOW)
    assert [costs.of(1, NOW + after) for after in (0.0, 2.5, 5.0, 60.0)] == pytest.approx([40, 30, 20, 20])


def test_learning_goes_on_from_what_is_remembered() -> None:
    """What is learned after a while is added to what is left of the old, not to all of it."""
    costs = Costs(SECONDS)
    costs.learn(1, 120.0, NOW)
    costs.learn(1, 30.0, NOW + 2.5)
    assert costs.of(1, NOW + 2.5) == pytest.approx(30)


def test_others_join_the_last_batch() -> None:
    """The last batch of a request is predicted to be as large as batches usually are, if that is more."""
    predicted = [Costs(SECONDS).predict(count, NOW, usual=usual) for count, usual in ((1, 2), (1, 4), (3, 2), (5, 2))]
    assert predicted == [30, 80, 80, 80 + 30]


@pytest.mark.parametrize(("within", "largest"), [(19.0, 1), (20.0, 1), (30.0, 2), (59.0, 2), (60.0, 4), (80.0, 4)])
def test_largest_within(within: float, largest: int) -> None:
    """The largest bucket within some seconds; one that never ran costs two of the one below at most."""
    assert Costs(SECONDS).largest_within(within, NOW) == largest


def test_largest_within_follows_what_is_learned() -> None:
    """A bucket that takes less now than at warm-up counts by that, and so does the next larger one, as two of it."""
    costs = Costs({1: 3.0, 2: 9.0})
    assert costs.largest_within(2.0, NOW) == 1
    for _ in range(40):
        costs.learn(1, 1.0, NOW)
    assert costs.largest_within(2.1, NOW) == 2
    assert costs.largest_within(2.1, NOW + 60.0) == 1


def test_largest_within_on_a_busy_machine() -> None:
    """Where every batch takes longer than at warm-up, as large ones are made as before."""
    costs = Costs({1: 1.0, 2: 2.0})
    for size in (1, 2) * 40:
        costs.learn(size, 9.0, NOW)
    assert costs.largest_within(2.0, NOW) == 2

"""What the supervisor keeps of the models that callers had unloaded."""

from typing import Any, cast

import pytest

from service.control import Ask, Reply
from service.errors import Unavailable, UnknownModel
from service.places import Running
from service.rounds import Round, Rounds


class Told:
    """A worker that takes calls, and what it was asked."""

    def __init__(self, number: int) -> None:
        self.number, self.told_to_listen = number, True
        self.asked: list[Ask] = []

    def send(self, message: Ask) -> None:
        """Take a question."""
        self.asked.append(message)


@pytest.fixture
def workers() -> list[Told]:
    """Return two workers."""
    return [Told(0), Told(1)]


@pytest.fixture
def rounds(workers: list[Told]) -> Rounds:
    """Return the questions to them."""
    return Rounds(lambda: [cast("Running", worker) for worker in workers])


def change(rounds: Rounds, workers: list[Told], question: Any, *errors: Any) -> None:  # noqa: ANN401 - as a Reply has it
    """Have a model loaded or unloaded; each worker says what came of it."""
    rounds.put(Round(question, "a", lambda _: None))
    for worker, error in zip(workers, errors, strict=True):
        rounds.reply(cast("Running", worker), Reply(worker.asked[-1].number, error=error))


def test_an_unloaded_model_stays_so(rounds: Rounds, workers: list[Told]) -> None:
    """Who starts later is not to serve what was unloaded, until it is loaded again."""
    change(rounds, workers, "unload", None, None)
    assert rounds.unloaded == {"a"}
    change(rounds, workers, "load", None, Unavailable("failed"))
    assert rounds.unloaded == set()


def test_nobody_knows_the_model(rounds: Rounds, workers: list[Told]) -> None:
    """What no worker did, since none knows the model, is not done by who starts later."""
    change(rounds, workers, "unload", UnknownModel("no model"), UnknownModel("no model"))
    assert rounds.unloaded == set()
    change(rounds, workers, "unload", None, UnknownModel("no model"))
    assert rounds.unloaded == {"a"}
    change(rounds, workers, "load", UnknownModel("no version"), UnknownModel("no version"))
    assert rounds.unloaded == {"a"}


def test_who_starts_meanwhile_is_told(rounds: Rounds) -> None:
    """While it is under way an unloading counts already."""
    rounds.put(Round("unload", "a", lambda _: None))
    assert rounds.unloaded == {"a"}

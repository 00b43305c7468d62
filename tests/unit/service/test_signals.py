"""What a process does on a signal, at the worst moment for one."""

import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from service.signals import StopSignals

NUMBER = signal.SIGUSR1


@pytest.fixture
def stop() -> Iterator[StopSignals]:
    """Return StopSignals of a signal that nobody else uses."""
    before = signal.getsignal(NUMBER)
    stop = StopSignals([NUMBER])
    stop.listen()
    yield stop
    signal.signal(NUMBER, before)


@pytest.mark.parametrize("moment", ["call", "line"])
def test_signal_while_about_to_wait(stop: StopSignals, moment: str) -> None:
    """A signal that comes within `wait`, before it waits, is returned."""
    sent = 0

    def trace(_frame: FrameType, event: str, _value: object) -> Any:  # noqa: ANN401 - itself
        nonlocal sent
        if event == moment and not sent:
            sent += 1
            signal.raise_signal(NUMBER)
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        assert stop.wait() == NUMBER
    finally:
        sys.settrace(previous)
    assert sent == 1


def test_second_signal_has_its_default_action(stop: StopSignals) -> None:
    """After the first signal the next one does what it does in any program."""
    signal.raise_signal(NUMBER)
    assert stop.wait() == NUMBER
    assert signal.getsignal(NUMBER) is signal.SIG_DFL


def test_first_signal_is_told(stop: StopSignals) -> None:
    """The first signal tells at once, whatever the process is busy with."""
    told: list[int] = []
    stop.first = lambda: told.append(NUMBER)
    signal.raise_signal(NUMBER)
    assert told == [NUMBER]
    assert stop.wait() == NUMBER

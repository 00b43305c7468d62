"""One worker as a process of its own; the test is its supervisor, and sends and reads in the order that it likes."""

import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from service.config import Settings
from service.control import Ask, Loaded, Replies, Reply, Start
from service.places import spawn
from tests.fakes import WAIT
from tests.onnx_models import write_model

pytestmark = pytest.mark.timeout(300)  # a process that starts, on a machine that may be busy

MANY = [("linear", 2)] * 3000
"""What was counted of so many versions is 534 kB; the pipe holds 200."""


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Connection]:
    """Return the supervisor's end of the pipe to a worker that has loaded its model."""
    write_model(tmp_path / "models/linear/1")
    (folder := tmp_path / "metrics").mkdir()
    process, pipe = spawn(folder)
    pipe.send(Start(0, Settings(repository=tmp_path / "models"), (), folder))
    while not isinstance(pipe.recv(), Loaded):
        pass
    yield pipe
    process.kill()
    process.wait()
    pipe.close()


def test_a_worker_hears_while_its_answer_waits(pipe: Connection) -> None:
    """A worker whose answer waits for room in the pipe goes on hearing: a supervisor sends before it reads."""
    for number in (1, 2):
        pipe.send(Ask(number, "counts", MANY))
    told = Replies(0, {0: Reply(1, bytes(300_000))})
    sending = threading.Thread(target=pipe.send, args=(told,), daemon=True)
    sending.start()
    sending.join(WAIT)
    assert not sending.is_alive(), "the worker hears nothing"
    answers: list[tuple[int, int]] = []
    while len(answers) < 2 and pipe.poll(WAIT):
        if isinstance(message := pipe.recv(), Reply):
            answers.append((message.number, len(message.value)))
    assert answers == [(1, len(MANY)), (2, len(MANY))]

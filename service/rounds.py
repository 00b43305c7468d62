"""Questions to all workers at once, and what they answer; changes of the repository take turns."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from service.control import CHANGES, Ask, Question, Reply
from service.errors import UnknownModel
from service.places import Running


@dataclass(eq=False)
class Round:
    """One question to all workers that take calls; `done` is called with what each said, by its number.

    `undo` takes back what was noted when it was asked.
    """

    question: Question
    about: object
    done: Callable[[dict[int, Reply]], None]
    number: int = 0
    undo: Callable[[], None] = lambda: None
    waiting: set[Running] = field(default_factory=set)
    replies: dict[int, Reply] = field(default_factory=dict)


class Rounds:
    """The questions that are under way; used by the supervisor's own thread only.

    Args:
        workers: returns those that run now.

    Attributes:
        unloaded: models that callers had unloaded, or now unload.
    """

    def __init__(self, workers: Callable[[], list[Running]]) -> None:
        self._workers = workers
        self._under_way: dict[int, Round] = {}
        self._changes: deque[Round] = deque()  # one at a time, the first is under way
        self._asked = 0
        self.unloaded: set[str] = set()

    def put(self, asked: Round) -> None:
        """Ask all workers that take calls; changes of the repository wait for each other."""
        if asked.question in CHANGES:
            self._changes.append(asked)
            if self._changes[0] is not asked:
                return
        self._ask(asked)

    def reply(self, worker: Running, reply: Reply) -> None:
        """Take an answer."""
        asked = self._under_way.get(reply.number)
        if asked is not None and worker in asked.waiting and worker.number is not None:
            asked.waiting.remove(worker)
            asked.replies[worker.number] = reply
            self._close(asked)

    def gone(self, worker: Running) -> None:
        """Wait no more for one that has ended."""
        for asked in list(self._under_way.values()):
            asked.waiting.discard(worker)
            self._close(asked)

    def _ask(self, asked: Round) -> None:
        self._asked += 1
        asked.number = self._asked
        asked.waiting = {worker for worker in self._workers() if worker.told_to_listen}
        if asked.question == "flush":  # a worker that hangs gets one such question, and keeps nobody waiting again
            asked.waiting -= {
                each for other in self._under_way.values() if other.question == "flush" for each in other.waiting
            }
        self._under_way[asked.number] = asked
        if asked.question in CHANGES:  # now: who starts while it is under way is told by this, and not asked
            asked.undo = self._note(str(asked.about), unloaded=asked.question == "unload")
        # Those that still load hear of a change too, before they listen; nobody waits for them.
        for worker in self._workers() if asked.question in CHANGES else list(asked.waiting):
            worker.send(Ask(asked.number, asked.question, asked.about))
        self._close(asked)

    def _note(self, model: str, *, unloaded: bool) -> Callable[[], None]:
        """Note that a model is unloaded, or is not any more; return what takes that back."""
        before = model in self.unloaded
        change = {True: self.unloaded.add, False: self.unloaded.discard}
        change[unloaded](model)
        return lambda: change[before](model)

    def _close(self, asked: Round) -> None:
        """Tell who asked, once everybody has answered."""
        if asked.waiting or self._under_way.pop(asked.number, None) is None:
            return
        if asked.replies and all(isinstance(reply.error, UnknownModel) for reply in asked.replies.values()):
            asked.undo()  # nobody knows the model, so that nothing changed: neither may it for who starts later
        asked.done(asked.replies)
        if self._changes and self._changes[0] is asked:
            self._changes.popleft()
            if self._changes:
                self._ask(self._changes[0])

"""Models that a repository can load without a file, and what loads them."""

from collections.abc import Callable
from pathlib import Path
from typing import cast

from service.errors import ModelRejected
from service.model import Facts, Model

REJECTED = ModelRejected("cpu: self-test: golden sample 0 is wrong")


class FakeModel:
    """A model as the repository uses it."""

    def __init__(self, name: str, version: int, *, verified: bool) -> None:
        self.facts = Facts(name, version, "cpu", "fp32", verified, "abc")
        self.drained: list[float] = []
        self.drain: Callable[[float], None] = self.drained.append
        self.most_calls = 1


class Loads:
    """Loads fakes, where it is not told to fail, and records what it was asked for."""

    def __init__(self, *failing: str, error: Exception = REJECTED, verified: bool = True) -> None:
        self.failing, self.error, self.verified = failing, error, verified
        self.asked: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None  # called while a version is loaded

    def __call__(self, path: Path, name: str, version: int) -> Model:
        """Return a fake model, or fail."""
        assert path.parts[-3:] == (name, str(version), "model.onnx")
        self.asked.append(f"{name}/{version}")
        self.meanwhile()
        if self.asked[-1] in self.failing:
            raise self.error
        return cast("Model", FakeModel(name, version, verified=self.verified))

"""`saccade serve` with metrics that record nothing of a call: the difference is what metrics cost.

python -m tests.benchmarks.unmetered serve [the flags of `saccade serve`]
"""

from typing import Any

import service.server
from service import cli
from service.metrics import Metrics, VersionMetrics


class Unmetered(Metrics):
    """Metrics that drop what concerns a call."""

    def call(self, *_: object, **__: object) -> None:
        """Drop it."""

    def version(self, *given: Any, **named: Any) -> VersionMetrics:  # noqa: ANN401 - as the base has it
        """Return a version's metrics that drop batches and answers."""
        metrics = super().version(*given, **named)
        metrics.batch = lambda *_: None  # type: ignore[method-assign]
        metrics.answer = lambda **_: None  # type: ignore[method-assign]
        return metrics


if __name__ == "__main__":
    setattr(service.server, "Metrics", Unmetered)  # noqa: B010 - another module's import, on purpose
    cli.main()

"""What metrics cost a call: everything that one Classify records, against the bare loop in the same run.

python -m tests.benchmarks.metrics_cost
"""

import sys

from service.metrics import Metrics
from service.model import Facts
from tests.benchmarks.machine import fastest

CALLS = 20_000
ROUNDS = 7


def record_seconds() -> float:
    """Return the seconds that it takes to record one Classify of one picture."""
    metrics = Metrics()
    facts = Facts("lenet5", 1, "cpu", "fp32", verified=True, sha256="")
    version = metrics.version(facts, [str(digit) for digit in range(10)], lambda: 0)

    def record() -> None:
        version.batch(1, 0.001)
        version.answer(decode=0.0001, queue=0.0001, inference=0.0003, classes=[3], confidences=[0.99])
        metrics.call("lenet5", "Classify", "OK", 0.001)

    return (fastest(record, ROUNDS, CALLS) - fastest(lambda: None, ROUNDS, CALLS)) / 1e6


if __name__ == "__main__":
    sys.stdout.write(f"metrics: {record_seconds() * 1e6:.1f} us a call of one picture (goal: at most 5)\n")

"""Seconds from the start of the process to READY, and memory after some calls.

python -m tests.benchmarks.cold_start [REPOSITORY]
"""

import statistics
import sys
from pathlib import Path

import numpy as np
import psutil

from service.client import Client
from tests.processes import ServerProcess

ROUNDS = 5
CALLS = 269


def main() -> None:
    """Print the median and the range over some rounds."""
    repository = Path(sys.argv[1] if len(sys.argv) > 1 else "models")
    seconds, megabytes = [], []
    for _ in range(ROUNDS):
        with ServerProcess(repository) as server, Client(server.address) as client:
            picture = np.zeros((28, 28), np.uint8)
            for _ in range(CALLS):
                client.classify(picture)
            seconds.append(server.seconds_to_ready)
            megabytes.append(psutil.Process(server.process.pid).memory_info().rss / 1e6)
    sys.stdout.write(
        f"READY after {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f}); "
        f"{statistics.median(megabytes):.0f} MB resident after {CALLS} calls; {ROUNDS} rounds\n"
    )


if __name__ == "__main__":
    main()

"""`saccade bench` as a caller beside the others: its calls come when they are due, and it repeats none of them."""

import csv
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_LONGEST = 24 * 3600
"""Seconds; Ctrl-C ends it when everything is over."""
_WAIT = 60.0


@dataclass(frozen=True)
class Measured:
    """What it measured.

    Attributes:
        calls: that were sent.
        failed: of them.
        table: as people see it.
    """

    calls: int
    failed: int
    table: str


class Bench:
    """One `saccade bench` that runs until it is stopped.

    Args:
        port: of this machine, behind which TLS is spoken.
        ca: PEM of who signed the certificate there.
        rate: calls a second.
        folder: for its files.
    """

    def __init__(self, port: int, *, ca: Path, rate: float, folder: Path) -> None:
        self._csv = folder / "bench.csv"
        command = [sys.executable, "-m", "service.cli", "bench", f"saccade://localhost:{port}", "--tls-ca", str(ca)]
        command += ["--rate", str(rate), "--warm-up", "0", "--duration", str(_LONGEST)]
        command += ["--metrics-url", "off", "--csv", str(self._csv)]
        # A process that was started in the background ignores Ctrl-C, and hands that on.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def runs(self) -> bool:
        """Return True.

        Raises:
            RuntimeError: it ended, which it should not by itself; says what it printed.
        """
        if self._process.poll() is not None:
            raise RuntimeError(self._ended(self._process.communicate()[0]))
        return True

    def stop(self) -> Measured:
        """End it as Ctrl-C does; return what it measured.

        Raises:
            RuntimeError: it ended before, or measured nothing.
        """
        self._process.send_signal(signal.SIGINT)
        table, _ = self._process.communicate(timeout=_WAIT)
        if self._process.returncode != 0 or not self._csv.exists():
            raise RuntimeError(self._ended(table))
        with self._csv.open(newline="") as file:
            (row,) = csv.DictReader(file)
        return Measured(int(row["calls"]), int(row["errors"]), table)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self._process.kill()
        self._process.communicate(timeout=_WAIT)

    def _ended(self, printed: str) -> str:
        return f"saccade bench ended with {self._process.returncode}:\n{printed}"

"""Replicas as Kubernetes runs them: one is started, awaited and added before an old one is told to leave."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Queue
from typing import Any

from balancer import Balancer

_WAIT = 60.0


class Replica:
    """One `saccade serve` on free ports of this machine.

    Args:
        flags: beside those of the ports and the log.
        log: file that its log goes to.

    Raises:
        RuntimeError: it ended before it was ready.
    """

    def __init__(self, flags: Sequence[str], log: Path) -> None:
        command = [sys.executable, "-m", "service.cli", "serve", "--host", "127.0.0.1", "--grpc-port", "0"]
        command += ["--metrics-port", "0", "--log-format", "json", *flags]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._ready: Queue[dict[str, Any] | None] = Queue()
        self._reader = threading.Thread(target=self._read, args=(log,), daemon=True)
        self._reader.start()
        ready = self._ready.get(timeout=_WAIT)
        if ready is None:
            raise RuntimeError(f"a replica ended before it was ready; its log is {log}:\n{log.read_text()}")
        self.grpc_port, self.metrics_port = int(ready["grpc_port"]), int(ready["metrics_port"])

    def terminate(self) -> int:
        """Send SIGTERM, wait until the process ends, and return its exit code."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(_WAIT)
        self._reader.join(_WAIT)
        if self._process.stderr:
            self._process.stderr.close()
        return code

    def kill(self) -> None:
        """End it at once, if it still runs."""
        self._process.kill()
        self._process.wait(_WAIT)

    def _read(self, log: Path) -> None:
        with log.open("w") as file:
            for line in self._process.stderr or ():
                file.write(line)
                file.flush()
                if '"event": "ready"' in line:
                    self._ready.put(json.loads(line))
        self._ready.put(None)


class Deployment:
    """A number of replicas behind a balancer.

    Args:
        balancer: has one place more than there are replicas.
        flags: of every replica.
        folder: for their logs.
        pre_stop: seconds between the decision that a replica leaves and its SIGTERM.
        told: seconds after which the balancer knows of that decision; fewer than `pre_stop`.
    """

    def __init__(self, balancer: Balancer, flags: Sequence[str], folder: Path, *, pre_stop: float, told: float) -> None:
        self._balancer, self._flags, self._folder = balancer, flags, folder
        self._pre_stop, self._told = pre_stop, told
        self._started = 0
        self.replicas: dict[int, Replica] = {}

    def start(self, place: int) -> None:
        """Start a replica, wait until it is ready, and let it be called."""
        self._started += 1
        self.replicas[place] = Replica(self._flags, self._folder / f"replica-{self._started}.log")
        self._balancer.add(place, self.replicas[place].grpc_port)

    def replace(self, place: int, free: int) -> None:
        """Start a replica in the free place, then let the old one leave: maxSurge 1, maxUnavailable 0.

        Raises:
            RuntimeError: the old one did not end as it should.
        """
        self.start(free)
        time.sleep(self._told)
        self._balancer.remove(place)
        time.sleep(self._pre_stop - self._told)
        code = self.replicas.pop(place).terminate()
        if code != 0:
            raise RuntimeError(f"a replica ended with {code} instead of 0; its log is in {self._folder}")

    def restart_all(self) -> None:
        """Replace every replica, one after the other: a rollout."""
        places = set(range(len(self.replicas) + 1))
        for place in sorted(self.replicas):
            (free,) = places - self.replicas.keys()
            self.replace(place, free)

    def stop(self) -> None:
        """End what still runs."""
        for replica in self.replicas.values():
            replica.kill()

"""Where a row's time goes on the server: its CPU by library, and which Python functions hold the interpreter.

Two looks while the row's load runs, server and load on a core each: perf (the kernel's, in most distributions) counts
CPU by library and by the kernel's share; py-spy (`pip install py-spy`) samples the Python thread that holds the GIL.
Both must be allowed to look into another process: as root, or with kernel.yama.ptrace_scope 0.

python -m tests.benchmarks.profile 'stream, 64'    the first row of LeNet-5 whose name holds that
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from service.load.plan import Load
from service.load.processes import Loaders
from tests.benchmarks.lenet import ROWS, Row
from tests.benchmarks.machine import pin, two_cores
from tests.processes import ServerProcess

RATE = 200
"""Samples a second."""
LEAST = 1.5
"""Percent that a row of a table has at least."""
LONGER = 3.0
"""Seconds that the load lasts beyond each look."""
_PARTS = {
    "cygrpc": "gRPC core",
    "_message": "protobuf",
    "onnxruntime_pybind11": "ONNX Runtime",
    "_multiarray": "numpy",
    "kernel": "kernel",
    "python": "Python",
    "libc": "libc: locks, memory",
}
_OVERHEAD = re.compile(r"^\s+(?P<share>[\d.]+)%\s+(?P<library>\S+)")
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^()]*\.py)(:\d+)?\)$")


def libraries(report: str) -> Counter[str]:
    """Return the share of each part of `perf report --sort dso`."""
    shares = Counter[str]()
    for line in report.splitlines():
        found = _OVERHEAD.match(line)
        if found:
            name = next((part for word, part in _PARTS.items() if word in found["library"]), "other")
            shares[name] += float(found["share"])  # type: ignore[assignment]
    return shares


def function(stack: Sequence[str]) -> str:
    """Return the innermost Python function of a sample, the outermost frame first, as file and name."""
    for frame in reversed(stack):
        found = _FRAME.match(frame)
        if found:
            file = found["file"]
            package = next((part for part in ("service/", "grpc/", "numpy/") if part in file), "")
            return f"{file[file.index(package) :] if package else Path(file).name} {found['function']}"
    return "no Python function"


def perf(pid: int, seconds: float, folder: Path) -> Counter[str]:
    """Count the CPU of a process by library."""
    data = str(folder / "perf")
    record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(5 * RATE), "-o", data, "-p", str(pid)]
    subprocess.run([*record, "--", "sleep", str(seconds)], check=True, capture_output=True)
    report = ["perf", "report", "-i", data, "--stdio", "--sort", "dso"]
    return libraries(subprocess.run(report, check=True, capture_output=True, text=True).stdout)


def spy(pid: int, seconds: float, folder: Path) -> Counter[str]:
    """Count the samples of each Python function that holds the GIL."""
    found = shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    file = folder / "stacks"
    command = [found, "record", "--gil", "--format", "raw", "--rate", str(RATE), "--output", str(file)]
    command += ["--duration", str(round(seconds)), "--pid", str(pid)]
    subprocess.run(command, check=True, capture_output=True)
    counts = Counter[str]()
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        counts[function(stack.split(";"))] += int(count)
    return counts


def look(row: Row, seconds: float) -> tuple[Counter[str], Counter[str]]:
    """Put the row's load on a server and return its CPU by library, and the samples of Python functions."""
    server_core, load_core = two_cores()
    seen = list[Counter[str]]()
    with (
        tempfile.TemporaryDirectory() as folder,
        Loaders() as loaders,
        ServerProcess(None, "--intra-op-threads", "1") as server,
    ):
        pin(server.process.pid, server_core)
        for tool in (perf, spy):
            load = row.load(server.address, row.path, seconds + LONGER, load_core)
            thread = _running(loaders, load)
            seen.append(tool(server.process.pid, seconds, Path(folder)))
            thread.join()
    return seen[0], seen[1]


def _running(loaders: Loaders, load: Load) -> threading.Thread:
    """Return the thread that waits for a load, as soon as answers come."""
    begun = threading.Event()
    thread = threading.Thread(target=lambda: loaders.run(load, lambda _: begun.set()))
    thread.start()
    begun.wait(LONGER)
    return thread


def show(row: str, unit: str, counts: Counter[str]) -> None:
    """Print shares, the largest first."""
    table = Table(row, unit)
    for name, count in counts.most_common():
        share = 100 * count / counts.total()
        if share >= LEAST:
            table.add_row(name, f"{share:.1f}")
    Console(width=110).print(table)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", help="a part of its name")
    parser.add_argument("--seconds", type=float, default=8.0)
    given = parser.parse_args()
    row = next((row for row in ROWS if given.row.casefold() in row.name.casefold()), None)
    if row is None:
        parser.error(f"no row holds {given.row!r}: {', '.join(row.name for row in ROWS)}")
    parts, functions = look(row, given.seconds)
    show(row.name, "% of the server's CPU", parts)
    show("Python function", "% of the time that Python runs", functions)


if __name__ == "__main__":
    main()

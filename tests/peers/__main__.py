"""Saccade beside other inference servers: one model file, one load, one machine; prints a table in Markdown.

Every server is started, gets the same closed loops from one process that is pinned to the last core, and is ended, in
rounds. Which those are is said by --peer, with the virtual environment that each is installed in; what each runs is in
tests/peers/servers. See tests/peers/README.md.

python -m tests.peers --peer mosec=/path/to/venv --peer bentoml=/path/to/another [--resnet50 | --model FILE]
"""

import argparse
import datetime
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from service.errors import SaccadeError
from service.load.processes import Loaders
from service.server import BUNDLED, BUNDLED_DEFAULT
from tests.peers.known import OURS, PEERS, Peer
from tests.peers.measuring import Failed, Measured, Subject, measure, subject, versions
from tests.peers.running import adopt_orphans

CALLERS = (1, 8, 32)
HEADS = ["server", "calls", "callers", "images/s", "p50 ms", "p99 ms", "server CPU us/image", "MB", "cold start s"]


def main() -> None:
    """Measure and print."""
    given = arguments()
    signal.signal(signal.SIGTERM, _ended)  # so that what was started is ended too
    adopt_orphans()
    chosen = [(OURS, Path(sys.prefix)), *given.peer]
    with tempfile.TemporaryDirectory(prefix="saccade-peers-") as folder:
        try:
            what = subject(placed(given, Path(folder)))
        except SaccadeError as error:
            sys.exit(f"{given.model}: {error}")
        rounds, failed = measured_all(given, chosen, what)
    sys.stdout.write("\n".join(lines(given, chosen, what, rounds, failed)) + "\n")


def measured_all(
    given: argparse.Namespace, chosen: Sequence[tuple[Peer, Path]], what: Subject
) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """Measure all in turns; return the rounds of each, and why others failed."""
    rounds: dict[str, list[Measured]] = {peer.name: [] for peer, _ in chosen}
    failed: dict[str, str] = {}
    with Loaders() as loaders:
        for number in range(given.rounds):
            for peer, environment in chosen:
                if peer.name in failed:
                    continue
                sys.stderr.write(f"round {number + 1} of {given.rounds}: {peer.name}\n")
                try:
                    versions(peer, environment)
                    rounds[peer.name].append(
                        measure(peer, environment, what, loaders, callers=given.callers, seconds=given.seconds)
                    )
                except Failed as error:
                    failed[peer.name] = " ".join(str(error).split())
    return rounds, failed


def arguments() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer", action="append", default=[], type=_peer, metavar="NAME=VENV", help=f"NAME: {', '.join(PEERS)}"
    )
    heavier = parser.add_mutually_exclusive_group()
    heavier.add_argument("--resnet50", action="store_true", help="a ResNet-50 with random weights, not LeNet-5")
    heavier.add_argument("--model", type=Path, help="an ONNX file that `saccade export` wrote")
    parser.add_argument("--callers", type=int, nargs="+", default=CALLERS)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is started and measured")
    return parser.parse_args()


def _peer(text: str) -> tuple[Peer, Path]:
    name, found, environment = text.partition("=")
    if not found or name not in PEERS:
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VENV; NAME is one of {', '.join(PEERS)}")
    return PEERS[name], Path(environment).absolute()


def _ended(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def placed(given: argparse.Namespace, folder: Path) -> Path:
    """Put the model where a repository has it, and return its file."""
    if given.resnet50:
        from tests.benchmarks.heavy import write

        return write("resnet50", folder / "models")
    path = folder / "models" / "label" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    shutil.copy(given.model or BUNDLED / BUNDLED_DEFAULT / "1" / "model.onnx", path)
    return path


def lines(
    given: argparse.Namespace,
    chosen: Sequence[tuple[Peer, Path]],
    what: Subject,
    rounds: dict[str, list[Measured]],
    failed: dict[str, str],
) -> list[str]:
    """Return the table, what must be known of it, and how it was made."""
    rows, limited, runtimes = [HEADS, ["---"] * len(HEADS)], [], set()
    for peer, environment in chosen:
        if peer.name in failed:
            rows.append([peer.name, peer.wire, f"failed: {failed[peer.name]}", *[""] * (len(HEADS) - 3)])
            continue
        own, runtime = versions(peer, environment)
        runtimes.add(runtime)
        rows += cells([f"{peer.name} {own}", peer.wire], given.callers, rounds[peer.name])
        limited += [f"{peer.name}, {note}" for each in rounds[peer.name] for note in each.limited]
    size = "x".join(map(str, what.shape))
    return [
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *dict.fromkeys(limited),
        f"One picture of {size} a call; {given.rounds} rounds of {given.seconds:g} s: medians, and least to most.",
        f"ONNX Runtime {', '.join(sorted(runtimes))}; Python {platform.python_version()}; {os.cpu_count()} cores of "
        f"{_processor()}; {datetime.datetime.now(datetime.UTC):%d %B %Y}.",
    ]


def cells(first: Sequence[str], callers: Sequence[int], rounds: Sequence[Measured]) -> list[list[str]]:
    """Return a server's rows, one for each number of callers; what was the same for all stands in the first."""
    rows: list[list[str]] = []
    for count in callers:
        outcomes = [measured.outcomes[count] for measured in rounds]
        failures = sum(outcome.failed.total() for outcome in outcomes)
        rates = [outcome.rate for outcome in outcomes]
        digits = 0 if min(rates) >= 100 else 1
        rows.append(
            [
                *(first if not rows else ["", ""]),
                str(count),
                f"{statistics.median(rates):,.{digits}f} ({min(rates):,.{digits}f} to {max(rates):,.{digits}f})"
                + (f", {failures} calls failed" if failures else ""),
                f"{statistics.median(outcome.milliseconds(50) for outcome in outcomes):.1f}",
                f"{statistics.median(outcome.milliseconds(99) for outcome in outcomes):.1f}",
                f"{statistics.median(measured.cpu[count] for measured in rounds) * 1e6:,.0f}",
                f"{statistics.median(measured.memory for measured in rounds):,.0f}" if not rows else "",
                f"{statistics.median(measured.cold_start for measured in rounds):.1f}" if not rows else "",
            ]
        )
    return rows


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(": ")[2] if names else platform.machine()


if __name__ == "__main__":
    main()

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
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from service.errors import SaccadeError
from service.load.processes import Loaders
from service.server import BUNDLED, BUNDLED_DEFAULT
from tests.peers.known import OURS, PEERS, Peer
from tests.peers.measuring import Failed, Measured, Subject, measure, subject, versions
from tests.peers.running import adopt_orphans

CALLERS = (1, 8, 32)
HEADS = ("server", "calls", "images/s", "p50 ms", "p99 ms", "server CPU us/image", "MB", "cold start s")


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
        with Loaders() as loaders:
            rounds: dict[str, list[Measured]] = {peer.name: [] for peer, _ in chosen}
            failed: dict[str, str] = {}
            for number in range(given.rounds):
                for peer, environment in chosen:
                    if peer.name not in failed:
                        sys.stderr.write(f"round {number + 1} of {given.rounds}: {peer.name}\n")
                        try:
                            versions(peer, environment)
                            found = measure(
                                peer, environment, what, loaders, callers=given.callers, seconds=given.seconds
                            )
                            rounds[peer.name].append(found)
                        except Failed as error:
                            failed[peer.name] = " ".join(str(error).split())
    sys.stdout.write("\n".join(lines(given, chosen, what, rounds, failed)) + "\n")


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
    rows = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    notes = []
    for peer, environment in chosen:
        if peer.name in failed:
            rows.append(f"| {peer.name} | {peer.wire} | failed: {failed[peer.name]} |" + " |" * (len(HEADS) - 3))
            continue
        own, runtime = versions(peer, environment)
        rows.append(f"| {' | '.join(cells(f'{peer.name} {own}', peer.wire, given.callers, rounds[peer.name]))} |")
        notes += [
            f"{peer.name}, {note}" for note in dict.fromkeys(n for each in rounds[peer.name] for n in each.limited)
        ]
        notes += [f"{peer.name}: ONNX Runtime {runtime}"]
    counts = ", ".join(map(str, given.callers))
    made = f"python -m tests.peers{' --resnet50' if given.resnet50 else ''}"
    size = "x".join(map(str, what.shape))
    notes += [
        f"Figures with {counts} callers, one picture of {size} a call; median of {given.rounds} rounds, "
        f"{given.seconds:g} s each.",
        f"`{made}`, {datetime.datetime.now(datetime.UTC):%d %B %Y}, {os.cpu_count()} cores, {platform.machine()}, "
        f"Python {platform.python_version()}.",
    ]
    return [*rows, "", *notes]


def cells(name: str, wire: str, callers: Sequence[int], rounds: Sequence[Measured]) -> list[str]:
    """Return a server's row: medians of the rounds, for each number of callers."""

    def each(value: Callable[[Measured, int], float], form: str) -> str:
        found = (statistics.median(value(measured, count) for measured in rounds) for count in callers)
        return " / ".join(format(median, form) for median in found)

    failures = sum(outcome.failed.total() for measured in rounds for outcome in measured.outcomes.values())
    return [
        f"{name}" + (f" ({failures} calls failed)" if failures else ""),
        wire,
        each(lambda measured, count: measured.outcomes[count].rate, ",.0f"),
        each(lambda measured, count: measured.outcomes[count].milliseconds(50), ".2f"),
        each(lambda measured, count: measured.outcomes[count].milliseconds(99), ".2f"),
        each(lambda measured, count: measured.cpu[count] * 1e6, ",.0f"),
        f"{statistics.median(measured.memory for measured in rounds):,.0f}",
        f"{statistics.median(measured.cold_start for measured in rounds):.2f}",
    ]


if __name__ == "__main__":
    main()

"""The comparison with other servers, without any of them: each peer lives in an environment of its own."""

import subprocess
import sys
import textwrap
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from service.load.outcome import Outcome, Window
from tests.fakes import WAIT
from tests.peers.__main__ import cells
from tests.peers.measuring import Measured
from tests.processes import ROOT


def test_peers_that_are_not_there_are_rows_that_say_why(tmp_path: Path) -> None:
    """Saccade is measured; a peer whose environment is missing, or lacks it, does not stop the rest."""
    (tmp_path / "empty" / "bin").mkdir(parents=True)
    (tmp_path / "empty" / "bin" / "python").symlink_to(sys.executable)
    peers = ["--peer", f"bentoml={tmp_path / 'nowhere'}", "--peer", f"mosec={tmp_path / 'empty'}"]
    command = [sys.executable, "-m", "tests.peers", *peers, "--rounds", "1", "--seconds", "0.4", "--callers", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    own, bentoml, mosec = done.stdout.splitlines()[2:5]
    cells = [cell.strip() for cell in own.strip("|").split("|")]
    assert cells[0].startswith("saccade ")
    assert all(float(cell.split(" ")[0].replace(",", "")) > 0 for cell in cells[3:])
    assert f"{tmp_path / 'nowhere'} is no virtual environment" in bentoml
    assert "not installed" in mosec
    assert "mosec" in mosec


def outcome(answers: int, milliseconds: int) -> Outcome:
    """Return what came of a second in which all calls took as long."""
    window = Window(array("q", [milliseconds * 1000] * answers))
    return Outcome(seconds=1.0, windows=[window], arrived=answers)


def test_rows_are_medians_and_ranges() -> None:
    """Of three rounds the middle one is shown, and the least and the most images a second."""
    rounds = [
        Measured(start, {8: outcome(answers, answers)}, {8: answers / 1e6}, memory)
        for start, answers, memory in ((3.0, 200, 30.0), (1.0, 400, 10.0), (2.0, 300, 20.0))
    ]
    [row] = cells(["mosec", "HTTP"], [8], rounds)
    assert row == ["mosec", "HTTP", "8", "300 (200 to 400)", "300.0", "300.0", "300", "20", "2.0"]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Return a process that has started a tree; it says a line when the tree's daemon is there."""
    server = textwrap.dedent("""
        import os, signal, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while not sum(os.times()[:2]):  # the kernel counts whole ticks of 10 ms, and it sleeps afterwards
                    pass
                open("daemon", "w").write(str(os.getpid()))
                os.rename("daemon", "pid")
                time.sleep(600)
            os._exit(0)
        time.sleep(600)
    """)
    script = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from tests.peers.running import Tree, adopt_orphans
        adopt_orphans()
        with Tree([sys.executable, "-c", {server!r}], Path({str(tmp_path)!r}), {{}}) as tree:
            while not Path({str(tmp_path / "pid")!r}).exists():
                time.sleep(0.01)
            print(tree.cpu_seconds() > 0, tree.memory_mb() > 1, flush=True)
            sys.stdin.readline()
        print("ended", flush=True)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        left = psutil.Process(process.pid).children(recursive=True)
        if (tmp_path / "pid").exists():  # a daemon that the tree has lost
            with suppress(psutil.NoSuchProcess):
                left.append(psutil.Process(int((tmp_path / "pid").read_text())))
        process.kill()
        for each in left:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def test_a_tree_ends_with_its_daemons(watched: subprocess.Popen[str], tmp_path: Path) -> None:
    """A daemon that left its session and ignores SIGTERM is counted, and is gone with the rest."""
    assert watched.stdout
    assert watched.stdout.readline().split() == ["True", "True"]
    daemon = psutil.Process(int((tmp_path / "pid").read_text()))
    assert daemon.is_running()
    assert watched.stdin
    watched.stdin.write("\n")
    watched.stdin.flush()
    assert watched.stdout.readline().strip() == "ended"
    psutil.wait_procs([daemon], WAIT)
    assert not daemon.is_running()

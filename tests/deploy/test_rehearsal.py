"""The rehearsal of a rollout, in its short form."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.objects import DEPLOY, tool

SHORT = ("--rounds", "1", "--replicas", "2", "--pre-stop", "1", "--told", "0.5", "--drain-delay", "0.5")


def rehearse(*options: str, seconds: float) -> str:
    """Run the rehearsal and return what it printed."""
    tool("haproxy")
    tool("openssl")
    done = subprocess.run(
        [str(DEPLOY / "rehearse.sh"), *options],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(240)
def test_no_call_of_the_shipped_client_fails() -> None:
    """Replicas behind HAProxy are replaced, certificates and models changed: the shipped client sees none of it.

    `saccade bench`, which repeats no call, runs beside it; what it saw is counted and shown.
    """
    said = rehearse(*SHORT, seconds=220)
    shipped = re.search(r"the shipped client: (\d+) calls, 0 failed", said)
    assert shipped, said
    assert int(shipped[1]) > 0
    benched = re.search(r"saccade bench: (\d+) calls, \d+ failed", said)
    assert benched, said
    assert int(benched[1]) > 0
    assert re.search(r"^ *50/s +\d", said, re.MULTILINE), said
    sent = re.search(r"sent to each place of the balancer: (.*)", said)
    assert sent, said
    assert all(int(calls) > 0 for calls in sent[1].split(", ")), "every replica was sent calls"


def test_a_bench_that_ends_is_told() -> None:
    """A bench that ends by itself, since it was used wrongly, ends the rehearsal at once, with its own words."""
    tool("haproxy")
    tool("openssl")
    done = subprocess.run(
        [str(DEPLOY / "rehearse.sh"), "--replicas", "1", "--rate", "0"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 1, done.stderr
    assert "FAILED: saccade bench ended with 2" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_python_is_a_command(tmp_path: Path) -> None:
    """PYTHON may be a command that a shell finds, and is then what runs the rehearsal."""
    for name in ("haproxy", "openssl", "python3.99"):
        (tmp_path / name).write_text('#!/bin/sh\necho "$0 runs $1"\n')
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [str(DEPLOY / "rehearse.sh")],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python3.99"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == f"{tmp_path}/python3.99 runs deploy/rehearsal/rehearse.py\n", done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("balancer", ["http", "tcp"])
def test_ten_rollouts_of_three_replicas(balancer: str) -> None:
    """The whole rehearsal, with calls that are spread and with bytes that are passed."""
    assert "calls, 0 failed" in rehearse("--balancer", balancer, seconds=850)

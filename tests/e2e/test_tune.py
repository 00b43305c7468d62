import json
import shutil
from pathlib import Path

from service.server import BUNDLED
from tests.processes import ServerProcess, run


def test_tune_as_users_do(tmp_path: Path) -> None:
    """A short tuning of LeNet-5 prints a command line that serves; what --write stored, a server takes or has none."""
    shutil.copytree(BUNDLED / "lenet5-mnist", tmp_path / "models/lenet5-mnist")
    done = run(
        *("tune", "lenet5-mnist", "--repository", "models", "--time-limit", "4", "--max-batch-size", "32"),
        *("--write", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    measured = report["versions"][0]["measured"]
    assert measured
    assert all(row["provider"] and not row["failed"] and row["images_per_second"] for row in measured)
    stored = (tmp_path / "models/lenet5-mnist/1/tuned.json").exists()
    assert stored == ("stored in" in done.stderr)
    program, command, *flags = report["best"]["latency"]["command"].split()
    assert (program, command, flags[:2]) == ("saccade", "serve", ["--repository", "models"])
    with ServerProcess(tmp_path / "models", *flags[2:], cwd=tmp_path) as server:
        by_hand = any(line["event"] == "tuned settings not used" for line in server.lines)
        taken = any(line["event"] == "tuned settings" for line in server.lines)
    assert (taken or by_hand) == stored


def test_what_there_is_not(tmp_path: Path) -> None:
    """A model that is not there is one line and exit code 1; an option that is none is 2."""
    done = run("tune", "squares", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no model 'squares'" in done.stderr
    done = run("tune", "lenet5-mnist", "--provider", "cpu", "--provider-options", "thread=2", cwd=tmp_path)
    assert done.returncode == 2
    assert "'thread' is no option of cpu" in done.stderr
    done = run("tune", "lenet5-mnist", "--max-batch-size", "8", "--write", cwd=tmp_path)
    assert done.returncode == 2
    assert "8 is too small" in done.stderr

from pathlib import Path

from tests.processes import run


def test_what_cannot_be_measured_is_not_published(tmp_path: Path) -> None:
    """The exit code is 1, the reason one line, and the repository stays as it was."""
    done = run(
        *("export", "lenet5-mnist", "--precision", "bf16", "--data", "digits", "--provider", "cpu"),
        *("--repository", str(tmp_path / "models")),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "no provider here runs it in bf16" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.onnx"))

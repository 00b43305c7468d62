"""What `make` does about the virtual environment, with programs that stand in for Python."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

WITH_PIP = "#!/bin/sh\nexit 0\n"
WITHOUT_PIP = '#!/bin/sh\n[ "$2" != pip ]\n'


def program(path: Path, text: str) -> Path:
    """Write a program and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def python(folder: Path, made: str, *, code: int = 0) -> Path:
    """Return an interpreter whose `-m venv FOLDER` leaves this program in it as python, and ends with this code."""
    body = f'mkdir -p "$3/bin"\ncat >"$3/bin/python" <<"END"\n{made}END\nchmod +x "$3/bin/python"\nexit {code}\n'
    return program(folder / "python3", f"#!/bin/sh\n{body}")


def install(venv: Path, interpreter: Path) -> subprocess.CompletedProcess[str]:
    """Run what `make demo` needs first."""
    command = ["make", f"VENV={venv}", f"PYTHON={interpreter}", f"{venv}/.train"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_half_an_environment_is_finished(tmp_path: Path) -> None:
    """An environment without pip, as Python leaves it where its venv is not whole, is made once that is whole."""
    venv = tmp_path / "venv"
    program(venv / "bin/python", WITHOUT_PIP)
    done = install(venv, python(tmp_path, WITH_PIP))
    assert done.returncode == 0, done.stderr
    assert (venv / ".train").is_file()


def test_no_whole_venv(tmp_path: Path) -> None:
    """Where Python can make none with pip, make says which package is missing, and installs nothing."""
    done = install(tmp_path / "venv", python(tmp_path, WITHOUT_PIP, code=1))
    assert done.returncode == 2
    assert "apt install python3-venv" in done.stdout + done.stderr
    assert "installing" not in done.stdout


def test_bundled_models_need_data(tmp_path: Path) -> None:
    """`make bundled` without the folders of the data trains nothing, and says how to name them."""
    venv = tmp_path / "venv"
    program(venv / "bin/python", WITH_PIP)
    command = ["make", f"VENV={venv}", "MNIST=", "CIFAR10=somewhere", "bundled"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "make bundled MNIST=FOLDER CIFAR10=FOLDER" in done.stdout
    assert "saccade train" not in done.stdout


def test_an_environment_with_pip_stays(tmp_path: Path) -> None:
    """An environment that has pip is neither made anew nor removed."""
    venv = tmp_path / "venv"
    program(venv / "bin/python", WITH_PIP)
    (venv / "mine").touch()
    done = install(venv, python(tmp_path, "not this one\n"))
    assert done.returncode == 0, done.stderr
    assert (venv / "mine").is_file()
    assert (venv / "bin/python").read_text() == WITH_PIP

"""The table of the models command."""

import io

import pytest
from rich.console import Console

from service.client import ModelEntry
from service.listed import print_table, table


def entry(name: str, **fields: object) -> ModelEntry:
    """Return what a server says of one version."""
    said: dict[str, object] = dict.fromkeys(ModelEntry.__dataclass_fields__, "")
    said |= {"name": name, "version": "12", "state": "LOADING", "provider": "openvino", "precision": "bf16"}
    said |= {"height": 224, "width": 224, "channels": 3, "labels": ("a",) * 1000, "accuracy": 0.8982, "verified": True}
    return ModelEntry(**(said | fields))  # type: ignore[arg-type]


def printed(width: int, one: ModelEntry) -> str:
    """Return what a console so wide shows of a version."""
    console = Console(width=width, file=(file := io.StringIO()))
    console.print(table([one], width))
    return file.getvalue()


def test_a_pipe_holds_whole_names(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no terminal gets every row on one line, however long a name is."""
    monkeypatch.setenv("COLUMNS", "80")
    long = "a-name-as-long-as-one-may-be-" * 4
    print_table([entry("resnet20-cifar10", default=True, reason="unverified"), entry(long)])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row.split("│")[1:4]] for row in rows] == [
        ["resnet20-cifar10 *", "12", "LOADING"],
        [long, "12", "LOADING"],
    ]


def test_a_terminal_of_80_columns() -> None:
    """On 80 columns the name stands on one line, and the other columns make room."""
    assert "│ resnet20-cifar10 * │ 12      │ LOADING │" in printed(80, entry("resnet20-cifar10", default=True))


@pytest.mark.parametrize("width", [120, 80, 60, 40])
@pytest.mark.parametrize("name", ["lenet5-mnist", "resnet20-cifar10", "a-long-name-" * 8])
def test_nothing_is_cut(name: str, width: int) -> None:
    """However narrow the terminal is, name, version and state are whole, folded where they must be."""
    lines = [line.split("│")[1:4] for line in printed(width, entry(name)).splitlines() if line.startswith("│")]
    assert ["".join(cell.strip() for cell in column) for column in zip(*lines, strict=True)] == [name, "12", "LOADING"]

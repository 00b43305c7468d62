import json
import re
from pathlib import Path

import pytest

from service import logs

HOSTILE = [
    "a b",
    "",
    "a\nb",
    "a\rb",
    "a\x1b[31mb",
    "a\x00b",
    "a\tb",
    "a\x85b",
    "a\u2028b",
    "a\u202eb",
    "\ud800",
    "x\n12:00:00 INFO     model ready  model=evil",
]


pytestmark = pytest.mark.usefixtures("logger")


def raised(text: str) -> ValueError:
    """Return an exception that was raised, with its stack."""
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def test_console_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A console line has clock, level, event and fields."""
    logs.setup("console")
    logs.info("model ready", model="lenet5", version=1)
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO    model ready  model=lenet5 version=1\n", capsys.readouterr().err)


def test_console_without_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """A console line without fields ends where the event ends."""
    logs.setup("console")
    logs.warning("draining")
    assert capsys.readouterr().err.endswith("WARNING draining\n")


@pytest.mark.parametrize("value", HOSTILE)
def test_console_quotes(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The console quotes a value that holds spaces or control characters, or nothing, so that it reads back whole."""
    logs.setup("console")
    logs.info("event", value=value)
    assert json.loads(capsys.readouterr().err.split("value=")[1]) == value


@pytest.mark.parametrize("value", HOSTILE)
def test_console_one_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One event is one console line, and printable, whatever its values hold."""
    logs.setup("console")
    logs.info("event", first=value, last=1)
    line = capsys.readouterr().err
    assert line.endswith(" last=1\n")
    assert line[:-1].isprintable()


@pytest.mark.parametrize("value", ["lenet5", "/models/a/1/model.onnx", "größe", 3, 0.5, True, Path("a/b")])
def test_console_plain(value: object, capsys: pytest.CaptureFixture[str]) -> None:
    """The console leaves a value without spaces as it is."""
    logs.setup("console")
    logs.info("event", value=value)
    assert capsys.readouterr().err.endswith(f" value={value}\n")


def test_console_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """A failure on the console ends with its stack."""
    logs.setup("console")
    logs.failure("load failed", raised("why"), model="lenet5")
    first, *stack = capsys.readouterr().err.splitlines()
    assert first.endswith("ERROR   load failed  model=lenet5")
    assert stack[0].endswith("Traceback (most recent call last):")
    assert stack[-1].endswith("ValueError: why")


def test_console_failure_cannot_pose_as_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    """The text of an exception cannot pass for another event: no line but the first looks like one."""
    logs.setup("console")
    logs.failure("load failed", raised("x\n12:00:00 INFO    model ready  model=evil"))
    assert len(re.findall(r"^\d\d:\d\d:\d\d ", capsys.readouterr().err, re.MULTILINE)) == 1


def test_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A JSON line carries level, event and the fields with their types."""
    logs.setup("json")
    logs.info("model ready", model="lenet5", version=1, verified=True)
    entry = json.loads(capsys.readouterr().err)
    del entry["time"]
    assert entry == {"level": "info", "event": "model ready", "model": "lenet5", "version": 1, "verified": True}


def test_json_time(capsys: pytest.CaptureFixture[str]) -> None:
    """A JSON line's time is UTC, to the millisecond."""
    logs.setup("json")
    logs.info("event")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", json.loads(capsys.readouterr().err)["time"])


@pytest.mark.parametrize("value", HOSTILE)
def test_json_one_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One event is one JSON line that gives each value back, whatever it holds."""
    logs.setup("json")
    logs.info("event", value=value)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["value"] == value


def test_json_other_types(capsys: pytest.CaptureFixture[str]) -> None:
    """A value that JSON has no type for becomes its text."""
    logs.setup("json")
    logs.info("event", path=Path("a/b"))
    assert json.loads(capsys.readouterr().err)["path"] == "a/b"


def test_json_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """A failure as JSON carries its stack, still in one line."""
    logs.setup("json")
    logs.failure("load failed", raised("why\nnot"))
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: why\nnot" in json.loads(line)["stack"]


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_setup_twice(log_format: logs.LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    """Each event is written once, even if `setup` was called twice."""
    logs.setup("console")
    logs.setup(log_format)
    logs.info("event")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_standard_output_is_free(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is logged to standard output: that is the commands'."""
    logs.setup("console")
    logs.info("event")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_long_values(log_format: logs.LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    """A value of a megabyte is cut, and the line says how long it was."""
    logs.setup(log_format)
    logs.info("event", first="x" * 1_000_000, last=1)
    line = capsys.readouterr().err
    assert len(line) < logs.LONGEST + 200
    assert "x... (1,000,000 characters)" in line
    assert re.search(r"last\"?[:=] ?1", line)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_long_stacks(log_format: logs.LogFormat, capsys: pytest.CaptureFixture[str]) -> None:
    """So is the text of an exception."""
    logs.setup(log_format)
    logs.failure("event", raised("x" * 1_000_000))
    assert len(capsys.readouterr().err) < logs.LONGEST_STACK + 500


@pytest.mark.parametrize("text", HOSTILE)
def test_stacks_are_printable(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever an exception says, a stack on the console moves no cursor and changes no colour."""
    logs.setup("console")
    logs.failure("event", raised(text))
    assert all(line.isprintable() for line in capsys.readouterr().err.split("\n"))


def test_what_callers_cause_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """Of an event that callers cause so many lines a second are written; the next says how many were not."""
    logs.setup("json")
    times = [0.0] * 250 + [0.9] * 50 + [1.5]
    for number, now in enumerate(times):
        logs.bounded("caused", clock=lambda now=now: now, number=number)  # type: ignore[misc]
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [entry["number"] for entry in entries] == [*range(logs.MOST_A_SECOND), 300]
    assert [entry.get("left_out") for entry in entries] == [None] * logs.MOST_A_SECOND + [200]


def test_failures_that_callers_cause_are_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """Such failures are bounded likewise, and the first of a second have their stack; the others name its class."""
    logs.setup("json")
    for number, now in enumerate([0.0] * 150 + [1.5]):
        logs.bounded_failure("bad", raised("why"), clock=lambda now=now: now, number=number)  # type: ignore[misc]
    entries = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [entry["number"] for entry in entries] == [*range(logs.MOST_A_SECOND), 150]
    assert [entry["number"] for entry in entries if "stack" in entry] == [*range(logs.MOST_STACKS), 150]
    assert {entry.get("error") for entry in entries if "stack" not in entry} == {"ValueError"}
    assert (entries[0]["level"], entries[-1]["left_out"]) == ("error", 50)

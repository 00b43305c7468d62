import os
from pathlib import Path

import pytest

from service.config import Settings, flag, load_settings, variable
from service.errors import SetupError

SETTINGS = sorted(Settings.model_fields)
PATHS = [name for name in SETTINGS if Settings.model_fields[name].annotation == Path | None]

# Setting, a value out of bounds, what the limit is called.
OUT_OF_BOUNDS = [
    ("grpc_port", -1, "greater than or equal to 0"),
    ("grpc_port", 65536, "less than or equal to 65535"),
    ("metrics_port", 65536, "less than or equal to 65535"),
    ("provider", "tpu", "'auto', 'tensorrt', 'cuda', 'openvino' or 'cpu'"),
    ("intra_op_threads", -1, "greater than or equal to 0"),
    ("intra_op_threads", 1025, "less than or equal to 1024"),
    ("max_batch_size", 0, "greater than or equal to 1"),
    ("max_batch_size", 4097, "less than or equal to 4096"),
    ("queue_size", 0, "greater than or equal to 1"),
    ("keep_versions", 0, "greater than or equal to 1"),
    ("max_message_mb", 1025, "less than or equal to 1024"),
    ("max_pixels", 0, "greater than or equal to 1"),
    ("ready", "some", "'all' or 'any'"),
    ("drain_delay", -0.1, "greater than or equal to 0"),
    ("drain_delay", float("nan"), "less than or equal to 3600"),
    ("grace", float("inf"), "less than or equal to 3600"),
    ("log_format", "xml", "'console' or 'json'"),
]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away the variables that this process was started with."""
    for name in [name for name in os.environ if name.startswith("SACCADE_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [(None, None, 32), (None, "8", 8), (4, None, 4), (4, "8", 4)],
    ids=["default", "variable", "flag", "flag and variable"],
)
def test_precedence(given: int | None, environment: str | None, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag wins over its variable, the variable over the default."""
    if environment is not None:
        monkeypatch.setenv("SACCADE_MAX_BATCH_SIZE", environment)
    assert load_settings(max_batch_size=given).max_batch_size == expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("reflection", "false", False),
        ("allow_empty", "1", True),
        ("drain_delay", "0.5", 0.5),
        ("default_model", "lenet5", "lenet5"),
        ("log_format", "json", "json"),
    ],
)
def test_variable_types(name: str, text: str, expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable's text becomes the setting's type."""
    monkeypatch.setenv(variable(name), text)
    assert getattr(load_settings(), name) == expected


@pytest.mark.parametrize(("name", "value", "limit"), OUT_OF_BOUNDS)
def test_out_of_bounds(name: str, value: object, limit: str) -> None:
    """A value out of bounds is a SetupError that names the flag, the variable, the value and the limit."""
    with pytest.raises(SetupError) as caught:
        load_settings(**{name: value})
    text = str(caught.value)
    assert [part for part in (flag(name), variable(name), repr(value), limit) if part not in text] == []


@pytest.mark.parametrize("text", ["0", "many", ""])
def test_wrong_variable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value in a variable is a SetupError that names the variable."""
    monkeypatch.setenv("SACCADE_QUEUE_SIZE", text)
    with pytest.raises(SetupError, match="SACCADE_QUEUE_SIZE"):
        load_settings()


@pytest.mark.parametrize("name", PATHS)
def test_an_empty_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty path, as a flag or a variable, is a SetupError that names it: it does not mean the current folder."""
    with pytest.raises(SetupError, match=rf"{flag(name)} \({variable(name)}\): an empty path names nothing"):
        load_settings(**{name: ""})
    monkeypatch.setenv(variable(name), "")
    with pytest.raises(SetupError, match=rf"\({variable(name)}\): an empty path names nothing"):
        load_settings()


def test_unknown_setting() -> None:
    """A setting that does not exist is a SetupError that names it."""
    with pytest.raises(SetupError, match="--queue-sise"):
        load_settings(queue_sise=3)


def test_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is no setting's is ignored: Kubernetes adds such ones for a service called saccade."""
    monkeypatch.setenv("SACCADE_SERVICE_HOST", "10.0.0.1")
    assert load_settings().host == "0.0.0.0"


@pytest.mark.parametrize(("name", "port"), [("grpc_port", 8001), ("metrics_port", 8002)])
def test_ports(name: str, port: int) -> None:
    """The ports are those that other programs depend on."""
    assert getattr(load_settings(), name) == port


@pytest.mark.parametrize("name", SETTINGS)
def test_described(name: str) -> None:
    """Each setting says what it is."""
    assert Settings.model_fields[name].description

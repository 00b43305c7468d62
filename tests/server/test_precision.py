"""Files of reduced precision, through a real server: what was measured is served, what was not or is ruined is not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from export import data, model_file, precision
from export.tries import Wanted
from service.client import ModelEntry
from service.manifest import KEY, read_manifest
from tests.conftest import Connect, StartServer
from tests.onnx_models import write_model
from tests.reduced import ruin_file

Listed = Callable[..., dict[str, ModelEntry]]


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an int8 file of the bundled LeNet-5 that passed a wide gate on scikit-learn's digits."""
    source, named = model_file.find("lenet5-mnist").path, precision.Named(data.load("digits"), "digits")
    wanted = Wanted("int8", max_drop=5, provider="cpu", calibrations=("minmax",))
    return precision.reduce(source, tmp_path_factory.mktemp("int8"), named, wanted).path


@pytest.fixture
def file(reduced: Path, tmp_path: Path) -> Path:
    """Return a copy of the int8 file as the model `digits`, beside a right fp32 model, `linear`."""
    write_model(tmp_path / "models/linear/1")
    (tmp_path / "models/digits/1").mkdir(parents=True)
    return Path(shutil.copy(reduced, tmp_path / "models/digits/1/model.onnx"))


@pytest.fixture
def listed(start_server: StartServer, connect: Connect, file: Path) -> Listed:
    """Return what starts a server on the cpu provider, sees to it that `linear` is READY, and lists the models."""

    def start(**settings: object) -> dict[str, ModelEntry]:
        server = start_server(file.parents[2], default_model="linear", ready="any", provider="cpu", **settings)
        found = {entry.name: entry for entry in connect(server).models()}
        assert (found["linear"].state, found["linear"].verified) == ("READY", True)
        return found

    return start


def with_fields(file: Path, **fields: object) -> None:
    """Write other fields into a file's manifest."""
    model, manifest = onnx.load(file), read_manifest(file)
    onnx.helper.set_model_props(model, {KEY: json.dumps(manifest.model_dump(mode="json") | fields)})
    onnx.save(model, file)


def test_what_passed_is_served(listed: Listed) -> None:
    """An int8 file with its verdict is READY and verified, and says what it computes in."""
    digits = listed()["digits"]
    assert (digits.state, digits.precision, digits.verified, digits.reason) == ("READY", "int8", True, "")


@pytest.mark.parametrize("allow", [False, True])
def test_ruined_behind_the_gate(allow: bool, listed: Listed, file: Path) -> None:  # noqa: FBT001
    """A file whose scales were ruined after it passed fails its self-test, --allow-unverified or not."""
    ruin_file(file)
    digits = listed(allow_unverified=allow)["digits"]
    assert digits.state == "FAILED"
    assert digits.reason.startswith("cpu: self-test: golden sample ")
    assert "the limit for int8 is" in digits.reason


def test_never_measured_here(listed: Listed, file: Path) -> None:
    """A file without a verdict for its kind of provider is refused with what to do, and served when asked for."""
    with_fields(file, verdicts=[])
    digits = listed()["digits"]
    assert digits.state == "FAILED"
    assert "what int8 costs in accuracy was not measured on cpu" in digits.reason
    assert "--allow-unverified serves it all the same" in digits.reason
    digits = listed(allow_unverified=True)["digits"]
    assert (digits.state, digits.verified) == ("READY", False)
    assert digits.reason.startswith("unverified: what int8 costs in accuracy was not measured on cpu")


def test_measured_and_over_the_limit(listed: Listed, file: Path) -> None:
    """A verdict over its limit is refused with both accuracies."""
    [verdict] = read_manifest(file).verdicts
    over = verdict.model_dump(mode="json") | {"accuracy": 0.5, "reference_accuracy": 0.9, "max_drop": 0.5}
    with_fields(file, verdicts=[over])
    digits = listed()["digits"]
    assert digits.state == "FAILED"
    assert "int8 costs 40.00 points of accuracy on cpu (50.00% instead of 90.00%); the limit is 0.50" in digits.reason

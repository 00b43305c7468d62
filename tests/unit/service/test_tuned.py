import json
import os
from pathlib import Path

import pytest

from service import tuned
from service.errors import SetupError
from service.loading import load_model
from service.looks import FILE
from service.manifest import sha256
from service.metrics import Metrics
from service.model import Options
from service.providers import ProviderChoice
from service.tuned import Tuned
from tests.conftest import Lines
from tests.fake_ort import CPU, OPENVINO, FakeRuntime, Port
from tests.onnx_models import LABELS, probabilities, weights

ENTRY = Tuned(
    goal="throughput",
    provider="cpu",
    instances=2,
    intra_op_threads=1,
    max_batch_size=8,
    gain=1.2,
    images_per_second=100,
    sha256="ab",
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Each kind of machine has an entry of its own, and writing one leaves the others."""
    tuned.write(tmp_path, "one", ENTRY)
    tuned.write(tmp_path, "other", ENTRY.model_copy(update={"instances": 4}))
    found = tuned.read(tmp_path).hosts
    assert found["one"] == ENTRY
    assert found["other"].instances == 4
    assert [path.name for path in tmp_path.iterdir()] == ["tuned.json"]


def test_the_last_entry_takes_the_file_along(tmp_path: Path) -> None:
    """None takes an entry away, and with the last one the file."""
    tuned.write(tmp_path, "one", ENTRY)
    tuned.write(tmp_path, "one", None)
    assert not list(tmp_path.iterdir())
    tuned.write(tmp_path, "one", None)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"instances": 0}, "hosts.one.instances: Input should be greater than or equal to 1"),
        ({"provider": "tpu"}, "hosts.one.provider: Input should be 'tensorrt', 'cuda', 'openvino' or 'cpu'"),
        ({"provider_options": "threads=2"}, "hosts.one.provider_options: Value error, 'threads' is no option of cpu"),
    ],
)
def test_wrong_entries(fields: dict[str, object], why: str, tmp_path: Path) -> None:
    """A field that is wrong is named with the limit, an option of a provider that there is not too."""
    entry = ENTRY.model_dump() | fields
    (tmp_path / "tuned.json").write_text(json.dumps({"format": 1, "hosts": {"one": entry}}))
    with pytest.raises(ValueError, match=r"tuned\.json: ") as raised:
        tuned.read(tmp_path)
    assert why in str(raised.value)


def test_a_broken_file_is_not_overwritten(tmp_path: Path) -> None:
    """What cannot be understood may hold other machines' entries: it is for a person to mend."""
    (tmp_path / "tuned.json").write_text("{")
    with pytest.raises(SetupError, match="mend it, or delete it"):
        tuned.write(tmp_path, "one", ENTRY)
    assert (tmp_path / "tuned.json").read_text() == "{"


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    """The error names the file and what to do."""
    with pytest.raises(SetupError, match="cannot be written: No such file or directory; leave out --write"):
        tuned.write(tmp_path / "gone", "one", ENTRY)


def _full(path: Path, target: Path) -> Path:
    raise OSError(28, f"No space left for {path.name}")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be put in its place does not stay under another name."""
    monkeypatch.setattr(Path, "replace", _full)
    with pytest.raises(SetupError, match="No space left"):
        tuned.write(tmp_path, "one", ENTRY)
    assert not list(tmp_path.iterdir())


def test_machines_do_not_write_to_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine writes before the rename has a name of its own on a shared volume."""
    monkeypatch.setattr(Path, "replace", _full)
    monkeypatch.setattr("socket.gethostname", lambda: "gpu-7")
    with pytest.raises(SetupError, match=rf"No space left for \.tuned\.json\.gpu-7\.{os.getpid()}\.partial"):
        tuned.write(tmp_path, "one", ENTRY)


def _runtime() -> FakeRuntime:
    return FakeRuntime(
        lambda batch: probabilities(batch, weights()),
        inputs=[Port("image", "tensor(uint8)", ["N", 8, 8, 1])],
        outputs=[Port("probabilities", "tensor(float)", ["N", len(LABELS)])],
        built=(OPENVINO, CPU),
        loads=(OPENVINO, CPU),
    )


def test_folders_are_not_taken(repository: Path, tmp_path: Path, lines: Lines) -> None:
    """Whoever may write to the repository does not choose the folder of compiled models; the rest is taken."""
    folder, cache = repository / "linear/1", tmp_path / "cache"
    entry = {"provider": "openvino", "provider_options": f"cache={cache} streams=2", "sha256": sha256(folder / FILE)}
    tuned.write(folder, "here", ENTRY.model_copy(update=entry))
    fake = _runtime()
    load_model(folder / FILE, "linear", 1, Options(host="here", onnxruntime=fake), Metrics())
    asked = fake.sessions[-1].asked[OPENVINO]
    assert "cache_dir" not in asked
    assert not cache.exists()
    told = {line["event"]: line for line in lines()}
    assert told["tuned folders ignored"]["options"] == "cache"
    assert told["tuned settings"]["instances"] == 2


@pytest.mark.parametrize(
    ("asked", "given", "taken"),
    [("cpu", "auto", False), ("cpu", "cpu", True), ("auto", "auto", True), ("auto", "cpu", True)],
)
def test_who_takes_an_entry(asked: ProviderChoice, given: ProviderChoice, taken: bool, repository: Path) -> None:  # noqa: FBT001 - a case
    """What was tuned for the CPU alone is for servers with `--provider cpu`; what is best of all is for both."""
    folder = repository / "linear/1"
    entry = ENTRY.model_copy(update={"sha256": sha256(folder / FILE)})
    tuned.write(folder, tuned.place("here", asked), entry)
    options = Options(given, host="here", onnxruntime=_runtime())
    model = load_model(folder / FILE, "linear", 1, options, Metrics())
    assert (model.max_batch_size == 8) is taken

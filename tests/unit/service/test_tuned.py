import json
from pathlib import Path

import pytest

from service import tuned
from service.errors import SetupError
from service.tuned import Tuned

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

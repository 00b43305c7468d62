"""What `saccade tune --write` stored, through a real server."""

from collections.abc import Callable
from pathlib import Path

import pytest

from service import cores, hosts, tuned
from service.image import encode_png
from service.manifest import sha256
from service.server import Server
from service.session import check_runtime
from service.tuned import Tuned
from tests.conftest import Connect, Lines, StartServer
from tests.onnx_models import pictures, write_model

HOST = hosts.host_type(cores.count(), check_runtime())


def entry(path: Path, **fields: object) -> Tuned:
    """Return settings of a model file that no default has."""
    given = {
        "goal": "throughput", "provider": "cpu", "instances": 2, "intra_op_threads": 1, "max_batch_size": 5,
        "gain": 1.5, "images_per_second": 100, "sha256": sha256(path),
    }  # fmt: skip
    return Tuned.model_validate(given | fields)


@pytest.fixture
def stored(repository: Path) -> Callable[..., None]:
    """Return what stores tuned settings of the linear model for a kind of machine."""

    def store(host: str = HOST, **fields: object) -> None:
        folder = repository / "linear/1"
        tuned.write(folder, host, entry(folder / "model.onnx", **fields))

    return store


def batch(server: Server) -> int:
    """Return the largest batch that the linear model runs."""
    return server.repository.find("linear", "").max_batch_size


def said(lines: Lines) -> list[str]:
    """Return why tuned settings were not used, as the log says it."""
    return [line["reason"] for line in lines() if line["event"] == "tuned settings not used"]


def test_a_server_takes_them(
    stored: Callable[..., None], start_server: StartServer, connect: Connect, repository: Path, lines: Lines
) -> None:
    """They are the version's default, the log says which, and the other model has its own."""
    stored()
    write_model(repository / "other/1")
    server = start_server(repository)
    assert batch(server) == 5
    assert server.repository.find("other", "").max_batch_size == 32
    [line] = [line for line in lines() if line["event"] == "tuned settings"]
    assert (line["model"], line["host"], line["instances"], line["max_batch_size"]) == ("linear", HOST, 2, 5)
    client = connect(server)
    assert client.classify(encode_png(pictures(1)[0]), model="linear").version == "1"
    listed = {one.name: one.max_batch_size for one in client.models()}
    assert listed == {"linear": 5, "other": 32}


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"max_batch_size": 7}, "--max-batch-size was given by hand"),
        ({"instances": 1, "intra_op_threads": 2}, "--instances, --intra-op-threads was given by hand"),
        ({"provider": "cpu", "provider_options": "spinning=true"}, "--provider-options was given by hand"),
    ],
)
def test_settings_by_hand_win(
    settings: dict[str, object],
    why: str,
    *,
    stored: Callable[..., None],
    start_server: StartServer,
    repository: Path,
    lines: Lines,
) -> None:
    """They were measured together: one of them by hand, and no tuned one is taken. The log says why."""
    stored()
    server = start_server(repository, **settings)
    assert batch(server) == settings.get("max_batch_size", 32)
    assert said(lines) == [why]


def test_the_same_provider_by_hand(stored: Callable[..., None], start_server: StartServer, repository: Path) -> None:
    """--provider that is the tuned one changes nothing."""
    stored()
    assert batch(start_server(repository, provider="cpu")) == 5


def test_another_provider_by_hand(
    stored: Callable[..., None], start_server: StartServer, repository: Path, lines: Lines
) -> None:
    """Settings for another provider than --provider are not taken."""
    stored(provider="openvino")
    assert batch(start_server(repository, provider="cpu")) == 32
    assert said(lines) == ["--provider is cpu, they are for openvino"]


def test_no_tuned(stored: Callable[..., None], start_server: StartServer, repository: Path) -> None:
    """--no-tuned leaves them."""
    stored()
    assert batch(start_server(repository, tuned=False)) == 32


def test_another_kind_of_machine(stored: Callable[..., None], start_server: StartServer, repository: Path) -> None:
    """What was measured on another kind of machine is nothing to this one."""
    stored("some other CPU, 64 cores, onnxruntime")
    assert batch(start_server(repository)) == 32


def test_another_file(stored: Callable[..., None], start_server: StartServer, repository: Path, lines: Lines) -> None:
    """Settings of a file that was replaced since are not taken."""
    stored(sha256="ab")
    assert batch(start_server(repository)) == 32
    assert "another model file" in said(lines)[0]


def test_a_broken_file(start_server: StartServer, repository: Path, lines: Lines) -> None:
    """A tuned.json that cannot be understood keeps nobody from serving."""
    (repository / "linear/1/tuned.json").write_text("{")
    assert batch(start_server(repository)) == 32
    assert said(lines)[0].startswith("tuned.json: ")


def test_settings_that_do_not_run(
    stored: Callable[..., None], start_server: StartServer, connect: Connect, repository: Path
) -> None:
    """Tuned settings whose provider is missing are passed over by `auto`, and the version says why."""
    stored(provider="tensorrt")
    [listed] = connect(start_server(repository)).models()
    assert (listed.state, listed.provider, listed.max_batch_size) == ("READY", "cpu", 32)
    assert listed.reason.startswith("its tuned settings do not run: tensorrt: ")


def test_a_running_server_takes_them_too(
    stored: Callable[..., None], start_server: StartServer, repository: Path
) -> None:
    """A server that looks at its repository loads the version again with what was stored meanwhile."""
    server = start_server(repository, poll_seconds=0)
    assert batch(server) == 32
    stored()
    for _ in range(2):  # two looks agree
        server.repository.refresh(1.0)
    assert batch(server) == 5


def test_workers_have_a_share_of_the_cores(
    stored: Callable[..., None], start_server: StartServer, repository: Path
) -> None:
    """One of two workers takes what was measured on half of the cores."""
    stored(hosts.host_type(cores.each(2), check_runtime()))
    assert batch(start_server(repository, workers=2)) == 5


def test_more_calls_where_batches_are_larger(
    stored: Callable[..., None], start_server: StartServer, repository: Path
) -> None:
    """Calls enough to fill the queue and every tuned instance are let in."""
    stored(max_batch_size=64, instances=3)
    server = start_server(repository, queue_size=10)
    assert server.repository.find("linear", "").most_calls == 10 + 3 * 64

"""Who may import whom; the layers of the house, from the ground up."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SERVER = [
    ["service.errors", "service.folders", "service.logs", "service.providers", "service.records", "service.signals"],
    [
        "service.budget",
        "service.config",
        "service.cores",
        "service.costs",
        "service.counts",
        "service.decoder",
        "service.formats",
        "service.hosts",
        "service.protobuf",
        "service.rpc.deadlines",
        "service.rpc.parts",
        "service.rpc.pb",
        "service.rpc.statuses",
        "service.scrape",
        "service.secret_files",
        "service.watched",
        "service.looks",
    ],
    ["service.control", "service.manifest", "service.polling", "service.requests", "service.scores"],
    ["service.rpc.wire", "service.shown", "service.certificates", "service.tokens"],
    ["service.tls"],
    ["service.graph", "service.metrics", "service.tensors", "service.tuned", "service.verdicts"],
    ["service.foreign", "service.normalise"],
    ["service.image", "service.batcher", "service.session.runtime", "service.session.plan", "service.session.progress"],
    ["service.session.nvidia"],
    ["service.session.bound"],
    ["service.session.cpu", "service.session.cuda", "service.session.openvino", "service.session.tensorrt"],
    ["service.session.opening"],
    ["service.session.classifier", "service.session.graph"],
    ["service.session"],
    ["service.model"],
    ["service.selftest"],
    ["service.loading"],
    ["service.versions"],
    ["service.switch"],
    ["service.repository"],
    ["service.rpc.answers", "service.rpc.callers", "service.rpc.calls"],
    ["service.rpc.classifier", "service.rpc.gate", "service.rpc.health"],
    ["service.rpc.tensors", "service.rpc.streams"],
    ["service.rpc.described", "service.rpc.infer"],
    ["service.rpc.inference"],
    ["service.security"],
    ["service.server"],
    ["service.places", "service.port"],
    ["service.rounds"],
    ["service.supervisor", "service.worker"],
    ["service.tune.settings"],
    ["service.tune.kinds", "service.tune.running"],
    ["service.tune.search"],
    ["service.tune.command"],
    ["service.tune.show"],
    ["service.tune.cli"],
    ["service.load"],
    ["service.classify", "service.listed"],
    ["service.cli"],
    ["service.__main__"],
]
BOTH_SIDES = {"service.__main__", "service.classify", "service.cli", "service.listed"}
"""Rooms of the server's layers that may use the client too."""
CLIENT = [
    ["service.errors", "service.rpc.pb", "service.image", "service.manifest"],
    ["service.connection"],
    [f"service.client.{room}" for room in ("attempts", "failures", "pictures", "policy")],
    ["service.client.fitting"],
    ["service.client.answers"],
    ["service.client.base", "service.client.exchange"],
    ["service.client.stream_synchronous", "service.client.stream_asynchronous"],
    ["service.client.synchronous", "service.client.asynchronous"],
    ["service.client", "service.options", "service.probe"],
    ["service.public"],
    ["service.saccade"],
    ["service.load.plan", "service.load.outcome", "service.load.framing", "service.load.pictures"],
    ["service.load.objective", "service.load.scrape", "service.load.sender"],
    ["service.load.search", "service.load.targets", "service.load.wires"],
    ["service.load.processes"],
    ["service.load.report"],
    ["service.load.bench", "service.load.comparison", "service.load.plots"],
    ["service.load.show"],
    ["service.load.cli"],
]
EXPORT_MAY_USE = {
    "service.cores",
    "service.foreign",
    "service.graph",
    "service.hosts",
    "service.manifest",
    "service.image",
    "service.providers",
    "service.session",
    "service.model",
    "service.loading",
    "service.looks",
    "service.normalise",
    "service.scores",
    "service.selftest",
    "service.errors",
    "service.client",
    "service.connection",
    "service.protobuf",
    "service.tensors",
}
OWNERS = {
    "onnxruntime": {"service/session/runtime.py", "export/int8.py", "export/fp16.py"},
    "PIL": {"service/image.py"},
    "prometheus_client": {"service/metrics.py"},
    "typer": {
        "service/cli.py",
        "service/load/cli.py",
        "service/options.py",
        "service/tune/cli.py",
        "export/cli.py",
        "export/cli_evaluate.py",
        "export/cli_train.py",
    },
}
FORBIDDEN_TO_SERVE = {"torch", "onnx", "onnxscript", "sklearn", "matplotlib", "export"}


def sources(package: str) -> list[Path]:
    """Return the hand-written modules of a package."""
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "pb" not in path.parts]


def module_of(path: Path) -> str:
    """Return the dotted name of a file."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            yield from (
                argument.value
                for argument in node.args
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            )


def layer(layers: list[list[str]], name: str) -> int | None:
    """Return the number of the layer that a dotted name belongs to; None for other people's code."""
    return next(
        (
            number
            for number, rooms in enumerate(layers)
            for room in rooms
            if name == room or name.startswith(f"{room}.")
        ),
        None,
    )


@pytest.mark.parametrize("path", sources("service"), ids=module_of)
def test_service_imports_only_what_lies_below(path: Path) -> None:
    """Each module of the server imports only from the layers before its own."""
    name = module_of(path)
    if name in {"service", "service.rpc"}:
        assert not list(imports(path))
        return
    client = layer(CLIENT, name) is not None and layer(SERVER[:-4], name) is None
    layers = CLIENT if client else SERVER
    own = layer(layers, name)
    if name in {"service.load", "service.tune"}:
        assert not list(imports(path))
        return
    assert own is not None, f"{name} has no layer; give it a room in tests/test_layers.py"
    for imported in imports(path):
        if imported.startswith("service.") and not (name in BOTH_SIDES and layer(CLIENT, imported) is not None):
            below = layer(layers, imported)
            assert below is not None, f"{name} imports {imported}, which is not of its side"
            assert below < own, f"{name} imports {imported}, which is not below it"


@pytest.mark.parametrize("path", sources("service"), ids=module_of)
def test_service_never_names_the_training_stage(path: Path) -> None:
    """Nothing of the server imports export, torch or onnx, not even inside a function."""
    forbidden = FORBIDDEN_TO_SERVE - ({"matplotlib"} if module_of(path) == "service.load.plots" else set())
    assert not {name.split(".")[0] for name in imports(path)} & forbidden


@pytest.mark.parametrize("path", sources("export"), ids=module_of)
def test_export_uses_only_its_part_of_service(path: Path) -> None:
    """The training stage imports what reads and runs models and the client of the service, nothing else."""
    used = {".".join(name.split(".")[:2]) for name in imports(path) if name.startswith("service.")}
    assert used <= EXPORT_MAY_USE


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_its_owner(library: str) -> None:
    """onnxruntime, Pillow, prometheus_client and typer are imported by their owners only."""
    users = {
        str(path.relative_to(ROOT))
        for path in (*sources("service"), *sources("export"))
        if library in {name.split(".")[0] for name in imports(path)}
    }
    assert users <= OWNERS[library]


def test_rpc_package_is_empty() -> None:
    """service/rpc/__init__.py stays empty, so that importing the generated code imports nothing else."""
    assert (ROOT / "service/rpc/__init__.py").read_text() == ""

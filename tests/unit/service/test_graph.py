import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.errors import ModelRejected
from service.graph import MAX_DEPTH, external_files, read_graph
from tests.foreign_models import relocate, write_foreign

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])


def outside(location: str = "../secret.bin") -> TensorProto:
    """Return a tensor whose values are in a file."""
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def save(folder: Path, *nodes: onnx.NodeProto, initialisers: tuple[TensorProto, ...] = ()) -> Path:
    """Write a graph of these nodes."""
    model = helper.make_model(helper.make_graph(nodes, "g", [X], [Y], initialisers))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def test_says_what_it_is(tmp_path: Path) -> None:
    """Producer, name, operators and small constants of a graph are read."""
    graph = read_graph(write_foreign(tmp_path, producer="caffe", graph_name="net", begins=("Sub", [127.5])))
    assert (graph.producer, graph.name, graph.constants["begin"]) == ("caffe", "net", (127.5,))
    assert [node.operator for node in graph.nodes] == ["Sub", "Reshape", "MatMul", "Add"]


def test_large_constants_are_skipped(tmp_path: Path) -> None:
    """Of a large tensor only the first values are read."""
    array = np.arange(100_000, dtype=np.float32)
    graph = read_graph(save(tmp_path, initialisers=(numpy_helper.from_array(array, "large"),)))
    assert graph.constants["large"] == tuple(range(16))


@pytest.mark.parametrize(
    ("operators", "expected"),
    [
        (["Gemm", "Softmax"], "Softmax"),
        (["Softmax", "Reshape"], "Softmax"),
        (["Softmax", "Squeeze", "Identity", "Flatten"], "Softmax"),
        (["Softmax", "Mul"], "Mul"),
        (["Reshape"], ""),
        ([], ""),
    ],
)
def test_last_operator(operators: list[str], expected: str, tmp_path: Path) -> None:
    """The last operator is the last one that does more than shape."""
    names = ["x", *(f"v{number}" for number in range(1, len(operators))), "y"]
    nodes = [helper.make_node(operator, [names[i]], [names[i + 1]]) for i, operator in enumerate(operators)]
    assert read_graph(save(tmp_path, *nodes)).last_operator("y") == expected


def test_operators_in_a_circle(tmp_path: Path) -> None:
    """A graph that runs in a circle, which no runtime takes, is read without end."""
    nodes = [helper.make_node("Identity", ["y"], ["z"]), helper.make_node("Identity", ["z"], ["y"])]
    assert read_graph(save(tmp_path, *nodes)).last_operator("y") == "Identity"


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([helper.make_node("Sub", ["x", "c"], ["y"])], ("Sub", (2.0,))),
        ([helper.make_node("Cast", ["x"], ["v"], to=1), helper.make_node("Mul", ["c", "v"], ["y"])], ("Mul", (2.0,))),
        ([helper.make_node("Relu", ["x"], ["y"])], ("Relu", None)),
        ([helper.make_node("Sub", ["x", "c"], ["v"]), helper.make_node("Add", ["x", "v"], ["y"])], ("", None)),
        ([helper.make_node("Relu", ["c"], ["y"])], ("", None)),
    ],
    ids=["one", "behind a cast", "no constant", "used twice", "not used"],
)
def test_first_operator(
    nodes: list[onnx.NodeProto], expected: tuple[str, tuple[float, ...] | None], tmp_path: Path
) -> None:
    """The first operator of an input is told with the constant beside it, where it is the only one."""
    constant = numpy_helper.from_array(np.array([2], np.float32), "c")
    assert read_graph(save(tmp_path, *nodes, initialisers=(constant,))).first_operator("x") == expected


def test_constant_node(tmp_path: Path) -> None:
    """A constant may be a node of its own."""
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array([3], np.float32)))
    graph = read_graph(save(tmp_path, constant, helper.make_node("Sub", ["x", "c"], ["y"])))
    assert graph.first_operator("x") == ("Sub", (3.0,))


@pytest.mark.parametrize("said", [{"value_float": 0.5}, {"value_floats": [0.5, 0.25]}])
def test_constant_of_floats(said: dict[str, Any], tmp_path: Path) -> None:
    """A Constant node may hold its floats without a tensor."""
    graph = read_graph(
        save(tmp_path, helper.make_node("Constant", [], ["c"], **said), helper.make_node("Sub", ["x", "c"], ["y"]))
    )
    assert graph.first_operator("x") == ("Sub", (0.5, 0.25)[: 1 if "value_float" in said else 2])


def test_constant_of_half_floats(tmp_path: Path) -> None:
    """Constants of a graph in float16 are read too."""
    constant = numpy_helper.from_array(np.array([0.5, 127.5], np.float16), "c")
    graph = read_graph(save(tmp_path, helper.make_node("Sub", ["x", "c"], ["y"]), initialisers=(constant,)))
    assert graph.first_operator("x") == ("Sub", (0.5, 127.5))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no graph"),
        (b"\x08\x03", "holds no graph"),
        (b"This is a text.\n", "not a whole ONNX file"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "not a whole ONNX file"),
        (b"\x3a\x04\x0a\xff\xff\x7f", "not a whole ONNX file"),
        (b"\x80" * 64, "not a whole ONNX file"),
    ],
    ids=["empty", "version only", "text", "9 EB", "node past the end", "endless varint"],
)
def test_no_graph(content: bytes, why: str, tmp_path: Path) -> None:
    """A file that is no whole ONNX file, or has no graph, is refused with the reason."""
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelRejected, match=why):
        read_graph(tmp_path / "model.onnx")


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is refused with the system's reason."""
    with pytest.raises(ModelRejected, match="cannot be read: No such file"):
        read_graph(tmp_path / "model.onnx")


@pytest.mark.parametrize("seed", range(6))
def test_hostile_bytes(seed: int, tmp_path: Path) -> None:
    """Damaged and cut files are read or refused, and raise nothing but ModelRejected."""
    source, path = random.Random(seed), write_foreign(tmp_path, ones=True, external="w.bin")
    right = path.read_bytes()
    for _ in range(60):
        content = bytearray(right)
        for _ in range(source.randrange(1, 5)):
            content[source.randrange(len(content))] = source.randrange(256)
        path.write_bytes(content[: source.randrange(len(content))] if source.random() < 0.3 else content)
        try:
            external_files(path, read_graph(path))
        except ModelRejected as error:
            assert str(error)


def test_graphs_too_deep(tmp_path: Path) -> None:
    """Graphs within graphs end at a limit, before Python's own."""
    inner = helper.make_graph([], "g", [], [])
    for _ in range(MAX_DEPTH + 1):
        inner = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner)], "g", [], [])
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(inner).SerializeToString())
    with pytest.raises(ModelRejected, match=f"deeper than {MAX_DEPTH}"):
        read_graph(path)


def test_external_files(tmp_path: Path) -> None:
    """External weight files beside the model, in folders below too, are found."""
    path = write_foreign(tmp_path, external="weights/w.bin")
    assert external_files(path, read_graph(path)) == {"weights/w.bin": tmp_path / "weights/w.bin"}


def test_none(tmp_path: Path) -> None:
    """A model with its weights in it has no external files."""
    path = write_foreign(tmp_path)
    assert external_files(path, read_graph(path)) == {}


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../w.bin", "a/../../w.bin", "..\\w.bin", "", "a\0b", "/", "../version/w.bin"]
)
def test_location_outside(location: str, tmp_path: Path) -> None:
    """A location that is absolute, goes up or is none is refused, whether the file exists or not."""
    path = write_foreign(tmp_path / "version", external="w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(10_000))
    relocate(path, location)
    with pytest.raises(ModelRejected, match="must be a relative path without"):
        external_files(path, read_graph(path))


def link_out(folder: Path) -> None:
    """Put a link to a file outside in the place of the weights."""
    (folder / "w.bin").rename(folder.parent / "w.bin")
    (folder / "w.bin").symlink_to(folder.parent / "w.bin")


def folder_out(folder: Path) -> None:
    """Put a folder outside, reached by a link, in the place of that of the weights."""
    (folder / "w.bin").rename(folder.parent / "w.bin")
    (folder / "sub").symlink_to(folder.parent)
    relocate(folder / "model.onnx", "sub/w.bin")


def circle(folder: Path) -> None:
    """Put a link to itself in the place of the weights."""
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to("w.bin")


def pipe(folder: Path) -> None:
    """Put a pipe, which would be read for ever, in the place of the weights."""
    (folder / "w.bin").unlink()
    os.mkfifo(folder / "w.bin")


def cut(folder: Path) -> None:
    """Cut the weights' last byte off."""
    (folder / "w.bin").write_bytes((folder / "w.bin").read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / "w.bin").unlink(), "'w.bin' is missing"),
        (link_out, "'w.bin' is a link out of the version's folder"),
        (folder_out, "'sub/w.bin' is a link out"),
        (circle, "'w.bin' is missing"),
        (pipe, "'w.bin' is no plain file"),
        (cut, r"'w.bin' has [\d,]+ bytes, [\d,]+ are needed"),
    ],
    ids=["missing", "link out", "folder out", "circle", "pipe", "cut"],
)
def test_external_file_spoiled(spoil: Callable[[Path], None], why: str, tmp_path: Path) -> None:
    """An external file that is missing, elsewhere, no file or cut is refused by its name."""
    path = write_foreign(tmp_path / "version", external="w.bin")
    spoil(path.parent)
    with pytest.raises(ModelRejected, match=why):
        external_files(path, read_graph(path))


def test_link_within(tmp_path: Path) -> None:
    """A link that stays within the version's folder is followed; volumes of Kubernetes are made of such."""
    path = write_foreign(tmp_path, external="w.bin")
    (tmp_path / "data").mkdir()
    (tmp_path / "w.bin").rename(tmp_path / "data/w.bin")
    (tmp_path / "w.bin").symlink_to("data/w.bin")
    assert external_files(path, read_graph(path)) == {"w.bin": tmp_path / "w.bin"}


def in_constant() -> onnx.ModelProto:
    """Return a model whose external tensor is a constant node's."""
    return helper.make_model(
        helper.make_graph([helper.make_node("Constant", [], ["y"], value=outside())], "g", [], [Y])
    )


def in_subgraph() -> onnx.ModelProto:
    """Return a model whose external tensor is in a branch."""
    branch = helper.make_graph([], "b", [], [Y], [outside()])
    return helper.make_model(
        helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=branch)], "g", [], [Y])
    )


def in_function() -> onnx.ModelProto:
    """Return a model whose external tensor is in a function."""
    constant = helper.make_node("Constant", [], ["y"], value=outside())
    function = helper.make_function("own", "f", [], ["y"], [constant], [helper.make_opsetid("", 13)])
    return helper.make_model(helper.make_graph([], "g", [], [Y]), functions=[function])


def in_sparse() -> onnx.ModelProto:
    """Return a model whose external tensor is the values of a sparse one."""
    model = helper.make_model(helper.make_graph([], "g", [], [Y]))
    model.graph.sparse_initializer.add().values.CopyFrom(outside())
    return model


def said_twice() -> onnx.ModelProto:
    """Return a model whose tensor names a harmless file after the other."""
    tensor = outside()
    tensor.external_data.add(key="location", value="harmless.bin")
    return helper.make_model(helper.make_graph([], "g", [], [Y], [tensor]))


@pytest.mark.parametrize("make", [in_constant, in_subgraph, in_function, in_sparse, said_twice])
def test_every_tensor_is_looked_at(make: Callable[[], onnx.ModelProto], tmp_path: Path) -> None:
    """A location outside is found wherever a tensor may stand."""
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(ModelRejected, match=r"'\.\./secret\.bin' must be a relative path"):
        external_files(path, read_graph(path))

"""What an ONNX file's graph says, read without ONNX Runtime: its operators, small constants and external weight files.

Field numbers are those of onnx.proto. Whatever may hold a tensor (initialisers, attributes, subgraphs, functions) is
walked through, for each tensor may name a file; their numbers are skipped over.
"""

import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from service.errors import ModelRejected
from service.manifest import NOT_WHOLE
from service.protobuf import BYTES, FIXED32, Field, Wire

MAX_DEPTH = 16
"""Of graphs within attributes of nodes of graphs."""
MAX_EXTERNAL = 1000
_FIRST_VALUES = 16
"""How many values of a constant are read."""
_FIRST_OPERATORS = 8
"""How far an input is followed."""

_SHAPE_ONLY = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Cast", "Dropout", "Transpose"}
"""Operators that give their first input's values as they are."""

# Model: producer_name, graph, functions. Graph: node, name, initializer, sparse_initializer.
_PRODUCER, _GRAPH, _FUNCTION = 2, 7, 25
_NODE, _GRAPH_NAME, _INITIALIZER, _SPARSE = 1, 2, 5, 15
# Function: node, attribute_proto. Attribute: f, t, g, floats, tensors, graphs, sparse_tensor, sparse_tensors.
_FUNCTION_NODE, _FUNCTION_ATTRIBUTE = 7, 11
_F, _FLOATS = 2, 7
_T, _G, _TENSORS, _GRAPHS, _SPARSE_T, _SPARSE_TENSORS = 5, 6, 10, 11, 22, 23
# Tensor: data_type, float_data, name, raw_data, external_data.
_DATA_TYPE, _FLOAT_DATA, _TENSOR_NAME, _RAW_DATA, _EXTERNAL = 2, 4, 8, 9, 13
_FLOAT, _FLOAT16 = 1, 10


@dataclass(frozen=True, slots=True)
class Node:
    """One operator, with the names of what it takes and gives."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(slots=True)
class Graph:
    """The main graph of a file.

    Attributes:
        producer: what wrote the file.
        name: as the producer called it.
        nodes: in the order of the file, which is an order to run them in.
        constants: the first values of initialisers and Constant nodes, by name; empty where they are no floats, or
            lie in another file.
        external: the bytes that are needed of each external file, by its location as written.
    """

    producer: str = ""
    name: str = ""
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, tuple[float, ...]] = field(default_factory=dict)
    external: dict[str, int] = field(default_factory=dict)

    def last_operator(self, output: str) -> str:
        """Return the operator that makes an output, those that only shape it left out; empty where there is none."""
        makers = {name: node for node in self.nodes for name in node.outputs[:1]}
        node = makers.get(output)
        for _ in self.nodes:
            if node is None or node.operator not in _SHAPE_ONLY:
                break
            node = makers.get(node.inputs[0]) if node.inputs else None
        return node.operator if node else ""

    def first_operator(self, name: str) -> tuple[str, tuple[float, ...] | None]:
        """Return the only operator that an input goes into, those that only shape it left out, and the constant beside.

        Both are empty or None where there is none.
        """
        for _ in range(_FIRST_OPERATORS):
            users = [node for node in self.nodes if name in node.inputs]
            if len(users) != 1:
                break
            node = users[0]
            if node.operator not in _SHAPE_ONLY:
                beside = [self.constants[other] for other in node.inputs if other in self.constants]
                return node.operator, beside[0] if beside else None
            name = node.outputs[0] if node.outputs else ""
        return "", None


def read_graph(model: Path) -> Graph:
    """Return what the graph of an ONNX file says.

    Raises:
        ModelRejected: the file cannot be read, is no whole ONNX file or has no graph.
    """
    try:
        with model.open("rb") as file:
            reader = _Reader(Wire(file))
            reader.model(model.stat().st_size)
    except ValueError:
        raise ModelRejected(NOT_WHOLE) from None
    except OSError as error:
        raise ModelRejected(f"the file cannot be read: {error.strerror}") from None
    if not reader.found:
        raise ModelRejected("the file holds no graph; it is empty, or no ONNX model")
    return reader.graph


def external_files(model: Path, graph: Graph) -> dict[str, Path]:
    """Return the external weight files of a model by their location as written, in its order.

    Raises:
        ModelRejected: a location is absolute, goes up or leads by a link out of the model's folder; or the file is
            missing, no plain file or too short.
    """
    folder = model.parent
    files = {}
    for location, needed in sorted(graph.external.items()):
        what = f"its external weight file {location[:200]!r}"
        parts = PurePosixPath(location.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in location:
            raise ModelRejected(f"{what} must be a relative path without '..': it lies beside the model")
        path = folder / location
        try:
            found = path.resolve(strict=True)
            status = found.stat()
        except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
            raise ModelRejected(f"{what} is missing; copy it beside the model") from None
        if not found.is_relative_to(folder.resolve()):
            raise ModelRejected(f"{what} is a link out of the version's folder; copy the file itself there")
        if not stat.S_ISREG(status.st_mode):
            raise ModelRejected(f"{what} is no plain file")
        if status.st_size < needed:
            raise ModelRejected(f"{what} has {status.st_size:,} bytes, {needed:,} are needed; copy it again")
        files[location] = path
    return files


def _floats(data: bytes, kind: str = "f", size: int = 4) -> tuple[float, ...]:
    """Return the whole numbers of so many bytes that there are."""
    count = min(len(data) // size, _FIRST_VALUES)
    return struct.unpack(f"<{count}{kind}", data[: count * size])


class _Reader:
    """Fills a Graph from the messages of a file; protobuf merges a message that comes twice, and so does this."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.graph = Graph()
        self.found = False

    def model(self, size: int) -> None:
        for part in self._messages(size):
            if part.number == _PRODUCER:
                self.graph.producer = self._wire.text(part)
            elif part.number == _GRAPH:
                self.found = True
                self._graph(part.size, 0)
            elif part.number == _FUNCTION:
                for inner in self._messages(part.size):
                    if inner.number == _FUNCTION_NODE:
                        self._node(inner.size, 1)
                    elif inner.number == _FUNCTION_ATTRIBUTE:
                        self._attribute(inner.size, 1)

    def _graph(self, size: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ModelRejected(f"its graphs lie within each other deeper than {MAX_DEPTH}; that is no classifier")
        for part in self._messages(size):
            if part.number == _NODE:
                node = self._node(part.size, depth)
                if depth == 0:
                    self.graph.nodes.append(node)
            elif part.number == _GRAPH_NAME and depth == 0:
                self.graph.name = self._wire.text(part)
            elif part.number == _INITIALIZER:
                name, values = self._tensor(part.size)
                if depth == 0:
                    self.graph.constants[name] = values
            elif part.number == _SPARSE:
                self._sparse(part.size)

    def _node(self, size: int, depth: int) -> Node:
        texts: dict[int, list[str]] = {1: [], 2: [], 4: []}  # input, output, op_type
        values: tuple[float, ...] | None = None
        for part in self._messages(size):
            if part.number in texts:
                texts[part.number].append(self._wire.text(part))
            elif part.number == 5:
                found = self._attribute(part.size, depth)
                values = found if values is None else values
        node = Node("".join(texts[4][-1:]), tuple(texts[1]), tuple(texts[2]))
        if node.operator == "Constant" and depth == 0:
            self.graph.constants |= dict.fromkeys(node.outputs, values or ())
        return node

    def _attribute(self, size: int, depth: int) -> tuple[float, ...] | None:
        """Walk through an attribute; return the first values of its tensor or its floats, if it is one."""
        values = None
        for part in self._wire.fields(size):
            if (part.number, part.wire_type) in {(_F, FIXED32), (_FLOATS, FIXED32), (_FLOATS, BYTES)}:
                more = _floats(self._wire.read(min(part.size, 4 * _FIRST_VALUES)))
                values = ((values or ()) + more)[:_FIRST_VALUES]
            elif part.wire_type != BYTES:
                continue
            elif part.number in {_T, _TENSORS}:
                values = self._tensor(part.size)[1]
            elif part.number in {_G, _GRAPHS}:
                self._graph(part.size, depth + 1)
            elif part.number in {_SPARSE_T, _SPARSE_TENSORS}:
                self._sparse(part.size)
        return values

    def _sparse(self, size: int) -> None:
        for part in self._messages(size):
            if part.number in {1, 2}:  # values, indices
                self._tensor(part.size)

    def _tensor(self, size: int) -> tuple[str, tuple[float, ...]]:
        """Return a tensor's name and first values; note the external file that it names."""
        name, data_type, data, raw = "", 0, b"", False
        external: list[tuple[str, str]] = []
        for part in self._wire.fields(size):
            if part.number == _DATA_TYPE:
                data_type = part.value
            elif part.wire_type != BYTES:
                continue
            elif part.number == _TENSOR_NAME:
                name = self._wire.text(part)
            elif part.number in {_RAW_DATA, _FLOAT_DATA}:
                data, raw = self._wire.read(min(part.size, 4 * _FIRST_VALUES)), part.number == _RAW_DATA
            elif part.number == _EXTERNAL:
                entry = {inner.number: self._wire.text(inner) for inner in self._messages(part.size)}
                external.append((entry.get(1, ""), entry.get(2, "")))
        if external:
            self._note(external)
        if data_type == _FLOAT16 and raw:
            return name, _floats(data, "e", 2)
        return name, _floats(data) if data_type == _FLOAT else ()

    def _note(self, entries: list[tuple[str, str]]) -> None:
        """Note every location that is written, even those that a later one would overrule."""
        numbers = {key: int(value) for key, value in entries if key in {"offset", "length"}}
        for location in [value for key, value in entries if key == "location"] or [""]:
            known = self.graph.external.get(location, 0)
            self.graph.external[location] = max(known, numbers.get("offset", 0) + numbers.get("length", 0))
        if len(self.graph.external) > MAX_EXTERNAL:
            raise ModelRejected(f"it names more than {MAX_EXTERNAL:,} external weight files")

    def _messages(self, size: int) -> Iterator[Field]:
        """Yield the fields of a message that are messages or texts themselves."""
        return (part for part in self._wire.fields(size) if part.wire_type == BYTES)

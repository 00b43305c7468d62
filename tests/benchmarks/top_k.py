"""Softmax and top-k of a batch: as the service has them, beside the same in the graph.

The bare graph (Identity) is taken off both. Needs onnx, which the extra `train` brings.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from service.scores import Rows, best_of, softmax
from service.session import runtime
from tests.benchmarks.machine import fastest
from tests.benchmarks.table import Compared, Group, Line, Plan, Step

K = 5
ROWS = {
    f"softmax and top {K} of {classes:,} classes, {batch} row{'s'[: batch > 1]}": (classes, batch)
    for classes in (10, 1000)
    for batch in (1, 8, 32)
}
_REPEATS = 200


def session(classes: int, *nodes: tuple[str, list[str], list[str]], outputs: Sequence[str]) -> Any:  # noqa: ANN401
    """Return a session of a graph of these operations on rows `x`."""
    from onnx import TensorProto, helper

    made = [
        helper.make_node(name, given, taken, **({} if name == "Identity" else {"axis": 1}))
        for name, given, taken in nodes
    ]
    results = [
        helper.make_tensor_value_info(name, TensorProto.INT64 if name == "i" else TensorProto.FLOAT, None)
        for name in outputs
    ]
    graph = helper.make_graph(
        made,
        "rows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", classes])],
        results,
        [helper.make_tensor("k", TensorProto.INT64, [1], [K])] if "i" in outputs else [],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnxruntime = runtime.load()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def compare(classes: int, batch: int, rounds: int) -> list[Compared]:
    """Measure softmax and top-k of so many rows, here and in the graph."""
    logits: Rows = np.random.default_rng(0).normal(size=(batch, classes)).astype(np.float32)
    rows = softmax(logits)
    plain = session(classes, ("Identity", ["x"], ["p"]), outputs=["p"])
    soft = session(classes, ("Softmax", ["x"], ["p"]), outputs=["p"])
    best = session(classes, ("Identity", ["x"], ["p"]), ("TopK", ["x", "k"], ["v", "i"]), outputs=["p", "v", "i"])

    def in_graph() -> list[Any]:
        _, values, indices = best.run(None, {"x": rows})
        return list(zip(indices.tolist(), values.tolist(), strict=True))

    nothing = fastest(lambda: plain.run(None, {"x": rows}), rounds, _REPEATS)
    here, there = (
        fastest(call, rounds, _REPEATS) for call in (lambda: softmax(logits), lambda: soft.run(None, {"x": logits}))
    )
    softmaxes = Compared("us/batch, softmax in numpy: in the graph", here, there - nothing)
    here, there = (fastest(call, rounds, _REPEATS) for call in (lambda: best_of(rows, K), in_graph))
    return [softmaxes, Compared("us/batch, top-k as served: in the graph", here, there - nothing)]


def lines(names: Sequence[str], plan: Plan, step: Step) -> Iterator[Line]:
    """Measure the rows of these names."""
    for name in names:
        yield Line(name, compare(*ROWS[name], rounds=5 * plan.rounds))
        step(1.0)


GROUPS = [Group(list(ROWS), lambda plan: 1.0 * plan.rounds, lines)]

"""A graph with all its outputs, to look into and not to serve."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service import cores, logs
from service.errors import ModelRejected
from service.session import runtime
from service.session.opening import Create


def open_graph(
    model: Path | bytes, create: Create | None = None
) -> Callable[[npt.NDArray[Any]], dict[str, npt.NDArray[np.float32]]]:
    """Return what runs a batch through a graph on the CPU and gives all outputs by name: to look into, not to serve.

    Args:
        model: an ONNX file, or its contents.
        create: see Session.

    Raises:
        ModelRejected: ONNX Runtime cannot load it.
    """
    options = runtime.load().SessionOptions()
    options.intra_op_num_threads = cores.count()
    options.log_severity_level = 3  # outputs whose shape is not declared are worth a warning to it
    source = model if isinstance(model, bytes) else str(model)
    create = create or runtime.load().InferenceSession
    try:
        session = create(source, sess_options=options, providers=[runtime.NAMES["cpu"]])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime raises what its libraries raise
        logs.failure("session failed", error, model="" if isinstance(model, bytes) else model, provider="cpu")
        raise ModelRejected("ONNX Runtime cannot load it on cpu; the log says why") from None
    name = session.get_inputs()[0].name
    outputs = [output.name for output in session.get_outputs()]
    return lambda batch: dict(zip(outputs, session.run(outputs, {name: batch}), strict=True))

"""What every peer serves: the same model file in ONNX Runtime, opened as this service opens it on a CPU."""

import json
import os
from collections.abc import Sequence

import numpy as np
import onnxruntime

PORT = int(os.environ.get("PEER_PORT", "0"))
"""Of the server."""
MOST = 32
"""Largest batch."""
DELAY_MS = 1
"""Milliseconds that a picture waits for others, where a peer has such a delay."""


class Classifier:
    """Raw pixels in, the most probable label out; the file's manifest says the labels."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        # Waiting threads that spin take the cores from the server and from the callers.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            os.environ["PEER_MODEL"], options, providers=["CPUExecutionProvider"]
        )
        manifest = json.loads(self._session.get_modelmeta().custom_metadata_map["saccade.manifest"])
        self._labels: list[str] = manifest["labels"]
        self._input = self._session.get_inputs()[0]

    def __call__(self, pictures: Sequence[bytes]) -> list[str]:
        """Return the label of each picture, given as its uint8 pixels in rows."""
        batch = np.frombuffer(b"".join(pictures), np.uint8).reshape(len(pictures), *self._input.shape[1:])
        [probabilities] = self._session.run(["probabilities"], {self._input.name: batch})
        return [self._labels[index] for index in probabilities.argmax(axis=1)]

"""What an explain graph gives beside the probabilities, and how its file says so."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from service.errors import ModelRejected
from service.manifest import metadata

KEY = "saccade.explain"
"""The entry of the ONNX file's metadata."""
FILE = "explain.onnx"
"""Stands beside model.onnx."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One resolution of the network: the output that holds its maps [N, channels, height, width].

    Attributes:
        output: name of the graph's output.
        operators: what made it of the stage before, in order, as `Conv` or `3 Conv`.
    """

    output: str
    operators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The outputs of an explain graph.

    Attributes:
        probabilities: the model's own output.
        stages: from the first convolution on.
        filters: the first convolution's weights [maps, channels, height, width]; None where there is no convolution.
        class_maps: each class's evidence by place [N, classes, height, width]; None where the head is not global
            average pooling and at most one linear layer.
    """

    probabilities: str
    stages: tuple[Stage, ...]
    filters: str | None
    class_maps: str | None

    def to_json(self) -> str:
        """Return the text that goes into the file."""
        return json.dumps(asdict(self))


def read_plan(path: Path) -> Plan:
    """Return what an explain.onnx says of itself.

    Raises:
        ModelRejected: it says nothing, or something else.
    """
    try:
        fields = json.loads(metadata(path)[KEY])
        stages = tuple(Stage(stage["output"], tuple(stage["operators"])) for stage in fields["stages"])
        return Plan(fields["probabilities"], stages, fields["filters"], fields["class_maps"])
    except (KeyError, TypeError, ValueError):
        raise ModelRejected(f"{path} is no explain graph; write it by `saccade export --explain`") from None

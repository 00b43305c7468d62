"""TorchServe: bytes in a map over gRPC, the label as bytes."""

from typing import Any

from classifier import Classifier

classify: Classifier | None = None


def handle(data: list[dict[str, bytes]] | None, context: Any) -> list[str] | None:  # noqa: ANN401 - TorchServe's own
    """Run a batch; the first call, without data, opens the model."""
    global classify  # noqa: PLW0603 - what TorchServe asks of a handler that is a function
    del context
    if classify is None:
        classify = Classifier()
    return None if data is None else classify([bytes(row["image"]) for row in data])

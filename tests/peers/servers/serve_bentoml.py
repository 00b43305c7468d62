"""BentoML: it takes JSON and forms, so pixels travel as base64 in JSON. Its batching sets its delay itself."""

from base64 import b64decode

import bentoml
from classifier import MOST, Classifier


@bentoml.service(workers=1, traffic={"timeout": 60})
class Label:
    """One process that answers and runs batches."""

    def __init__(self) -> None:
        self._classify = Classifier()

    @bentoml.api(batchable=True, max_batch_size=MOST, max_latency_ms=10_000)
    def classify(self, pictures: list[str]) -> list[str]:
        """Run a batch."""
        return self._classify([b64decode(picture) for picture in pictures])

"""MLServer: the Open Inference Protocol over gRPC.

Pixels travel as one BYTES element: it makes a Python number of each element of a UINT8 tensor.
"""

from classifier import Classifier
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Label(MLModel):
    """Runs the batches that the server's adaptive batching makes."""

    async def load(self) -> bool:
        """Open the model."""
        self._classify = Classifier()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run a batch."""
        labels = self._classify(payload.inputs[0].data.root)
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("label", labels)])

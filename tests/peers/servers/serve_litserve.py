"""LitServe: it knows JSON and forms, so pixels travel as base64 in JSON."""

from base64 import b64decode

import litserve
from classifier import DELAY_MS, MOST, PORT, Classifier


class Label(litserve.LitAPI):
    """One process that runs batches."""

    def setup(self, device: str) -> None:
        """Open the model."""
        del device
        self._classify = Classifier()

    def decode_request(self, request: litserve.Request) -> bytes:
        """Return the pixels; what comes is the body's JSON, which this annotation leaves unchecked by pydantic."""
        return b64decode(request["image"])

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Leave the pictures as they are: they are joined once, in the classifier."""
        return list(inputs)

    def unbatch(self, output: list[str]) -> list[str]:
        """Return an answer for each."""
        return output

    def predict(self, x: list[bytes]) -> list[str]:
        """Run a batch."""
        return self._classify(x)

    def encode_response(self, output: str) -> dict[str, str]:
        """Answer with the label."""
        return {"label": output}


if __name__ == "__main__":
    api = Label(max_batch_size=MOST, batch_timeout=DELAY_MS / 1000)
    # fast_queue: ZeroMQ between the processes, which its manual advises for many small requests.
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=PORT, generate_client_file=False, log_level="warning", access_log=False)

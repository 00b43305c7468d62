"""mosec: pixels as the body of an HTTP request, the label as its answer's."""

from classifier import DELAY_MS, MOST, Classifier
from mosec import Server, Worker


class Label(Worker):
    """One process that runs batches."""

    def __init__(self) -> None:
        super().__init__()
        self._classify = Classifier()

    def deserialize(self, data: bytes) -> bytes:
        """Take the body as it is."""
        return data

    def forward(self, data: list[bytes]) -> list[str]:
        """Run a batch."""
        return self._classify(data)

    def serialize(self, data: str) -> bytes:
        """Answer with the label."""
        return data.encode()


if __name__ == "__main__":
    server = Server()
    server.append_worker(Label, num=1, max_batch_size=MOST, max_wait_time=DELAY_MS)
    server.run()

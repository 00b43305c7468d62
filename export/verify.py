"""Proof that an ONNX file computes what the trained network computes; nothing unverified is published."""

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from export.checkpoint import Checkpoint, Classifier
from export.data import Pictures
from export.evaluate import accuracy, batches
from export.onnx_export import encode, with_output
from service import image
from service.errors import ModelRejected
from service.manifest import Preprocessing, read_manifest
from service.model import Options
from service.selftest import check_against_manifest, self_test
from service.session import Session

PROBABILITY_LIMIT = 1e-5
LOGIT_LIMIT = 1e-4
"""Of logits, times the largest of them (at least 1): float32 keeps about seven digits of each."""
ROUNDINGS = 4
"""Of the network's own rounding, what a file may differ in probabilities where that is more than the limit above: of
ResNet-152 with random weights float32 is 1.2e-5 from float64, whoever computes it."""
LARGEST_BATCH = 32

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Difference:
    """Largest differences between file and trained network."""

    probabilities: float
    logits: float


@dataclass(frozen=True, slots=True)
class Parity:
    """Largest differences between file and trained network, and the file's accuracy through the serving path.

    `answers` are the file's probabilities [N, classes] on the validation split, for whatever else follows from them.
    """

    probabilities: float
    logits: float
    accuracy: float
    answers: npt.NDArray[np.float32] = field(repr=False)


def verify(checkpoint: Checkpoint, path: Path, validation: Pictures) -> Parity:
    """Compare the file with the network on the validation split, at batch 1, 2 and the largest.

    Raises:
        ModelRejected: it differs by more than the limits, or is not as accurate as the network.
    """
    images = decoded(encode(validation), checkpoint.spec)
    classifier = checkpoint.classifier()
    difference = compare(classifier, path, images, batch_sizes=(1, 2, LARGEST_BATCH))
    run = _session(path, LARGEST_BATCH).run
    answers = np.concatenate([run(images[part]) for part in batches(len(images), LARGEST_BATCH)])
    reached = float((answers.argmax(axis=1) == validation.labels).mean())
    trained = accuracy(classifier.predict, images, validation.labels)
    if reached != trained:
        raise ModelRejected(f"the file's accuracy is {reached:.4%}, the trained network's {trained:.4%}")
    return Parity(difference.probabilities, difference.logits, reached, answers)


def decoded(encoded: Sequence[bytes], spec: Preprocessing) -> Images:
    """Return the network's input, uint8 [N, height, width, channels], of encoded pictures, as serving makes it."""
    return np.stack([image.decode(picture, spec, max_pixels=1 << 26) for picture in encoded])


def compare(classifier: Classifier, path: Path, images: Images, *, batch_sizes: Sequence[int]) -> Difference:
    """Compare the file's probabilities and logits with the network's, on the first four batches of each size.

    Raises:
        ModelRejected: they differ by more than the limits.
    """
    largest = max(batch_sizes)
    images = images[: 4 * largest]
    with torch.inference_mode():
        scores = classifier.logits(torch.from_numpy(images))
        expected_logits, expected = scores.numpy(), torch.softmax(scores, dim=1).numpy()

    def apart(file: Path, expected: npt.NDArray[np.float32]) -> float:
        session = _session(file, largest)
        parts = [_apart(session, images[: 4 * size], expected[: 4 * size], size) for size in batch_sizes]
        return float(np.max(parts))  # numpy's, which keeps NaN

    probabilities = apart(path, expected)
    with tempfile.TemporaryDirectory() as folder:
        logits_path = Path(folder) / "logits.onnx"
        with_output(path, "Softmax", logits_path)
        logits = apart(logits_path, expected_logits)
    most = PROBABILITY_LIMIT
    if probabilities > most:
        most = max(most, ROUNDINGS * rounding(classifier, images))
    _check("probabilities", probabilities, most)
    _check("logits", logits, LOGIT_LIMIT * max(1.0, float(np.abs(expected_logits).max())))
    return Difference(probabilities, logits)


def rounding(classifier: Classifier, images: Images) -> float:
    """Return how far the network's probabilities in float32 are from its own in float64."""
    exact = copy.deepcopy(classifier).double()
    return float(np.abs(exact.predict(images) - classifier.predict(images)).max())


def _session(path: Path, max_batch_size: int) -> Session:
    return Session(path, "cpu", intra_op_threads=0, max_batch_size=max_batch_size)


def _apart(session: Session, images: Images, expected: npt.NDArray[np.float32], size: int) -> float:
    """Return the largest difference over `images`, run in batches of `size`."""
    differences = [
        np.abs(session.run(images[first : first + size]) - expected[first : first + size]).max()
        for first in range(0, len(images), size)
    ]
    return float(np.max(differences))


def _check(what: str, apart: float, limit: float) -> None:
    if not apart <= limit:  # also refuses NaN
        raise ModelRejected(
            f"the file's {what} differ from the trained network's by {apart:.2g}; the limit is {limit:.2g}"
        )


def check_loads(path: Path, *, max_batch_size: int = LARGEST_BATCH) -> None:
    """Load the finished file as the server does, self-test included.

    Raises:
        ModelRejected: the server would not serve it.
    """
    manifest = read_manifest(path)
    session = _session(path, max_batch_size)
    check_against_manifest(session, manifest)
    session.warm_up()
    self_test(session.run, manifest, Options(max_batch_size=max_batch_size))

"""Proof that an ONNX file computes what the trained network computes; nothing unverified is published."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from export.checkpoint import Checkpoint
from export.data import Pictures
from export.evaluate import batches
from export.onnx_export import encode, with_output
from service import image
from service.errors import ModelRejected
from service.manifest import read_manifest
from service.model import Options, check_against_manifest, self_test
from service.session import Session

PROBABILITY_LIMIT = 1e-5
LOGIT_LIMIT = 1e-4
"""Of logits, times the largest of them (at least 1): float32 keeps about seven digits of each."""
LARGEST_BATCH = 32

Images = npt.NDArray[np.uint8]


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
    session = _session(path)
    encoded = encode(validation.images)
    spec = checkpoint.spec
    images = np.stack([image.decode(picture, spec, max_pixels=1 << 26) for picture in encoded])
    classifier = checkpoint.classifier()
    expected = classifier.predict(images)
    with torch.inference_mode():
        expected_logits = classifier.logits(torch.from_numpy(images)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        logits_path = Path(folder) / "logits.onnx"
        with_output(path, "Softmax", logits_path)
        logits_session = _session(logits_path)
        probabilities = logits = 0.0
        for size in (1, 2, LARGEST_BATCH):
            part = slice(0, min(4 * size, len(images)))
            probabilities = max(probabilities, _apart(session, images[part], expected[part], size))
            logits = max(logits, _apart(logits_session, images[part], expected_logits[part], size))
    limit = LOGIT_LIMIT * max(1.0, float(np.abs(expected_logits).max()))
    _check("probabilities", probabilities, PROBABILITY_LIMIT)
    _check("logits", logits, limit)
    answers = np.concatenate([session.run(images[part]) for part in batches(len(images), LARGEST_BATCH)])
    reached = float((answers.argmax(axis=1) == validation.labels).mean())
    trained = float((expected.argmax(axis=1) == validation.labels).mean())
    if reached != trained:
        raise ModelRejected(f"the file's accuracy is {reached:.4%}, the trained network's {trained:.4%}")
    return Parity(probabilities, logits, reached, answers)


def _session(path: Path) -> Session:
    return Session(path, "cpu", intra_op_threads=0, max_batch_size=LARGEST_BATCH)


def _apart(session: Session, images: Images, expected: npt.NDArray[np.float32], size: int) -> float:
    """Return the largest difference over `images`, run in batches of `size`."""
    differences = [
        np.abs(session.run(images[first : first + size]) - expected[first : first + size]).max()
        for first in range(0, len(images), size)
    ]
    return float(max(differences))


def _check(what: str, apart: float, limit: float) -> None:
    if not apart <= limit:  # also refuses NaN
        raise ModelRejected(
            f"the file's {what} differ from the trained network's by {apart:.2g}; the limit is {limit:.2g}"
        )


def check_loads(path: Path) -> None:
    """Load the finished file as the server does, self-test included.

    Raises:
        ModelRejected: the server would not serve it.
    """
    manifest = read_manifest(path)
    session = _session(path)
    check_against_manifest(session, manifest)
    session.warm_up()
    self_test(session.run, manifest, Options(max_batch_size=LARGEST_BATCH))

"""The self-test: does a session give what the manifest and its golden samples say?"""

from collections.abc import Callable

import numpy as np

from service import image
from service.errors import InvalidInput, ModelRejected
from service.manifest import Manifest
from service.model import Options, Pixels, Probabilities
from service.normalise import Normalise
from service.providers import Computed
from service.scores import TOLERANCE, check_probabilities
from service.session import Session


def on_pixels(session: Session, manifest: Manifest) -> Callable[[Pixels], Probabilities]:
    """Return what gives the probabilities of pictures uint8 [N, height, width, channels], whatever the graph takes."""
    normalise = Normalise(manifest.preprocessing, session.input)
    return lambda pixels: session.run(normalise.batch(pixels))


def check_against_manifest(session: Session, manifest: Manifest) -> None:
    """Refuse a file whose graph is not what its manifest says.

    Raises:
        ModelRejected: sizes or classes differ.
    """
    spec = manifest.preprocessing
    said = (spec.height, spec.width, spec.channels)
    if session.input_shape != said:
        raise ModelRejected(
            f"the graph takes {session.input_shape} (height, width, channels), the manifest says {said}"
        )
    if session.classes != len(manifest.labels):
        raise ModelRejected(
            f"the graph gives {session.classes} classes, the manifest has {len(manifest.labels)} labels"
        )


def self_test(
    run: Callable[[Pixels], Probabilities], manifest: Manifest, options: Options, precision: Computed | None = None
) -> bool:
    """Return whether golden samples gave the expected probabilities here; False where the file carries none.

    Args:
        run: gives the probabilities of pictures.
        manifest: holds the samples.
        options: what the file is loaded with.
        precision: what the numbers are computed in, where that is not the file's own.

    Raises:
        ModelRejected: a sample gave something else; names the sample, the difference and the limit.
    """
    precision = precision or manifest.precision
    samples, spec = manifest.golden_samples, manifest.preprocessing
    limits = [TOLERANCE[precision] if each.tolerance is None else each.tolerance for each in samples]
    for first in range(0, len(samples), options.max_batch_size):
        chunk = samples[first : first + options.max_batch_size]
        try:
            pixels = np.stack([image.decode(sample.picture, spec, max_pixels=options.max_pixels) for sample in chunk])
        except InvalidInput as error:
            raise ModelRejected(f"self-test: a golden sample cannot be decoded: {error.reason}") from None
        probabilities = run(pixels)
        check_probabilities(probabilities, len(chunk), len(manifest.labels))
        apart = np.abs(probabilities - np.array([sample.probabilities for sample in chunk], np.float32)).max(axis=1)
        over = apart - limits[first : first + len(chunk)]
        if over.max() > 0:
            worst = int(over.argmax())
            raise ModelRejected(
                f"self-test: golden sample {first + worst} is {apart[worst]:.2g} from its expected probabilities; "
                f"the limit for {precision} is {limits[first + worst]:.2g}"
            )
    return bool(samples)

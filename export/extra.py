"""What making models needs installed, beyond what serving does."""

import importlib.util
import os

from service.errors import SetupError

PACKAGES = ("torch", "onnx", "onnxscript", "sklearn", "matplotlib")


def need_extra(*packages: str) -> None:
    """Get ready for torch; where packages are missing, say which command mends it.

    Args:
        packages: those that are needed; all if none are named.

    Raises:
        SetupError: a package is missing.
    """
    # torch's threads spin while they wait for each other: with one busy neighbour on two cores the digits took 32 s
    # instead of 7, and 11 with this. It is read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    missing = [name for name in packages or PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(f"{', '.join(missing)} missing: run `pip install '.[cpu,train]'` in a clone of Saccade")

"""Settings of a training on the command line: a recipe with some of its fields changed, each within its bounds."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

from export.recipes import Recipe
from service.errors import SetupError

_BOUNDS: dict[str, tuple[float, float]] = {
    "epochs": (1, 1e6),
    "batch_size": (0, 1e9),
    "learning_rate": (1e-12, 1e3),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 1e3),
    "warmup": (0, 1),
    "label_smoothing": (0, 0.999),
    "clip": (0, 1e9),
    "average": (0, 0.999999),
    "patience": (0, 1e6),
    "teacher_share": (0, 1),
    "temperature": (1, 100),
    "body_rate": (0, 1),
    "crop_fraction": (0.01, 1),
    "shift": (0, 1),
    "scale": (0, 0.99),
    "rotate": (0, 180),
    "crop": (0, 4096),
    "crop_area": (0, 1),
    "start_size": (0, 4096),
    "cutout": (0, 4096),
    "mixup": (0, 100),
    "invert": (0, 1),
    "seed": (0, 2**63 - 1),
}
NEVER_MIRRORED = {"digits", "mnist", "idx"}
"""Data of digits or letters: a mirrored one is another one or none, so that only `flip=true` mirrors them."""
_FIXED = {"name", "expected_accuracy", "measured"}


def change(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return the recipe with fields changed by settings like `learning_rate=0.1`.

    Raises:
        SetupError: a setting names no field, or a value that it cannot have; says what it can.
    """
    kinds = get_type_hints(Recipe)
    names = [field.name for field in fields(Recipe) if field.name not in _FIXED]
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in names:
            raise SetupError(f"--set {setting}: it takes FIELD=VALUE, and the fields are {', '.join(names)}")
        changes[name] = _value(name, text.strip(), kinds[name])
    if changes.get("data") in NEVER_MIRRORED:
        changes.setdefault("flip", False)
    return replace(recipe, **changes)


def _value(name: str, text: str, kind: Any) -> str | int | float | bool:  # noqa: ANN401 - a type or a Literal
    if get_args(kind):
        if text not in get_args(kind):
            raise SetupError(f"{name} is {text!r}; it can be {', '.join(get_args(kind))}")
        return text
    if kind is bool:
        if text.lower() not in {"true", "false"}:
            raise SetupError(f"{name} is {text!r}; it can be true or false")
        return text.lower() == "true"
    if kind is str:
        return text
    if name == "batch_size" and text == "all":
        return 0
    if name == "channels" and text not in {"0", "1", "3"}:
        raise SetupError(f"channels is {text!r}; it can be 1, 3, or 0 for what the data have")
    least, most = _BOUNDS.get(name, (0, 3))
    try:
        value: int | float = kind(text)
    except ValueError:
        words = "a whole number" if kind is int else "a number"
        raise SetupError(f"{name} is {text!r}; it must be {words} from {least:g} to {most:g}") from None
    if not least <= value <= most:  # also refuses NaN
        raise SetupError(f"{name} is {text}; it must be from {least:g} to {most:g}")
    return value

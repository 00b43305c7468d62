"""The settings as they are shown: all of them as a table for the manual, those in force with where each comes from."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args, get_origin

import annotated_types

from service import secret_files
from service.config import Settings, flag, variable

Origin: TypeAlias = Literal["command line", "environment", "default"]

SECRET_FILES = ("tls_key", "tokens_file")
"""Settings that name files of secrets."""


def in_force(settings: Settings, given: Mapping[str, object]) -> str:
    """Return the settings in force as one JSON object: of each its value, and where that comes from.

    Secrets lie in files, of which only the names are shown; see service.secret_files for what is masked.

    Args:
        settings: what is in force.
        given: what stood on the command line; None is nothing.
    """
    values = {name: _value(name, value) for name, value in settings}
    rows = [
        f"  {json.dumps(name)}: {json.dumps({'value': value, 'from': _origin(name, settings, given)})}"
        for name, value in values.items()
    ]
    return "{\n" + ",\n".join(rows) + "\n}\n"


def settings_table() -> str:
    """Return all settings as a Markdown table; the README's is made by this."""
    rows = ["| flag | variable | default | bounds | what it is |", "|---|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = (
            ""
            if field.default in {None, ""}
            else f"`{str(field.default).lower() if field.annotation is bool else field.default}`"
        )
        rows.append(f"| `{flag(name)}` | `{variable(name)}` | {default} | {_bounds(field)} | {field.description} |")
    return "\n".join(rows)


def _value(name: str, value: object) -> object:
    if not isinstance(value, Path):
        return value
    return secret_files.shown(value) if name in SECRET_FILES else str(value)


def _origin(name: str, settings: Settings, given: Mapping[str, object]) -> Origin:
    if given.get(name) is not None:
        return "command line"
    return "environment" if name in settings.model_fields_set else "default"


def _bounds(field: Any) -> str:  # noqa: ANN401 - pydantic's FieldInfo holds constraints of many types
    if get_origin(field.annotation) is Literal:
        return ", ".join(get_args(field.annotation))
    limits = list(_limits(field.metadata))
    return " to ".join(f"{limit:,}" if isinstance(limit, int) else f"{limit:g}" for limit in limits)


def _limits(metadata: list[Any]) -> Iterator[float]:
    for constraint in metadata:
        if isinstance(constraint, annotated_types.Ge):
            yield constraint.ge  # type: ignore[misc]
        elif isinstance(constraint, annotated_types.Le):
            yield constraint.le  # type: ignore[misc]

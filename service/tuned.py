"""What `saccade tune --write` stores beside a model file: the best settings that were measured, by kind of machine.

`tuned.json` holds an entry for each kind of machine (see service.hosts), and others for servers with a `--provider`:
what is best of a provider was compared with that provider's default alone. A server takes the one of its own kind as
the version's default, unless its settings were given by hand or the model file is another one than was measured.
"""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from service.errors import SetupError
from service.providers import Provider, ProviderChoice, parse_options

FILE = "tuned.json"
MAX_BYTES = 1 << 20


class Tuned(BaseModel):
    """The best settings of one model file on one kind of machine; the names and bounds are those of service.config."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    goal: Literal["throughput", "latency"]
    provider: Provider
    provider_options: str = ""
    instances: int = Field(ge=1, le=64)
    intra_op_threads: int = Field(ge=1, le=1024)
    max_batch_size: int = Field(ge=1, le=4096)
    gain: float = Field(gt=0)
    """How many times as good as the server's defaults, the median of rounds in turns with them."""
    images_per_second: float = Field(ge=0)
    runtime: str = ""
    """ONNX Runtime's distribution and version when it was measured."""
    measured: str = ""
    """The day, as YYYY-MM-DD."""
    sha256: str
    """Of the model file, and files beside it that hold its weights."""

    @field_validator("provider_options")
    @classmethod
    def _check_options(cls, text: str, info: object) -> str:
        parse_options(getattr(info, "data", {}).get("provider", "auto"), text)
        return text


class Stored(BaseModel):
    """A whole `tuned.json`; format 1."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    hosts: dict[str, Tuned] = {}


def place(host: str, provider: ProviderChoice) -> str:
    """Return the name of the entry for servers on a kind of machine, by their `--provider`."""
    return host if provider == "auto" else f"{host}, --provider {provider}"


def read(folder: Path) -> Stored:
    """Return what is stored beside a model file; nothing where there is no `tuned.json`.

    Raises:
        ValueError: it cannot be understood; says why in one sentence.
    """
    path = folder / FILE
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{FILE} has more than {MAX_BYTES:,} bytes")
        return Stored.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Stored()
    except OSError as error:
        raise ValueError(f"{FILE} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        raise ValueError(f"{FILE}: {place}: {first['msg']}") from None


def write(folder: Path, host: str, entry: Tuned | None) -> None:
    """Store an entry, by rename; None takes it away. Others stay.

    Args:
        folder: the version's.
        host: the entry's name; see `place`.
        entry: what to store.

    Raises:
        SetupError: the file there cannot be understood, or the folder cannot be written to.
    """
    try:
        hosts = {name: known for name, known in read(folder).hosts.items() if name != host}
    except ValueError as error:
        raise SetupError(f"{folder / FILE}: {error}; mend it, or delete it") from None
    hosts |= {host: entry} if entry else {}
    path = folder / FILE
    # a name of this process alone: other machines may write to the same volume
    partial = folder / f".{FILE}.{socket.gethostname()}.{os.getpid()}.partial"
    try:
        if hosts:
            stored = Stored(hosts=dict(sorted(hosts.items()))).model_dump(mode="json")
            partial.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
            partial.replace(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise SetupError(f"{path} cannot be written: {error.strerror}; leave out --write") from None

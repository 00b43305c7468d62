"""Every setting of the server: flag, variable, default, bounds."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import SetupError
from service.logs import LogFormat
from service.providers import ProviderChoice, parse_options

Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """The server's settings; a flag wins over its variable, the variable over the default."""

    model_config = SettingsConfigDict(env_prefix="SACCADE_", frozen=True, extra="forbid")

    repository: Path | None = Field(
        None, description="Model repository: ROOT/MODEL/VERSION/model.onnx. Unset: the bundled models."
    )
    default_model: str | None = Field(
        None,
        description="Model for requests that name none. Unset: the only one, also when others come later; or the first "
        "of the bundled ones.",
    )
    host: str = Field("0.0.0.0", description="Address to listen on.")  # noqa: S104 - a service in a container
    grpc_port: Port = Field(8001, description="Port of gRPC. 0 picks a free one and says which.")
    metrics_port: Port = Field(8002, description="Port of the Prometheus metrics. 0 picks a free one and says which.")
    tls_certificate: Path | None = Field(
        None, description="PEM file of the certificate for TLS, its chain after it; read again when it changes."
    )
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key, without a password.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of who signs callers' certificates (mTLS); a caller without one is refused."
    )
    tokens_file: Path | None = Field(
        None,
        description="File of bearer tokens, a caller a line: `NAME:TOKEN`; every call but health needs one. Read again "
        "when it changes.",
    )
    provider: ProviderChoice = Field(
        "auto", description="Execution provider. `auto` takes the best one that loads and passes the self-test."
    )
    provider_options: str = Field(
        "",
        description="Options of the provider: `key=value` with spaces between, or JSON; see service/session/README.md.",
    )
    allow_unverified: bool = Field(
        False,
        description="Serve versions of reduced precision whose cost in accuracy was not measured on this kind of "
        "provider, or is over its limit.",
    )
    require_verified: bool = Field(False, description="Refuse files that carry no golden samples.")
    intra_op_threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="Threads that share one batch (cpu, openvino). 0: the cores that the process may use, divided by "
        "workers and instances; on cpu one fewer for a model that takes at most 5 ms a picture.",
    )
    pin: str = Field(
        "auto",
        pattern=r"^(auto|off|\d+)$",
        description="Core that gRPC's threads stay on: its number, `off`, or `auto`, unless a CPU quota allows less.",
    )
    workers: int = Field(
        1, ge=1, le=256, description="Processes that share the port; each has its own copy of all models and queues."
    )
    tuned: bool = Field(
        True,
        description="Take what `saccade tune --write` stored beside a model for machines of this kind, unless options, "
        "instances, threads or batch size are set by hand.",
    )
    instances: int = Field(
        1, ge=1, le=64, description="Sessions of each model that run batches side by side; each holds its own weights."
    )
    max_batch_size: int = Field(32, ge=1, le=4096, description="Most pictures that run together.")
    queue_size: int = Field(256, ge=1, le=65536, description="Most pictures that may wait for one model.")
    queue_delay_ms: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Most milliseconds that a request waits for others to join its batch; never if it is alone.",
    )
    keep_versions: int = Field(
        3, ge=1, le=100, description="How many of a model's versions, highest first, are loaded."
    )
    poll_seconds: float = Field(
        5.0,
        ge=0,
        le=86400,
        description="Seconds between looks at the repository for what is new, changed or removed. 0: never.",
    )
    reload: Literal["beside", "replace"] = Field(
        "beside",
        description="Load a version while the one that it replaces serves; `replace`: after that one was let go.",
    )
    max_streams: int = Field(
        32, ge=1, le=4096, description="Most ClassifyStreams that may be open; beyond that they are refused."
    )
    max_caller_calls: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Most calls and streams of one caller (by token, else by address) under way; 0: no limit.",
    )
    max_connection_age: float = Field(
        0.0,
        ge=0,
        le=86400,
        description="Seconds after which a connection or stream ends, so that callers spread over new servers (about "
        "300 does); 0: never.",
    )
    stream_idle: float = Field(
        300.0,
        ge=0.1,
        le=86400,
        description="Seconds after which a stream on which nothing happens is closed, and a call or stream whose "
        "answer nobody takes is cancelled.",
    )
    max_message_mb: int = Field(64, ge=1, le=1024, description="Largest gRPC message, in MiB.")
    max_pixels: int = Field(
        50_000_000, ge=1, le=1_000_000_000, description="Most pixels of one picture, checked before it is decoded."
    )
    decode_pixels: int = Field(
        100_000_000,
        ge=1,
        le=10_000_000_000,
        description="Most pixels that are decoded at once, which bounds the memory.",
    )
    ready: Literal["all", "any"] = Field(
        "all", description="Report SERVING when all models found at start are served, or any of them."
    )
    allow_empty: bool = Field(False, description="Report SERVING with an empty repository.")
    allow_repository_control: bool = Field(
        False, description="Let callers load and unload models by name (RepositoryModelLoad, RepositoryModelUnload)."
    )
    reflection: bool = Field(True, description="Answer gRPC server reflection.")
    drain_delay: float = Field(
        3.0, ge=0, le=3600, description="Seconds to go on serving after SIGTERM, while callers learn of it."
    )
    grace: float = Field(30.0, ge=0, le=3600, description="Most seconds to wait for accepted calls when stopping.")
    metrics_labels: int = Field(
        100, ge=0, le=100_000, description="Labels counted by name; predictions of classes beyond are `other`."
    )
    access_log: bool = Field(False, description="Log answered calls too, one line each; no messages of streams.")
    log_format: LogFormat = Field("console", description="Log lines for people (console) or for programs (json).")

    @field_validator("repository", "tls_certificate", "tls_key", "tls_client_ca", "tokens_file", mode="before")
    @classmethod
    def _check_path(cls, given: object) -> object:
        """Refuse what a shell makes of a variable that is not set: it would mean the current folder."""
        if given == "":
            raise PydanticCustomError("empty_path", "an empty path names nothing; name one, or leave the setting out")
        return given

    @field_validator("provider_options")
    @classmethod
    def _check_options(cls, text: str, info: ValidationInfo) -> str:
        """Refuse options that nobody would look at."""
        try:
            parse_options(info.data.get("provider", "auto"), text)
        except ValueError as error:
            raise PydanticCustomError("provider_options", "{reason}", {"reason": str(error)}) from None
        return text


TUNED = ("provider_options", "instances", "intra_op_threads", "max_batch_size")
"""Settings that tuned ones stand for; one of them by hand, and none is tuned, since they were measured together."""


def load_settings(**given: object) -> Settings:
    """Return the settings from what was given, the environment and the defaults.

    Raises:
        SetupError: a value is out of bounds; the text names the flag, the value and the limit.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise SetupError(
            f"{flag(name)} ({variable(name)}): {first['msg']}; it is {first['input']!r}. See `saccade serve --help`."
        ) from None


def flag(name: str) -> str:
    """Return the command-line flag of a setting."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"SACCADE_{name.upper()}"

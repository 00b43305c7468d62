"""Options that several commands share: how to reach a server."""

import inspect
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from service.errors import SaccadeError, SetupError

Result = TypeVar("Result")

_NOBODY = re.compile(r"failed to connect to all addresses.*(refused|timed out|unreachable|no route|no such file)", re.I)
"""What gRPC says where nobody listens; beside TLS that does not fit, where somebody does."""

_OPTIONS: dict[str, tuple[object, object]] = {
    "address": (
        Annotated[
            str, typer.Option(envvar="SACCADE_ADDRESS", help="Server, as host:port; several with commas between.")
        ],
        "localhost:8001",
    ),
    "tls": (
        Annotated[bool, typer.Option("--tls", help="Encrypt; trust the system's certificate authorities.")],
        False,
    ),
    "tls_ca": (
        Annotated[Path | None, typer.Option(help="Encrypt; trust the certificate authorities of this file (PEM).")],
        None,
    ),
    "tls_certificate": (
        Annotated[
            Path | None,
            typer.Option(help="This side's certificate (PEM), where the server asks for one; with its key."),
        ],
        None,
    ),
    "tls_key": (Annotated[Path | None, typer.Option(help="Private key of --tls-certificate (PEM).")], None),
    "token_file": (Annotated[Path | None, typer.Option(help="File with the bearer token to send; needs TLS.")], None),
}


def with_connection(command: Callable[..., Result]) -> Callable[..., Result]:
    """Give a command the options of a connection in place of its keyword parameter `connection: Connection`.

    Where no server is reached its error says what to do next.
    """
    signature = inspect.signature(command)
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    others = list(signature.parameters.values())
    at = next(number for number, parameter in enumerate(others) if parameter.name == "connection")

    @wraps(command)
    def run(*arguments: object, **given: object) -> Result:
        from service.connection import Connection  # with gRPC, which not every command needs

        fields = {name: given.pop(name) for name in _OPTIONS}
        addresses = tuple(str(fields.pop("address")).split(","))
        try:
            connection = Connection(addresses, **fields)  # type: ignore[arg-type]
        except SetupError as error:
            raise typer.BadParameter(str(error)) from None
        try:
            return command(*arguments, **given, connection=connection)
        except SaccadeError as error:
            if not _NOBODY.search(str(error)):
                raise
            local = "; --local needs none" if "local" in signature.parameters else ""
            hint = f"is `saccade serve` running there? --address names another server{local}"
            raise SaccadeError(f"{error}; {hint}") from None

    shown = [*others[:at], *parameters, *others[at + 1 :]]
    run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run

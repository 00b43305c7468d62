"""The `saccade` command. What making models adds is found by the entry-point group `saccade.commands`."""

import importlib.metadata
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from service.config import Settings, flag, load_settings, variable
from service.errors import SaccadeError, SetupError
from service.options import with_connection

if TYPE_CHECKING:
    from service.connection import Connection

app = typer.Typer(
    help="Image classification inference: self-describing ONNX models served over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0.001)]
PrintConfig = Annotated[
    bool,
    typer.Option(
        "--print-config", help="Print the settings in force and where each comes from, as JSON, and exit; no secrets."
    ),
]


def main() -> None:
    """Run the command; exit 0, 1 (it failed, in one line) or 2 (used wrongly)."""
    _add_commands()
    try:
        app()
    except SaccadeError as error:
        sys.stderr.write(f"saccade: {error}\n")
        sys.exit(1)


@app.callback(invoke_without_command=True)
def _saccade(
    *, version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False
) -> None:
    if version:
        sys.stdout.write(f"saccade {importlib.metadata.version('saccade')}\n")
        raise typer.Exit


def serve(*, print_config: bool = False, **given: object) -> None:
    """Serve a model repository until SIGTERM.

    Every flag has a variable: `--max-batch-size 16` is `SACCADE_MAX_BATCH_SIZE=16`.

    Examples:

        saccade serve --repository models

        saccade serve --workers 4

        saccade serve --grpc-port 0 --metrics-port 0 --log-format json

        saccade serve --print-config
    """
    try:
        settings = load_settings(**given)
    except SetupError as error:
        raise typer.BadParameter(str(error)) from None
    if print_config:
        from service import shown

        sys.stdout.write(shown.in_force(settings, given))
        return
    from service import logs

    logs.setup(settings.log_format)
    if settings.workers > 1:
        from service import supervisor

        raise typer.Exit(supervisor.supervise(settings))
    from service import server

    server.serve(settings)


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` one option for each setting, so that flags, variables and bounds have one source."""
    parameters = [inspect.signature(command).parameters["print_config"].replace(annotation=PrintConfig)]
    for name, setting in Settings.model_fields.items():
        kind: Any = setting.annotation
        choices = get_args(kind) if get_origin(kind) is Literal else ()
        text = f"{setting.description} [env: {variable(name)}]"
        if setting.default not in {None, ""}:
            text += f" [default: {str(setting.default).lower() if kind is bool else setting.default}]"
        names = [f"{flag(name)}/--no-{flag(name)[2:]}"] if kind is bool else [flag(name)]
        metavar = "|".join(choices) or (kind.__name__.lower() if isinstance(kind, type) else "text")
        option = typer.Option(*names, help=text, metavar=metavar, show_default=False)
        plain = bool if kind is bool else str  # anything else is read by Settings, whose errors name value and limit
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[plain | None, option]
            )
        )
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


app.command()(_with_settings(serve))


@app.command()
@with_connection
def classify(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PICTURES]...", help="Files, folders, or - for standard input; else ten example digits."
        ),
    ] = None,
    *,
    connection: "Connection",
    local: Annotated[bool, typer.Option("--local", help="Run the model in this process; no server is asked.")] = False,
    repository: Annotated[Path | None, typer.Option(help="With --local: model repository, else the bundled.")] = None,
    model: Annotated[str, typer.Option(help="Model; the server's default if none is given.")] = "",
    version: Annotated[str, typer.Option(help="Version of the model; the newest if none is given.")] = "",
    top_k: Annotated[int, typer.Option(min=1, help="How many labels for each picture.")] = 3,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Classify pictures with a running server, or in this process.

    Examples:

        saccade classify

        saccade classify digit.png pictures/

        saccade classify --local digit.png

        saccade classify - --json --top-k 1 < digit.png

        saccade classify digit.png --address one.example.org:8001,two.example.org:8001 --tls-ca ca.pem
    """
    from service import classify as command

    try:
        files = command.pictures(paths or [command.EXAMPLES])
    except SetupError as error:
        raise typer.BadParameter(str(error)) from None
    if local:
        opened = command.in_process(repository, model=model, version=version, top_k=top_k)
    else:
        opened = command.by_server(connection, model=model, version=version, top_k=top_k, timeout=timeout)
    with opened as ask:
        found = list(command.rows(files, ask))
    if as_json:
        _print_json([row.to_json() for row in found])
    else:
        command.print_table(found, top_k)
    failure = command.failed(found)
    if failure is not None:
        raise failure


@app.command()
@with_connection
def models(*, connection: "Connection", timeout: Timeout = 10.0, as_json: Json = False) -> None:
    """List the versions that a running server knows.

    Examples:

        saccade models

        saccade models --address example.org:8001 --tls --token-file token --json
    """
    from service.client import Client

    with Client(connection=connection, timeout=timeout) as client:
        entries = client.models()
    if as_json:
        _print_json([asdict(entry) for entry in entries])
        return
    from service import listed

    listed.print_table(entries)


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def probe(context: typer.Context) -> None:
    """Ask a server whether it serves: exit 0 if it does, 1 if not."""
    from service.probe import main as ask

    raise typer.Exit(ask(context.args))


def _add_commands() -> None:
    """Add `bench`, `tune` and the commands of the other stage, in the order that a newcomer meets them."""
    from service.load.cli import bench
    from service.tune.cli import tune

    app.command()(bench)
    app.command()(tune)
    for entry in sorted(importlib.metadata.entry_points(group="saccade.commands"), key=lambda entry: entry.name):
        app.command(entry.name)(entry.load())


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()

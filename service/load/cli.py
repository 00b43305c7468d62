"""The command `saccade bench`."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from service.errors import SaccadeError, SetupError
from service.options import with_connection

if TYPE_CHECKING:
    from service.connection import Connection
    from service.load.report import Report


_LEAST_RATE, _MOST_RATE = 0.001, 1_000_000.0
"""Calls a second; a process of the load generator sends about 3,000."""
_MOST_CALLERS = 100_000
_MOST_LOADS = 1000


def numbers(text: str, flag: str, *, least: float = _LEAST_RATE, most: float = _MOST_RATE) -> tuple[float, ...]:
    """Return the numbers of `1,8,32` or `100:2000:100` (first, last, step).

    Raises:
        SetupError: they are none, too many, or one is out of bounds; says which.
    """
    ranged = ":" in text
    try:
        found = tuple(float(part) for part in text.split(":" if ranged else ","))
    except ValueError:
        found = ()
    if not found or (ranged and (len(found) != 3 or not found[2])):
        raise SetupError(f"{flag} {text!r}: give numbers, as 1,8,32 or 100:2000:100 (first:last:step)")
    for value in found[:2] if ranged else found:
        if not least <= value <= most:  # nor is nan
            raise SetupError(f"{flag} {text!r}: {value:g} is not between {least:g} and {most:,.0f}")
    return _stepped(text, flag, *found) if ranged else found


def _stepped(text: str, flag: str, first: float, last: float, step: float) -> tuple[float, ...]:
    steps = (last - first) / step + 1e-9
    if not (steps >= 0 and math.isfinite(step)):
        raise SetupError(f"{flag} {text!r}: no step of {step:g} leads from {first:g} to {last:g}")
    if steps >= _MOST_LOADS:  # before any is made
        raise SetupError(f"{flag} {text!r}: more than {_MOST_LOADS:,} loads")
    return tuple(first + step * number for number in range(int(steps) + 1))


def _callers(text: str) -> tuple[int, ...]:
    found = numbers(text, "--concurrency", least=1, most=_MOST_CALLERS)
    for value in found:
        if not value.is_integer():
            raise SetupError(f"--concurrency {text!r}: {value:g} is no whole number of callers")
    return tuple(int(value) for value in found)


def _check_finite(**values: float) -> None:
    """Refuse what no bound of an option refuses: nan, and no end."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise SetupError(f"--{name.replace('_', '-')} {value}: give a finite number")


def _size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    height, found, width = text.partition("x")
    if not (found and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise SetupError(f"--size {text!r}: give HEIGHTxWIDTH, for example 224x224")
    return int(height), int(width)


def _check_files(csv_file: Path | None, plot: Path | None) -> None:
    """Refuse before the load what could not be written after it."""
    from service.load import plots, report

    for flag, path in (("--csv", csv_file), ("--plot", plot)):
        if path is not None:
            report.check_writable(path, flag)
    if plot is not None:
        plots.check(plot)


def _save(found: "Report", csv_file: Path | None, plot: Path | None) -> None:
    from service.load import plots

    if csv_file is not None:
        found.save_csv(csv_file)
    if plot is not None:
        plots.draw(found, plot)


@with_connection
def bench(
    target: Annotated[
        str, typer.Argument(help="saccade://host:port, or oip://host:port (Triton and others); else --address.")
    ] = "",
    *,
    connection: "Connection",
    concurrency: Annotated[str, typer.Option(help="Closed loop: callers that ask again at once; 1,8,32.")] = "",
    rate: Annotated[
        str, typer.Option("--rate", "--rates", help="Open loop: calls a second, 500, 100,200 or 100:2000:100.")
    ] = "",
    arrivals: Annotated[Literal["poisson", "constant"], typer.Option(help="Of an open loop.")] = "poisson",
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds measured for each load.")] = 10.0,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds before that.")] = 1.0,
    until_stable: Annotated[
        float, typer.Option(min=0, help="Repeat until three rounds differ by at most so many per cent. 0: once.")
    ] = 0.0,
    deadline_ms: Annotated[
        float, typer.Option(min=0, help="Deadline of each call, from when it is due; 0: none.")
    ] = 0.0,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Processes that send.")] = 1,
    channels: Annotated[
        int, typer.Option(min=0, max=1024, help="Connections of each; 0: one for 8 callers, or 4 in an open loop.")
    ] = 0,
    model: Annotated[str, typer.Option(help="Model; the server's default if none is given.")] = "",
    version: Annotated[str, typer.Option(help="Version of the model; the newest if none is given.")] = "",
    images: Annotated[int, typer.Option(min=1, max=65536, help="Pictures a call.")] = 1,
    pictures: Annotated[Path | None, typer.Option(exists=True, help="Folder or file of pictures to send.")] = None,
    encoded: Annotated[bool, typer.Option("--encoded", help="Send drawn pictures as PNG, not as pixels.")] = False,
    size: Annotated[str, typer.Option(help="Of drawn pictures, HEIGHTxWIDTH; the model's if none is given.")] = "",
    top_k: Annotated[int, typer.Option(min=0, help="Labels for each picture; 0: the server's own number.")] = 0,
    stream: Annotated[bool, typer.Option("--stream", help="Send messages on streams instead of calls.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of arrivals and drawn pictures.")] = 0,
    slo: Annotated[
        str,
        typer.Option(help="Objective: p99<50ms,errors<0.1%; also p50 to p99.9, max, mean, refused, goodput>100."),
    ] = "",
    find_max: Annotated[bool, typer.Option("--find-max", help="Search the highest rate that meets --slo.")] = False,
    max_rate: Annotated[float, typer.Option(min=1, help="Highest rate that --find-max tries.")] = 100_000.0,
    metrics_url: Annotated[
        str, typer.Option(help="The server's metrics; http://HOST:8002/metrics if none is given, `off` for no look.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write a line for each load.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw latency by load and over time (PNG).")] = None,
    compare: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Report of an earlier --json; prints ratios.")
    ] = None,
) -> None:
    """Measure a running server's latency and throughput, and whether they meet an objective.

    Latency counts from the moment a call was due. Without --concurrency, --rate or --find-max: callers 1, 8 and 32.
    Exit 1 if the objective is missed, nothing was answered or not all was measured; see service/load/README.md.

    Examples:

        saccade bench

        saccade bench --rate 500 --slo 'p99<50ms,errors<0.1%'

        saccade bench --find-max --slo 'p99<50ms,errors<0.1%' --duration 5

        saccade bench --rates 100:1000:100 --plot latency.png --csv latency.csv

        saccade bench --concurrency 1,8,32 --pictures photos/ --images 4 --deadline-ms 200

        saccade bench oip://triton.example.org:8001 --model resnet50 --rate 200 --json > today.json

        saccade bench --rate 200 --compare today.json
    """
    from service.load import bench as benching
    from service.load import comparison, outcome, plots, show, targets
    from service.load import objective as objectives

    try:
        if not target and len(connection.addresses) > 1:
            raise SetupError(f"--address {','.join(connection.addresses)}: a bench is of one server; name it")
        protocol, address = targets.parse(target or connection.addresses[0])
        connection = replace(connection, addresses=(address,))
        ask = targets.Ask(model, version, images, top_k, pictures, encoded, _size(size), stream, seed)
        terms = objectives.parse(slo) if slo else ()
        if find_max and not terms:
            raise SetupError("--find-max needs an objective: --slo 'p99<50ms,errors<0.1%'")
        _check_finite(
            duration=duration, warm_up=warm_up, until_stable=until_stable, deadline_ms=deadline_ms, max_rate=max_rate
        )
        callers = _callers(concurrency) if concurrency else ()
        rates = numbers(rate, "--rate") if rate else ()
        old = comparison.read(compare) if compare else None
        _check_files(csv_file, plot)
    except SetupError as error:
        raise typer.BadParameter(str(error)) from None
    outcome.require()
    if plot is not None:
        plots.require()
    options = benching.Options(
        protocol,
        connection,
        ask,
        concurrency=callers or ((1, 8, 32) if not rates and not find_max else ()),
        rates=rates,
        arrivals=arrivals,
        seconds=duration,
        warm_up=warm_up,
        deadline=deadline_ms / 1000 or None,
        processes=processes,
        channels=channels,
        stable=until_stable / 100 or None,
        metrics_url=None if metrics_url == "off" else metrics_url,
        objective=terms,
        most=max_rate if find_max else None,
    )
    with show.Screen(quiet=as_json) as screen:
        found = benching.run(options, screen.viewer)
    compared = comparison.ratios(old, found.rows) if old else None
    differs = comparison.differences(old, found) if old else []
    try:  # the files first: who reads what is printed may be gone, as `| head` goes
        _save(found, csv_file, plot)
    finally:
        if as_json:
            entry = found.to_json() | ({"compared": dict(compared), "differs": differs} if compared is not None else {})
            sys.stdout.write(json.dumps(entry, indent=2) + "\n")
        else:
            show.print_report(found, compared, differs)
    if not found.rows:
        raise SaccadeError("interrupted before anything was measured")
    if not any(row.outcome.answered for row in found.rows):
        raise SaccadeError("no call was answered")
    if found.broken:
        raise SaccadeError(f"not all was measured: {found.broken}")
    missed = not found.found if find_max else any(row.met is False for row in found.rows)
    if missed:
        raise typer.Exit(1)

"""The command `saccade tune`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from service.providers import ProviderChoice, parse_options
from service.tune.settings import Goal


def tune(
    model: Annotated[str, typer.Argument(help="A model's name in the repository, or its folder.")],
    *,
    repository: Annotated[
        Path | None, typer.Option(help="Model repository of MODEL where that is a name; else the bundled models.")
    ] = None,
    version: Annotated[int, typer.Option(min=0, help="The only version to tune. 0: the three highest.")] = 0,
    time_limit: Annotated[
        float, typer.Option(min=1, help="Seconds in all; what has begun is not interrupted.")
    ] = 120.0,
    provider: Annotated[ProviderChoice, typer.Option(help="The provider to measure; auto: all at hand.")] = "auto",
    provider_options: Annotated[
        str, typer.Option(help="Options of the provider, as `saccade serve` takes them; given to every setting.")
    ] = "",
    max_batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Largest batch to try.")] = 64,
    allow_unverified: Annotated[
        bool,
        typer.Option(
            "--allow-unverified", help="Measure precisions too whose accuracy was not measured or is over its limit."
        ),
    ] = False,
    write: Annotated[
        bool,
        typer.Option("--write", help="Store what is best beside the model file; servers on such machines take it."),
    ] = False,
    goal: Annotated[Goal, typer.Option(help="What --write stores: the best for throughput or for latency.")] = (
        "throughput"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")] = False,
) -> None:
    """Measure a model on this machine, and say how `saccade serve` should run it.

    It tries providers, precisions, instances, threads and batch sizes at hand with bare sessions, drops the slower ones
    early, and measures the best in turns with the server's default. A precision is tried only where its accuracy was
    measured on that provider, so that what is best never answers otherwise than it may. Let nothing else run meanwhile.

    With --write the best setting of each version that is better than the default is stored in tuned.json beside it, for
    machines of this kind: the same processor, as many cores, the same GPUs and distribution of ONNX Runtime. `saccade
    serve` takes it as that version's default, unless --no-tuned or settings given by hand say otherwise. What was tuned
    with --provider is taken by servers with the same --provider.

    Examples:

        saccade tune lenet5-mnist

        saccade tune digits --repository models --time-limit 60 --write

        saccade tune models/resnet50 --provider openvino --goal latency --write
    """
    from rich.console import Console

    from service.tune import command, kinds, show

    try:
        parse_options(provider, provider_options)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--provider-options") from None
    if write and provider_options:
        # a server that is given options takes nothing tuned, and one that is not has another default than was measured
        raise typer.BadParameter("--write stores what servers without options take", param_hint="--provider-options")
    if write and max_batch_size < command.DEFAULT_BATCH:
        # what is stored would be better than a default of smaller batches, which no server has
        why = f"--write compares with the server's default, whose largest batch is {command.DEFAULT_BATCH}; try as many"
        raise typer.BadParameter(f"{max_batch_size} is too small: {why}", param_hint="--max-batch-size")
    root, name = command.find_model(model, repository)
    wanted = kinds.Wanted(provider, provider_options, allow_unverified)
    task = command.Task(root, name, version, wanted, time_limit, max_batch_size)
    with show.progress(time_limit, quiet=as_json) as told:
        results = command.run(task, told=told)
    bundled = root == command.BUNDLED
    if as_json:
        sys.stdout.write(json.dumps(show.to_json(task, results, bundled=bundled), indent=2) + "\n")
    else:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(show.table(results))
        for line in show.lines(task, results, bundled=bundled):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for result in results:
        if write and result.outcome:
            typer.echo(command.write(result, goal, provider), err=as_json)

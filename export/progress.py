"""What a training run and a download show while they go on: a bar on a terminal, lines in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from export.run import Epoch
from export.train import Step, Told


@contextmanager
def training(what: str, total: int, *, quiet: bool = False) -> Iterator[Told]:
    """Show epoch, loss, accuracy, pictures a second and the time left; nothing where `quiet`."""
    console = Console(stderr=True, quiet=quiet)
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("epoch {task.fields[epoch]}/" + str(total)),
        TextColumn(
            "loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.2%}  {task.fields[rate]:,.0f} images/s"
        ),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None, epoch=1, loss=float("nan"), accuracy=0.0, rate=0.0)

        def on_step(step: Step) -> None:
            progress.update(task, completed=step.done, total=step.total, loss=step.loss, rate=step.images_per_second)

        def on_resumed(epoch: Epoch) -> None:
            progress.update(task, epoch=min(epoch.epoch + 1, total), accuracy=epoch.accuracy)

        def on_epoch(epoch: Epoch) -> None:
            on_resumed(epoch)
            if not console.is_terminal:  # a bar is drawn on terminals only
                console.print(line(epoch, total), highlight=False, soft_wrap=True)

        yield Told(on_epoch, on_step, resumed=on_resumed)


def line(epoch: Epoch, total: int) -> str:
    """Return an epoch in one line; the time left is that of as many epochs like this one."""
    left = (total - epoch.epoch) * epoch.seconds / 60
    return (
        f"epoch {epoch.epoch}/{total}: loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.2%}, "
        f"{epoch.images_per_second:,.0f} images/s, {left:.0f} min left"
    )


@contextmanager
def download(*, quiet: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Show how much of each file is there."""
    columns = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True, quiet=quiet)) as progress:
        tasks = {}

        def on_bytes(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total or None)
            progress.update(tasks[name], completed=done)

        yield on_bytes

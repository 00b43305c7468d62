"""Says in the log that something that may take minutes is under way."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service import logs


@contextmanager
def progress(event: str, model: Path, *, on: bool = True, every: float = 10.0) -> Iterator[None]:
    """Log that something that may take minutes is under way: when it begins, every so many seconds, and its end."""
    if not on:
        yield
        return
    started, done = time.monotonic(), threading.Event()

    def tell() -> None:
        while not done.wait(every):
            logs.info(event, model=model, seconds=round(time.monotonic() - started, 1))

    logs.info(event, model=model, seconds=0)
    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
        logs.info(f"{event} ended", model=model, seconds=round(time.monotonic() - started, 1))

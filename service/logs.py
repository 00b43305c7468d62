"""Log lines: one event and its fields a line, for people (console) or for programs (json)."""

import json
import logging
import math
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal, TextIO

LogFormat = Literal["console", "json"]

LONGEST = 1000
"""Characters of a value that are logged: the id of a request may be as long as a message."""
LONGEST_STACK = 20_000
"""Characters of a stack, likewise: the text of an exception may hold what a caller sent."""

_logger = logging.getLogger("saccade")
_lock = threading.Lock()
_always: dict[str, object] = {}
_sometimes: dict[str, tuple[float, int]] = {}
"""For each event when it was logged last, and how many were left out since."""
_bounded: dict[str, tuple[float, int]] = {}
"""For each event when its second began, and how many there were in it."""
MOST_A_SECOND = 100
"""Lines of one event that callers can cause: 5,000 a second would fill a disk with 100 GB a day."""
MOST_STACKS = 10
"""Stacks among them: one is as long as ten lines and more."""


def info(event: str, **fields: object) -> None:
    """Log something that an operator wants to know."""
    _logger.info(event, extra={"fields": fields})


def warning(event: str, **fields: object) -> None:
    """Log something that an operator may have to act on."""
    _logger.warning(event, extra={"fields": fields})


def sometimes(event: str, clock: Callable[[], float] = time.monotonic, **fields: object) -> None:
    """Log what may happen thousands of times a second: one line a second an event, with how many it stands for."""
    with _lock:
        now = clock()
        last, left_out = _sometimes.get(event, (-math.inf, 0))
        if 0 <= now - last < 1.0:
            _sometimes[event] = (last, left_out + 1)
            return
        _sometimes[event] = (now, 0)
    warning(event, **fields, times=left_out + 1)


def bounded(event: str, clock: Callable[[], float] = time.monotonic, **fields: object) -> None:
    """Log what callers cause: each, up to MOST_A_SECOND; then the next second's first says how many were left out."""
    if _number_in_bound(event, clock, fields) is not None:
        info(event, **fields)


def failure(event: str, exception: BaseException, **fields: object) -> None:
    """Log a failure with its stack."""
    _logger.error(event, extra={"fields": fields}, exc_info=exception)


def bounded_failure(
    event: str, exception: BaseException, clock: Callable[[], float] = time.monotonic, **fields: object
) -> None:
    """Log a failure that callers cause: as `bounded` does, the first MOST_STACKS of a second with their stack."""
    number = _number_in_bound(event, clock, fields)
    if number is None:
        return
    if number < MOST_STACKS:
        failure(event, exception, **fields)
    else:
        _logger.error(event, extra={"fields": {**fields, "error": type(exception).__name__}})


def _number_in_bound(event: str, clock: Callable[[], float], fields: dict[str, object]) -> int | None:
    """Return how many of the event its second had before, None beyond MOST_A_SECOND; add how many were left out."""
    with _lock:
        now = clock()
        began, count = _bounded.get(event, (-math.inf, 0))
        if 0 <= now - began < 1.0:
            _bounded[event] = (began, count + 1)
            return count if count < MOST_A_SECOND else None
        _bounded[event] = (now, 1)
        if count > MOST_A_SECOND:
            fields["left_out"] = count - MOST_A_SECOND
        return 0


def setup(log_format: LogFormat, file: TextIO | None = None, **always: object) -> None:
    """Send log lines to a file, standard error if none is given; call it once, when the process starts.

    Args:
        log_format: for people, or for programs.
        file: where to.
        always: fields of every line.
    """
    _always.clear()
    _always.update(always)
    stream = logging.StreamHandler(file or sys.stderr)
    stream.setFormatter(_Json() if log_format == "json" else _Console())
    _logger.handlers = [stream]
    _logger.setLevel(logging.INFO)
    _logger.propagate = False


class _Console(logging.Formatter):
    """`12:04:05 INFO  model ready  model=lenet5 version=1`, values quoted where they hold anything but plain text."""

    def format(self, record: logging.LogRecord) -> str:
        clock = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        fields = " ".join(f"{key}={_escaped(value)}" for key, value in _fields(record).items())
        line = f"{clock} {record.levelname:<7} {record.getMessage()}  {fields}".rstrip()
        # Indented, so that no line of a stack can pose as an event of its own.
        stack = _cut(self.formatException(record.exc_info), LONGEST_STACK).splitlines() if record.exc_info else []
        return "\n".join([line, *(f"    {_printable(part)}" for part in stack)])


class _Json(logging.Formatter):
    """One JSON object a line: time, level, event, the fields, and the stack of a failure."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        entry = {"time": time, "level": record.levelname.lower(), "event": record.getMessage(), **_fields(record)}
        if record.exc_info:
            entry["stack"] = _cut(self.formatException(record.exc_info), LONGEST_STACK)
        return json.dumps(entry, default=str)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = {**_always, **getattr(record, "fields", {})}
    return {name: _cut(value, LONGEST) if isinstance(value, str) else value for name, value in fields.items()}


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text):,} characters)"


def _escaped(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else json.dumps(text)


def _printable(text: str) -> str:
    """Return a line of a stack such that it moves no cursor and changes no colour."""
    return text if text.isprintable() else json.dumps(text, ensure_ascii=True)[1:-1]

"""One server under the load: cold start, images a second, latency, CPU, memory."""

import http.client
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from service.load import pictures
from service.load.outcome import Outcome
from service.load.plan import Load
from service.load.processes import Loaders
from service.load.report import Row, story
from service.manifest import read_manifest
from service.session import Session
from tests.peers.known import LOOPBACK, SERVERS, Peer, Place
from tests.peers.running import Tree

_PICTURES = 16
_PORTS = 5
_START_SECONDS = 120.0
_LOOK_SECONDS = 0.02
_CALL_SECONDS = 10.0


class Failed(Exception):
    """A server could not be measured; the text says why."""


class _NoAnswer(Exception):
    """A call was not answered; the text says why."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What all classify.

    Attributes:
        model: ONNX file with a manifest, at `ROOT/NAME/1/model.onnx`.
        shape: height, width and channels.
        pixels: pictures, as their uint8 pixels in rows.
        labels: what the bare session says they are.
    """

    model: Path
    shape: tuple[int, int, int]
    pixels: tuple[bytes, ...]
    labels: tuple[str, ...]


@dataclass(slots=True)
class Measured:
    """What came of one start of a server."""

    cold_start: float = 0.0
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    cpu: dict[int, float] = field(default_factory=dict)
    memory: float = 0.0
    limited: list[str] = field(default_factory=list)


def subject(model: Path) -> Subject:
    """Draw the pictures for a model and ask the bare session what they are."""
    manifest = read_manifest(model)
    size = manifest.preprocessing
    shape = pictures.Shape(size.height, size.width, size.channels)
    drawn = [pictures.draw(shape, seed=number) for number in range(_PICTURES)]
    session = Session(model, "cpu", intra_op_threads=0, max_batch_size=1)
    found = [int(session.run(picture[None])[0].argmax()) for picture in drawn]
    labels = tuple(manifest.labels[index] for index in found)
    return Subject(model, (size.height, size.width, size.channels), tuple(map(np.ndarray.tobytes, drawn)), labels)


def versions(peer: Peer, environment: Path) -> tuple[str, str]:
    """Return the versions of a peer and of its ONNX Runtime.

    Raises:
        Failed: they are not installed there.
    """
    script = "import sys; from importlib.metadata import version as v; print(v(sys.argv[1]), v('onnxruntime'))"
    try:
        done = subprocess.run(
            [environment / "bin" / "python", "-c", script, peer.package], capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise Failed(f"{environment} is no virtual environment: {error.strerror}") from None
    if done.returncode:
        raise Failed(f"not installed in {environment}: {done.stderr.strip().splitlines()[-1]}")
    own, runtime = done.stdout.split()
    return own, runtime


def measure(
    peer: Peer, environment: Path, what: Subject, loaders: Loaders, *, callers: Sequence[int], seconds: float
) -> Measured:
    """Start a server, put the loads on it, end it.

    Args:
        peer: which.
        environment: virtual environment that it is installed in.
        what: what it classifies.
        loaders: what sends.
        callers: closed loops, one after the other.
        seconds: of each, after a warm-up half as long.

    Raises:
        Failed: it did not start, gave a wrong answer, or answered no call.
    """
    with tempfile.TemporaryDirectory(prefix=f"{peer.name}-") as name, ExitStack() as stack:
        place = Place(environment, Path(name), what.model, what.shape, _free_ports())
        tree = stack.enter_context(_started(peer, place))
        measured = Measured(_cold_start(peer, place, what, tree))
        requests = tuple(peer.request(pixels, what.shape) for pixels in what.pixels)
        core = max(os.sched_getaffinity(0))
        for count in callers:
            load = Load(
                place.address,
                peer.method,
                requests,
                count,
                seconds,
                0.0,
                kind=peer.kind,
                core=core,
                content_type=peer.content_type,
            )
            loaders.run(replace(load, seconds=seconds / 2))
            before = tree.cpu_seconds()
            outcome = loaders.run(load)
            used = tree.cpu_seconds() - before
            if not outcome.answered:
                raise Failed(f"{count} at once: {'; '.join(story(outcome)) or tree.last_words()}")
            measured.outcomes[count], measured.cpu[count] = outcome, used / outcome.answered
            limited = Row(load, outcome).client_limits
            measured.limited += [f"{count} at once: {limited}"] if limited else []
        measured.memory = tree.memory_mb()
        return measured


def _started(peer: Peer, place: Place) -> Tree:
    variables = {
        "PEER_MODEL": str(place.model),
        "PEER_SHAPE": "x".join(map(str, place.shape)),
        "PEER_PORT": str(place.ports[0]),
        "PEER_PORT_2": str(place.ports[1]),
        "PEER_PORT_3": str(place.ports[2]),
        "PYTHONPATH": str(SERVERS),
        # Where an environment's commands find each other.
        "PATH": f"{place.environment / 'bin'}:{os.environ['PATH']}",
    }
    try:
        command = peer.start(place)
        return Tree(command, place.folder, {**variables, **peer.variables})
    except subprocess.CalledProcessError as error:
        raise Failed(f"{Path(error.cmd[0]).name}: {error.stderr.decode(errors='replace').strip()[-300:]}") from None
    except OSError as error:
        raise Failed(str(error)) from None


def _cold_start(peer: Peer, place: Place, what: Subject, tree: Tree) -> float:
    """Return the seconds to the first answer, if it and those to all pictures are right."""
    first = peer.request(what.pixels[0], what.shape)
    while True:
        try:
            _ask(peer, place.address, first)
            break
        except _NoAnswer as error:
            reason = str(error)
        if not tree.alive:
            raise Failed(f"it ended: {tree.last_words()}")
        if time.monotonic() - tree.started > _START_SECONDS:
            raise Failed(f"no answer within {_START_SECONDS:g} s: {reason}; {tree.last_words()}")
        time.sleep(_LOOK_SECONDS)
    seconds = time.monotonic() - tree.started
    for pixels, label in zip(what.pixels, what.labels, strict=True):
        try:
            found = peer.label(_ask(peer, place.address, peer.request(pixels, what.shape)))
        except _NoAnswer as error:
            raise Failed(f"the first picture was answered, another not: {error}") from None
        if found != label:
            raise Failed(f"wrong answer: {found}; the bare session says {label}")
    return seconds


def _ask(peer: Peer, address: str, request: bytes) -> bytes:
    return _ask_http(peer, address, request) if peer.kind == "http" else _ask_grpc(peer, address, request)


def _ask_grpc(peer: Peer, address: str, request: bytes) -> bytes:
    with grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        call: Any = channel.unary_unary(peer.method)
        try:
            return bytes(call(request, timeout=_CALL_SECONDS))
        except grpc.RpcError as error:
            raise _NoAnswer(f"{error.code().name}: {error.details()}") from None


def _ask_http(peer: Peer, address: str, request: bytes) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=_CALL_SECONDS)
    try:
        connection.request("POST", peer.method, request, {"Content-Type": peer.content_type})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise _NoAnswer(f"{type(error).__name__}: {error}") from None
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise _NoAnswer(f"HTTP {answer.status}: {body[:200].decode(errors='replace')}")
    return body


def _free_ports() -> tuple[int, ...]:
    """Return ports that nobody listens on; all are held until the last is known, so that they differ."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(_PORTS)]
        for each in held:
            each.bind((LOOPBACK, 0))
        return tuple(each.getsockname()[1] for each in held)

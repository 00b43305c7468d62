"""A rollout rehearsed on one machine: replicas behind HAProxy are called all the time while everything changes.

The shipped client calls, and `saccade bench`, which repeats no call.

    deploy/rehearse.sh                           ten rollouts over three replicas, certificates, models
    deploy/rehearse.sh --rounds 1 --replicas 2   a short form
    deploy/rehearse.sh --balancer tcp            pass bytes, as a Kubernetes Service does

Exit code 0: the shipped client saw no failed call, and everything that should have changed did.
"""

import argparse
import shutil
import socket
import ssl
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from balancer import Balancer
from bench import Bench, Measured
from callers import Callers, Seen
from certificates import Authority
from replicas import Deployment

import service
from service.client import Client
from service.connection import Connection

MODEL = "lenet5-mnist"
BUNDLED = Path(service.__file__).parent / "bundled"
WITHIN = 60.0
"""Seconds within which a change must have happened."""
SETTLE = 2.0
"""Seconds of calls after the last change, so that its effect would be seen."""


@dataclass(frozen=True)
class Stage:
    """What the acts play on."""

    deployment: Deployment
    balancer: Balancer
    authority: Authority
    repository: Path

    def connections(self) -> Iterator[Connection]:
        """Yield the way to each replica itself, past the balancer."""
        for replica in self.deployment.replicas.values():
            yield Connection(addresses=(f"localhost:{replica.grpc_port}",), tls_ca=self.authority.ca)

    def metrics(self) -> Iterator[str]:
        """Yield what each replica shows to Prometheus."""
        trusted = ssl.create_default_context(cafile=str(self.authority.ca))
        for replica in self.deployment.replicas.values():
            address = f"https://localhost:{replica.metrics_port}/metrics"
            with urllib.request.urlopen(address, timeout=5, context=trusted) as answer:
                yield answer.read().decode()


def main() -> int:
    """Play all acts; return the exit code."""
    options = _options()
    try:
        faults = _rehearse(options)
    except (OSError, RuntimeError, TimeoutError) as error:
        faults = [str(error)]
    for fault in faults:
        _say(f"FAILED: {fault}")
    return 1 if faults else 0


def _rehearse(options: argparse.Namespace) -> list[str]:
    """Play all acts under calls; return what went wrong."""
    with ExitStack() as over, tempfile.TemporaryDirectory(prefix="saccade-rehearsal-") as folder:
        stage = over.enter_context(_stage(options, Path(folder)))
        through = Connection(addresses=(f"localhost:{stage.balancer.port}",), tls_ca=stage.authority.ca)
        picture = (BUNDLED / "pictures/digit-7.png").read_bytes()
        client = over.enter_context(Client(connection=through))
        bench = Bench(stage.balancer.port, ca=stage.authority.ca, rate=options.rate, folder=Path(folder))
        over.callback(bench.kill)
        _wait("saccade bench calls", lambda: bench.runs() and any("Classify" in text for text in stage.metrics()))
        shipped = Callers(lambda: _classify(client, picture), threads=4)
        faults = [*_play(stage, options), *_told(shipped.stop(), bench.stop())]
        _say(f"sent to each place of the balancer: {', '.join(map(str, stage.balancer.served()))}")
        return faults


def _told(shipped: Seen, measured: Measured) -> list[str]:
    """Say what the callers saw; return what of it is a fault."""
    _say("saccade bench, which repeats no call:")
    _say(measured.table)
    _say(f"saccade bench: {measured.calls} calls, {measured.failed} failed")
    _say(f"the shipped client: {shipped.calls} calls, {shipped.failed} failed, the slowest {shipped.slowest:.3f} s")
    for text, count in shipped.failures.most_common(5):
        _say(f"  {count} x {text}")
    if shipped.failed or not shipped.calls:
        return [f"{shipped.failed} of {shipped.calls} calls of the shipped client failed"]
    return []


def _play(stage: Stage, options: argparse.Namespace) -> list[str]:
    """Play the acts one after the other; return what went wrong."""
    acts: list[tuple[str, Callable[[], None]]] = [
        *((f"rollout {number + 1}", stage.deployment.restart_all) for number in range(options.rounds)),
        ("new certificates", lambda: _rotate(stage)),
        ("a new model version", lambda: _publish(stage, 2, bad=False)),
        ("a bad model version", lambda: _publish(stage, 3, bad=True)),
    ]
    faults = []
    for name, act in acts:
        started = time.monotonic()
        try:
            act()
        except (OSError, RuntimeError, TimeoutError) as error:
            faults.append(f"{name}: {error}")
        _say(f"{name}: {time.monotonic() - started:.1f} s")
    time.sleep(SETTLE)
    return faults


def _rotate(stage: Stage) -> None:
    """Renew the certificate; every replica and the balancer must show the new one without a restart."""
    new = stage.authority.renew()
    stage.balancer.renew()
    ports = [port for each in stage.deployment.replicas.values() for port in (each.grpc_port, each.metrics_port)]
    for port in (*ports, stage.balancer.port):
        _wait(f"port {port} shows the new certificate", partial(_shows, port, stage.authority.ca, new))


def _publish(stage: Stage, version: int, *, bad: bool) -> None:
    """Publish a version by one rename; every replica must serve it, or refuse it and serve on."""
    model = (stage.repository / MODEL / "1/model.onnx").read_bytes()
    hidden = stage.repository / MODEL / f".{version}"
    hidden.mkdir()
    (hidden / "model.onnx").write_bytes(_spoilt(model) if bad else model)
    hidden.rename(stage.repository / MODEL / str(version))
    state = "FAILED" if bad else "READY"
    for connection in stage.connections():
        with Client(connection=connection) as client:
            _wait(f"version {version} is {state}", partial(_is, client, version, state))
            answer = client.classify(BUNDLED / "pictures/digit-7.png")
            if answer.version != "2":
                raise RuntimeError(f"version {answer.version} answers instead of 2")


def _spoilt(model: bytes) -> bytes:
    """Return the file with the sign of many weights turned: it loads, and its golden samples come out wrong."""
    middle = len(model) // 2
    turned = bytes(byte ^ 0x80 for byte in model[middle - 20_000 : middle + 20_000])
    return model[: middle - 20_000] + turned + model[middle + 20_000 :]


def _is(client: Client, version: int, state: str) -> bool:
    return any(entry.version == str(version) and entry.state == state for entry in client.models())


def _shows(port: int, ca: Path, certificate: str) -> bool:
    """Return whether a port shows this certificate (PEM)."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as opened,
        context.wrap_socket(opened, server_hostname="localhost") as secured,
    ):
        return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True) or b"") == certificate


def _wait(what: str, happened: Callable[[], bool]) -> None:
    end = time.monotonic() + WITHIN
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {WITHIN:g} s: {what}")
        time.sleep(0.2)


def _classify(client: Client, picture: bytes) -> None:
    answer = client.classify(picture)
    if answer.classifications[0][0].label != "7":
        raise RuntimeError(f"a wrong answer: {answer}")


@contextmanager
def _stage(options: argparse.Namespace, folder: Path) -> Iterator[Stage]:
    """Start the balancer and the replicas; end them in the end."""
    repository = folder / "models"
    shutil.copytree(BUNDLED / "models" / MODEL / "1", repository / MODEL / "1")
    authority = Authority(folder)
    shown = authority.both if options.balancer == "http" else None
    balancer = Balancer(folder, places=options.replicas + 1, authority=authority.ca, certificate=shown)
    flags = ["--repository", str(repository), "--poll-seconds", "1", "--intra-op-threads", "1"]
    flags += ["--tls-certificate", str(authority.certificate), "--tls-key", str(authority.key)]
    flags += ["--drain-delay", str(options.drain_delay), "--grace", "10"]
    deployment = Deployment(balancer, flags, folder, pre_stop=options.pre_stop, told=options.told)
    try:
        for place in range(options.replicas):
            deployment.start(place)
        _say(f"{options.replicas} replicas are ready behind the balancer ({options.balancer}) on {balancer.port}")
        yield Stage(deployment, balancer, authority, repository)
    finally:
        deployment.stop()
        balancer.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="deploy/rehearse.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=10, help="rollouts over all replicas (10)")
    parser.add_argument("--replicas", type=int, default=3, help="replicas behind the balancer (3)")
    parser.add_argument(
        "--balancer", choices=["http", "tcp"], default="http", help="spread calls, or pass bytes (http)"
    )
    parser.add_argument("--rate", type=float, default=50.0, help="calls a second of `saccade bench` (50)")
    parser.add_argument("--pre-stop", type=float, default=2.0, help="seconds from the decision to SIGTERM (2)")
    parser.add_argument("--told", type=float, default=1.0, help="seconds until the balancer knows of it (1)")
    parser.add_argument("--drain-delay", type=float, default=1.0, help="the replicas' --drain-delay (1)")
    options = parser.parse_args()
    if not 0 <= options.told <= options.pre_stop:
        parser.error("--told must be from 0 to --pre-stop")
    return options


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

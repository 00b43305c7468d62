"""Heavy networks: ResNets with random weights through the server, beside the bare session in the same run.

Raw pixels and JPEG at 1, 8 and 32 callers. The ceiling is the bare session with all cores on one picture at a time,
which is its best on a CPU (batches buy a ResNet nothing there); for one caller the median latency stands beside the
bare session plus a bare call. Server, load and session take turns. Needs the extra `train`.
"""

import io
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from service.load.plan import Load
from service.load.processes import Loaders
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.session import Session
from tests.benchmarks import echo
from tests.benchmarks.lenet import CLASSIFY
from tests.benchmarks.machine import Measured, bare_session, echo_server, measure, median
from tests.benchmarks.table import Compared, Group, Line, Plan, Step
from tests.processes import ServerProcess

SIDE = 224
KINDS = ("raw pixels", "JPEG")
CALLERS = (1, 8, 32)
WARM_UP = 2.0
"""Seconds: 32 callers of a ResNet-50 have one picture each under way for two."""
LONGER = 1.5
"""Times the seconds of a small model's row: a second is only some twenty pictures."""
_GOALS = {1: "<= 1 ms more", 8: ">= 0.95", 32: ">= 0.95"}
"""Of ResNet-50."""


def write(name: str, repository: Path) -> Path:
    """Put a network with random weights into a repository and return its file."""
    import torch

    from export import architectures, published
    from tests.networks import lively

    weights = repository.parent / f"{name}.pth"
    torch.save(lively(architectures.find(name).build(3, 1000), 3, SIDE).state_dict(), weights)
    labels = repository.parent / "labels.txt"
    labels.write_text("\n".join(f"class {number}" for number in range(1000)))
    path = repository / name / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    published.write(published.load(name, weights, labels=labels, preset="imagenet"), path)
    return path


def requests(name: str) -> dict[str, bytes]:
    """Return the bytes of a request with raw pixels, and of one with a JPEG of 500x375."""
    from export.drawn import pictures

    pixels = pb.Pixels(height=SIDE, width=SIDE, channels=3, data=bytes(SIDE * SIDE * 3))
    file = io.BytesIO()
    Image.fromarray(pictures(1, 3)[0]).resize((500, 375)).save(file, "JPEG", quality=90)
    images = (pb.Image(pixels=pixels), pb.Image(encoded=file.getvalue()))
    return {
        kind: pb.ClassifyRequest(model=name, images=[image]).SerializeToString()
        for kind, image in zip(KINDS, images, strict=True)
    }


def _row(network: str, kind: str, callers: int) -> str:
    return f"{network}, {kind}, {callers} at once"


def lines(network: str, names: Sequence[str], plan: Plan, step: Step) -> Iterator[Line]:
    """Measure the rows of these names."""
    rows = [(kind, callers) for kind in KINDS for callers in CALLERS if _row(network, kind, callers) in names]
    served: dict[tuple[str, int], list[Measured]] = {row: [] for row in rows}
    sessions: dict[tuple[str, int], list[float]] = {row: [] for row in rows}
    calls: dict[tuple[str, int], list[float]] = {row: [] for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        path = write(network, Path(folder) / "models")
        bodies = requests(network)
        bare = Session(path, "cpu", intra_op_threads=0, max_batch_size=1)
        with Loaders() as loaders, ServerProcess(path.parents[2]) as server, echo_server() as (_, echo_address):
            for row in rows * plan.rounds:
                kind, callers = row
                sessions[row].append(bare_session(bare, 1, plan.seconds / 3).seconds)
                call = loaders.run(Load(echo_address, echo.UNARY, bodies[kind], 1, 0.5))
                calls[row].append(call.milliseconds(50))
                load = Load(server.address, CLASSIFY, bodies[kind], callers, plan.seconds * LONGER, WARM_UP)
                served[row].append(measure(loaders, server.process.pid, load))
                step(1 / plan.rounds)
    session = median(seconds for row in rows for seconds in sessions[row])
    for row in rows:
        kind, callers = row
        outcomes = [each.outcome for each in served[row]]
        goal = _GOALS[callers] if (network, kind) == ("resnet50", "raw pixels") else ""
        rate = median(outcome.rate for outcome in outcomes)
        compared = [Compared("images/s: bare session", rate, 1 / session, goal if callers > 1 else "")]
        if callers == 1:
            p50 = median(outcome.milliseconds(50) for outcome in outcomes)
            compared.append(Compared("p50 ms: bare call + session", p50, session * 1e3 + median(calls[row]), goal))
        yield Line(_row(network, kind, callers), compared, outcomes, [each.cpu for each in served[row]])


def _seconds(plan: Plan) -> float:
    return plan.rounds * (plan.seconds * (LONGER + 1 / 3) + WARM_UP + 2) + 3


GROUPS = [
    Group(
        [_row(network, kind, callers) for kind in KINDS for callers in CALLERS],
        _seconds,
        partial(lines, network),
    )
    for network in ("resnet18", "resnet50")
]

"""LeNet-5: what a call costs the server, against its ceiling in the same run.

The ceiling of a row is what nobody can do without: a bare gRPC handler that answers as many bytes, plus the bare
session at its best batch for each picture. Server and load are pinned to a core each where there are two; rows and
ceilings take turns.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from service.load.plan import Load
from service.load.processes import Loaders
from service.rpc.pb.inference import service_pb2
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.server import BUNDLED, BUNDLED_DEFAULT
from service.session import Session
from tests.benchmarks import echo
from tests.benchmarks.machine import Bare, Measured, bare_session, echo_server, measure, median, pin, two_cores
from tests.benchmarks.metrics_cost import record_seconds
from tests.benchmarks.table import Compared, Group, Line, Plan, Step
from tests.processes import ServerProcess

CLASSIFY = "/saccade.v1.ImageClassifier/Classify"
INFER = "/inference.GRPCInferenceService/ModelInfer"
FILE = BUNDLED / BUNDLED_DEFAULT / "1/model.onnx"
SIDE = 28
WARM_UP = 0.5
BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Row:
    """One row: what is asked, how often at once, and the goals of its figures."""

    name: str
    kind: Literal["unary", "stream"]
    pictures: int
    concurrency: int
    protocol: Literal["saccade", "inference"] = "saccade"
    cpu: str = ""
    rate: str = ""
    p50: str = ""

    @property
    def path(self) -> str:
        """The method."""
        if self.protocol == "inference":
            return INFER
        return f"{CLASSIFY}Stream" if self.kind == "stream" else CLASSIFY

    @property
    def request(self) -> bytes:
        """The message: raw pixels of the model's size."""
        if self.protocol == "inference":
            message = service_pb2.ModelInferRequest(model_name=BUNDLED_DEFAULT)
            message.inputs.add(name="image", datatype="UINT8", shape=[self.pictures, SIDE, SIDE, 1])
            message.raw_input_contents.append(bytes(self.pictures * SIDE * SIDE))
            return message.SerializeToString()
        pixels = pb.Pixels(height=SIDE, width=SIDE, channels=1, data=bytes(SIDE * SIDE))
        return pb.ClassifyRequest(images=[pb.Image(pixels=pixels)] * self.pictures).SerializeToString()

    def load(self, address: str, method: str, seconds: float, core: int | None) -> Load:
        """Return the load of this row on a server."""
        return Load(
            address,
            method,
            self.request,
            self.concurrency,
            seconds,
            WARM_UP,
            kind=self.kind,
            core=core,
            images=self.pictures,
        )

    @property
    def alike(self) -> tuple[str, int, int]:
        """What it shares with the row of the other protocol."""
        return self.kind, self.pictures, self.concurrency


ROWS = [
    Row("LeNet-5, one picture, 1 at once", "unary", 1, 1, p50="p50 <= 0.6 ms"),
    Row("LeNet-5, one picture, 8 at once", "unary", 1, 8),
    Row("LeNet-5, one picture, 32 at once", "unary", 1, 32, cpu="<= 1.35"),
    Row("LeNet-5, one picture, 128 at once", "unary", 1, 128),
    Row("LeNet-5, stream, 64 at once", "stream", 1, 64, cpu="<= 1.4"),
    Row("LeNet-5, 32 pictures a call, 8 at once", "unary", 32, 8, rate=">= 0.6"),
    Row("ModelInfer, one picture, 32 at once", "unary", 1, 32, "inference"),
    Row("ModelInfer, 32 pictures a call, 8 at once", "unary", 32, 8, "inference"),
]
UNMETERED = "LeNet-5 with metrics, one picture, 32 at once"
"""Beside a server that records nothing."""


@dataclass
class Taken:
    """What was measured of a row, round by round; of the bare session by batch."""

    served: list[Measured] = field(default_factory=list)
    bare: list[Measured] = field(default_factory=list)
    session: dict[int, list[Bare]] = field(default_factory=lambda: {batch: [] for batch in BATCHES})

    @property
    def cpu(self) -> float:
        """The server's seconds a call."""
        return median(each.cpu for each in self.served)

    def line(self, row: Row, classify: "Taken | None") -> Line:
        """Return the row of the table; `classify` is what Classify took of the same pictures."""
        session = min(median(each.cpu for each in found) for found in self.session.values())
        call = median(each.cpu for each in self.bare) / row.pictures
        compared = [
            Compared(
                "CPU us/image: bare call + session", self.cpu / row.pictures * 1e6, (call + session) * 1e6, row.cpu
            )
        ]
        outcomes = [each.outcome for each in self.served]
        if row.rate:
            # By CPU on both sides: by the clock, other work on the core slows one and not the other.
            compared.append(Compared("images/CPU s: bare session", row.pictures / self.cpu, 1 / session, row.rate))
        if row.p50:
            one = median(each.seconds for each in self.session[1])
            bare = median(each.outcome.milliseconds(50) for each in self.bare) + one * 1e3
            p50 = median(outcome.milliseconds(50) for outcome in outcomes)
            compared.append(Compared("p50 ms: bare call + session", p50, bare, row.p50))
        if classify is not None:
            compared.append(Compared("CPU us/call: Classify", self.cpu * 1e6, classify.cpu * 1e6, "<= 1.15"))
        return Line(row.name, compared, outcomes, [each.cpu / row.pictures for each in self.served])


def lines(names: Sequence[str], plan: Plan, step: Step) -> Iterator[Line]:
    """Measure the rows of these names."""
    rows = [row for row in ROWS if row.name in names]
    server_core, load_core = two_cores()
    taken = {row: Taken() for row in rows}
    session = Session(FILE, "cpu", intra_op_threads=1, max_batch_size=max(BATCHES))
    with (
        Loaders() as loaders,
        echo_server() as (echo_pid, echo_address),
        ServerProcess(None, "--intra-op-threads", "1") as server,
    ):
        for row in [row for _ in range(plan.rounds) for row in rows]:
            pin(echo_pid, server_core)
            pin(server.process.pid, server_core)
            method = echo.STREAM if row.kind == "stream" else echo.UNARY
            bare = row.load(echo_address, method, plan.seconds, load_core)
            taken[row].bare.append(measure(loaders, echo_pid, bare))
            load = row.load(server.address, row.path, plan.seconds, load_core)
            taken[row].served.append(measure(loaders, server.process.pid, load))
            for batch, found in taken[row].session.items():
                found.append(bare_session(session, batch, 0.2, server_core))
            step(1 / plan.rounds)
    classify = {row.alike: found for row, found in taken.items() if row.protocol == "saccade"}
    for row in rows:
        yield taken[row].line(row, classify.get(row.alike) if row.protocol == "inference" else None)


def metered(_: Sequence[str], plan: Plan, step: Step) -> Iterator[Line]:
    """Measure what metrics cost a call, beside a server that records none."""
    server_core, load_core = two_cores()
    row = Row(UNMETERED, "unary", 1, 32)
    on, off = list[Measured](), list[Measured]()
    with contextlib.ExitStack() as stack:
        loaders = stack.enter_context(Loaders())
        servers = [
            stack.enter_context(ServerProcess(None, "--intra-op-threads", "1", module=module))
            for module in ("service.cli", "tests.benchmarks.unmetered")
        ]
        for _round in range(plan.rounds):
            for server, measured in zip(servers, (on, off), strict=True):
                pin(server.process.pid, server_core)
                load = row.load(server.address, row.path, plan.seconds, load_core)
                measured.append(measure(loaders, server.process.pid, load))
            step(1 / plan.rounds)
    with_metrics, without = (median(each.cpu for each in measured) * 1e6 for measured in (on, off))
    compared = [
        Compared("CPU us/image: without metrics", with_metrics, without),
        Compared("us to record a call, in a loop: its CPU", record_seconds() * 1e6, with_metrics, "<= 5 us"),
    ]
    yield Line(UNMETERED, compared, [each.outcome for each in on], [each.cpu for each in on])


def _seconds(plan: Plan) -> float:
    return plan.rounds * (2 * (plan.seconds + WARM_UP + 0.2) + 0.7) + 1


GROUPS = [
    Group([row.name for row in ROWS], _seconds, lines),
    Group([UNMETERED], _seconds, metered),
]

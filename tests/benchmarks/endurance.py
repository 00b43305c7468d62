"""Endurance: the server's memory after many calls, a tenth of them cancelled, beside that after few."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import psutil

from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.benchmarks.lenet import CLASSIFY
from tests.benchmarks.table import Compared, Group, Line, Plan, Step
from tests.processes import ServerProcess

ROW = "LeNet-5, many calls, a tenth cancelled"
CALLERS = 32
CANCELLED = 0.1
FIRST = 0.1
"""Of the calls: memory is looked at after these, and after all."""
A_SECOND = 1200
"""Calls, about."""
PICTURE = Path(__file__).parents[2] / "service/bundled/pictures/digit-3.png"


async def call(address: str, calls: int, seed: int, advance: Callable[[], None]) -> Counter[str]:
    """Make so many calls, encoded and raw pictures in turn, and return what came of them."""
    numbers = random.Random(seed)
    pixels = pb.Pixels(height=28, width=28, channels=1, data=bytes(28 * 28))
    requests = [
        pb.ClassifyRequest(images=[source]).SerializeToString()
        for source in (pb.Image(encoded=PICTURE.read_bytes()), pb.Image(pixels=pixels))
    ]
    outcome: Counter[str] = Counter()
    left = iter(range(calls))

    async def caller(method: Any) -> None:  # noqa: ANN401 - gRPC's own
        for number in left:
            under_way = method(requests[number % 2], timeout=10)
            if numbers.random() < CANCELLED:
                await asyncio.sleep(numbers.random() * 0.01)
                under_way.cancel()
            try:
                await under_way
                outcome["OK"] += 1
            except grpc.aio.AioRpcError as error:
                outcome[error.code().name] += 1
            except asyncio.CancelledError:
                outcome["CANCELLED"] += 1
            advance()

    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.gather(*(caller(channel.unary_unary(CLASSIFY)) for _ in range(CALLERS)))
    return outcome


def lines(_: Sequence[str], plan: Plan, step: Step) -> Iterator[Line]:
    """Measure both."""
    first = round(plan.calls * FIRST)
    with ServerProcess(None) as server:
        process = psutil.Process(server.process.pid)
        sizes = []
        outcome: Counter[str] = Counter()
        for seed, calls in enumerate((first, plan.calls - first)):
            outcome += asyncio.run(call(server.address, calls, seed, lambda: step(1 / plan.calls)))
            sizes.append(process.memory_info().rss / 1e6)
        server.terminate()
    answered = f"{outcome['OK']:,} of {plan.calls:,} answered"
    yield Line(f"{ROW}: {answered}", [Compared(f"MB after all: after {first:,}", sizes[1], sizes[0], "<= 20 MB more")])


GROUPS = [Group([ROW], lambda plan: plan.calls / A_SECOND + 2, lines)]

"""Endurance: the server's memory after many calls, a tenth of them cancelled by their callers, beside that after few.

python -m tests.benchmarks.endurance [--calls 200000] [--first 20000]
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
from rich.progress import Progress

from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from tests.processes import ServerProcess

CLASSIFY = "/saccade.v1.ImageClassifier/Classify"
CALLERS = 32
CANCELLED = 0.1
PICTURE = Path(__file__).parents[2] / "service/bundled/pictures/digit-3.png"


async def call(address: str, calls: int, seed: int, progress: Progress) -> Counter[str]:
    """Make so many calls, encoded and raw pictures in turn, and return what came of them."""
    numbers = random.Random(seed)
    pixels = pb.Pixels(height=28, width=28, channels=1, data=bytes(28 * 28))
    requests = [
        pb.ClassifyRequest(images=[source]).SerializeToString()
        for source in (pb.Image(encoded=PICTURE.read_bytes()), pb.Image(pixels=pixels))
    ]
    outcome: Counter[str] = Counter()
    left = iter(range(calls))
    task = progress.add_task(f"{calls:,} calls", total=calls)

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
            progress.advance(task)

    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.gather(*(caller(channel.unary_unary(CLASSIFY)) for _ in range(CALLERS)))
    return outcome


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--first", type=int, default=20_000)
    given = parser.parse_args()
    with ServerProcess(None) as server, Progress() as progress:
        process = psutil.Process(server.process.pid)
        sizes = []
        for number, calls in enumerate((given.first, given.calls - given.first)):
            outcome = asyncio.run(call(server.address, calls, number, progress))
            sizes.append(process.memory_info().rss / 1e6)
            sys.stderr.write(f"{dict(outcome)}\n")
        server.terminate()
    print(f"after {given.first:,} calls {sizes[0]:.1f} MB, after {given.calls:,} {sizes[1]:.1f} MB")


if __name__ == "__main__":
    main()

"""One process or several that train one network together, as torchrun starts them."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from service.errors import SetupError


@dataclass(frozen=True, slots=True)
class Processes:
    """Which one of how many processes this is, and the device that is its own."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that measures, writes and tells."""
        return self.rank == 0

    def check(self, batch_size: int) -> None:
        """Refuse a batch that cannot be shared equally."""
        if batch_size % self.count:
            raise SetupError(f"batch_size is {batch_size}, which {self.count} processes cannot share equally")

    def joined(self, network: nn.Module) -> nn.Module:
        """Return what runs the network and averages its gradients over all processes."""
        return DistributedDataParallel(network) if self.count > 1 else network

    def share(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch; all parts are equally long."""
        return batch[self.rank :: self.count]

    def mean(self, number: Tensor) -> float:
        """Return the mean of a number over all processes."""
        if self.count > 1:
            distributed.all_reduce(number)
        return float(number) / self.count

    def told(self, number: float) -> float:
        """Return the first process's number, in all of them."""
        if self.count == 1:
            return number
        said = torch.tensor(number, dtype=torch.float64, device=self.device)
        distributed.broadcast(said, src=0)
        return float(said)

    def gathered(self, state: Tensor) -> list[Tensor]:
        """Return every process's tensor, in the order of their ranks."""
        if self.count == 1:
            return [state]
        sent = state.to(self.device)
        received = [torch.empty_like(sent) for _ in range(self.count)]
        distributed.all_gather(received, sent)
        return [tensor.cpu() for tensor in received]


def alone() -> Processes:
    """Return the one process, on the GPU if there is one."""
    return Processes(0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def join() -> Iterator[Processes]:
    """Join the processes that torchrun started; without it this one is alone.

    They leave together: one that left while the first still wrote its files was seen to abort, once in some fifty runs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield alone()
        return
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if gpu else "gloo")
    try:
        yield Processes(int(os.environ["RANK"]), count, device)
        distributed.barrier()
    finally:
        gc.collect()  # what holds the group, in cycles, ends before it and not with the interpreter
        distributed.destroy_process_group()

"""One step of training: precision, loss, gradient, rate, optimizer and the moving average of the weights."""

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from export.augment import augment, crop_and_flip, shrink
from export.checkpoint import Classifier
from export.recipes import Recipe

_START = 1 / 25
"""Share of the highest rate at which a warm-up starts (Smith and Topin, Super-Convergence, 2018, use 1/10 to 1/40)."""
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Steps:
    """A model, what changes its weights, and how far it is; `state` and `restore` make a run go on exactly.

    Args:
        recipe: how to train.
        model: what is trained.
        total: steps from the first to the last.
        device: where it is trained.
    """

    def __init__(self, recipe: Recipe, model: Classifier, *, total: int, device: torch.device) -> None:
        self.recipe, self.total, self.device, self.done = recipe, total, device, 0
        # Channels last: 1.2 to 1.4 times the speed of ResNet-20 on two AVX2 cores, and what tensor cores want.
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).requires_grad_(requires_grad=False) if recipe.average else self.model
        self.optimizer = _optimizer(recipe, self.model)
        self.type = _TYPES[precision(recipe.precision, device)]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.type is torch.float16)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Learn from a batch, uint8 [N, H, W, C] and int64 [N]; return its mean loss, before the step."""
        progress = self.done / self.total
        rate = self.recipe.learning_rate * share_of_rate(self.recipe, progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs = augment(self.model.normalise(crop_and_flip(images, self.recipe)), self.recipe)
        inputs = shrink(inputs, self.recipe, progress)
        with torch.autocast(self.device.type, self.type, enabled=self.type is not torch.float32):
            logits = self.model.network(inputs)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.done += 1
        if self.average is not self.model:
            _follow(self.average, self.model, self.recipe.average, self.done)
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on, the random numbers included."""
        return {
            "done": self.done,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
            "device_random": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.done = state["done"]
        self.average.load_state_dict(state["average"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"].cpu())
        if state["device_random"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_random"].cpu())


def share_of_rate(recipe: Recipe, progress: float) -> float:
    """Return the share of the highest learning rate at `progress` from 0 to 1: up in the warm-up, then down to 0."""
    if progress < recipe.warmup:
        risen = progress / recipe.warmup
        return _START + (1 - _START) * (_half_cosine(risen) if recipe.schedule == "cosine" else risen)
    left = (1 - progress) / (1 - recipe.warmup) if recipe.warmup < 1 else 0.0
    return _half_cosine(left) if recipe.schedule == "cosine" else left


def _half_cosine(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2


def precision(wanted: str, device: torch.device) -> str:
    """Return the precision to compute in: what is wanted, or for `auto` what the processor multiplies fastest.

    bf16 on a CPU without AMX is emulated: on two AVX2 cores ResNet-20 ran several times slower than in fp32.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if "amx_bf16" in _cpu_flags() else "fp32"


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _optimizer(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups: Iterable[dict[str, Any]] = [
        {"params": weights, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    return torch.optim.AdamW(groups, recipe.learning_rate)


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float, steps: int) -> None:
    """Move the average towards the model; early on faster, so that the first weights are forgotten."""
    decay = min(decay, (1 + steps) / (10 + steps))
    state = model.state_dict()
    for name, kept in average.state_dict().items():
        if kept.dtype.is_floating_point:
            kept.lerp_(state[name], 1 - decay)
        else:
            kept.copy_(state[name])

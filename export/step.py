"""One step of training: precision, loss, gradient, rate, optimizer and the moving average of the weights."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from export import finetune
from export.augment import augment, crop_and_flip, invert, mix, shrink
from export.checkpoint import Classifier
from export.muon import Muon, fits
from export.processes import Processes
from export.recipes import Recipe
from export.teacher import Teacher
from service import hosts
from service.errors import SetupError

_START = 1 / 25
"""Share of the highest rate at which a warm-up starts, as in torch's one-cycle schedule."""
_AUXILIARY = 0.3
"""Weight of the loss of an auxiliary head (Szegedy and others, Going Deeper with Convolutions, 2015, section 5)."""
_BF16 = {"amx_bf16", "avx512_bf16"}
"""Features of CPUs that multiply bf16 in hardware, as Linux names them."""
Output = Tensor | tuple[Tensor, tuple[Tensor, ...]]
"""Logits [N, classes], and in training those of auxiliary heads where a network has them."""
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Steps:
    """A model, what changes its weights, and how far it is; `state` and `restore` make a run go on exactly.

    Args:
        recipe: how to train.
        model: what is trained.
        classes: how many it tells apart.
        total: steps from the first to the last.
        processes: who else trains it.
        teachers: trained networks that it learns from besides.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Classifier,
        *,
        classes: int,
        total: int,
        processes: Processes,
        teachers: Sequence[Classifier] = (),
    ) -> None:
        self.recipe, self.classes, self.total, self.processes, self.done = recipe, classes, total, processes, 0
        self.device = processes.device
        # Channels last: 1.2 to 1.4 times the speed of ResNet-20 on two AVX2 cores, and what tensor cores want.
        self.model = model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.frozen = finetune.freeze(self.model.network, recipe.freeze)
        self.average = copy.deepcopy(self.model).requires_grad_(requires_grad=False) if recipe.average else self.model
        self.optimizer = _optimizer(recipe, self.model)
        self.type = _TYPES[precision(recipe.precision, self.device)]
        self.teacher = (
            Teacher(teachers, self.model, temperature=recipe.temperature, computed_in=self.type) if teachers else None
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.type is torch.float16)
        network = processes.joined(self.model.network)
        self.forward = torch.compile(network) if recipe.compiled else network

    def train(self) -> None:
        """Get ready to learn: norms take the statistics of each batch, but those of frozen parts."""
        self.model.train()
        for part in self.frozen:
            part.eval()

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Learn from a batch, uint8 [N, H, W, C] and int64 [N]; return its mean loss, before the step."""
        progress = self.done / self.total
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * group["share"] * share_of_rate(self.recipe, progress)
        images = crop_and_flip(invert(images, self.recipe.invert), self.recipe)
        inputs = augment(self.model.normalise(images), self.recipe)
        targets = labels
        if self.recipe.mixup:
            inputs, targets = mix(inputs, functional.one_hot(labels, self.classes).float(), self.recipe.mixup)
        answers = self.teacher.answers(inputs) if self.teacher else None
        with torch.autocast(self.device.type, self.type, enabled=self.type is not torch.float32):
            output = self.forward(shrink(inputs, self.recipe, progress))
        loss = self._loss(output, targets, answers)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.done += 1
        if self.average is not self.model:
            _follow(self.average, self.model, self.recipe.average, self.done)
        return loss.detach()

    def _loss(self, output: Output, targets: Tensor, answers: Tensor | None) -> Tensor:
        """Return the mean loss of logits, and of those of auxiliary heads where a network has them in training.

        `targets` are classes, int64 [N], or shares of them, float [N, classes]; `answers` a teacher's, [N, classes].
        """
        if not isinstance(output, Tensor):
            logits, auxiliary = output
            others = torch.stack([self._loss(other, targets, answers) for other in auxiliary])
            return self._loss(logits, targets, answers) + _AUXILIARY * others.sum()
        logits = output.float()
        loss = _loss_of_labels(logits, targets, self.recipe)
        if self.teacher is None or answers is None:
            return loss
        return loss.lerp(self.teacher.loss(logits, answers), self.recipe.teacher_share)

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on, the random numbers of every process included."""
        gpu = self.device.type == "cuda"
        return {
            "done": self.done,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": self.processes.gathered(torch.get_rng_state()),
            "device_random": self.processes.gathered(torch.cuda.get_rng_state()) if gpu else [],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.done = state["done"]
        self.average.load_state_dict(state["average"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self.scaler.is_enabled():  # else it was stopped, or goes on, without a scaler
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"][self.processes.rank])
        if state["device_random"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_random"][self.processes.rank])


def _loss_of_labels(logits: Tensor, targets: Tensor, recipe: Recipe) -> Tensor:
    """Return the mean loss of logits [N, classes]; `targets` as in Steps."""
    if recipe.loss == "cross-entropy":
        return functional.cross_entropy(logits, targets, label_smoothing=recipe.label_smoothing)
    classes = logits.shape[1]
    wanted = functional.one_hot(targets, classes).float() if targets.ndim == 1 else targets
    wanted = wanted * (1 - recipe.label_smoothing) + recipe.label_smoothing / classes
    return (functional.softmax(logits, dim=1) - wanted).square().sum(dim=1).mean()


def share_of_rate(recipe: Recipe, progress: float) -> float:
    """Return the share of the highest learning rate at `progress` from 0 to 1: up in the warm-up, then down to 0."""
    if progress < recipe.warmup:
        risen = progress / recipe.warmup
        return _START + (1 - _START) * (_half_cosine(risen) if recipe.schedule == "cosine" else risen)
    left = (1 - progress) / (1 - recipe.warmup) if recipe.warmup < 1 else 0.0
    return _half_cosine(left) if recipe.schedule == "cosine" else left


def _half_cosine(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2


def precision(wanted: str, device: torch.device, flags: set[str] | None = None) -> str:
    """Return the precision to compute in: what is wanted, or for `auto` what the processor multiplies fastest.

    bf16 on a CPU that has neither AMX nor AVX-512's bf16 is emulated: on two AVX2 cores a run of ResNet-20 in bf16 did
    not end in ten minutes that takes seconds in fp32. On a core with AVX-512's it learns 524 images/s, in fp32 331.
    `flags` are the CPU's features, as Linux names them; None asks this machine.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _BF16 & (hosts.cpu_flags() if flags is None else flags) else "fp32"


def _optimizer(recipe: Recipe, model: Classifier) -> torch.optim.Optimizer:
    """Return the optimizer, its parameters grouped by their decay and by their share of the rate.

    Raises:
        SetupError: Muon is asked for, and the network has convolutions without a norm.
    """
    head = f"network.{finetune.head_of(model.network)}."
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Norms and biases are vectors, those of the paper's LeNet-5 of shape [1, maps, 1, 1].
            decay = recipe.weight_decay if parameter.squeeze().ndim > 1 else 0.0
            share = 1.0 if name.startswith(head) else recipe.body_rate
            groups.setdefault((decay, share), []).append(parameter)
    listed: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "share": share} for (decay, share), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(listed, recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0)
    if recipe.optimizer == "muon":
        if not fits(model.network):
            raise SetupError(
                f"optimizer muon wants a norm after each convolution; {recipe.architecture} has none: "
                "--set optimizer=adamw (or sgd)"
            )
        return Muon(listed, recipe.learning_rate, recipe.momentum)
    return torch.optim.AdamW(listed, recipe.learning_rate)


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

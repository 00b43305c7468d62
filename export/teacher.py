"""Learning from trained networks: their mean answer to a picture is a target beside its label.

Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015. Teacher and student see the same change of a
picture (Beyer and others, Knowledge distillation: A good teacher is patient and consistent, 2022, section 3.1), the
teacher always at full size.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from export import checkpoint
from export.checkpoint import Checkpoint, Classifier
from export.data import named
from service.errors import SetupError
from service.manifest import Preprocessing, sha256


class Teacher:
    """Trained networks that answer together; nothing in them changes.

    Args:
        networks: at least one, of the student's classes and input size.
        student: whose normalised pictures they are shown.
        temperature: what logits are divided by; the higher, the more the classes that are not the first one count.
        computed_in: what the networks compute in.
    """

    def __init__(
        self, networks: Sequence[Classifier], student: Classifier, *, temperature: float, computed_in: torch.dtype
    ) -> None:
        self.temperature, self.type = temperature, computed_in
        self.device = student.get_buffer("factor").device
        self.networks = [
            network.eval().requires_grad_(requires_grad=False).to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for network in networks
        ]
        # From the student's normalisation to their own: both are one multiplication and one addition.
        factors = [network.get_buffer("factor") / student.get_buffer("factor") for network in self.networks]
        self.scales = [
            (factor, network.get_buffer("offset") - factor * student.get_buffer("offset"))
            for factor, network in zip(factors, self.networks, strict=True)
        ]

    @torch.no_grad()
    def answers(self, inputs: Tensor) -> Tensor:
        """Return the mean of their probabilities [N, classes], at this temperature, for the student's [N, C, H, W]."""
        with torch.autocast(self.device.type, self.type, enabled=self.type is not torch.float32):
            logits = [
                network.network(inputs * factor + offset)
                for network, (factor, offset) in zip(self.networks, self.scales, strict=True)
            ]
        return torch.stack([functional.softmax(own.float() / self.temperature, dim=1) for own in logits]).mean(0)

    def loss(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Return the mean divergence of the student's logits [N, classes] from `answers`, at this temperature.

        Times the temperature's square, so that its gradient is as large at all temperatures (section 2 of the paper).
        """
        own = functional.log_softmax(logits / self.temperature, dim=1)
        return self.temperature**2 * functional.kl_div(own, answers, reduction="batchmean")


def folders(runs: str) -> list[Path]:
    """Return the folders of runs, given with commas between, for example `runs/a,runs/b`."""
    return [Path(word.strip()) for word in runs.split(",") if word.strip()]


def digests(runs: str) -> list[str]:
    """Return the SHA-256 sum of each run's file, by which a resumed run knows its teachers."""
    return [sha256(folder / checkpoint.FILE) for folder in folders(runs)]


def load(runs: str, classes: tuple[str, ...], spec: Preprocessing) -> list[Checkpoint]:
    """Return the trained networks of runs.

    Args:
        runs: see `folders`.
        classes: the student's, in order.
        spec: how a picture becomes the student's input.

    Raises:
        SetupError: a folder holds no run; or its classes or its input are not the student's.
    """
    loaded = []
    for folder in folders(runs):
        if not folder.is_dir():
            raise SetupError(
                f"teacher names {folder}, which is not there; train it first, or name another run's folder by --teacher"
            )
        teacher = checkpoint.load(folder)
        if teacher.classes != classes:
            raise SetupError(
                f"teacher {folder} was trained on {named(teacher.classes)}, and these data have {named(classes)}; "
                "both need the same, in the same order"
            )
        if teacher.spec != spec:
            raise SetupError(
                f"teacher {folder} takes pictures as {_input(teacher.spec)}, and this run as {_input(spec)}; "
                "both need the same"
            )
        loaded.append(teacher)
    return loaded


def _input(spec: Preprocessing) -> str:
    return f"{spec.height}x{spec.width}x{spec.channels}, fit {spec.fit}, crop_fraction {spec.crop_fraction:g}"

"""Finds the setting by which a file of reduced precision costs least: calibrations first, then layers left in float."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper

from export import fp16, gate, int8, measure
from export.data import Data, Images
from export.evaluation import Progress
from export.gate import Answers
from export.measure import Part
from service.errors import ModelRejected, SetupError
from service.manifest import KEY, Manifest, within
from service.providers import Provider

Reduced = Literal["fp16", "bf16", "int8"]
CALIBRATION_PICTURES = 512
CALIBRATION_BATCH = 16
SENSITIVITY_PICTURES = 64


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to make the file: how activations are calibrated (int8), and which layers stay in float."""

    calibration: int8.Calibration | None = None
    in_float: tuple[str, ...] = ()

    def __str__(self) -> str:
        kept = f"{', '.join(self.in_float)} in float" if self.in_float else "every layer"
        return f"{self.calibration}, {kept}" if self.calibration else kept


@dataclass(frozen=True, slots=True)
class Try:
    """What a setting cost, in percentage points of top-1, on the pictures that settings are chosen by."""

    setting: Setting
    drop: float
    apart: float
    """The mean difference of its probabilities from those of fp32, which decides between equals."""

    def __str__(self) -> str:
        return f"{self.setting}: {self.drop:.2f} points"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    Attributes:
        precision: of the new file.
        max_drop: most percentage points of top-1 that it may cost.
        provider: the only one to measure on, or `auto`: all at hand.
        calibrations: those that int8 tries.
    """

    precision: Reduced
    max_drop: float = 0.5
    provider: str = "auto"
    calibrations: tuple[int8.Calibration, ...] = int8.CALIBRATIONS


Make = Callable[[Setting], onnx.ModelProto]
Quantise = Callable[[onnx.ModelProto, Any, Sequence[str]], onnx.ModelProto]
"""As int8.quantise."""


def calibration_pixels(data: Data, manifest: Manifest) -> Images:
    """Return pictures of the training split as the model takes them, each class with the same share.

    Where half of the training saw black and white exchanged, so does half of them: other pictures, other ranges.

    Raises:
        SetupError: there is no training split.
    """
    labels = data.train.labels
    if not len(labels):
        raise SetupError(f"{data.name} has no training split to calibrate on")
    random = np.random.default_rng(0)
    classes = [random.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    longest = max(len(members) for members in classes)
    turns = [int(members[turn]) for turn in range(longest) for members in classes if turn < len(members)]
    pixels = measure.pixels(data.train, manifest.preprocessing, turns[:CALIBRATION_PICTURES])
    if manifest.recipe.get("invert"):
        half = random.random(len(pixels)) < 0.5
        pixels[half] = 255 - pixels[half]
    return pixels


class Tries:
    """Makes a file by one setting after another, and measures what each costs.

    Args:
        path: where the file is written; the last one that was made stays there.
        manifest: of the fp32 file.
        model: the fp32 graph.
        wanted: precision and limit.
        samples: what activations are calibrated on, as the graph takes them.
        fixed_batch: how many of them it takes at a time; None where it takes any number.
        progress: shows how far it is.
        quantise: see int8.quantise.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        model: onnx.ModelProto,
        wanted: Wanted,
        samples: Images,
        *,
        fixed_batch: int | None,
        progress: Progress,
        quantise: Quantise,
    ) -> None:
        self._batch, self._whole = fixed_batch or CALIBRATION_BATCH, fixed_batch is not None
        self._path, self._manifest, self._wanted = path, manifest, wanted
        self._samples, self._progress, self._quantise = samples, progress, quantise
        self._float = int8.prepare(model)
        self._ranges: int8.Ranges | None = None

    @property
    def manifest(self) -> Manifest:
        """Of the reduced file, as far as it is known before it was measured."""
        return self._manifest.model_copy(update={"precision": self._wanted.precision, "golden_samples": ()})

    def make(self, setting: Setting) -> Path:
        """Write the file by a setting, with a manifest that says enough to run it; return its path."""
        match self._wanted.precision:
            case "fp16":
                model = fp16.convert(self._float, setting.in_float)
            case "bf16":
                model = onnx.ModelProto()
                model.CopyFrom(self._float)
            case "int8":
                assert setting.calibration is not None  # noqa: S101 - every setting of int8 has one
                ranges = self._calibrated().by(setting.calibration)
                model = self._quantise(self._float, ranges, setting.in_float)
        model.producer_name, model.producer_version = self._float.producer_name, self._float.producer_version
        helper.set_model_props(model, {KEY: self.manifest.to_json()})
        onnx.save(model, self._path)
        return self._path

    def search(self, answers: Answers, provider: Provider, part: Part) -> tuple[list[Try], Setting]:
        """Return what was tried and the setting that is taken; the file is made by it.

        Args:
            answers: of the fp32 file and of what is tried.
            provider: what they are measured on.
            part: the pictures that settings are chosen by.
        """
        int8_only = self._wanted.precision == "int8"
        settings = [Setting(method) for method in self._wanted.calibrations] if int8_only else [Setting()]
        tried = [self._try(setting, answers, provider, part) for setting in settings]
        best = min(tried, key=lambda each: (each.drop, each.apart))
        # bf16 is a hint, by which every layer computes.
        if not within(best.drop, self._wanted.max_drop) and self._wanted.precision != "bf16":
            order = self._by_sensitivity(best.setting, answers.source, provider)
            for count in _doubling(len(order)):
                more = self._try(replace(best.setting, in_float=tuple(order[:count])), answers, provider, part)
                tried.append(more)
                if within(more.drop, self._wanted.max_drop):
                    break
            best = min(tried, key=lambda each: (each.drop, each.apart))
        self.make(best.setting)
        return tried, best.setting

    def _calibrated(self) -> int8.Ranges:
        """Return the ranges by every method, measured when they are first asked for."""
        if self._ranges is None:
            methods = self._wanted.calibrations
            with self._progress("calibrating", len(self._samples) * len(methods)) as advance:
                self._ranges = int8.Ranges(self._float, self._batches, advance)
                for method in methods:
                    self._ranges.by(method)
        return self._ranges

    def _batches(self) -> Iterator[Images]:
        for first in range(0, len(self._samples), self._batch):
            places = np.arange(first, first + self._batch)
            # A graph of a fixed batch takes no fewer: the last one is filled up with the first samples again.
            yield np.take(self._samples, places if self._whole else places[places < len(self._samples)], 0, mode="wrap")

    def _try(self, setting: Setting, answers: Answers, provider: Provider, part: Part) -> Try:
        """Return what a setting costs; a file that cannot answer costs everything."""
        path = self.make(setting)
        reference = answers.reference(provider, part)
        try:
            answered = answers.of(path, provider, part, str(setting))
        except ModelRejected:
            return Try(setting, 100 * reference.accuracy, 1.0)
        apart = float(np.abs(answered.probabilities - reference.probabilities).mean())
        return Try(setting, 100 * (reference.accuracy - answered.accuracy), apart)

    def _by_sensitivity(self, setting: Setting, source: Path, provider: Provider) -> list[str]:
        """Return the layers, those first whose reduction alone changes the answers to calibration pictures most."""
        layers = int8.layers(self._float)
        batch = self._samples[:SENSITIVITY_PICTURES]
        expected = gate.open_on(source, provider).session.run(batch)
        apart: dict[str, float] = {}
        with self._progress("measuring each layer", len(layers)) as advance:
            for layer in layers:
                others = tuple(each for each in layers if each != layer)
                found = gate.open_on(self.make(replace(setting, in_float=others)), provider).session.run(batch)
                apart[layer] = float(np.nan_to_num(np.abs(found - expected), nan=1.0).mean())
                advance(1)
        return sorted(layers, key=lambda layer: -apart[layer])


def _doubling(most: int) -> list[int]:
    """Return 1, 2, 4 ... below `most`."""
    return [1 << power for power in range(most.bit_length()) if 1 << power < most]

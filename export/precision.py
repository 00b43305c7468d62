"""A fp32 file becomes one of reduced precision that is known to be good enough, or nothing at all."""

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
from onnx import helper

from export import fp16, gate, int8, measure
from export.data import Data, Images
from export.evaluation import Progress, silent
from export.gate import Answered
from export.measure import Opened, Part
from export.onnx_export import write_manifest
from export.report import summary
from service.errors import ModelRejected, SetupError
from service.manifest import KEY, GoldenSample, Manifest, Verdict, golden_sample, sha256
from service.providers import Provider
from service.selftest import TOLERANCE
from service.session import candidates

Reduced = Literal["fp16", "bf16", "int8"]
REPORT = "report.json"
CALIBRATION_PICTURES = 512
CALIBRATION_BATCH = 16
SENSITIVITY_PICTURES = 64
GOLDEN_SAMPLES = 8
NOISE = 2.0
"""How many times its own rounding another machine's answer to a golden sample may differ: two, one either way."""
MOST_NOISE = 0.1
"""Rounding beyond which a picture is no golden sample: it would let a broken file pass."""


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


class Named(NamedTuple):
    """A data set, and how export.data calls it."""

    data: Data
    name: str


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


@dataclass(frozen=True, slots=True)
class Made:
    """A file that passed, and what report.json says of it."""

    path: Path
    manifest: Manifest
    setting: Setting
    warnings: tuple[str, ...]
    report: dict[str, object]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What it costs on each provider."""
        return self.manifest.verdicts


Make = Callable[[Setting], onnx.ModelProto]
Quantise = Callable[[onnx.ModelProto, Any, Sequence[str]], onnx.ModelProto]
"""As int8.quantise."""


def reduce(
    source: Path,
    folder: Path,
    data: Named,
    wanted: Wanted,
    *,
    progress: Progress = silent,
    quantise: Quantise = int8.quantise,
) -> Made:
    """Write a file of reduced precision into a folder, measured on every provider at hand.

    Settings are tried on the validation split and the best by accuracy is taken; layers stay in float, the most
    sensitive first, only where none is within the limit. The held-out split decides, or the validation split where
    there is none. Activations are calibrated on the training split, which decides nothing.

    Raises:
        ModelRejected: it costs more than the limit on every provider, or none can run it.
        SetupError: the file or the data cannot be used.
    """
    seeded = gate.open_on(source, "cpu")
    if seeded.manifest.precision != "fp32":
        raise SetupError(f"{source} is {seeded.manifest.precision}; --precision starts from a file in fp32")
    run = _Run(seeded, folder, data, wanted, progress=progress, quantise=quantise)
    tried, best = run.search()
    verdicts, answers = run.verdicts(best)
    gate.refuse(verdicts, [str(each) for each in tried])
    return run.finish(tried, best, verdicts, answers)


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


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _doubling(most: int) -> list[int]:
    """Return 1, 2, 4 ... below `most`."""
    return [1 << power for power in range(most.bit_length()) if 1 << power < most]


class _Run:
    """One reduction, from the fp32 file to the report."""

    def __init__(
        self, seeded: Opened, folder: Path, data: Named, wanted: Wanted, *, progress: Progress, quantise: Quantise
    ) -> None:
        self._quantise = quantise
        self._source, self._manifest = seeded.file.path, seeded.manifest
        self._data, self._wanted, self._progress = data, wanted, progress
        self._path = folder / "model.onnx"
        seed = measure.seed_of(seeded.manifest)
        self._choosing = measure.choose(data.data, "validation", seed)
        self._deciding = measure.choose(data.data, None, seed)
        self._samples = seeded.samples(calibration_pixels(data.data, seeded.manifest))
        self._float = int8.prepare(onnx.load(self._source))
        self._providers = self._at_hand()
        self._references: dict[tuple[Provider, str], Answered] = {}

    def search(self) -> tuple[list[Try], Setting]:
        """Return what was tried and the setting that is taken."""
        make = self._make()
        settings = (
            [Setting(method) for method in self._wanted.calibrations]
            if self._wanted.precision == "int8"
            else [Setting()]
        )
        tried = [self._try(make, setting) for setting in settings]
        best = min(tried, key=lambda each: (each.drop, each.apart))
        if best.drop > self._wanted.max_drop and self._wanted.precision != "bf16":  # of a hint every layer computes
            order = self._by_sensitivity(make, best.setting)
            for count in _doubling(len(order)):
                more = self._try(make, replace(best.setting, in_float=tuple(order[:count])))
                tried.append(more)
                if more.drop <= self._wanted.max_drop:
                    break
            best = min(tried, key=lambda each: (each.drop, each.apart))
        self._write(make(best.setting))
        return tried, best.setting

    def verdicts(self, setting: Setting) -> tuple[list[Verdict], dict[Provider, Answered]]:
        """Return the verdict of each provider on the file as it is written, and its answers."""
        found, answers = [], {}
        for provider in self._providers:
            reference = self._reference(provider, self._deciding)
            answers[provider] = self._answer(provider, self._path, self._deciding, f"{provider}: {setting}")
            found.append(
                gate.judge(reference, answers[provider], self._deciding, self._wanted.precision, self._wanted.max_drop)
            )
        return found, answers

    def finish(
        self, tried: list[Try], best: Setting, verdicts: list[Verdict], answers: dict[Provider, Answered]
    ) -> Made:
        """Write the manifest of a file that passed, and return what is said of it."""
        provider = next(each for each in self._providers if any(v.provider == each and v.passed for v in verdicts))
        chosen = answers[provider]
        manifest = self._reduced().model_copy(
            update={
                "accuracy": chosen.accuracy,
                "data": f"{self._manifest.data}; accuracy and speed against fp32: verdicts",
                "evaluation": summary(self._deciding.data, self._deciding.split, chosen.true, chosen.probabilities),
                "versions": self._manifest.versions
                | {name: importlib.metadata.version(name) for name in ("saccade", "onnx")},
                "golden_samples": self._golden(answers, provider),
                "verdicts": tuple(verdicts),
            }
        )
        write_manifest(self._path, manifest)
        doubts = self._doubts()
        report: dict[str, object] = {
            "format": 1,
            "made_by": manifest.versions,
            "precision": self._wanted.precision,
            "max_drop": self._wanted.max_drop,
            "bytes": self._path.stat().st_size,
            "reference": {"bytes": self._source.stat().st_size, "sha256": sha256(self._source)},
            "calibration": {"split": "train", "pictures": len(self._samples)},
            "chosen": {"calibration": best.calibration, "in_float": list(best.in_float)},
            "tried": [{"setting": str(each.setting), "drop": each.drop} for each in tried],
            "chosen_by": self._choosing.split,
            "verdicts": [
                verdict.model_dump() | {"drop": verdict.drop, "passed": verdict.passed} for verdict in verdicts
            ],
            "warnings": doubts,
        }
        return Made(self._path, manifest, best, tuple(doubts), report)

    def _at_hand(self) -> list[Provider]:
        """Return the providers that can run the file as it is asked for."""
        found: list[Provider] = []
        reasons = []
        if self._wanted.precision == "bf16":
            self._write(copied(self._float))
        for provider in candidates(self._wanted.provider):
            try:
                opened = gate.open_on(self._path if self._wanted.precision == "bf16" else self._source, provider)
            except ModelRejected as error:
                reasons.append(f"{provider}: {error}")
                continue
            floats = opened.session.about.floats
            if self._wanted.precision == "bf16" and floats != "bf16":
                reasons.append(f"{provider}: it computes in {floats}")
            else:
                found.append(provider)
        if not found:
            raise ModelRejected(
                f"no provider here runs it in {self._wanted.precision}, so that nothing can be measured "
                f"({'; '.join(reasons) or f'no provider for --provider {self._wanted.provider}'})"
            )
        return found

    def _make(self) -> Make:
        if self._wanted.precision == "fp16":
            return lambda setting: fp16.convert(self._float, setting.in_float)
        if self._wanted.precision == "bf16":
            return lambda _: copied(self._float)
        with self._progress("calibrating", len(self._samples) * len(self._wanted.calibrations)) as advance:
            ranges = int8.Ranges(self._float, self._batches, advance)
            for method in self._wanted.calibrations:
                ranges.by(method)

        def make(setting: Setting) -> onnx.ModelProto:
            assert setting.calibration is not None  # noqa: S101 - every setting of int8 has one
            return self._quantise(self._float, ranges.by(setting.calibration), setting.in_float)

        return make

    def _batches(self) -> Iterator[Images]:
        for first in range(0, len(self._samples), CALIBRATION_BATCH):
            yield self._samples[first : first + CALIBRATION_BATCH]

    def _try(self, make: Make, setting: Setting) -> Try:
        """Return what a setting costs on the first provider; a file that cannot answer costs everything."""
        self._write(make(setting))
        provider = self._providers[0]
        reference = self._reference(provider, self._choosing)
        try:
            answered = self._answer(provider, self._path, self._choosing, str(setting))
        except ModelRejected:
            return Try(setting, 100 * reference.accuracy, 1.0)
        apart = float(np.abs(answered.probabilities - reference.probabilities).mean())
        return Try(setting, 100 * (reference.accuracy - answered.accuracy), apart)

    def _by_sensitivity(self, make: Make, setting: Setting) -> list[str]:
        """Return the layers, those first whose reduction alone changes the answers to calibration pictures most."""
        layers = int8.layers(self._float)
        batch = self._samples[:SENSITIVITY_PICTURES]
        expected = gate.open_on(self._source, self._providers[0]).session.run(batch)
        apart: dict[str, float] = {}
        with self._progress("measuring each layer", len(layers)) as advance:
            for layer in layers:
                others = tuple(each for each in layers if each != layer)
                self._write(make(replace(setting, in_float=others)))
                answers = gate.open_on(self._path, self._providers[0]).session.run(batch)
                apart[layer] = float(np.nan_to_num(np.abs(answers - expected), nan=1.0).mean())
                advance(1)
        return sorted(layers, key=lambda layer: -apart[layer])

    def _reference(self, provider: Provider, part: Part) -> Answered:
        key = (provider, part.split)
        if key not in self._references:
            self._references[key] = self._answer(provider, self._source, part, f"{provider}: fp32")
        return self._references[key]

    def _answer(self, provider: Provider, path: Path, part: Part, what: str) -> Answered:
        with self._progress(what, len(part.pictures)) as advance:
            return gate.answer(gate.open_on(path, provider), part, advance)

    def _reduced(self) -> Manifest:
        return self._manifest.model_copy(update={"precision": self._wanted.precision, "golden_samples": ()})

    def _write(self, model: onnx.ModelProto) -> None:
        """Write a graph with a manifest that says enough to run it."""
        model.producer_name, model.producer_version = self._float.producer_name, self._float.producer_version
        helper.set_model_props(model, {KEY: self._reduced().to_json()})
        onnx.save(model, self._path)

    def _golden(self, answers: dict[Provider, Answered], provider: Provider) -> tuple[GoldenSample, ...]:
        """Return pictures of the deciding part, of different classes first, that this precision answers steadily."""
        chosen, reference = answers[provider], self._references[provider, self._deciding.split]
        noise = np.max(
            [np.abs(each.probabilities - reference.probabilities).max(axis=1) for each in answers.values()], axis=0
        )
        steady = np.flatnonzero(noise <= MOST_NOISE) if (noise <= MOST_NOISE).any() else np.array([noise.argmin()])
        firsts = [int(steady[chosen.true[steady] == label][0]) for label in np.unique(chosen.true[steady])]
        numbers = list(dict.fromkeys([*firsts, *steady.tolist()]))[:GOLDEN_SAMPLES]
        floor = TOLERANCE[self._wanted.precision]
        return tuple(
            golden_sample(
                measure.encoded(self._deciding.pictures.images[number]),
                int(chosen.true[number]),
                np.clip(chosen.probabilities[number], 0, 1).tolist(),
                max(floor, min(1.0, NOISE * float(noise[number]))),
            )
            for number in numbers
        )

    def _doubts(self) -> list[str]:
        found = measure.doubts(self._manifest, self._data.data, self._data.name, self._deciding)
        if self._choosing.split == self._deciding.split:
            found.append("the settings were chosen by the pictures that decide: there is no held-out part")
        return found

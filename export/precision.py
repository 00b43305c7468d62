"""A fp32 file becomes one of reduced precision that is known to be good enough, or nothing at all."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from export import foreign, gate, int8, measure
from export.data import Data
from export.evaluation import Progress, silent
from export.gate import Answered, Answers
from export.measure import Opened
from export.report import summary
from export.tries import Quantise, Setting, Tries, Try, Wanted, calibration_pixels
from service.errors import ModelRejected, SetupError
from service.manifest import GoldenSample, Manifest, Verdict, golden_sample, sha256
from service.providers import Provider
from service.scores import TOLERANCE
from service.session import candidates

REPORT = "report.json"
GOLDEN_SAMPLES = 8
NOISE = 2.0
"""How many times its own rounding another machine's answer to a golden sample may differ: two, one either way."""
MOST_NOISE = 0.1
"""Rounding beyond which a picture is no golden sample: it would let a broken file pass."""


class Named(NamedTuple):
    """A data set, and how export.data calls it."""

    data: Data
    name: str


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


class _Run:
    """One reduction, from the fp32 file to the report."""

    def __init__(
        self, seeded: Opened, folder: Path, data: Named, wanted: Wanted, *, progress: Progress, quantise: Quantise
    ) -> None:
        self._source, self._manifest = seeded.file.path, seeded.manifest
        self._data, self._wanted = data, wanted
        self._path = folder / "model.onnx"
        seed = measure.seed_of(seeded.manifest)
        self._choosing = measure.choose(data.data, "validation", seed)
        self._deciding = measure.choose(data.data, None, seed)
        self._samples = seeded.samples(calibration_pixels(data.data, seeded.manifest))
        self._tries = Tries(
            self._path,
            seeded.manifest,
            onnx.load(self._source),
            wanted,
            self._samples,
            fixed_batch=seeded.session.fixed_batch,
            progress=progress,
            quantise=quantise,
        )
        self._answers = Answers(self._source, progress)
        self._providers = self._at_hand()

    def search(self) -> tuple[list[Try], Setting]:
        """Return what was tried and the setting that is taken, by which the file is made."""
        return self._tries.search(self._answers, self._providers[0], self._choosing)

    def verdicts(self, setting: Setting) -> tuple[list[Verdict], dict[Provider, Answered]]:
        """Return the verdict of each provider on the file as it is written, and its answers."""
        found, answers = [], {}
        for provider in self._providers:
            reference = self._answers.reference(provider, self._deciding)
            answers[provider] = self._answers.of(self._path, provider, self._deciding, f"{provider}: {setting}")
            found.append(
                gate.judge(reference, answers[provider], self._deciding, self._wanted.precision, self._wanted.max_drop)
            )
        return found, answers

    def finish(
        self, tried: Sequence[Try], best: Setting, verdicts: Sequence[Verdict], answers: dict[Provider, Answered]
    ) -> Made:
        """Write the manifest of a file that passed, and return what is said of it."""
        provider = next(each for each in self._providers if any(v.provider == each and v.passed for v in verdicts))
        chosen = answers[provider]
        manifest = self._tries.manifest.model_copy(
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
        partial = self._path.with_suffix(".partial")
        foreign.write_manifest(self._path, partial, manifest)
        partial.replace(self._path)
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
        bf16 = self._wanted.precision == "bf16"
        path = self._tries.make(Setting()) if bf16 else self._source
        found: list[Provider] = []
        reasons = []
        for provider in candidates(self._wanted.provider):
            try:
                floats = gate.open_on(path, provider).session.about.floats
            except ModelRejected as error:
                reasons.append(f"{provider}: {error}")
                continue
            if bf16 and floats != "bf16":
                reasons.append(f"{provider}: it computes in {floats}")
            else:
                found.append(provider)
        if not found:
            raise ModelRejected(
                f"no provider here runs it in {self._wanted.precision}, so that nothing can be measured "
                f"({'; '.join(reasons) or f'no provider for --provider {self._wanted.provider}'})"
            )
        return found

    def _golden(self, answers: dict[Provider, Answered], provider: Provider) -> tuple[GoldenSample, ...]:
        """Return pictures of the deciding part, of different classes first, that this precision answers steadily."""
        chosen, reference = answers[provider], self._answers.reference(provider, self._deciding)
        noise = np.max(
            [np.abs(each.probabilities - reference.probabilities).max(axis=1) for each in answers.values()], axis=0
        )
        steady = np.flatnonzero(noise <= MOST_NOISE) if (noise <= MOST_NOISE).any() else np.array([noise.argmin()])
        firsts = [int(steady[chosen.true[steady] == label][0]) for label in np.unique(chosen.true[steady])]
        numbers = list(dict.fromkeys([*firsts, *steady.tolist()]))[:GOLDEN_SAMPLES]
        floor = TOLERANCE[self._wanted.precision]
        return tuple(
            golden_sample(
                self._deciding.pictures.file(number),
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

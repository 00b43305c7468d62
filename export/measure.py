"""What a model file answers for a part of a data set, through the path that serving takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from export import data
from export.data import Data, Images, Indices, Pictures
from export.evaluate import Probabilities, batches
from export.model_file import ModelFile
from service import foreign, image
from service.errors import InvalidInput, ModelRejected, SetupError
from service.graph import external_files, read_graph
from service.loading import open_session, said_precision
from service.manifest import Manifest, Preprocessing, read_fields, sha256
from service.model import Options
from service.normalise import Normalise
from service.scores import check_probabilities
from service.selftest import check_against_manifest, on_pixels, self_test
from service.session import Session, candidates, computed

Split = Literal["train", "validation", "test", "all"]

BATCH = 32
_FEW = 5
"""How many names an error lists."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A model file that passed what a served version must pass.

    Attributes:
        file: where it is.
        manifest: what it says about itself.
        session: runs it.
        verified: whether it carries golden samples, which then came true.
        sha256: of the file.
    """

    file: ModelFile
    manifest: Manifest
    session: Session
    verified: bool
    sha256: str

    def samples(self, batch: Images) -> npt.NDArray[Any]:
        """Return what the graph takes for pictures uint8 [N, height, width, channels]."""
        return Normalise(self.manifest.preprocessing, self.session.input).batch(batch)

    def run(self, batch: Images) -> Probabilities:
        """Return the probabilities [N, classes] of pictures uint8 [N, height, width, channels]."""
        return self.session.run(self.samples(batch))


@dataclass(frozen=True, slots=True)
class Part:
    """The pictures to measure on.

    Attributes:
        data: name of the data set.
        split: which part of it.
        seed: of the split.
        pictures: the part.
        classes: names of the classes, by the index that the pictures' labels are.
    """

    data: str
    split: Split
    seed: int
    pictures: Pictures
    classes: tuple[str, ...]


def open_model(file: ModelFile, provider: str = "cpu") -> Opened:
    """Load a file and test it by its golden samples, as the server does before it serves it.

    Raises:
        ModelRejected: the server would not serve it on this provider either.
    """
    try:
        fields, graph = read_fields(file.path), read_graph(file.path)
        external = external_files(file.path, graph)
        options, expected = Options(max_batch_size=BATCH), foreign.expected(fields, graph)
        reasons = []
        for candidate in candidates(provider):
            try:
                session = open_session(
                    file.path, candidate, options, expected, precision=said_precision(fields), external=external
                )
                manifest, _ = foreign.complete(fields, session.input, session.classes, graph)
                check_against_manifest(session, manifest)
                precision = computed(manifest.precision, session.about.floats)
                verified = self_test(on_pixels(session, manifest), manifest, options, precision)
            except ModelRejected as error:
                reasons.append(f"{candidate}: {error}")
                continue
            return Opened(file, manifest, session, verified, sha256(file.path, *external.values()))
        raise ModelRejected("; ".join(reasons) or f"no provider for --provider {provider}")
    except ModelRejected as error:
        raise ModelRejected(f"{file.path}: {error}") from None


def seed_of(manifest: Manifest) -> int:
    """Return the seed by which the model's data were split; 0 where the manifest names none."""
    seed = manifest.recipe.get("seed", 0)
    return seed if isinstance(seed, int) else 0


def load(
    manifest: Manifest, path: Path, name: str = "", folder: Path | None = None, *, seed: int | None = None
) -> tuple[Data, str]:
    """Return the data that a model is measured on, split as for its training, and how export.data calls them.

    Pictures of class folders are decoded for the model, which saves memory; those that cannot be read are left out, as
    training left them out, so that the split is the same again.

    Args:
        manifest: of the model.
        path: of the model, for an error.
        name: of the data set; empty: that of the model's recipe.
        folder: of the data, where they are files.
        seed: of the split; None for that of the model's recipe.

    Raises:
        SetupError: nobody names the data, or they cannot be read.
    """
    name = name or str(manifest.recipe.get("data", ""))
    if not name:
        raise SetupError(f"{path} does not say what it was trained on; name the data by --data")
    spec = manifest.preprocessing if name == "folder" else None
    return data.load(name, folder, seed=seed_of(manifest) if seed is None else seed, spec=spec, skip_bad=True), name


def choose(source: Data, split: Split | None, seed: int) -> Part:
    """Return a part of a data set; where none is named, the held-out one, else the one to choose by.

    Raises:
        SetupError: it has no pictures.
    """
    split = split or ("test" if len(source.test) else "validation")
    parts = {"train": source.train, "validation": source.validation, "test": source.test}
    pictures = _joined(list(parts.values())) if split == "all" else parts[split]
    if not len(pictures):
        there = [name for name, part in parts.items() if len(part)]
        raise SetupError(f"{source.name} has no {split} part; --split may be {', '.join([*there, 'all'])}")
    return Part(source.name, split, seed, pictures, source.classes)


def _joined(parts: list[Pictures]) -> Pictures:
    parts = [part for part in parts if len(part)]
    images, labels = np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts])
    return Pictures(images, labels, parts[0].fitted)


def doubts(manifest: Manifest, source: Data, name: str, part: Part) -> list[str]:
    """Return why figures of this part may be better than they would be on pictures that the model never saw.

    Args:
        manifest: of the model.
        source: that `part` is of.
        name: how export.data calls it.
        part: what is measured on.
    """
    return [*_left_out(source), *_seen(manifest, source, name, part)]


def _left_out(source: Data) -> list[str]:
    """Return how many pictures could not be read, if any."""
    if not source.bad:
        return []
    more = f" and {len(source.bad) - _FEW} more" if len(source.bad) > _FEW else ""
    return [f"left out, since they cannot be read: {'; '.join(source.bad[:_FEW])}{more}"]


def _seen(manifest: Manifest, source: Data, name: str, part: Part) -> list[str]:
    """Return what speaks for pictures of the part having been trained on."""
    trained_on = manifest.recipe.get("data")
    if trained_on is None:
        return ["the manifest does not say what the model was trained on: it may have been these pictures"]
    count = f"{len(source.train):,} pictures"
    if trained_on != name:
        renamed = "idx" in {trained_on, name} <= data.IDX_FORM
        if not (renamed and manifest.data.partition(", ")[2].startswith(count)):
            return []
    found = []
    if part.split in {"train", "all"}:
        found.append(f"the model was trained on pictures of this part (--split {part.split})")
    if seed_of(manifest) != part.seed:
        found.append(
            f"the model's data were split by seed {seed_of(manifest)}, these by seed {part.seed}: "
            "it may have been trained on pictures of this part"
        )
    said = f"{source.name}, {count}"
    if trained_on == name and not manifest.data.startswith(said):
        found.append(
            f"the manifest says it was trained on {manifest.data!r}; to this split it would be {said!r}, "
            "so that training pictures may be in this part"
        )
    return found


def true_indices(part: Part, labels: tuple[str, ...]) -> Indices:
    """Return the true class of each picture as the index that the model gives it, by the classes' names.

    Classes that are only numbered, as those of IDX files, are taken as indices where the model has other names.

    Raises:
        SetupError: a class is none of the model's labels, or the model has that label twice.
    """
    classes = part.classes
    if classes == labels:
        return part.pictures.labels
    unknown = [name for name in classes if name not in labels]
    if unknown and classes == tuple(str(number) for number in range(len(classes))) and len(classes) <= len(labels):
        return part.pictures.labels
    if unknown:
        raise SetupError(
            f"{part.data} has the class{'es' * (len(unknown) > 1)} {_some(unknown)}, "
            f"which the model does not; its labels are {_some(labels)}"
        )
    twice = [name for name in classes if labels.count(name) > 1]
    if twice:
        raise SetupError(f"the model has the label {_some(twice)} more than once: which class is meant is not told")
    return np.array([labels.index(name) for name in classes], np.int64)[part.pictures.labels]


def indices_of(names: Sequence[str], labels: tuple[str, ...]) -> list[int]:
    """Return the index of each of these labels of a model.

    Raises:
        SetupError: it has no such label; names some that it has.
    """
    for name in names:
        if name not in labels:
            raise SetupError(f"the model has no label {name!r}; its labels are {_some(labels)}")
    return [labels.index(name) for name in names]


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(repr(name) for name in names[:_FEW]) + more


def pixels(pictures: Pictures, spec: Preprocessing, indices: Sequence[int]) -> Images:
    """Return the model's input, uint8 [N, height, width, channels], of the pictures at `indices`, as serving makes it.

    Raises:
        SetupError: one cannot be decoded; names its number.
    """
    rows = []
    for index in indices:
        try:
            rows.append(image.decode(pictures.file(index), spec, max_pixels=Options().max_pixels))
        except InvalidInput as error:
            raise SetupError(f"picture {index} of the data {error.reason}") from None
    return np.stack(rows)


def answers(opened: Opened, part: Part, on_batch: Callable[[int], None] = lambda _: None) -> Probabilities:
    """Return the probabilities [N, classes] of all pictures of a part.

    Args:
        opened: the model.
        part: the pictures, at least one.
        on_batch: told after each batch how many pictures it had.

    Raises:
        ModelRejected: an output is not finite, or no probabilities.
        SetupError: a picture cannot be decoded.
    """
    rows = []
    for places in batches(len(part.pictures), BATCH):
        indices = range(places.start, places.stop)
        batch = pixels(part.pictures, opened.manifest.preprocessing, indices)
        probabilities = opened.run(batch)
        try:
            check_probabilities(probabilities, len(batch), len(opened.manifest.labels))
        except ModelRejected as error:
            raise ModelRejected(
                f"{opened.file.path}, pictures {indices.start} to {indices.stop - 1}: {error}"
            ) from None
        rows.append(probabilities)
        on_batch(len(batch))
    return np.concatenate(rows)

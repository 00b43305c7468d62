"""Which file a person means by MODEL: a path, a version's folder, a model's folder, or a name in a repository."""

from dataclasses import dataclass
from pathlib import Path

import service
from service.errors import SetupError

FILE = "model.onnx"
CHECKPOINT = "checkpoint.pt"
"""What a training run is known by."""
BUNDLED = Path(service.__file__).parent / "bundled/models"


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file, and what it is called.

    Attributes:
        path: the ONNX file.
        name: of the model where the file lies in a repository, else of the file.
        version: 0 where the file lies in no repository.
    """

    path: Path
    name: str
    version: int = 0

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}" if self.version else self.name


def find(given: str, repository: Path | None = None) -> ModelFile:
    """Return the file that `given` means; the bundled models are the repository where none is named.

    Args:
        given: an ONNX file; a folder with model.onnx; a folder whose folders are versions; or NAME or NAME/VERSION in
            the repository. Where it is both, the repository wins if one is named, else the disk.
        repository: a model repository.

    Raises:
        SetupError: there is no such file; names where it was looked for.
    """
    if repository is None and Path(given).exists():
        return _at(Path(given))
    root = repository or BUNDLED
    if (root / given).is_dir():
        return _at(root / given)
    if Path(given).exists():
        return _at(Path(given))
    if not root.is_dir():
        raise SetupError(f"there is no model repository {root}")
    if repository is None:
        raise SetupError(
            f"there is no file or folder {given}, and no bundled model of that name ({_names(root)}); "
            f"name a repository by --repository"
        )
    raise SetupError(f"no model {given!r} in {root}; there are: {_names(root)}")


def versions(folder: Path) -> list[Path]:
    """Return the folders of a model's versions, the newest first."""
    found = [entry for entry in folder.iterdir() if entry.name.isdecimal() and (entry / FILE).is_file()]
    return sorted(found, key=lambda entry: int(entry.name), reverse=True)


def _at(path: Path) -> ModelFile:
    if path.is_file():
        return _named(path)
    if (path / FILE).is_file():
        return _named(path / FILE)
    if found := versions(path):
        return _named(found[0] / FILE)
    if (path / CHECKPOINT).is_file():
        raise SetupError(f"{path} is a training run; run `saccade export {path} --repository models` first")
    raise SetupError(f"{path} has neither {FILE} nor versions (1/{FILE}, 2/{FILE}, ...)")


def _named(path: Path) -> ModelFile:
    folder = path.resolve().parent
    if path.name == FILE and folder.name.isdecimal():
        return ModelFile(path, folder.parent.name, int(folder.name))
    return ModelFile(path, folder.name if path.name == FILE else path.stem)


def _names(root: Path) -> str:
    return ", ".join(sorted(entry.name for entry in root.iterdir() if entry.is_dir())) or "none"

"""Fine-tuning: a network that starts from trained weights, with a new head, parts that stay and a slower body."""

from pathlib import Path

from torch import nn

from export import checkpoint, teacher, weights
from export.recipes import Recipe
from service.errors import SetupError

SHOWN = 3
"""How many names an error shows."""


def start_from(
    network: nn.Module, source: str, *, classes: tuple[str, ...] = (), training_only: tuple[str, ...] = ()
) -> None:
    """Give the network the weights of a run or of a weight file; a head for other classes stays new.

    Args:
        network: what is to be trained.
        source: a run's folder or its checkpoint, or a file that export.weights reads.
        classes: those to train on; a run of others gives no head, however many. Of a file only their number is known.
        training_only: modules that the weights may lack; they too stay new where they do not fit.

    Raises:
        SetupError: there are none, or they are another network's.
    """
    given, of = _read(Path(source))
    own = network.state_dict()
    new = (head_of(network), *training_only)
    # Norms saved long ago do not count their batches.
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    if classes and of and of != classes:
        given = {name: value for name, value in given.items() if not name.startswith(f"{new[0]}.")}
    other = [name for name in needed if name not in given or given[name].shape != own[name].shape]
    wrong = [name for name in other if not name.startswith(tuple(f"{part}." for part in new))]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise SetupError(
            f"{source} holds another network's weights: {', '.join(wrong[:SHOWN])}{more} missing or of another shape"
        )
    fitting = {name: given[name] for name in own if name in given and name not in other}
    network.load_state_dict(fitting, strict=False)


def doubts(recipe: Recipe) -> list[str]:
    """Return why a run may look better than it is: what it builds on was trained on pictures that it is chosen by."""
    found = []
    start = [Path(recipe.start)] if recipe.start else []
    for path in (*start, *teacher.folders(recipe.teacher)):
        folder = _run_of(path)
        other = checkpoint.load(folder).recipe if folder else recipe
        if other.data == recipe.data and other.seed != recipe.seed:
            found.append(
                f"{path} was trained by seed {other.seed}, and this run splits by seed {recipe.seed}: unless "
                "these are other pictures, or a folder says which ones to choose by, it was trained on some that this "
                f"run is chosen by; --seed {other.seed} splits alike"
            )
    return found


def check_own(recipe: Recipe, own: Path, *, resume: bool = False) -> None:
    """Refuse to start or to learn from a run in this one's own folder: its first epoch would overwrite it.

    Raises:
        SetupError: names the field and the folder.
    """
    named = [("teacher", path) for path in teacher.folders(recipe.teacher)]
    if recipe.start and not resume:  # a resumed one has its weights
        named.append(("start", Path(recipe.start)))
    for field, path in named:
        if path.resolve() in {own.resolve(), (own / checkpoint.FILE).resolve()}:
            raise SetupError(f"{field} names {path}, the folder of this run itself; name another by --run")


def head_of(network: nn.Module) -> str:
    """Return the name of the last layer with weights of its own: what maps features to classes."""
    with_weights: list[str] = [
        name for name, module in network.named_modules() if list(module.parameters(recurse=False))
    ]
    return with_weights[-1]


def freeze(network: nn.Module, parts: str) -> list[nn.Module]:
    """Stop training the named parts, and return them: their norms must stay in evaluation mode.

    Args:
        network: what is trained.
        parts: names of modules with commas between, for example `stem,stages.0`.

    Raises:
        SetupError: there is no such part; names those there are. Or nothing would be left to train.
    """
    modules = dict(network.named_modules())
    frozen = []
    for part in filter(None, (word.strip() for word in parts.split(","))):
        if part not in modules:
            there = [name for name in modules if name and name.count(".") < 2]
            raise SetupError(f"freeze names {part!r}; the parts of the network are {', '.join(there)}")
        frozen.append(modules[part].requires_grad_(requires_grad=False))
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise SetupError(f"freeze is {parts!r}, which leaves nothing to train")
    return frozen


def _read(path: Path) -> tuple[weights.Weights, tuple[str, ...]]:
    """Return weights by name, and the classes that they tell apart; no classes where a file does not say."""
    folder = _run_of(path)
    if folder:
        run = checkpoint.load(folder)
        return run.network.state_dict(), run.classes
    if not path.exists():
        raise SetupError(f"start is {path}, which is not there; give a run's folder or a file of weights")
    return weights.read(path), ()


def _run_of(path: Path) -> Path | None:
    """Return the run's folder, where the path is one or its checkpoint."""
    folder = path.parent if path.name == checkpoint.FILE else path
    return folder if folder.is_dir() and (folder == path or path.is_file()) else None

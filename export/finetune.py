"""Fine-tuning: a network that starts from trained weights, with a new head, parts that stay and a slower body."""

from pathlib import Path

import torch
from torch import Tensor, nn

from export import checkpoint
from service.errors import SetupError

SHOWN = 3
"""How many names an error shows."""


def start_from(network: nn.Module, source: str) -> None:
    """Give the network the weights of a run's folder or of a state_dict file; a head for other classes stays new.

    Raises:
        SetupError: there are none, or they are another network's.
    """
    weights = _read(Path(source))
    own = network.state_dict()
    head = head_of(network)
    # Norms saved long ago do not count their batches.
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    other = [name for name in needed if name not in weights or weights[name].shape != own[name].shape]
    wrong = [name for name in other if not (name.startswith(f"{head}.") or name == head)]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise SetupError(
            f"{source} holds another network's weights: {', '.join(wrong[:SHOWN])}{more} missing or of another shape"
        )
    fitting = {name: weights[name] for name in own if name in weights and name not in other}
    network.load_state_dict(fitting, strict=False)


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


def _read(path: Path) -> dict[str, Tensor]:
    if path.is_dir():
        return checkpoint.load(path).network.state_dict()
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SetupError(f"start is {path}, which is not there; give a run's folder or a file of weights") from None
    except Exception as error:  # noqa: BLE001 - torch raises whatever the bytes lead it to
        raise SetupError(f"{path} is no file of weights: {type(error).__name__}") from None
    weights = contents.get("network", contents) if isinstance(contents, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise SetupError(f"{path} holds no state_dict: save one by torch.save(network.state_dict(), FILE)")
    return weights

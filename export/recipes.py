"""Frozen recipes: what is trained, on what, how, and the accuracy to expect of it."""

from dataclasses import asdict, dataclass

from service.errors import SetupError


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a training run depends on.

    Attributes:
        name: how the command calls it; also the name of the model that it makes.
        architecture: see export.architectures.
        data: see export.data.
        epochs: passes over the training split.
        batch_size: pictures a step.
        learning_rate: the highest of the one-cycle schedule.
        optimizer: `adamw`, or `sgd` with Nesterov's momentum.
        momentum: of SGD.
        weight_decay: of weights; norms and biases have none.
        schedule: how the rate falls after the warm-up: `cosine` or `linear`, to nothing at the end.
        warmup: share of the steps over which the rate rises.
        clip: largest norm of the gradient; 0 for no bound.
        average: decay, a step, of the moving average of weights that is kept (EMA); 0 keeps the weights themselves.
        precision: `fp32`, `bf16`, `fp16`, or `auto`, the fastest that this machine's processor has in hardware.
        label_smoothing: share of the target spread over all classes.
        shift: largest random shift, as a share of the width; likewise `scale` and `rotate` (degrees).
        crop: largest random shift in pixels, the edges filled by reflection.
        start_size: height and width of the pictures at first, see export.augment.shrink; 0 for their own.
        flip: whether half of the pictures are mirrored; off where it would change the label.
        invert: share of the pictures shown with black and white exchanged.
        seed: of the split, the weights and the order of the pictures.
        expected_accuracy: top-1 on the validation split that this recipe reached when it was written.
    """

    name: str
    architecture: str
    data: str
    epochs: int
    batch_size: int
    learning_rate: float
    expected_accuracy: float
    optimizer: str = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup: float = 0.3
    clip: float = 0.0
    average: float = 0.0
    precision: str = "fp32"
    label_smoothing: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    crop: int = 0
    flip: bool = False
    start_size: int = 0
    invert: float = 0.0
    seed: int = 0

    def fields(self) -> dict[str, str | int | float | bool]:
        """Return all fields by name, for the checkpoint and the manifest."""
        return asdict(self)


_ALL = (
    Recipe(
        name="lenet5-digits",
        architecture="lenet5",
        data="digits",
        epochs=40,
        batch_size=32,
        learning_rate=0.003,
        shift=0.08,
        scale=0.1,
        rotate=10,
        expected_accuracy=0.99,
    ),
    Recipe(
        name="lenet5-mnist",
        architecture="lenet5",
        data="idx",
        epochs=40,
        batch_size=128,
        learning_rate=0.006,
        weight_decay=0.02,
        shift=0.08,
        scale=0.1,
        rotate=12,
        invert=0.5,
        expected_accuracy=0.995,
    ),
    Recipe(
        name="resnet20-cifar10",
        architecture="resnet20",
        data="cifar10",
        epochs=20,
        batch_size=128,
        learning_rate=0.3,
        optimizer="sgd",
        weight_decay=5e-4,
        schedule="linear",
        warmup=0.15,
        average=0.998,
        precision="auto",
        crop=4,
        flip=True,
        start_size=20,
        expected_accuracy=0.90,
    ),
)

RECIPES = {recipe.name: recipe for recipe in _ALL}


def find(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        SetupError: there is none; names those there are.
    """
    if name not in RECIPES:
        raise SetupError(f"no recipe {name!r}; there are: {', '.join(RECIPES)}")
    return RECIPES[name]

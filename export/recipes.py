"""Frozen recipes: what is trained, on what, how, and the accuracy to expect of it."""

from dataclasses import asdict, dataclass, replace
from typing import Literal

from service.errors import SetupError

Optimizer = Literal["adamw", "sgd", "muon"]
Schedule = Literal["cosine", "linear"]
Loss = Literal["cross-entropy", "mse"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a training run depends on.

    Attributes:
        name: how the command calls it; also the name of the model that it makes.
        architecture: see export.architectures.
        data: see export.data.
        epochs: passes over the training split.
        batch_size: pictures a step, over all processes; 0 (`all`) is the whole training split, 1 a single picture.
        learning_rate: the highest of the schedule.
        expected_accuracy: top-1 on the validation split that this recipe reached when it was written; of `measured`. 0
            where it was not measured, or depends on whose pictures they are.
        measured: on what machine it reached that and in what time; empty where the figure is other people's.
        optimizer: `adamw`, `sgd` with Nesterov's momentum, or `muon`, see export.muon.
        momentum: of SGD and Muon; 0 for none.
        weight_decay: of weights; norms and biases have none.
        schedule: how the rate falls after the warm-up: `cosine` or `linear`, to nothing at the end.
        warmup: share of the steps over which the rate rises; with `cosine` and 0.3 it is the one-cycle schedule.
        loss: `cross-entropy`, or `mse`, the squared error of the probabilities (Brier's score).
        label_smoothing: share of the target spread over all classes.
        clip: largest norm of the gradient; 0 for no bound.
        average: decay, a step, of the moving average of weights that is kept (EMA); 0 keeps the weights themselves.
        precision: `fp32`, `bf16`, `fp16`, or `auto`, the fastest that this machine's processor has in hardware.
        compiled: whether torch compiles the network: worth a minute's wait on GPUs, no gain on two AVX2 cores.
        patience: epochs without a better one after which it stops; 0 for never.
        start: a run's folder or a file of weights to start from; what does not fit the new classes starts anew.
        teacher: folders of runs with commas between, whose mean answer is learned from besides, see export.teacher.
        teacher_share: share of the loss that is the teacher's; the rest is that of the labels.
        temperature: at which the answers are compared, from 1 up; the higher, the more the unlikely classes count.
        freeze: parts of the network that stay as they are, by the first words of their names, with commas between.
        body_rate: share of the rate for all but the last layer with weights.
        channels: 1 or 3; 0 for what the data have.
        fit: how a picture is brought to the input's size, see service.manifest; likewise `crop_fraction`.
        shift: largest random shift, as a share of the width; likewise `scale` and `rotate` (degrees).
        crop: largest random shift in pixels, the edges filled by reflection.
        crop_area: smallest share of the area that a random crop keeps, enlarged to the input; 0 for none.
        flip: whether half of the pictures are mirrored; off where it would change the label.
        start_size: height and width of the pictures at first, see export.augment.shrink; 0 for their own.
        cutout: side of a square that is blanked, in pixels.
        mixup: parameter of the Beta distribution by which two pictures and their labels are mixed; 0 for none.
        invert: share of the pictures shown with black and white exchanged.
        seed: of the split, the weights and the order of the pictures.
    """

    name: str
    architecture: str
    data: str
    epochs: int
    batch_size: int
    learning_rate: float
    expected_accuracy: float
    measured: str = ""
    optimizer: Optimizer = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.01
    schedule: Schedule = "cosine"
    warmup: float = 0.3
    loss: Loss = "cross-entropy"
    label_smoothing: float = 0.0
    clip: float = 0.0
    average: float = 0.0
    precision: Precision = "fp32"
    compiled: bool = False
    patience: int = 0
    start: str = ""
    teacher: str = ""
    teacher_share: float = 0.9
    temperature: float = 2.0
    freeze: str = ""
    body_rate: float = 1.0
    channels: int = 0
    fit: Literal["stretch", "crop"] = "stretch"
    crop_fraction: float = 1.0
    shift: float = 0.0
    scale: float = 0.0
    rotate: float = 0.0
    crop: int = 0
    crop_area: float = 0.0
    flip: bool = False
    start_size: int = 0
    cutout: int = 0
    mixup: float = 0.0
    invert: float = 0.0
    seed: int = 0

    def fields(self) -> dict[str, str | int | float | bool]:
        """Return all fields by name, for the checkpoint and the manifest."""
        return asdict(self)


_RESNET20_CIFAR10 = Recipe(
    name="resnet20-cifar10",
    architecture="resnet20",
    data="cifar10",
    epochs=164,
    batch_size=128,
    learning_rate=0.1,
    optimizer="sgd",
    weight_decay=5e-4,
    schedule="linear",
    warmup=0.05,
    average=0.998,
    precision="auto",
    crop=4,
    flip=True,
    expected_accuracy=0.9125,
)
"""The paper's 64,000 steps and its highest rate (section 4.2), with a rate that falls evenly, Nesterov's momentum and
the average of the last weights. The accuracy is the paper's (table 6, official test split)."""

_RESNET20_SHORT = replace(
    _RESNET20_CIFAR10,
    name="resnet20-cifar10-short",
    epochs=22,
    optimizer="muon",
    learning_rate=0.05,
    warmup=0.15,
    start_size=20,
    expected_accuracy=0.8762,
    measured="70 min on a shared AVX2 core",
)
"""For a CPU: an eighth of the paper's epochs. What makes up for most of it: steps by Muon, and small pictures first,
which saves a quarter of the arithmetic."""

_RESNET20_MUON = replace(
    _RESNET20_SHORT,
    name="resnet20-cifar10-muon",
    epochs=110,
    start_size=24,
    label_smoothing=0.1,
    cutout=8,
    expected_accuracy=0.8974,
    measured="85 min in bf16 on two cores with AVX-512",
)
"""Two thirds of the paper's epochs, by Muon. A run of 80 without smoothing and cutout ended at 89.24 %: in its last six
epochs the loss fell from 0.31 to 0.17 and the accuracy stayed between 88.8 and 89.2 %."""

_RESNET20_TAUGHT = replace(
    _RESNET20_MUON,
    name="resnet20-cifar10-taught",
    epochs=52,
    learning_rate=0.02,
    warmup=0.05,
    start_size=0,
    label_smoothing=0.0,
    cutout=0,
    start="runs/resnet20-cifar10-muon",
    teacher="runs/resnet20-cifar10-muon,runs/resnet20-cifar10-first",
    expected_accuracy=0.8982,
    measured="70 min in bf16 on two cores with AVX-512",
)
"""Goes on from a run of the recipe above, by what that one and its first form (80 epochs without smoothing and cutout,
89.24 %) answer together; `make bundled` trains all three. The figure is of a run that was begun for 58 epochs, and told
at its twelfth to end with 52."""

_AIRBENCH94 = replace(
    _RESNET20_SHORT,
    name="airbench94-cifar10",
    architecture="airbench94",
    epochs=9,
    batch_size=250,
    momentum=0.85,
    warmup=0.05,
    average=0.99,
    start_size=24,
    label_smoothing=0.1,
    crop=2,
    expected_accuracy=0.894,
    measured="90 min on two AVX2 cores, beside other work",
)
"""On a JPEG copy of CIFAR-10 nearly as accurate as a ResNet-20 after ten times the epochs. The paper reaches 94 % of
the official test split in 9.9 epochs, of pictures that are not compressed, mirrored by turns, by SGD with a
lookahead."""

_RESNET18_CIFAR10 = replace(
    _RESNET20_CIFAR10,
    name="resnet18-cifar10",
    architecture="resnet18-small",
    epochs=100,
    learning_rate=0.2,
    label_smoothing=0.1,
    start_size=0,
    cutout=8,
    expected_accuracy=0.9302,
)
"""The accuracy is what the collection pytorch-cifar states for this network; not ours. It wants a GPU."""

_RESNET50_IMAGENET = Recipe(
    name="resnet50-imagenet",
    architecture="resnet50",
    data="folder",
    epochs=90,
    batch_size=256,
    learning_rate=0.1,
    optimizer="sgd",
    weight_decay=1e-4,
    warmup=0.05,
    label_smoothing=0.1,
    precision="auto",
    compiled=True,
    fit="crop",
    crop_fraction=0.875,
    crop_area=0.25,
    flip=True,
    expected_accuracy=0.7613,
)
"""torchvision's first recipe for this network and the accuracy that it states; not ours. All pictures are held in
memory as they enter the network, by each process: 193 GB for ImageNet's training split."""

_PICTURES_SMALL = replace(
    _RESNET20_SHORT,
    name="pictures-small",
    data="folder",
    epochs=40,
    batch_size=32,
    learning_rate=0.02,
    average=0.98,
    fit="crop",
    start_size=0,
    expected_accuracy=0,
    measured="",
)
"""Own pictures at 32x32, in minutes on a CPU."""

_PICTURES = Recipe(
    name="pictures",
    architecture="resnet18",
    data="folder",
    epochs=30,
    batch_size=32,
    learning_rate=1e-3,
    weight_decay=0.05,
    warmup=0.1,
    label_smoothing=0.1,
    precision="auto",
    fit="crop",
    crop_fraction=0.875,
    crop_area=0.25,
    flip=True,
    body_rate=0.1,
    expected_accuracy=0,
)
"""Own pictures at 224x224: meant to start from published weights, whose body learns at a tenth of the head's rate."""

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
        expected_accuracy=0.9963,
        measured="22 s on one core",
    ),
    Recipe(
        name="lenet5-mnist",
        architecture="lenet5",
        data="mnist",
        epochs=40,
        batch_size=128,
        learning_rate=0.006,
        weight_decay=0.02,
        shift=0.08,
        scale=0.1,
        rotate=12,
        invert=0.5,
        expected_accuracy=0.995,
        measured="5 min on two cores",
    ),
    Recipe(
        name="lenet5-fashion",
        architecture="lenet5",
        data="fashion-mnist",
        epochs=40,
        batch_size=128,
        learning_rate=0.006,
        weight_decay=0.02,
        crop=2,
        flip=True,
        expected_accuracy=0,
    ),
    _RESNET20_CIFAR10,
    _RESNET20_SHORT,
    _RESNET20_MUON,
    _RESNET20_TAUGHT,
    _AIRBENCH94,
    _RESNET18_CIFAR10,
    _RESNET50_IMAGENET,
    _PICTURES_SMALL,
    _PICTURES,
    *(
        replace(
            _RESNET20_CIFAR10,
            name=f"resnet{layers}-cifar10",
            architecture=f"resnet{layers}",
            expected_accuracy=accuracy,
        )
        # Table 6 of the ResNet paper.
        for layers, accuracy in ((32, 0.9249), (44, 0.9283), (56, 0.9303), (110, 0.9357))
    ),
)

RECIPES = {recipe.name: recipe for recipe in _ALL}


def find(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        SetupError: there is none; names those there are.
    """
    if name not in RECIPES:
        raise SetupError(
            f"no recipe {name!r}; there are: {', '.join(RECIPES)}; another network is set by --set architecture=NAME"
        )
    return RECIPES[name]

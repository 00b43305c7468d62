import pytest

from export import architectures, data, recipes, settings
from service.errors import SetupError

DIGITS = recipes.find("lenet5-digits")


def test_unknown_recipe() -> None:
    """An unknown recipe is an error that names those there are."""
    with pytest.raises(SetupError, match="lenet5-digits"):
        recipes.find("nothing")


def test_unknown_recipe_that_is_a_network() -> None:
    """The error says how another network is chosen: its name or spec is no recipe."""
    with pytest.raises(SetupError, match="another network is set by --set architecture=NAME"):
        recipes.find("resnet50")


@pytest.mark.parametrize(
    ("said", "flip"), [(["data=mnist"], False), (["data=fashion-mnist"], True), (["data=mnist", "flip=true"], True)]
)
def test_digits_are_not_mirrored_unasked(said: list[str], flip: bool) -> None:  # noqa: FBT001 - a parameter
    """A recipe that mirrors pictures does not where its data are set to digits, unless that is asked for."""
    assert settings.change(recipes.find("resnet20-cifar10"), said).flip is flip


def test_any_field_can_be_set() -> None:
    """Settings change numbers, words and switches, with dashes or underscores, and the last one counts."""
    changed = settings.change(
        DIGITS, ["learning-rate=0.5", "learning_rate=0.1", "epochs=7", "optimizer=sgd", "flip=true", "freeze=a,b=c"]
    )
    assert (changed.learning_rate, changed.epochs, changed.optimizer) == (0.1, 7, "sgd")
    assert changed.flip is True
    assert changed.freeze == "a,b=c"


@pytest.mark.parametrize(("text", "size"), [("all", 0), ("1", 1), ("64", 64)])
def test_batch_size(text: str, size: int) -> None:
    """Full-batch, single-sample and mini-batch gradient descent are one setting."""
    assert settings.change(DIGITS, [f"batch_size={text}"]).batch_size == size


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("learning_rate", "takes FIELD=VALUE"),
        ("speed=3", "the fields are architecture, data, epochs"),
        ("name=other", "the fields are"),
        ("expected_accuracy=1", "the fields are"),
        ("learning_rate=fast", "learning_rate is 'fast'; it must be a number from 1e-12 to 1000"),
        ("learning_rate=-1", "learning_rate is -1; it must be from 1e-12 to 1000"),
        ("learning_rate=nan", "learning_rate is nan; it must be from"),
        ("epochs=1.5", "epochs is '1.5'; it must be a whole number from 1"),
        ("optimizer=adam", "optimizer is 'adam'; it can be adamw, sgd, muon"),
        ("flip=maybe", "flip is 'maybe'; it can be true or false"),
        ("channels=2", "channels is '2'; it can be 1, 3, or 0"),
    ],
)
def test_wrong_settings(setting: str, words: str) -> None:
    """A setting that names no field, or a value that it cannot have, is an error that says what can be."""
    with pytest.raises(SetupError, match=words):
        settings.change(DIGITS, [setting])


@pytest.mark.parametrize("recipe", recipes.RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_recipe_can_be_written_as_settings(recipe: recipes.Recipe) -> None:
    """What a frozen recipe says could be said on the command line: it is within all bounds."""
    fixed = {"name", "expected_accuracy", "measured"}
    said = [f"{name}={value}" for name, value in recipe.fields().items() if name not in fixed]
    assert settings.change(recipe, said) == recipe


@pytest.mark.parametrize("recipe", recipes.RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_recipe_names_what_is_there(recipe: recipes.Recipe) -> None:
    """Every recipe's architecture and data set exist."""
    assert architectures.find(recipe.architecture).size
    assert recipe.data in data.NAMES


@pytest.mark.parametrize("recipe", recipes.RECIPES.values(), ids=lambda recipe: recipe.name)
def test_digits_are_never_mirrored(recipe: recipes.Recipe) -> None:
    """Recipes for digits do not flip: a mirrored digit is another one or none."""
    assert not (recipe.flip and recipe.data in {"digits", "mnist", "idx"})

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from export import evaluate
from export.evaluate import ClassScore

# Four pictures, three classes: right, right, wrong, wrong.
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.0, 0.4, 0.6]], np.float32)
LABELS = np.array([0, 1, 1, 0], np.int64)


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Return 500 pictures' probabilities over 7 classes, right about half of the time, and their labels."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 7, 500)
    scores = random.standard_normal((500, 7))
    scores[np.arange(500), labels] += 1.3
    exponents = np.exp(scores)
    return (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32), labels


def test_top_k_accuracy() -> None:
    """The label is the best class of two pictures of four, among the two best of three, among three of all."""
    assert [evaluate.top_k_accuracy(PROBABILITIES, LABELS, k) for k in (1, 2, 3)] == [0.5, 0.75, 1.0]


def test_ties_go_to_the_lower_index() -> None:
    """Of two equal probabilities the lower index comes first, as it does in an answer of the service."""
    even = np.array([[0.4, 0.4, 0.2]], np.float32)
    assert evaluate.top_k_accuracy(even, np.array([0]), 1) == 1
    assert evaluate.top_k_accuracy(even, np.array([1]), 1) == 0


def test_cross_entropy() -> None:
    """It is the mean of -log of 0.7, 0.8, 0.3 and of 0, which counts as 1e-12."""
    expected = -(math.log(0.7) + math.log(0.8) + math.log(0.3) + math.log(1e-12)) / 4
    assert evaluate.cross_entropy(PROBABILITIES, LABELS) == pytest.approx(expected, rel=1e-6)


def test_confusion_matrix() -> None:
    """Rows are true classes, columns predicted ones, and a class without pictures has its row and column too."""
    matrix = evaluate.confusion_matrix(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0]), 3)
    assert matrix.tolist() == [[1, 1, 0], [1, 2, 0], [0, 0, 0]]


def test_class_scores() -> None:
    """Precision, recall and F1 of a class with 3 pictures, 3 taken for it, 2 of them rightly: two thirds each."""
    scores = evaluate.class_scores(np.array([[1, 1, 0], [1, 2, 0], [0, 0, 0]]))
    assert scores[1] == ClassScore(3, 3, 2 / 3, 2 / 3, 2 / 3)
    assert scores[0].f1 == 0.5


def test_an_empty_class_scores_nothing() -> None:
    """A class that has no pictures and was never predicted scores 0 and is left out of the means."""
    scores = evaluate.class_scores(np.array([[2, 0], [0, 0]]))
    assert scores[1] == ClassScore(0, 0, 0.0, 0.0, 0.0)
    assert evaluate.macro(scores).f1 == 1


def test_scores_agree_with_scikit_learn(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    """Confusion matrix, precision, recall, F1, their means, top-3 and cross-entropy are scikit-learn's."""
    probabilities, labels = drawn
    predicted = probabilities.argmax(axis=1)
    matrix = evaluate.confusion_matrix(labels, predicted, 7)
    scores = evaluate.class_scores(matrix)
    found = np.array([(score.precision, score.recall, score.f1) for score in scores]).T
    expected = reference.precision_recall_fscore_support(labels, predicted, average=None)[:3]
    assert np.array_equal(matrix, reference.confusion_matrix(labels, predicted))
    assert np.allclose(found, expected)
    mean = evaluate.macro(scores)
    assert np.allclose(
        (mean.precision, mean.recall, mean.f1),
        reference.precision_recall_fscore_support(labels, predicted, average="macro")[:3],
    )
    top = reference.top_k_accuracy_score(labels, probabilities, k=3)
    assert evaluate.top_k_accuracy(probabilities, labels, 3) == pytest.approx(top)
    exact = probabilities.astype(np.float64)
    loss = reference.log_loss(labels, exact / exact.sum(axis=1, keepdims=True))
    assert evaluate.cross_entropy(probabilities, labels) == pytest.approx(loss, rel=1e-5)


def test_wilson() -> None:
    """8 of 10 lie between 49.0 % and 94.3 %: the value of the formula, worked out by hand."""
    assert evaluate.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


@pytest.mark.parametrize(("right", "bounds"), [(0, (0, 0.2775)), (10, (0.7225, 1))])
def test_wilson_at_the_ends(right: int, bounds: tuple[float, float]) -> None:
    """None or all right of 10 still has a width, and stays within 0 and 1."""
    assert evaluate.wilson(right, 10) == pytest.approx(bounds, abs=1e-4)


def test_bins() -> None:
    """Of two bins the first holds 0.5 itself, the second what is above; each knows its mean and its accuracy."""
    first, second = evaluate.reliability(
        np.array([0.3, 0.5, 0.6, 1.0], np.float32), np.array([True, False, True, True]), bins=2
    )
    assert (first.low, first.high, first.pictures, first.accuracy) == (0, 0.5, 2, 0.5)
    assert (second.low, second.high, second.pictures, second.accuracy) == (0.5, 1, 2, 1)
    assert [first.confidence, second.confidence] == pytest.approx([0.4, 0.8])


def test_calibration_error() -> None:
    """Half the pictures are 0.1 off and half 0.2: 0.15."""
    bins = evaluate.reliability(np.array([0.3, 0.5, 0.6, 1.0], np.float32), np.array([True, False, True, True]), bins=2)
    assert evaluate.calibration_error(bins) == pytest.approx(0.15)


def test_perfect_calibration() -> None:
    """A classifier that is right as often as it says has no error."""
    right = np.array([True] * 7 + [False] * 3)
    bins = evaluate.reliability(np.full(10, 0.7, np.float32), right)
    assert evaluate.calibration_error(bins) == pytest.approx(0, abs=1e-6)


def test_mcnemar_exact() -> None:
    """1 against 5 of 6 discordant pictures: twice (1 + 6) / 64."""
    first = np.array([True] * 1 + [False] * 5 + [True] * 4 + [False] * 2)
    second = np.array([False] * 1 + [True] * 5 + [True] * 4 + [False] * 2)
    found = evaluate.mcnemar(first, second)
    assert (found.only_first_right, found.only_second_right, found.both_right, found.both_wrong) == (1, 5, 4, 2)
    assert (found.test, found.statistic, found.p_value) == ("exact", None, 14 / 64)


def test_mcnemar_chi_squared() -> None:
    """10 against 20: (10 - 1)^2 / 30 = 2.7, of which chi-squared's table says 0.1003."""
    found = evaluate.mcnemar(np.arange(30) < 10, np.arange(30) >= 10)
    assert (found.test, found.statistic) == ("chi-squared", 2.7)
    assert found.p_value == pytest.approx(0.1003, abs=1e-4)


@pytest.mark.parametrize("pairs", [0, 2, 40])
def test_mcnemar_of_equals(pairs: int) -> None:
    """Two that never differ, or differ evenly, give no reason to prefer one: p is 1 or nearly so."""
    first = np.arange(pairs) % 2 == 0
    assert evaluate.mcnemar(first, ~first).p_value > 0.85

import numpy as np
import pytest

from service.errors import ModelRejected
from service.scores import are_probabilities, check_probabilities, rows_of, softmax


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1, 1), (2, 1, 1, 3), (2, 1, 3)])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_rows(shape: tuple[int, ...], kind: type[np.generic]) -> None:
    """Scores of any shape and width become rows of float32."""
    rows = rows_of(np.arange(6).reshape(shape).astype(kind))
    assert rows.dtype == np.float32
    assert rows.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("shape", [(2,), (), (2, 3, 7, 7), (2, 3, 2)])
def test_no_rows(shape: tuple[int, ...]) -> None:
    """A feature map or a single number is refused with its shape."""
    with pytest.raises(ModelRejected, match="its output has the shape"):
        rows_of(np.zeros(shape, np.float32))


def test_softmax() -> None:
    """Softmax is exp(l_i) over their sum, however large the logits are."""
    rows = softmax(np.array([[0, np.log(3)], [1000, 1000], [-1e30, 0]], np.float32))
    np.testing.assert_allclose(rows, np.array([[0.25, 0.75], [0.5, 0.5], [0, 1]]), atol=1e-7)


def test_softmax_keeps_faults_apart() -> None:
    """A row that is not finite makes no other row so."""
    rows = softmax(np.array([[np.nan, 1], [0, 0]], np.float32))
    assert np.isnan(rows[0]).all()
    assert rows[1].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[0.25, 0.75], [1, 0]], True),
        ([[0.25, 0.7505]], True),
        ([[0.25, 0.76]], False),
        ([[0.25, 0.75], [2, 3]], False),
        ([[1.5, -0.5]], False),
        ([[np.nan, 1]], False),
    ],
)
def test_are_probabilities(rows: list[list[float]], expected: bool) -> None:  # noqa: FBT001 - parametrized
    """Rows are probabilities where none is negative and each sums to 1 within 0.001."""
    assert are_probabilities(np.array(rows, np.float32)) is expected


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([[np.nan, 1]], "not finite"),
        ([[np.inf, 0]], "not finite"),
        ([[0.5, 0.5], [0.5, 0.5]], "1 pictures gave an output of shape (2, 2); expected (1, 2)"),
        ([[1.0]], "shape (1, 1)"),
        ([[0.6, 0.5]], "outputs sum to 1.100 to 1.100"),
        ([[3.0, 7.0]], "outputs sum to 10.000"),
        ([[1.5, -0.5]], "-0.5"),
    ],
)
def test_no_probabilities(rows: list[list[float]], text: str) -> None:
    """Outputs that are no probabilities are refused, and why is said."""
    with pytest.raises(ModelRejected) as caught:
        check_probabilities(np.array(rows, np.float32), 1, 2)
    assert text in str(caught.value)

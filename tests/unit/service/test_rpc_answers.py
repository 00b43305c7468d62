"""Answers become messages, and read the same at the other end."""

import pytest

from service.model import Answer, Facts
from service.rpc.answers import Answers
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.scores import Best

LABELS = ("", "cat", "ein längeres Wort " * 9)


@pytest.mark.parametrize("rows", [[], [[0]], [[1, 0, 2]], [[2], [1], [0]], [[2, 1]] * 40, [[2] * 500]])
def test_categories_are_read_as_they_were_written(rows: list[list[int]]) -> None:
    """Every picture's categories are read as index, label and probability, those of class 0 and long ones too."""
    indices = [index for row in rows for index in row]
    best = Best(len(rows[0]) if rows else 5, indices, [0.5 / (place + 1) for place in range(len(indices))])
    answer = Answer(best, LABELS, 0.0, 0.0, 0.0, 1)
    facts = Facts("linear", 2, "cpu", "fp32", verified=True, sha256="")
    written = pb.ClassifyResponse()
    Answers(facts, LABELS).write(answer, "", written)
    message = pb.ClassifyResponse.FromString(written.SerializeToString())
    read = [[(each.index, each.label) for each in row.categories] for row in message.classifications]
    assert read == [[(index, LABELS[index]) for index in row] for row in rows]
    values = [each.probability for row in message.classifications for each in row.categories]
    assert values == pytest.approx(best.probabilities)

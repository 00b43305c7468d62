"""Answers written as bytes are the messages that protobuf would write."""

import pytest

from service.rpc.categories import classifications
from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.scores import Best

LABELS = ("", "cat", "ein längeres Wort " * 9)


@pytest.mark.parametrize("rows", [[], [[0]], [[1, 0, 2]], [[2], [1], [0]], [[2, 1]] * 40])
def test_bytes_are_the_message(rows: list[list[int]]) -> None:
    """Every picture's categories are read as index, label and probability, those of class 0 and long ones too."""
    best = [Best(row, [0.5 / (place + 1) for place in range(len(row))]) for row in rows]
    message = pb.ClassifyResponse.FromString(classifications(best, LABELS))
    assert [
        [(each.index, each.label, each.probability) for each in row.categories] for row in message.classifications
    ] == [
        [
            (index, LABELS[index], pytest.approx(value))
            for index, value in zip(row.indices, row.probabilities, strict=True)
        ]
        for row in best
    ]

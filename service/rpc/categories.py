"""The categories of answers as protobuf's bytes: five a picture are most of an answer, and most of what it costs."""

from collections.abc import Iterable
from functools import lru_cache
from struct import Struct

from service.rpc.pb.saccade.v1 import classifier_pb2 as pb
from service.scores import Best

_pack = Struct("<f").pack
_FIXED_32, _LENGTH_DELIMITED = 5, 2
"""Wire types, https://protobuf.dev/programming-guides/encoding/."""
_PROBABILITY = bytes([pb.Category.PROBABILITY_FIELD_NUMBER << 3 | _FIXED_32])
_CATEGORY = bytes([pb.Classification.CATEGORIES_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])
_CLASSIFICATION = bytes([pb.ClassifyResponse.CLASSIFICATIONS_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])


def classifications(rows: Iterable[Best], labels: tuple[str, ...]) -> bytes:
    """Return the field `classifications` of a ClassifyResponse, for its MergeFromString.

    Of each category all but the probability is made once a model: 1.5 us a picture, where messages filled in one by
    one take 11.
    """
    heads = _heads(labels)
    written = []
    for indices, probabilities in rows:
        row = b"".join(
            [heads[index] + _pack(probability) for index, probability in zip(indices, probabilities, strict=True)]
        )
        written += [_CLASSIFICATION, _varint(len(row)), row]
    return b"".join(written)


@lru_cache(maxsize=64)
def _heads(labels: tuple[str, ...]) -> list[bytes]:
    """Return what comes before the probability of each class."""
    heads = []
    for index, label in enumerate(labels):
        head = pb.Category(index=index, label=label).SerializeToString() + _PROBABILITY
        heads.append(_CATEGORY + _varint(len(head) + 4) + head)
    return heads


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])

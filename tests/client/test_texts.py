"""What the client takes: texts, pairs, and columns of other libraries; each kind of model gets its own."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from bantam.client.texts import Text, encoded
from bantam.errors import InvalidInputError
from tests.client.fake_kserve import PARAMETERS, Fake, Script

TEXTS = ["12", "1234", ""]
ROWS = [(b"12",), (b"1234",), (b"",)]


@pytest.fixture(params=["grpc", "http"])
def fake(request: pytest.FixtureRequest) -> Iterator[Fake]:
    server = Fake(request.param, Script())
    yield server
    server.stop()


@pytest.mark.parametrize(
    "make",
    [
        tuple,
        iter,
        lambda texts: (text for text in texts),
        lambda texts: dict.fromkeys(texts).keys(),
        np.array,
        lambda texts: np.array(texts, dtype=object),
        pd.Series,
        lambda texts: pd.Series(texts, index=[5, 5, 7]),
        lambda texts: pd.Series(texts, dtype="category"),
        pd.Index,
        pa.array,
        lambda texts: pa.table({"text": texts})["text"],
        lambda texts: pa.table({"text": texts}).to_pandas()["text"],
    ],
)
def test_columns_are_lists(make: Callable[[list[str]], Iterable[str]]) -> None:
    assert encoded(make(TEXTS)) == ROWS


@pytest.mark.parametrize(
    "pairs",
    [
        [("a", "b"), ("c", "d")],
        zip(["a", "c"], pd.Series(["b", "d"]), strict=True),
        map(tuple, np.array([["a", "b"], ["c", "d"]])),
        pd.DataFrame({"one": ["a", "c"], "other": ["b", "d"]}).itertuples(index=False, name=None),
        pd.DataFrame({"one": ["a", "c"], "other": ["b", "d"]}).itertuples(index=False),
    ],
)
def test_pairs_come_as_tuples_of_whatever(pairs: Iterable[Text]) -> None:
    assert encoded(pairs) == [(b"a", b"b"), (b"c", b"d")]


def test_one_pair_is_one_row_and_a_list_of_two_is_two() -> None:
    assert encoded(("a", "b")) == [(b"a", b"b")]
    assert encoded(["a", "b"]) == [(b"a",), (b"b",)]
    assert encoded([]) == []


def test_pairs_are_answered_one_by_one_and_in_lists(fake: Fake) -> None:
    fake.script.parameters = {**PARAMETERS, "pair": "true"}

    async def run() -> list[Any]:
        async with fake.async_client() as classify:
            return [await classify(("1", "234")), await classify([("1", "234")] * 9)]

    with fake.client() as classify:
        assert classify.describe().pair
        alone, many = classify(("1", "234")), classify(iter([("1", "234")] * 9))
        assert alone.labels == ["short"]
        assert alone.scores == pytest.approx({"short": 0.6, "long": 0.4})
        assert many == [alone] * 9
        assert classify.probabilities(("1", "234")).shape == (1, 2)
        assert classify.probabilities([("1", "234")] * 9).shape == (9, 2)
        assert classify([]) == []
    assert asyncio.run(run()) == [alone, many]
    # Two requests of a list are under way at a time: any of them may arrive first.
    assert (fake.script.batches[0], sorted(fake.script.batches[1:4])) == (1, [1, 4, 4])


def test_the_other_kind_is_refused_before_anything_is_sent(fake: Fake) -> None:
    single = r'reads single texts and got pairs, .*\. Expected a list of strings: classify\(\["first", "second"\]\)'
    pairs = (
        r'reads pairs of texts and got single ones.*classify\(\[\("first", "second"\)\]\), or classify\(\("first", '
        r'"second"\)\) for one\. A list of two strings is two texts, not a pair'
    )
    with fake.client() as classify:
        for wrong in (("a", "b"), [("a", "b")] * 9):
            with pytest.raises(InvalidInputError, match=single):
                classify(wrong)
    fake.script.parameters = {**PARAMETERS, "pair": "true"}

    async def ask(texts: Any) -> None:
        async with fake.async_client() as classify:
            await classify(texts)

    with fake.client() as classify:
        for texts in ["a", ["a", "b"], ["a"] * 9]:
            with pytest.raises(InvalidInputError, match=pairs):
                classify(texts)
            with pytest.raises(InvalidInputError, match=pairs):
                asyncio.run(ask(texts))
            with pytest.raises(InvalidInputError, match=pairs):
                classify.probabilities(texts)
    assert fake.script.batches == []


def test_a_new_version_that_reads_pairs_is_noticed(fake: Fake) -> None:
    fake.script.version = "1"
    with fake.client() as classify:
        assert classify("123").labels == ["short"]
        fake.script.publish("2", {**PARAMETERS, "pair": "true"})
        assert classify(("123", "4")).labels == ["short"]
        with pytest.raises(InvalidInputError, match="reads pairs of texts"):
            classify("123")


def test_a_regression_gives_a_score_and_no_label(fake: Fake) -> None:
    fake.script.parameters = {"task": "regression", "labels": '["relatedness_score"]', "pair": "true"}
    fake.script.width = 1
    with fake.client() as classify:
        (prediction,) = classify([("12345", "1234567890123456789012345678901")])
        assert prediction.labels == []
        assert prediction.scores == pytest.approx({"relatedness_score": -2.6})
        assert (classify.describe().task, classify.describe().thresholds) == ("regression", None)


def odd_labels(rng: random.Random) -> list[str]:
    """Some labels of any characters that UTF-8 can carry."""
    planes = (range(0x20), range(0x20, 0x7F), range(0x7F, 0xD800), range(0xE000, 0x110000))
    return ["".join(chr(rng.choice(rng.choice(planes))) for _ in range(rng.randint(1, 8))) for _ in range(2)]


def test_labels_of_any_characters_survive(fake: Fake) -> None:
    from serving.triton_config import TritonConfig, parse_pbtxt

    rng = random.Random(0)
    fixed = [["a\nb", "q\"u'o\\te"], ["<script>alert(1)</script>", "&amp;"], ["\u2028\x85", "\u202e|,;:\t"], ["0", " "]]
    for number, labels in enumerate([*fixed, *(odd_labels(rng) for _ in range(40))]):
        config = TritonConfig(name="fake", version=1, task="multi_label", labels=tuple(labels))
        message = parse_pbtxt(config.to_pbtxt())
        parameters = {key: value.string_value for key, value in message.parameters.items()}
        fake.script.publish(str(number + 1), parameters)
        with fake.client() as classify:
            assert classify("12345").labels == labels
            assert list(classify("12345").scores) == labels

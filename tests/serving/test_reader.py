"""Texts become the tokens that transformers makes of them, whatever they are; very long ones in no time."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from serving.backend.manifest import ModelManifest
from serving.backend.reader import CHARACTERS, SLACK, Reader, Text
from tests.optimizer.tiny_tokenizers import KINDS, WORDS, byte_level_bpe, wrapped

MAX_LENGTH = 24
ODD = (
    *("", " ", "\n\t \r\n", "\u00a0\u2003\u3000", "a", "<s>", "<mask> and </s>", "▁", "Ġ", "\x00", "a\x00b\x1f"),
    *("😀", "👩‍👩‍👧‍👦🏳️‍🌈", "e\u0301\u0301\u0308", " \u0301", "\u202e\ufeffabc", "\u0600 1", "ﬁ ﬂ ① ½", "İstanbul ẞ"),
    *("爱 الحب प्यार ไทย", "\U0010ffff\ufffe", "don't  stop -- it's 1,000.5%!", "x" * 300, "a " * 40, " a" * 40 + " "),
)


def manifest(*, pair: bool = False, side: str = "right", max_length: int = MAX_LENGTH) -> ModelManifest:
    return ModelManifest(
        layout="onnx",
        task="single_label",
        labels=("no", "yes"),
        inputs=("input_ids",),
        max_length=max_length,
        pad_token_id=1,
        bf16=False,
        batch_invariant=True,
        devices=("cpu",),
        pair=pair,
        truncation_side=side,
    )


class Both:
    """A tokenizer as transformers loads it, and as the engine reads it, from one folder."""

    def __init__(self, folder: Path, kind: Callable[[], Tokenizer], *, side: str = "right", **options: Any) -> None:
        wrapped(kind()).save_pretrained(folder)
        config = folder / "tokenizer_config.json"
        settings = {**json.loads(config.read_text(encoding="utf-8")), "truncation_side": side, **options}
        config.write_text(json.dumps(settings), encoding="utf-8")
        self.folder, self.side = folder, side
        self.theirs: Any = PreTrainedTokenizerFast.from_pretrained(folder)
        assert self.theirs.truncation_side == side

    def check(self, texts: list[Text], *, max_length: int = MAX_LENGTH) -> Reader:
        """Both make the same of ``texts``, all pairs or none."""
        pair = not isinstance(texts[0], str)
        reader = Reader(self.folder, manifest(pair=pair, side=self.side, max_length=max_length))
        columns: list[Any] = list(map(list, zip(*texts, strict=True))) if pair else [texts]
        expected = self.theirs(
            *columns, truncation=True, max_length=max_length, return_token_type_ids=True, verbose=False
        )
        found = reader(texts)
        for number, text in enumerate(texts):
            assert found[number].ids == expected["input_ids"][number], repr(text)[:200]
            assert found[number].type_ids == expected["token_type_ids"][number], repr(text)[:200]
        return reader


@pytest.fixture(
    params=[(kind, side) for kind in KINDS for side in ("right", "left")], ids=lambda p: f"{p[0].__name__}-{p[1]}"
)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Both:
    kind, side = request.param
    return Both(tmp_path, kind, side=side)


def made_up(rng: random.Random, words: int) -> str:
    """Words of the vocabulary and others, odd characters, runs of spaces and line breaks."""
    parts: list[str] = []
    for _ in range(words):
        word = rng.choice((rng.choice(WORDS), rng.choice(WORDS), rng.choice(ODD[4:21]), str(rng.random())))
        parts += word, rng.choice((" ", " ", " ", " ", "\n", "  ", "\t", ", ", ".\n\n", ""))
    return "".join(parts)


def test_the_tokens_are_those_of_transformers(both: Both) -> None:
    rng = random.Random(0)
    both.check([*ODD, *(made_up(rng, rng.randint(1, 60)) for _ in range(100))])


def test_the_tokens_of_pairs_are_those_of_transformers(both: Both) -> None:
    rng = random.Random(1)
    sides = [*ODD, *(made_up(rng, rng.randint(1, 60)) for _ in range(100))]
    pairs: list[Text] = [(one, rng.choice(sides)) for one in sides]
    both.check(pairs)
    both.check([("a " * n, "b " * m) for n in (0, 3, 10, 11, 12, 99) for m in (0, 3, 10, 11, 12, 99)])


def test_very_long_texts_have_the_same_tokens_as_if_they_were_not_cut_first(both: Both) -> None:
    rng = random.Random(2)
    longs = [made_up(rng, words) for words in (200, 1000, 1001, 5000)]
    longs += [
        "x" * 20_000,
        " " * 20_000,
        "ab " * 10_000,
        "a" * 5000 + " b" * 9000,
        "a " * 9000 + "b" * 5000,
        "\n" * 9000,
    ]
    both.check([*longs, *(" " + text for text in longs), *(text + "\n " for text in longs)])


def test_very_long_sides_of_pairs_keep_the_tokens_that_they_would_have(both: Both) -> None:
    rng = random.Random(3)
    longs = [made_up(rng, 260)[:2600], "ab " * 800, "x" * 2200]
    assert min(map(len, longs)) > 2 * CHARACTERS * (MAX_LENGTH + 40 + SLACK)
    pairs = [(one, other) for one in longs for other in ("", "short", "ab " * 100, *longs)]
    both.check([*pairs, *((other, one) for one, other in pairs[:4])], max_length=MAX_LENGTH + 40)
    both.check([*pairs[:6]], max_length=MAX_LENGTH + 39)


@pytest.mark.parametrize("side", ["right", "left"])
def test_ten_megabytes_take_milliseconds(tmp_path: Path, side: str) -> None:
    reader = Both(tmp_path, byte_level_bpe, side=side).check(["a"], max_length=512)
    text = " ".join(WORDS) * 10_000
    assert len(text) > 1e7
    began = time.perf_counter()
    (found,) = reader([text])
    assert time.perf_counter() - began < 0.2
    assert len(found) == 512


def test_special_tokens_in_a_text_are_split_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    texts: list[Text] = ["<s> and </s>", "<mask>"]
    usual = Both(tmp_path / "usual", byte_level_bpe).check(texts)
    split = Both(tmp_path / "split", byte_level_bpe, split_special_tokens=True).check(texts)
    assert len(split(texts)[1]) > len(usual(texts)[1])


@pytest.mark.parametrize(
    ("pair", "text", "message"),
    [
        (True, "alone", "Got 'alone', expected a pair of texts"),
        (False, ("a", "b"), r"Got \('a', 'b'\), expected a single text"),
    ],
)
def test_a_text_in_place_of_a_pair_is_refused(tmp_path: Path, pair: bool, text: Text, message: str) -> None:
    wrapped(byte_level_bpe()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        Reader(tmp_path, manifest(pair=pair))([text])

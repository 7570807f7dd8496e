"""Texts become the tokens that transformers makes of them, whatever they are; very long ones in no time."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Sequence
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
        padded_to=1,
        devices=("cpu",),
        pair=pair,
        truncation_side=side,
        standard_operators=True,
        weights="0" * 64,
        memory_bytes=1,
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

    def reader(self, *, pair: bool = False, max_length: int = MAX_LENGTH) -> Reader:
        return Reader(self.folder, manifest(pair=pair, side=self.side, max_length=max_length))

    def differences(self, texts: Sequence[Text], *, max_length: int = MAX_LENGTH) -> list[str]:
        """The texts, all pairs or none, of which the two do not make the same."""
        pair = not isinstance(texts[0], str)
        columns: list[Any] = list(map(list, zip(*texts, strict=True))) if pair else [list(texts)]
        expected = self.theirs(
            *columns, truncation=True, max_length=max_length, return_token_type_ids=True, verbose=False
        )
        found = self.reader(pair=pair, max_length=max_length)(texts)
        return [
            repr(text)[:200]
            for text, one, ids, types in zip(
                texts, found, expected["input_ids"], expected["token_type_ids"], strict=True
            )
            if (one.ids, one.type_ids) != (ids, types)
        ]


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
    assert both.differences([*ODD, *(made_up(rng, rng.randint(1, 60)) for _ in range(100))]) == []


def test_the_tokens_of_pairs_are_those_of_transformers(both: Both) -> None:
    rng = random.Random(1)
    sides = [*ODD, *(made_up(rng, rng.randint(1, 30)) for _ in range(40))]
    assert both.differences([(one, rng.choice(sides)) for one in sides]) == []
    counts = (0, 3, 10, 11, 12, 30)
    assert both.differences([("a " * n, "b " * m) for n in counts for m in counts]) == []


def test_very_long_texts_have_the_same_tokens_as_if_they_were_not_cut_first(both: Both) -> None:
    rng = random.Random(2)
    longs = [made_up(rng, words) for words in (200, 1000, 1001, 3000)]
    longs += ["爱人民、中国。x1" * 900, "".join(rng.choices("abXY0123456789+/=", k=9000)), "0123456789" * 900]
    longs += [
        "x" * 20_000,
        " " * 20_000,
        "ab " * 10_000,
        "a" * 5000 + " b" * 9000,
        "a " * 9000 + "b" * 5000,
        "\n" * 9000,
    ]
    assert both.differences([*longs, *(" " + text for text in longs), *(text + "\n " for text in longs)]) == []


def test_very_long_sides_of_pairs_keep_the_tokens_that_they_would_have(both: Both) -> None:
    rng = random.Random(3)
    longs = [made_up(rng, 260)[:2300], "ab " * 800, "x" * 2200]
    assert min(map(len, longs)) > 2 * CHARACTERS * (MAX_LENGTH + 40 + SLACK)
    pairs = [(one, other) for one in longs for other in ("", "ab " * 100, longs[1], one)]
    turned = [(other, one) for one, other in pairs[:4]]
    assert both.differences([*pairs, *turned], max_length=MAX_LENGTH + 40) == []
    assert both.differences(pairs[:4], max_length=MAX_LENGTH + 39) == []


@pytest.mark.parametrize("side", ["right", "left"])
def test_ten_megabytes_take_milliseconds(tmp_path: Path, side: str) -> None:
    reader = Both(tmp_path, byte_level_bpe, side=side).reader(max_length=512)
    text = " ".join(WORDS) * 10_000
    assert len(text) > 1e7
    began = time.perf_counter()
    (found,) = reader([text])
    assert time.perf_counter() - began < 0.2
    assert len(found) == 512


def test_special_tokens_in_a_text_are_split_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    texts = ["<s> and </s>", "<mask>"]
    usual = Both(tmp_path / "usual", byte_level_bpe)
    split = Both(tmp_path / "split", byte_level_bpe, split_special_tokens=True)
    assert usual.differences(texts) == split.differences(texts) == []
    assert len(split.reader()(texts)[1]) > len(usual.reader()(texts)[1])


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

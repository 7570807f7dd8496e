"""Parts of a split: every row in one of its kind, cut where it should be, and counted by the tokenizer itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from optimizer.slices import LEAST, by_group, by_length, by_pieces, tokens_of, too_small


@pytest.fixture
def pieces(tmp_path: Path) -> Path:
    """A tokenizer that knows "known" as a whole and everything else by its letters."""
    vocabulary = {"[UNK]": 0, "known": 1, **{f"##{c}": 2 + i for i, c in enumerate("abcdef")}}
    vocabulary |= {c: len(vocabulary) + i for i, c in enumerate("abcdef")}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_tokens_are_counted_before_they_are_cut_and_by_word(pieces: Path) -> None:
    found = tokens_of(pieces, 4, ["known known", "abc def", "known abc", "", "known known known known known"])
    assert found.counts.tolist() == [2, 6, 4, 0, 5]
    assert found.per_word[[0, 1, 2, 4]].tolist() == [1.0, 3.0, 2.0, 1.0]
    assert np.isnan(found.per_word[3]), "a text without words has none"
    assert found.cut == pytest.approx(0.4)
    assert found.pieces == pytest.approx(7 / 4)


def test_words_of_a_pair_are_counted_in_both_texts(pieces: Path) -> None:
    found = tokens_of(pieces, 4, [("known", "abc"), ("abc abc", "known")])
    assert found.per_word.tolist() == [2.0, pytest.approx(7 / 3)]


def test_words_stand_between_spaces_where_a_tokenizer_takes_whole_texts(tmp_path: Path) -> None:
    vocabulary = {letter: number for number, letter in enumerate(["<unk>", "▁", *"abcd"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = tokens_of(tmp_path / "tokenizer.json", 9, ["ab cd", "abcd", ("a b", "c d")])
    assert found.per_word.tolist() == [2.5, 4.0, 1.5]


def test_lengths_are_in_words_of_both_texts_and_every_row_has_one() -> None:
    texts = ["word " * (1 + i % 50) for i in range(400)] + [("a b c", "d e f")]
    parts = list(by_length(texts))
    assert (np.sum([part.rows for part in parts], axis=0) == 1).all()
    assert [part.name for part in parts if part.rows[-1]] == ["6 to 10 words"]


def test_thirds_by_tokens_a_word_hold_about_a_third_each(pieces: Path) -> None:
    texts = ["known", "abc", "abcdef"] * 30
    parts = list(by_pieces(tokens_of(pieces, 9, texts)))
    assert [int(part.rows.sum()) for part in parts] == [30, 30, 30]
    assert [part.name for part in parts][1:] == ["3.00 to 6.00 tokens a word", "6.00 tokens a word and more"]
    assert not list(by_pieces(tokens_of(pieces, 9, ["known"] * 20))), "all alike: nothing to tell apart"


def test_a_value_of_a_column_needs_enough_rows() -> None:
    groups = ["en"] * 100 + ["fi"] * LEAST + ["sv"] * (LEAST - 1) + ["no"] * 3
    parts = {part.name: part.rows for part in by_group(groups, "language")}
    assert list(parts) == ["language: en", "language: fi"]
    assert np.flatnonzero(parts["language: fi"]).tolist() == list(range(100, 100 + LEAST))
    assert too_small(groups) == {"sv": LEAST - 1, "no": 3}

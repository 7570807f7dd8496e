"""Vocabulary pruning with the tokenizers that decoders have, on real texts: what is saved and loaded again."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from optimizer.data import load_dataset
from optimizer.load.tokenizer import load_tokenizer
from optimizer.surgery.tokenizer_json import Merges
from optimizer.surgery.vocabulary import WholeVocabulary, needed_tokens
from tests.optimizer.decoder_tokenizers import KINDS
from tests.optimizer.tiny_tokenizers import classifier, logits, tokens

MODELS = {"gpt2": "gpt2", "llama3": "llama", "llama2": "llama", "gemma": "gemma", "xlm_roberta": "xlm-roberta"}
STRANGE = [
    "Zqxjkv wördnïk ßtrænge",
    "😀🤷🏽‍♀️🏳️‍🌈 ok?",
    "漢字かな交じり文と한국어 русский",
    "one\n\n\n\ntwo\t\tthree     four\r\n<table><b>x</b></table>",
    "<unused3> [unused3] <|reserved_special_token_3|> reserved",
    " ",
]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [str(text) for text in load_dataset("goemotions-ekman").splits["train"].texts[:2000]]


@pytest.fixture(scope="module", params=KINDS)
def before(request: pytest.FixtureRequest, texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As it is loaded, by the class that its model has."""
    kind = str(request.param)
    folder = tmp_path_factory.mktemp(kind)
    made = KINDS[kind](texts)
    made.model_max_length = 512
    made.save_pretrained(folder)
    write_config(folder, kind)
    return load_tokenizer(folder), kind


def write_config(folder: Path, kind: str) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": MODELS.get(kind, kind)}), encoding="utf-8")


@pytest.fixture(scope="module")
def seen(texts: list[str]) -> list[str]:
    return [*texts[:200], "a\n\nb <table>"]


@pytest.fixture(scope="module")
def cut(before: Any, seen: list[str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, the same for the tokens of ``seen`` alone, and its tokenizer as it is loaded again."""
    tokenizer, kind = before
    model = classifier(tokenizer, "llama", max_position_embeddings=512)
    smaller, rewritten = WholeVocabulary(model, tokenizer).keep(needed_tokens(tokenizer, seen))
    folder = tmp_path_factory.mktemp(f"{kind}-cut")
    rewritten.save_pretrained(folder)
    write_config(folder, kind)
    loaded = load_tokenizer(folder)
    assert loaded.get_vocab() == rewritten.get_vocab()
    return model, smaller, loaded


def test_texts_are_cut_and_scored_as_before_by_what_is_loaded_again(before: Any, cut: Any, seen: list[str]) -> None:
    model, smaller, after = cut
    assert len(after) == smaller.config.vocab_size < 0.85 * len(before[0])
    assert tokens(after, seen) == tokens(before[0], seen)
    torch.testing.assert_close(logits(smaller, after, seen[:50]), logits(model, before[0], seen[:50]))
    named = {name: getattr(before[0], name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    assert {name: getattr(after, name) for name in named} == named
    assert smaller.config.pad_token_id == after.pad_token_id
    assert smaller.get_input_embeddings().num_embeddings == len(after)


def test_any_other_text_is_still_written_and_scored(before: Any, cut: Any, texts: list[str]) -> None:
    _, smaller, after = cut
    strange = [*STRANGE, *texts[1500:1600]]
    old, new = tokens(before[0], strange), tokens(after, strange)
    unknown = after.unk_token
    assert not any(unknown in b and unknown not in a for a, b in zip(old, new, strict=True))
    assert sum(map(len, new)) > sum(map(len, old))
    if before[1] not in ("xlm_roberta", "t5"):  # the others write what they do not know in bytes
        assert not any(unknown in row for row in new if unknown != after.pad_token)
        decoded = [after.decode(after(text)["input_ids"], skip_special_tokens=True) for text in STRANGE[:3]]
        assert decoded == [
            before[0].decode(before[0](text)["input_ids"], skip_special_tokens=True) for text in STRANGE[:3]
        ]
    assert logits(smaller, after, strange).isfinite().all()


def test_free_and_unneeded_added_tokens_go(before: Any, cut: Any) -> None:
    _, _, after = cut
    names = {*after.get_vocab()}
    assert not {name for name in names if "unused" in name or "reserved_special" in name}
    if before[1] == "gemma":
        assert {"\n\n", "<table>", "<mask>"} <= names
        assert not {"\n\n\n", "▁▁▁", "<b>"} & names
    if before[1] == "t5":
        assert "<extra_id_99>" in names


def test_merges_left_lead_from_kept_tokens_to_kept_tokens_and_to_each_kept_token(
    before: Any, cut: Any, seen: list[str]
) -> None:
    _, _, after = cut
    spec = json.loads(after.backend_tokenizer.to_str())["model"]
    if spec["type"] != "BPE":
        assert "merges" not in spec
        return
    assert spec["merges"]
    assert {part for left, right in spec["merges"] for part in (left, right, left + right)} <= spec["vocab"].keys()
    merges, all_merges = Merges(spec), Merges(json.loads(before[0].backend_tokenizer.to_str())["model"])
    needed = [token for token in {*chain(*tokens(after, seen))} if token not in after.all_special_tokens]
    assert [merges.passed(token) for token in needed] == [all_merges.passed(token) for token in needed]


def test_fewer_tokens_stay_than_all_that_could_be_merged_from(texts: list[str], seen: list[str]) -> None:
    """A vocabulary without merges of its own gets every merge; most of those that make a token are never its own."""
    tokenizer = KINDS["gemma"](texts)
    vocabulary = WholeVocabulary(classifier(tokenizer, "llama"), tokenizer)
    needed = needed_tokens(tokenizer, seen)
    could, waiting = {*needed}, [vocabulary.names[number] for number in needed]
    parts: dict[str, list[str]] = {}
    for pair in vocabulary.merges.ranks:
        parts.setdefault("".join(pair), []).extend(pair)
    while waiting:
        new = {vocabulary.numbers[part] for part in parts.get(waiting.pop(), [])} - could
        could |= new
        waiting += [vocabulary.names[number] for number in new]
    kept = {*vocabulary.with_companions(needed)}
    assert {*needed} < kept
    assert len(could - kept) > 50


def test_steps_are_those_of_the_ranks() -> None:
    spec = {"type": "BPE", "merges": [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"], ["abc", "abc"]]}
    assert Merges(spec).passed("abcabc") == {"a", "b", "c", "bc", "abc", "abcabc"}
    suffixed = {"type": "BPE", "end_of_word_suffix": "</w>", "merges": [["l", "o</w>"], ["h", "lo</w>"]]}
    assert Merges(suffixed).passed("hlo</w>") == {"h", "l", "o</w>", "lo</w>", "hlo</w>"}
    prefixed = {"type": "BPE", "continuing_subword_prefix": "##", "merges": [["a", "##b"], ["##b", "##c"]]}
    assert Merges(prefixed).passed("##bc") == {"##b", "##c", "##bc"}
    assert Merges(prefixed).passed("abc") == {"a", "##b", "##c", "ab", "abc"}

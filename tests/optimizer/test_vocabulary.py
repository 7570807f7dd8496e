from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from bantam.errors import ModelError
from optimizer.surgery.vocabulary import WholeVocabulary, needed_tokens
from tests.optimizer.tiny_models import CONFIGS, MAX_LENGTH
from tests.optimizer.tiny_tokenizers import (
    KINDS,
    SEEN,
    SPECIAL,
    UNSEEN,
    WORDS,
    byte_level_bpe,
    classifier,
    logits,
    template,
    tokens,
    word_piece,
    wrapped,
)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def before(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return wrapped(request.param())


def test_texts_whose_tokens_stay_are_cut_and_scored_as_before(before: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = classifier(before)
    smaller, after = WholeVocabulary(model, before).keep(needed_tokens(before, SEEN))
    assert len(after) < 0.9 * len(before)
    assert smaller.config.vocab_size == smaller.get_input_embeddings().num_embeddings == len(after)
    assert tokens(after, SEEN) == tokens(before, SEEN)
    torch.testing.assert_close(logits(smaller, after, SEEN), logits(model, before, SEEN))
    smaller.save_pretrained(tmp_path)
    after.save_pretrained(tmp_path)
    loaded, model = (
        AutoTokenizer.from_pretrained(tmp_path),
        AutoModelForSequenceClassification.from_pretrained(tmp_path),
    )
    assert loaded.get_vocab() == after.get_vocab()
    torch.testing.assert_close(logits(model, loaded, SEEN), logits(smaller, after, SEEN))


def test_other_texts_are_written_in_smaller_pieces_never_as_unknown(before: PreTrainedTokenizerFast) -> None:
    _, after = WholeVocabulary(classifier(before), before).keep(needed_tokens(before, SEEN))
    old, new = tokens(before, UNSEEN), tokens(after, UNSEEN)
    assert old != new
    assert not any("<unk>" in row for row in [*old, *new])
    assert sum(map(len, new)) > sum(map(len, old))
    foreign = "☃ été"
    assert ("<unk>" in tokens(after, [foreign])[0]) == ("<unk>" in tokens(before, [foreign])[0])


def test_ids_keep_their_order_and_special_tokens_follow(before: PreTrainedTokenizerFast) -> None:
    model = classifier(before, bos_token_id=0, eos_token_id=[2, 4])
    smaller, after = WholeVocabulary(model, before).keep(needed_tokens(before, SEEN))
    vocabulary = after.get_vocab()
    kept = sorted(vocabulary, key=vocabulary.__getitem__)
    assert kept == sorted(kept, key=before.get_vocab().__getitem__)
    assert sorted(vocabulary.values()) == list(range(len(after)))
    row = after("".join(SEEN[:1]))["input_ids"]
    assert (row[0], row[-1]) == (after.bos_token_id, after.eos_token_id)
    assert smaller.config.pad_token_id == after.pad_token_id
    assert smaller.config.eos_token_id == after.convert_tokens_to_ids(["</s>", "<mask>"])


def test_nothing_changes_if_all_tokens_stay(before: PreTrainedTokenizerFast) -> None:
    _, after = WholeVocabulary(classifier(before), before).keep(range(len(before)))
    assert after.backend_tokenizer.to_str() == before.backend_tokenizer.to_str()


def test_what_a_merged_token_is_made_of_stays_and_nothing_merges_into_what_is_gone() -> None:
    before = wrapped(byte_level_bpe())
    longest = max(before.get_vocab(), key=len)
    _, after = WholeVocabulary(classifier(before), before).keep([before.get_vocab()[longest]])
    spec = json.loads(after.backend_tokenizer.to_str())["model"]
    assert len(spec["vocab"]) < 5 + 256 + len(longest)
    assert spec["merges"]
    assert {part for left, right in spec["merges"] for part in (left, right, left + right)} <= spec["vocab"].keys()
    word = longest.replace("Ġ", " ")
    assert after.tokenize(word) == before.tokenize(word) == [longest]


def test_special_tokens_in_the_middle_of_the_vocabulary_are_renumbered() -> None:
    words = [*WORDS[:50], "<pad>", "<unk>", "</s>", *WORDS[50:]]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(dict.fromkeys(words))}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 52)])
    before = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")
    text = f"{WORDS[60]} {WORDS[3]} new"
    model = classifier(before, "llama", eos_token_id=52, bos_token_id=9999)
    smaller, after = WholeVocabulary(model, before).keep(needed_tokens(before, [text]))
    assert after.get_vocab() == {WORDS[3]: 0, "<pad>": 1, "<unk>": 2, "</s>": 3, WORDS[60]: 4}
    assert after(text)["input_ids"] == [4, 0, 2, 3]
    ids = smaller.config
    assert (ids.pad_token_id, ids.eos_token_id, ids.bos_token_id) == (1, 3, None)
    torch.testing.assert_close(logits(smaller, after, [text]), logits(model, before, [text]))


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_every_architecture_scores_as_before(model_type: str) -> None:
    words = [*SPECIAL, *WORDS]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = template(backend)
    before = wrapped(backend)
    model = classifier(before, model_type)
    smaller, after = WholeVocabulary(model, before).keep(needed_tokens(before, SEEN))
    assert {*after.get_vocab()} == {*SPECIAL, *" ".join(SEEN).split()}
    assert smaller.num_parameters() < model.num_parameters()
    torch.testing.assert_close(logits(smaller, after, SEEN), logits(model, before, SEEN))


def test_the_padding_id_stays_where_positions_are_counted_from_it() -> None:
    before = wrapped(word_piece())
    pad = len(before) - 1
    before.pad_token = before.convert_ids_to_tokens(pad)
    for model_type, stays in (("roberta", True), ("mpnet", True), ("bert", False)):
        model = classifier(before, model_type, max_position_embeddings=pad + MAX_LENGTH)
        smaller, after = WholeVocabulary(model, before).keep(needed_tokens(before, SEEN))
        assert (smaller.config.pad_token_id == pad) is stays
        assert after.pad_token_id == smaller.config.pad_token_id


def test_a_special_token_that_the_model_was_never_given_stays_beyond_it() -> None:
    before = wrapped(word_piece())
    model = classifier(before, vocab_size=len(before))
    before.add_special_tokens({"cls_token": "<never>"})
    smaller, after = WholeVocabulary(model, before).keep(needed_tokens(before, SEEN))
    assert after.cls_token_id == smaller.config.vocab_size == len(after) - 1
    torch.testing.assert_close(logits(smaller, after, SEEN), logits(model, before, SEEN))


def test_ids_that_do_not_exist_are_refused() -> None:
    before = wrapped(word_piece())
    with pytest.raises(ModelError, match=f"no token 9999: the tokenizer knows {len(before)}"):
        WholeVocabulary(classifier(before), before).keep([9999])
    with pytest.raises(ModelError, match="the model 100"):
        WholeVocabulary(classifier(before, vocab_size=100), before).keep([7, 100])


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    class Slow:
        pass

    slow: Any = Slow()
    with pytest.raises(ModelError, match=r"one without a tokenizer\.json.*Possible with: WordPiece, BPE"):
        needed_tokens(slow, SEEN)

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from optimizer.artifact import Artifact
from optimizer.config import PruneConfig
from optimizer.data import Split
from optimizer.errors import DataError, ModelError, StageError
from optimizer.prune import vocabulary
from optimizer.stage import RunContext
from optimizer.surgery.vocabulary import keep_tokens, needed_tokens
from optimizer.training.classifier import load_artifact
from tests.optimizer.tiny_models import CONFIGS, LABELS, MAX_LENGTH, make_context, write_tiny_model

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_RNG = np.random.default_rng(0)
WORDS = ["".join(_RNG.choice(list("abcdefghijklmnopqrstuvwxyz"), _RNG.integers(3, 9))) for _ in range(150)]
TEXTS = [" ".join(_RNG.choice(WORDS, 6)) for _ in range(200)]
SEEN = [" ".join(_RNG.choice(WORDS[:30], 6)) for _ in range(40)]
UNSEEN = [*(" ".join(_RNG.choice(WORDS[30:], 6)) for _ in range(40)), "qz jxv zzzz kqj"]
PRUNE = PruneConfig(name="pruned", stage="prune", parent="baseline", method="vocabulary")


def template(tokenizer: Tokenizer) -> Any:
    ends = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    return processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = template(tokenizer)
    return tokenizer


def byte_level_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(sep=("</s>", 2), cls_token=("<s>", 0))
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False, max_piece_length=8
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template(tokenizer)])
    return tokenizer


def bpe_with_byte_fallback() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False, max_token_length=8)
    tokenizer.train_from_iterator(TEXTS, trainer)
    state = json.loads(tokenizer.to_str())
    for byte in range(256):
        state["model"]["vocab"][f"<0x{byte:02X}>"] = len(state["model"]["vocab"])
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = template(tokenizer)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    return tokenizer


KINDS: list[Callable[[], Tokenizer]] = [word_piece, byte_level_bpe, unigram, bpe_with_byte_fallback]


def wrapped(backend: Tokenizer, *token_types: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask", *token_types],
        **dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True)),
    )


def classifier(tokenizer: PreTrainedTokenizerFast, model_type: str = "bert", **changes: Any) -> PreTrainedModel:
    """Random weights; a few more rows of word embeddings than there are tokens, as some published models have."""
    sizes = {**CONFIGS[model_type], "vocab_size": len(tokenizer) + 3, "pad_token_id": tokenizer.pad_token_id, **changes}
    config = AutoConfig.for_model(model_type, **sizes, num_labels=len(LABELS))
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config).eval()
    return model


def logits(model: PreTrainedModel, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return result


def tokens(tokenizer: Any, texts: list[str]) -> list[list[str]]:
    return [tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) for text in texts]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def before(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return wrapped(request.param())


def test_texts_whose_tokens_stay_are_cut_and_scored_as_before(before: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = classifier(before)
    smaller, after = keep_tokens(model, before, needed_tokens(before, SEEN))
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
    _, after = keep_tokens(classifier(before), before, needed_tokens(before, SEEN))
    old, new = tokens(before, UNSEEN), tokens(after, UNSEEN)
    assert old != new
    assert not any("<unk>" in row for row in [*old, *new])
    assert sum(map(len, new)) > sum(map(len, old))
    foreign = "☃ été"
    assert ("<unk>" in tokens(after, [foreign])[0]) == ("<unk>" in tokens(before, [foreign])[0])


def test_ids_keep_their_order_and_special_tokens_follow(before: PreTrainedTokenizerFast) -> None:
    model = classifier(before, bos_token_id=0, eos_token_id=[2, 4])
    smaller, after = keep_tokens(model, before, needed_tokens(before, SEEN))
    vocabulary = after.get_vocab()
    kept = sorted(vocabulary, key=vocabulary.__getitem__)
    assert kept == sorted(kept, key=before.get_vocab().__getitem__)
    assert sorted(vocabulary.values()) == list(range(len(after)))
    row = after("".join(SEEN[:1]))["input_ids"]
    assert (row[0], row[-1]) == (after.bos_token_id, after.eos_token_id)
    assert smaller.config.pad_token_id == after.pad_token_id
    assert smaller.config.eos_token_id == after.convert_tokens_to_ids(["</s>", "<mask>"])


def test_nothing_changes_if_all_tokens_stay(before: PreTrainedTokenizerFast) -> None:
    _, after = keep_tokens(classifier(before), before, range(len(before)))
    assert after.backend_tokenizer.to_str() == before.backend_tokenizer.to_str()


def test_what_a_merged_token_is_made_of_stays_and_nothing_merges_into_what_is_gone() -> None:
    before = wrapped(byte_level_bpe())
    longest = max(before.get_vocab(), key=len)
    _, after = keep_tokens(classifier(before), before, [before.get_vocab()[longest]])
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
    smaller, after = keep_tokens(model, before, needed_tokens(before, [text]))
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
    smaller, after = keep_tokens(model, before, needed_tokens(before, SEEN))
    assert {*after.get_vocab()} == {*SPECIAL, *" ".join(SEEN).split()}
    assert smaller.num_parameters() < model.num_parameters()
    torch.testing.assert_close(logits(smaller, after, SEEN), logits(model, before, SEEN))


def test_the_padding_id_stays_where_positions_are_counted_from_it() -> None:
    before = wrapped(word_piece())
    pad = len(before) - 1
    before.pad_token = before.convert_ids_to_tokens(pad)
    for model_type, stays in (("roberta", True), ("mpnet", True), ("bert", False)):
        model = classifier(before, model_type, max_position_embeddings=pad + MAX_LENGTH)
        smaller, after = keep_tokens(model, before, needed_tokens(before, SEEN))
        assert (smaller.config.pad_token_id == pad) is stays
        assert after.pad_token_id == smaller.config.pad_token_id


def test_a_special_token_that_the_model_was_never_given_stays_beyond_it() -> None:
    before = wrapped(word_piece())
    model = classifier(before, vocab_size=len(before))
    before.add_special_tokens({"cls_token": "<never>"})
    smaller, after = keep_tokens(model, before, needed_tokens(before, SEEN))
    assert after.cls_token_id == smaller.config.vocab_size == len(after) - 1
    torch.testing.assert_close(logits(smaller, after, SEEN), logits(model, before, SEEN))


def test_ids_that_do_not_exist_are_refused() -> None:
    before = wrapped(word_piece())
    with pytest.raises(ModelError, match=f"no token 9999: the tokenizer knows {len(before)}"):
        keep_tokens(classifier(before), before, [9999])
    with pytest.raises(ModelError, match="the model 100"):
        keep_tokens(classifier(before, vocab_size=100), before, [7, 100])


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    class Slow:
        pass

    slow: Any = Slow()
    with pytest.raises(ModelError, match=r"one without a tokenizer\.json.*Possible with: WordPiece, BPE"):
        needed_tokens(slow, SEEN)


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    context = make_context(tmp_path / "pruned")
    splits = {"train": SEEN[:30], "dev": [*SEEN[30:], *UNSEEN[:10]], "test": UNSEEN[10:]}
    targets = np.random.default_rng(0).integers(0, 2, (100, len(LABELS))).astype(np.uint8)
    made = {name: Split(tuple(texts), targets[: len(texts)]) for name, texts in splits.items()}
    return replace(context, data=replace(context.data, splits=made))


@pytest.fixture
def parent(tmp_path: Path) -> Artifact:
    artifact = write_tiny_model(tmp_path / "baseline", "bert")
    before = wrapped(word_piece(), "token_type_ids")
    classifier(before).save_pretrained(artifact.folder)
    before.save_pretrained(artifact.folder)
    return artifact


def test_the_stage_writes_an_artifact_that_says_what_went(parent: Artifact, context: RunContext) -> None:
    pruned = Artifact.load(vocabulary.run(parent, PRUNE, context).folder, verify=True)
    old, _ = load_artifact(parent.folder)
    new, model = load_artifact(pruned.folder)
    details = pruned.manifest.details
    assert details["tokens"] == {"before": len(old), "after": len(new)}
    assert details["parameters"] == model.num_parameters()
    assert details["texts"] == 50
    # Half of dev has words that train lacks.
    assert 0 < details["dev_share_changed"] <= 0.5
    assert pruned.manifest.signature.max_length == parent.manifest.signature.max_length
    assert pruned.manifest.signature.pad_token_id == new.pad_token_id
    assert [entry["stage"] for entry in pruned.manifest.lineage] == ["finetune", "prune"]
    assert pruned.manifest.random_weights
    assert tokens(new, UNSEEN[:10]) == tokens(old, UNSEEN[:10])  # dev counts as well


def test_texts_of_further_files_keep_their_tokens(parent: Artifact, context: RunContext, tmp_path: Path) -> None:
    file = tmp_path / "more.txt"
    file.write_text("\n".join(UNSEEN), encoding="utf-8")
    config = PRUNE.model_copy(update={"corpora": (str(file),)})
    pruned = vocabulary.run(parent, config, context)
    old, new = load_artifact(parent.folder)[0], load_artifact(pruned.folder)[0]
    assert tokens(new, UNSEEN) == tokens(old, UNSEEN)
    assert pruned.manifest.details["dev_share_changed"] == 0


def test_unseen_tokens_stay_until_few_classes_would_change(parent: Artifact, context: RunContext) -> None:
    kept = {}
    for tolerance in (None, 0.01):
        target = context.folder / str(tolerance)
        target.mkdir()
        config = PRUNE.model_copy(update={"tolerance": tolerance})
        details = vocabulary.run(parent, config, replace(context, folder=target)).manifest.details
        assert details["dev_share_changed"] <= (tolerance or 1)
        kept[tolerance] = details["tokens"]["after"]
    assert kept[None] < kept[0.01]


def test_a_file_that_is_not_there_is_refused(parent: Artifact, context: RunContext) -> None:
    with pytest.raises(DataError, match=r"absent\.txt cannot be read"):
        vocabulary.run(parent, PRUNE.model_copy(update={"corpora": ("absent.txt",)}), context)


def test_a_text_that_would_be_cut_otherwise_stops_the_stage(parent: Artifact, context: RunContext) -> None:
    """``12☃`` is unknown as a whole, because after ``12`` nothing fits; without ``12`` it is ``1`` and ``##2☃``."""
    before = wrapped(word_piece())
    state = json.loads(before.backend_tokenizer.to_str())
    vocabulary_ = state["model"]["vocab"]
    for token in ("1", "3", "12", "##2☃"):
        vocabulary_.setdefault(token, len(vocabulary_))
    before = wrapped(Tokenizer.from_str(json.dumps(state)), "token_type_ids")
    classifier(before).save_pretrained(parent.folder)
    before.save_pretrained(parent.folder)
    train = context.data.splits["train"]
    odd = Split(("32☃", "12☃", *train.texts), np.zeros((32, 3), dtype=np.uint8))
    assert tokens(before, ["12☃"]) == [["<s>", "<unk>", "</s>"]]
    data = replace(context.data, splits={**context.data.splits, "train": odd})
    with pytest.raises(StageError, match="'12☃' is cut otherwise"):
        vocabulary.run(parent, PRUNE, replace(context, data=data))

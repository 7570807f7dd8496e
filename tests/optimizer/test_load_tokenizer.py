"""Tokenizers as checkpoints bring them: odd ones work as was meant, and what cannot be served is refused early."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from bantam.artifact import Artifact
from bantam.errors import ModelError
from benchmarks.architectures.toy import TOKENS, WORDS, tokenizer
from optimizer import adopt
from optimizer.config import AdoptConfig
from optimizer.load.tokenizer import columns, load_tokenizer
from optimizer.logits import encode as encode_as_served
from optimizer.reference import Reference
from optimizer.training.classifier import encode, load_checkpoint, max_length
from tests.optimizer.moods import context_in
from tests.optimizer.tiny_models import CONFIGS
from tests.optimizer.toy_classifiers import (
    LABELS,
    PAIRS,
    TEXTS,
    change_json,
    checkpoint,
    dataset,
    write_classifier,
)

LONG = " ".join(WORDS * 20)


def loaded(folder: Path) -> tuple[PreTrainedTokenizerBase, Any]:
    return load_checkpoint(checkpoint(folder), dataset("single_label", LABELS))


def adopted(folder: Path, into: Path, *, pair: bool = False) -> Artifact:
    data = dataset("single_label", LABELS, pair=pair)
    return adopt.run(None, AdoptConfig(name="baseline"), context_in(into, data, checkpoint(folder)))


@pytest.mark.parametrize(("pad_token_id", "longest"), [(0, 129), (1, 128)])
def test_m06_positions_that_begin_after_the_padding_leave_fewer_tokens(
    tmp_path: Path, pad_token_id: int, longest: int
) -> None:
    folder = write_classifier(tmp_path / "toy", "roberta", max_position_embeddings=130, pad_token_id=pad_token_id)
    change_json(folder / "tokenizer_config.json", model_max_length=None)
    tokens, model = loaded(folder)
    # The tokenizer's own padding token says which id is left out, as it is given to the model.
    assert tokens.pad_token_id == 0
    assert max_length(tokens, model, 512) == longest
    artifact = adopted(folder, tmp_path)
    assert artifact.manifest.signature.max_length == longest
    assert Reference.load(artifact.folder).probabilities([LONG]).shape == (1, 2)


@pytest.mark.parametrize(
    ("model_type", "changes", "longest"),
    [
        ("bert", {}, 64),
        ("mpnet", {"max_position_embeddings": 66}, 64),
        ("deberta-v2", {}, 64),
        ("bloom", {}, 512),
        ("gpt2", {}, 64),
    ],
)
def test_the_longest_input_is_the_models_own(
    tmp_path: Path, model_type: str, changes: dict[str, Any], longest: int
) -> None:
    config = AutoConfig.for_model(model_type, **{"vocab_size": 200, **CONFIGS[model_type], **changes})
    model = AutoModelForSequenceClassification.from_config(config)
    assert max_length(tokenizer(model_max_length=10**30), model, 512) == longest
    assert max_length(tokenizer(model_max_length=30), model, 512) == 30
    assert max_length(tokenizer(model_max_length=10**30), model, 20) == 20


def write_sentencepiece(folder: Path, name: str) -> None:
    """A SentencePiece model of the toys' words, as the only file of a tokenizer."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 50),
        model_writer=made,
        vocab_size=60,
        minloglevel=2,
        hard_vocab_limit=False,
        user_defined_symbols=["[CLS]", "[SEP]", "[MASK]", "<pad>"],  # as ALBERT has them
    )
    (folder / name).write_bytes(made.getvalue())


@pytest.mark.parametrize(
    ("model_type", "file"),
    [
        ("deberta-v2", "spm.model"),
        ("xlm-roberta", "sentencepiece.bpe.model"),
        ("albert", "spiece.model"),
        ("llama", "tokenizer.model"),
    ],
)
def test_m07_a_sentencepiece_model_is_tokenizer_enough(tmp_path: Path, model_type: str, file: str) -> None:
    folder = write_classifier(tmp_path / "toy", model_type, vocab_size=200)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    write_sentencepiece(folder, file)
    (folder / "tokenizer_config.json").write_text("{}")
    artifact = adopted(folder, tmp_path)
    signature = artifact.manifest.signature
    reference = Reference.load(artifact.folder)
    (batch,) = encode_as_served(artifact.folder, signature, ["i love this wonderful day"])
    expected = reference.tokenizer("i love this wonderful day")["input_ids"]
    assert batch["input_ids"][0].tolist() == expected
    assert len(set(expected)) > 4, "the words are known"


def test_m08_a_tokenizer_that_is_python_alone_is_refused_before_any_training(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy", "roberta", vocab_size=200)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    change_json(folder / "config.json", tokenizer_class="BertweetTokenizer")
    (folder / "vocab.txt").write_text("\n".join(f"{word} 1" for word in WORDS))
    (folder / "bpe.codes").write_text("l o 10\n")
    with pytest.raises(
        ModelError, match=r"its tokenizer \(BertweetTokenizer\) exists in Python only; expected one that"
    ):
        loaded(folder)


@pytest.mark.parametrize("known", [0, None])
def test_m09_a_tokenizer_without_special_tokens_gets_a_padding_token(tmp_path: Path, known: int | None) -> None:
    folder = write_classifier(tmp_path / "toy")
    change_json(folder / "tokenizer_config.json", pad_token=None, unk_token=None, cls_token=None, sep_token=None)
    change_json(folder / "config.json", pad_token_id=known)
    assert loaded(folder)[0].pad_token == "[PAD]"
    artifact = adopted(folder, tmp_path)
    reference = Reference.load(artifact.folder)
    together, alone = reference.probabilities(TEXTS), [reference.probabilities([text])[0] for text in TEXTS]
    assert abs(together - alone).max() < 1e-6


def test_m10_tokens_without_an_embedding_are_named(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy")
    tokens = tokenizer()
    tokens.add_tokens(["kettle_token", "today_token"])
    tokens.save_pretrained(folder)
    count = len(TOKENS)
    with pytest.raises(
        ModelError,
        match=rf"has 2 tokens \('kettle_token', 'today_token'\) from id {count} on, and the model has {count} emb",
    ):
        loaded(folder)


def test_m11_texts_are_cut_where_the_tokenizer_cuts_them(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy")
    tokenizer(truncation_side="left", model_max_length=16).save_pretrained(folder)
    artifact = adopted(folder, tmp_path)
    assert (artifact.manifest.signature.truncation_side, artifact.manifest.signature.max_length) == ("left", 16)
    end = f"{LONG} scared"
    (batch,) = encode_as_served(artifact.folder, artifact.manifest.signature, [end])
    reference = Reference.load(artifact.folder).tokenizer(end, truncation=True, max_length=16)["input_ids"]
    assert batch["input_ids"][0].tolist() == reference
    assert reference[-2] == TOKENS.index("scared")


def test_m16_a_tokenizer_of_a_newer_version_is_said_to_be_that(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy")
    change_json(folder / "tokenizer.json", model={"type": "WordPieceNext", "vocab": {}})
    with pytest.raises(
        ModelError, match=r"cannot be loaded as a tokenizer: .*\nExpected files that tokenizers 0\."
    ) as got:
        loaded(folder)
    assert len(str(got.value).splitlines()) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": "1.0"}'])
def test_a_damaged_tokenizer_is_a_model_error(tmp_path: Path, content: str) -> None:
    folder = write_classifier(tmp_path / "toy")
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"cannot be loaded as a tokenizer: "):
        load_tokenizer(folder)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_classifier(tmp_path / "toy")

    def lacking(*args: Any, **kwargs: Any) -> None:
        raise ImportError("requires the protobuf library but it was not found")

    monkeypatch.setattr("optimizer.load.tokenizer.AutoTokenizer.from_pretrained", lacking)
    with pytest.raises(ModelError, match=r"requires the protobuf library.*\nInstall the library that it names"):
        load_tokenizer(folder)


def test_pairs_are_two_columns_and_rows_are_what_is_served(tmp_path: Path) -> None:
    assert columns(TEXTS) == [list(TEXTS)]
    assert columns(PAIRS) == [list(TEXTS), list(TEXTS[::-1])]
    folder = write_classifier(tmp_path / "toy")
    artifact = adopted(folder, tmp_path, pair=True)
    assert artifact.manifest.signature.pair
    data = dataset("single_label", LABELS, pair=True)
    rows = encode(*loaded(folder), data.splits["train"], 512)
    served = encode_as_served(artifact.folder, artifact.manifest.signature, PAIRS)
    for row, batch in zip(rows, served, strict=True):
        assert {name: array[0].tolist() for name, array in batch.items()} == {
            name: row[name] for name in ("input_ids", "attention_mask", "token_type_ids")
        }
    assert 1 in rows[0]["token_type_ids"]


def test_a_regression_has_one_number_a_row(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path / "toy", labels=("score",), task="regression")
    data = dataset("regression", ("stars",))
    rows = encode(*load_checkpoint(checkpoint(folder), data), data.splits["train"], 512)
    assert [row["labels"] for row in rows] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert json.loads((folder / "config.json").read_text())["problem_type"] == "regression"

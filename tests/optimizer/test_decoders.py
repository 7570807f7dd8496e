"""Classifiers that read the last token: a batch scores as its texts one by one, whatever they are padded with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from bantam.artifact import Artifact
from bantam.memory import with_peak
from benchmarks.architectures import tiny
from optimizer import adopt, export
from optimizer.config import AdoptConfig, ExportConfig
from optimizer.load.model import load_model
from optimizer.reference import Reference
from optimizer.slices import tokens_of
from optimizer.training.classifier import load_checkpoint
from serving.backend.engine import Engine
from tests.optimizer.moods import context_in
from tests.optimizer.toy_classifiers import LABELS, checkpoint, dataset

BYTES = pre_tokenizers.ByteLevel.alphabet()
LETTERS = "▁abcdefghijklmnopqrstuvwxyz"
TEXTS = (
    "a",
    "this one is of a middling length",
    "",
    "an end of text within <|end|> and </s> the text",
    "a text that ends with it<|end|>",
    "or with another one</s>",
    "or with what is rare<unk>",
    "<|end|>",
    "<|end|><|end|></s>",
    "unknown 𓂀",
    "the longest of all these texts, which every other one is padded to",
)
"""Of several lengths; some hold, end with or are nothing but what other texts are padded with."""


def byte_level(*, ends: bool = False, named: bool = False) -> Tokenizer:
    """As GPT-2's: bytes, and one special token."""
    known = ["<|end|>", *sorted(BYTES), *(["<|right_pad_id|>"] if named else [])]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(known)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if ends:
        backend.post_processor = processors.TemplateProcessing(single="$A <|end|>", special_tokens=[("<|end|>", 0)])
    return backend


def pieces(*, all_bytes: bool = True, ends: bool = False) -> Tokenizer:
    """As Llama's SentencePiece model: unknown, start and end; characters, and bytes for all others."""
    known = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256) if all_bytes), *LETTERS]
    vocabulary = {token: i for i, token in enumerate(known)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=all_bytes))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if ends else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return backend


def one_special(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


def three_special(backend: Tokenizer, **roles: str) -> PreTrainedTokenizerFast:
    roles |= {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "bytes": lambda: one_special(byte_level()),
    "pieces": lambda: three_special(pieces()),
    "each text ends with padding": lambda: three_special(pieces(ends=True), pad_token="</s>"),
}
ARCHITECTURES = {
    **dict.fromkeys(("gpt2", "gpt_neox", "opt", "bloom", "falcon", "stablelm", "qwen2", "qwen3", "phi3"), "bytes"),
    **dict.fromkeys(("llama", "mistral"), "pieces"),
    **dict.fromkeys(("gemma", "gemma3_text"), "each text ends with padding"),
}


def write(folder: Path, model_type: str, tokens: PreTrainedTokenizerFast, **changes: Any) -> Path:
    """A classifier without a padding token, as its author trained it one text at a time."""
    sizes = {**tiny.settings(model_type), "vocab_size": len(tokens), "pad_token_id": None, **changes}
    labels = {label: i for i, label in enumerate(LABELS)}
    config = AutoConfig.for_model(model_type, **sizes, num_labels=len(LABELS), label2id=labels)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def adopted(folder: Path, into: Path) -> Artifact:
    context = context_in(into, dataset("single_label", LABELS), checkpoint(folder))
    return adopt.run(None, AdoptConfig(name="baseline"), context)


def alone(model: Reference, texts: tuple[str, ...] = TEXTS) -> np.ndarray:
    return np.concatenate([model.probabilities([text]) for text in texts])


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_a_batch_scores_as_its_texts_alone_padded_on_either_side(model_type: str, tmp_path: Path) -> None:
    folder = write(tmp_path / model_type, model_type, KINDS[ARCHITECTURES[model_type]]())
    model = Reference.load(adopted(folder, tmp_path).folder)
    expected = alone(model)
    assert expected.std(axis=0).min() > 0.01, "texts differ"
    for side in ("right", "left"):
        model.tokenizer.padding_side = side
        assert np.abs(model.probabilities(TEXTS) - expected).max() < 1e-4


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_the_padding_token_moves_no_score_of_a_text_alone(model_type: str, tmp_path: Path) -> None:
    """A text that the author scores alone, with no padding token at all, has the same scores."""
    folder = write(tmp_path / model_type, model_type, KINDS[ARCHITECTURES[model_type]]())
    model = Reference.load(adopted(folder, tmp_path).folder)
    texts = tuple(text for text in TEXTS if text and not text.endswith(str(model.tokenizer.pad_token)))
    assert len(texts) >= 6
    tokens = PreTrainedTokenizerFast.from_pretrained(folder)
    assert tokens.pad_token is None
    author = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        batches = [tokens(text, truncation=True, max_length=64, return_tensors="pt") for text in texts]
        scores = [author(**batch).logits.softmax(-1)[0].numpy() for batch in batches]
    assert np.abs(alone(model, texts) - scores).max() < 1e-6


PADDED_WITH: dict[str, tuple[Callable[[], PreTrainedTokenizerFast], dict[str, Any], str, int]] = {
    "end of text": (lambda: one_special(byte_level()), {}, "<|end|>", 0),
    "unknown, where all bytes are known": (lambda: three_special(pieces()), {}, "<unk>", 0),
    "start, where texts may end with unknown": (lambda: three_special(pieces(all_bytes=False)), {}, "<s>", 0),
    "unknown, where it is never last": (lambda: three_special(pieces(all_bytes=False, ends=True)), {}, "<unk>", 0),
    "what is called so": (lambda: one_special(byte_level(named=True)), {}, "<|right_pad_id|>", 0),
    "the config's": (lambda: three_special(pieces()), {"pad_token_id": 2}, "</s>", 0),
    "a row that is left": (lambda: one_special(byte_level(ends=True)), {"vocab_size": 260}, "<pad>", 0),
    "a new row": (lambda: one_special(byte_level(ends=True)), {}, "<pad>", 1),
}


@pytest.mark.parametrize("kind", PADDED_WITH)
def test_a_tokenizer_without_a_padding_token_gets_one_that_no_text_ends_with(kind: str, tmp_path: Path) -> None:
    make, changes, expected, rows = PADDED_WITH[kind]
    folder = write(tmp_path / "toy", "llama", make(), **changes)
    before = AutoModelForSequenceClassification.from_pretrained(folder)
    said: list[str] = []
    tokens, model = load_checkpoint(checkpoint(folder), dataset("single_label", LABELS), log=said.append)
    assert (tokens.pad_token, model.config.pad_token_id) == (expected, tokens.pad_token_id)
    assert said == [f"{type(tokens).__name__} has no padding token; texts are padded with {expected}"]
    table, old = (each.get_input_embeddings().state_dict()["weight"] for each in (model, before))
    assert table.shape[0] == old.shape[0] + rows == model.config.vocab_size
    assert torch.equal(table[: len(old)], old)
    reference = Reference.load(adopted(folder, tmp_path).folder)
    assert np.abs(reference.probabilities(TEXTS) - alone(reference)).max() < 1e-4


@pytest.mark.parametrize("positions", [64, 131_072])
def test_longer_texts_are_cut_and_counted_whatever_the_context(positions: int, tmp_path: Path) -> None:
    folder = write(tmp_path / "toy", "llama", three_special(pieces()), max_position_embeddings=positions)
    artifact = adopted(folder, tmp_path)
    longest = min(positions, 512)
    assert artifact.manifest.signature.max_length == longest
    texts = ("a " * 300, "ab" * longest)
    found = tokens_of(artifact.folder / "tokenizer.json", artifact.manifest.signature.max_length, [*texts, "short"])
    assert found.cut == pytest.approx(2 / 3)
    model = Reference.load(artifact.folder)
    ids = model.tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    assert len(ids[1]) == longest
    assert np.abs(model.probabilities(texts) - alone(model, texts)).max() < 1e-4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts anew")
def test_shards_in_bf16_take_their_size_in_fp32_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "toy", "llama", three_special(pieces()))
    load_model(folder)  # and with it what it imports
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": 1000}
    config = AutoConfig.for_model("llama", **sizes, num_attention_heads=8)
    written = AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16)
    written.save_pretrained(tmp_path / "large", max_shard_size="20MB")
    size = 4 * written.num_parameters() / 1e6
    assert len([*(tmp_path / "large").glob("model-*-of-*.safetensors")]) >= 4
    before = with_peak(lambda: None)[1]
    model, peak = with_peak(lambda: load_model(tmp_path / "large"))
    assert model.dtype == torch.float32
    assert size < peak - before < 1.7 * size, "beside it, the files that are mapped: half of that"


EXPORTED = ("gpt2", "bloom", "gemma3_text")
"""Positions from a table, by distance (ALiBi) and by rotation, with full attention and a sliding window."""


@pytest.mark.parametrize("model_type", EXPORTED)
def test_the_engine_scores_a_batch_as_transformers_scores_its_texts_alone(model_type: str, tmp_path: Path) -> None:
    parent = adopted(write(tmp_path / "toy", model_type, KINDS[ARCHITECTURES[model_type]]()), tmp_path / "hf")
    expected = alone(Reference.load(parent.folder, threads=1))
    for artifact in exported(parent, tmp_path):
        assert artifact.manifest.compute.batch_invariant
        engine = Engine(artifact.folder, threads=1)
        together = engine.probabilities(TEXTS)
        assert np.abs(together - expected).max() < 1e-4
        assert np.abs(together - [engine.probabilities([text])[0] for text in TEXTS]).max() < 1e-4


def exported(parent: Artifact, folder: Path) -> tuple[Artifact, Artifact]:
    """In ONNX and in OpenVINO IR."""
    into = context_in(folder / "onnx", dataset("single_label", LABELS), checkpoint(folder), {"baseline": parent})
    onnx = export.run(parent, ExportConfig(name="onnx", parent="baseline", format="onnx"), into)
    into = context_in(folder / "openvino", into.data, into.checkpoint, {"onnx": onnx})
    return onnx, export.run(onnx, ExportConfig(name="openvino", parent="onnx", format="openvino"), into)

"""Tiny classifiers with random weights, one of each architecture that Bantam is tested with, as finished artifacts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bantam.artifact import Artifact, Compute, Manifest, Signature, seal
from optimizer.catalog import Checkpoint
from optimizer.data import Dataset, Split
from optimizer.stage import RunContext

LABELS = ("joy", "anger", "fear")
VOCABULARY = 200
MAX_LENGTH = 64
_SIZE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_POSITIONS = {"max_position_embeddings": MAX_LENGTH}
_DECODER = {**_SIZE, **_POSITIONS, "num_key_value_heads": 2, "head_dim": 8}
_IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}

CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_SIZE, **_POSITIONS},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, **_POSITIONS},
    # These two count positions from the padding id plus one.
    "roberta": {**_SIZE, "max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 1, "type_vocab_size": 1},
    "xlm-roberta": {**_SIZE, "max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 1, "type_vocab_size": 1},
    "albert": {**_SIZE, **_POSITIONS, "embedding_size": 16},
    "electra": {**_SIZE, **_POSITIONS, "embedding_size": 16},
    "mpnet": {**_SIZE, "max_position_embeddings": MAX_LENGTH + 2, "pad_token_id": 1},
    "deberta-v2": {
        **_SIZE,
        **_POSITIONS,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "modernbert": {
        **_SIZE,
        **_POSITIONS,
        **_IDS,
        "cls_token_id": 2,
        "sep_token_id": 3,
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
    },
    "fnet": {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, **_POSITIONS, "pad_token_id": 0},
    "llama": {**_DECODER, **_IDS},
    "mistral": {**_DECODER, **_IDS, "sliding_window": 16},
    "qwen3": {**_DECODER, **_IDS},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": MAX_LENGTH, **_IDS},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, **_IDS},
}
_WITH_TOKEN_TYPES = ("bert", "albert", "electra", "fnet")


def write_tiny_model(
    folder: Path,
    model_type: str,
    *,
    task: str = "multi_label",
    labels: tuple[str, ...] = LABELS,
    pair: bool = False,
    seed: int = 0,
) -> Artifact:
    """A Hugging Face folder of this architecture: 2 layers, 32 wide, random weights large enough for logits to vary."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers import logging as transformers_logging

    transformers_logging.disable_progress_bar()

    config = AutoConfig.for_model(
        model_type,
        **{"vocab_size": VOCABULARY, **CONFIGS[model_type]},
        num_labels=len(labels),
        problem_type=task if task == "regression" else f"{task}_classification",
    )
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    _write_tokenizer(folder)
    inputs = ("input_ids",) if model_type == "fnet" else ("input_ids", "attention_mask")
    manifest = Manifest(
        stage="finetune",
        key="0" * 64,
        layout="hf",
        signature=Signature(
            task,
            labels,
            (*inputs, "token_type_ids") if model_type in _WITH_TOKEN_TYPES else inputs,
            max_length=MAX_LENGTH,
            pad_token_id=config.pad_token_id,
            pair=pair,
        ),
        compute=Compute(batch_invariant="attention_mask" in inputs),
        deployable=("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        lineage=({"stage": "finetune", "key": "0" * 64, "config": {}},),
        random_weights=True,
    )
    return Artifact(folder, seal(folder, manifest))


def write_tiny_classifier(folder: Path, model_type: str) -> Artifact:
    """As write_tiny_model, with a tokenizer that AutoTokenizer loads.

    Without a class of its own, AutoTokenizer would take the architecture's, which expects other files.
    """
    from transformers import AutoConfig, PreTrainedTokenizerFast

    artifact = write_tiny_model(folder, model_type)
    backend = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        model_max_length=MAX_LENGTH,
        model_input_names=list(artifact.manifest.signature.inputs),
        unk_token="<unk>",
        pad_token=backend.convert_ids_to_tokens(AutoConfig.from_pretrained(folder).pad_token_id),
    )
    tokenizer.save_pretrained(folder)
    return Artifact(folder, seal(folder, artifact.manifest))


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(VOCABULARY - 4))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": MAX_LENGTH}), encoding="utf-8")


def make_context(folder: Path, *, texts: int = 40) -> RunContext:
    """What a stage gets that writes into ``folder`` (made if absent); the train split is random words."""
    rng = np.random.default_rng(0)
    words = [" ".join(f"w{i}" for i in rng.integers(0, VOCABULARY - 4, rng.integers(1, 30))) for _ in range(texts)]
    split = Split(tuple(words), rng.integers(0, 2, (texts, len(LABELS))).astype(np.uint8))
    data = Dataset(
        name="random words",
        task="multi_label",
        labels=LABELS,
        splits={"train": split, "dev": split, "test": split},
        digest="0" * 64,
        licence="CC0-1.0",
        source="made up",
        notes=(),
    )
    checkpoint = Checkpoint(
        name="tiny", folder=folder, source="made up", revision="local", licence="CC0-1.0", digest="0" * 64
    )
    scratch = folder.with_name(folder.name + "-scratch")
    for path in (folder, scratch):
        path.mkdir(parents=True)
    return RunContext(
        folder=folder,
        scratch=scratch,
        key="1" * 64,
        data=data,
        checkpoint=checkpoint,
        shared=scratch.parent / "shared",
        threads=1,
    )


def with_weights_beside(parent: Artifact, folder: Path) -> Artifact:
    """A copy of an ONNX model in ``folder``, its weights in a file beside the graph."""
    shutil.copytree(parent.folder, folder)
    (folder / "model.onnx").unlink()
    model = onnx.load(parent.folder / "model.onnx")
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    manifest = replace(parent.manifest, deployable=(*parent.manifest.deployable, "model.onnx.data"))
    return Artifact(folder, seal(folder, manifest))

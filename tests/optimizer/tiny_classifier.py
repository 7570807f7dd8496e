"""Tiny models whose tokenizer loads with AutoTokenizer, for stages that read whole classifiers."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, PreTrainedTokenizerFast

from optimizer.artifact import Artifact, seal
from tests.optimizer.tiny_models import MAX_LENGTH, write_tiny_model


def write_tiny_classifier(folder: Path, model_type: str) -> Artifact:
    """As write_tiny_model; without a class, AutoTokenizer would take the architecture's, which expects other files."""
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

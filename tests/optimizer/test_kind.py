"""What is an encoder and what a decoder, as transformers has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from optimizer.catalog import Checkpoint
from optimizer.load.kind import _DECODERS, kind

NOT_ONLY = {"bigbird_pegasus", "plbart", "xlnet"}
"""Two have an encoder beside the decoder; XLNet's tokens see all others where nothing is to be predicted."""


def test_decoders_are_transformers_causal_classifiers() -> None:
    causal = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() & MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.keys()
    assert causal - MODEL_FOR_MASKED_LM_MAPPING_NAMES.keys() - NOT_ONLY == _DECODERS


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("bert", "encoder"),
        ("t5", "encoder"),
        ("gemma3_text", "decoder"),
        ("gpt2", "decoder"),
        ("new", "encoder"),
    ],
)
def test_the_type_tells(tmp_path: Path, model_type: str, expected: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    assert kind(Checkpoint("it", tmp_path, "test", "local", "none", "0" * 64)) == expected


@pytest.mark.parametrize(("both_ways", "expected"), [(True, "encoder"), ("vision", "decoder"), (False, "decoder")])
def test_a_decoder_whose_tokens_see_those_behind_them_is_an_encoder(
    tmp_path: Path, both_ways: bool | str, expected: str
) -> None:
    config = {"model_type": "gemma3_text", "use_bidirectional_attention": both_ways}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert kind(Checkpoint("it", tmp_path, "test", "local", "none", "0" * 64)) == expected

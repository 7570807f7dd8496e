"""Blocks, projections, heads and neurons are found in every architecture, and their cost is counted right."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from bantam.errors import ModelError
from optimizer.architecture import anatomy, blocks, flops
from tests.optimizer.tiny_models import CONFIGS, LABELS, VOCABULARY

KNOWN = ("bert", "distilbert", "roberta", "xlm-roberta", "electra", "mpnet", "llama", "mistral", "qwen3")
SHARED = ("albert",)


def make(model_type: str, **changes: object) -> PreTrainedModel:
    config = {"vocab_size": VOCABULARY, **CONFIGS[model_type], "num_labels": len(LABELS), **changes}
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.for_model(model_type, **config), attn_implementation="eager"
    )
    assert isinstance(model, PreTrainedModel)
    model.eval()
    return model


@pytest.mark.parametrize("model_type", KNOWN)
def test_every_weight_of_a_block_but_its_norms_has_a_place(model_type: str) -> None:
    model = make(model_type)
    parts = anatomy(model)
    assert (parts.heads, parts.head_dim, parts.hidden, parts.neurons, len(parts.layers)) == (4, 8, 32, 64, 2)
    assert parts.key_value_heads == (2 if "num_key_value_heads" in CONFIGS[model_type] else 4)
    for layer, block in zip(parts.layers, blocks(model), strict=True):
        assert layer.module is block
        named = {layer.query, layer.key, layer.value, layer.output, *layer.up, layer.down}
        assert named == {part for part in block.modules() if isinstance(part, nn.Linear)}
        keys = (parts.key_value_heads * parts.head_dim, parts.hidden)
        assert tuple(layer.query.weight.shape) == (parts.heads * parts.head_dim, parts.hidden)
        assert tuple(layer.key.weight.shape) == tuple(layer.value.weight.shape) == keys
        assert tuple(layer.output.weight.shape) == (parts.hidden, parts.heads * parts.head_dim)
        assert all(tuple(up.weight.shape) == (parts.neurons, parts.hidden) for up in layer.up)
        assert tuple(layer.down.weight.shape) == (parts.hidden, parts.neurons)


@pytest.mark.parametrize("model_type", [name for name in CONFIGS if name not in SHARED])
def test_a_block_returns_hidden_states_in_order(model_type: str) -> None:
    model = make(model_type)
    seen: list[torch.Tensor] = []
    for block in blocks(model):
        block.register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
    ids = torch.arange(4, 14).reshape(2, 5)
    with torch.no_grad():
        outputs = model(ids, output_hidden_states=True)
    assert [tuple(one.shape) for one in seen] == [(2, 5, 32)] * 2
    assert torch.equal(seen[0], outputs.hidden_states[1])


@pytest.mark.parametrize("model_type", [name for name in CONFIGS if name not in KNOWN])
def test_what_cannot_be_taken_apart_is_said(model_type: str) -> None:
    with pytest.raises(ModelError, match=rf"{model_type} model cannot be taken apart.*bert, camembert"):
        anatomy(make(model_type))


@pytest.mark.parametrize("model_type", SHARED)
def test_shared_layers_are_no_blocks(model_type: str) -> None:
    with pytest.raises(ModelError, match="has no lists of so many blocks"):
        blocks(make(model_type))


def test_quantized_projections_are_refused() -> None:
    model = make("bert")
    blocks(model)[1].get_submodule("output").dense = nn.Identity()
    with pytest.raises(ModelError, match=r"output\.dense of BertLayer is a Identity; expected a plain Linear"):
        anatomy(model)


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "mpnet", "llama", "qwen3"])
def test_flops_are_those_that_pytorch_counts(model_type: str) -> None:
    model = make(model_type)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(torch.arange(4, 15).reshape(1, 11))
    counted = counter.get_flop_counts()
    names = {id(part): name for name, part in model.named_modules()}
    own = [f"{type(model).__name__}.{names[id(block)]}" for block in blocks(model)]
    # PyTorch counts a multiply-add as two.
    assert sum(sum(counted[name].values()) for name in own) == 2 * flops(anatomy(model), 11)


@pytest.mark.parametrize(("model_type", "key_value_heads"), [("bert", None), ("qwen3", 1), ("qwen3", None)])
def test_flops_of_other_sizes_are_those_of_such_a_model(model_type: str, key_value_heads: int | None) -> None:
    sizes = {"num_attention_heads": 2, "intermediate_size": 48, "hidden_size": 16}
    if key_value_heads:
        sizes["num_key_value_heads"] = key_value_heads
    smaller = anatomy(make(model_type, **sizes))
    asked = flops(anatomy(make(model_type)), 7, heads=2, neurons=48, hidden=16, key_value_heads=key_value_heads)
    assert asked == flops(smaller, 7) < flops(anatomy(make(model_type)), 7)

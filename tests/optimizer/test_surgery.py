"""Models with parts cut out compute what the whole would without them, and save and load like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerFast
from transformers import logging as transformers_logging

from bantam.errors import BantamError, ModelError, StageError
from optimizer.architecture import anatomy, blocks
from optimizer.config import ExportConfig
from optimizer.export import onnx
from optimizer.surgery import keep_layers, keep_width
from optimizer.surgery.importance import of_blocks
from tests.optimizer.tiny_models import CONFIGS as TINY
from tests.optimizer.tiny_models import LABELS, VOCABULARY, write_tiny_model

# qwen2's config does not know head_dim, but its model reads it.
QWEN2 = {name: value for name, value in TINY["qwen3"].items() if name != "head_dim"}
FALCON = {**TINY["bloom"], "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    **TINY,
    "camembert": TINY["roberta"],
    "qwen2": QWEN2,
    "gemma": TINY["llama"],
    "gemma3_text": {**TINY["llama"], "sliding_window": 4, "sliding_window_pattern": 2},
    "phi3": {**QWEN2, "sliding_window": 4},
    "gpt_neox": {**TINY["bert"], "pad_token_id": 0},
    "opt": {**TINY["bert"], "ffn_dim": 64, "word_embed_proj_dim": 32, "pad_token_id": 1},
    "falcon": FALCON,
    "stablelm": QWEN2,
}
BERTS = ("bert", "camembert", "distilbert", "roberta", "xlm-roberta", "electra", "mpnet")
LLAMAS = ("llama", "mistral", "qwen2", "qwen3")
DECODERS = (*LLAMAS, "gemma", "gemma3_text", "phi3", "gpt2", "gpt_neox", "opt", "bloom", "falcon", "stablelm")
LAYERED = tuple(name for name in CONFIGS if name != "albert")
HEADS, HIDDEN, NEURONS, LAYERS, HEAD_DIM = 4, 32, 64, 4, 8


def make(model_type: str, **changes: Any) -> PreTrainedModel:
    """Of four layers; the weights are large enough for logits to vary, biases and norms are not all zero or one."""
    layers: dict[str, Any] = {
        name: LAYERS for name in ("num_hidden_layers", "n_layers", "n_layer") if name in CONFIGS[model_type]
    }
    sizes = {**CONFIGS[model_type], **layers, **changes}
    config = AutoConfig.for_model(model_type, vocab_size=VOCABULARY, num_labels=len(LABELS), **sizes)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    assert isinstance(model, PreTrainedModel)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.eval()
    return model


def logits(model: PreTrainedModel) -> Tensor:
    """Of three texts of 9, 6 and 1 tokens."""
    ids = torch.randint(4, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, length in enumerate((9, 6, 1)):
        mask[row, length:] = 0
    ids[mask == 0] = model.config.pad_token_id
    with torch.no_grad():
        result = model(ids) if model.config.model_type == "fnet" else model(ids, attention_mask=mask)
    assert isinstance(result.logits, Tensor)
    return result.logits


def reloaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    again, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert isinstance(again, PreTrainedModel)
    again.eval()
    return again


def word_level() -> PreTrainedTokenizerFast:
    """The words w0, w1 and so on."""
    words = ["<pad>", "<unk>", *(f"w{i}" for i in range(VOCABULARY - 2))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")


def skip(model: PreTrainedModel, layers: set[int]) -> PreTrainedModel:
    """Let these layers return their input."""

    def identity(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *out[1:]) if isinstance(out, tuple) else states

    for index, block in enumerate(blocks(model)):
        if index in layers:
            block.register_forward_hook(identity, with_kwargs=True)
    return model


@torch.no_grad()
def silence(model: PreTrainedModel, heads: list[list[int]], neurons: list[list[int]]) -> PreTrainedModel:
    """Set what comes out of all other heads and neurons to zero."""
    parts = anatomy(model)
    for layer, some, others in zip(parts.layers, heads, neurons, strict=True):
        for head in set(range(parts.heads)) - set(some):
            layer.output.weight[:, head * parts.head_dim : (head + 1) * parts.head_dim] = 0
        layer.down.weight[:, sorted(set(range(parts.neurons)) - set(others))] = 0
    return model


@pytest.mark.parametrize("model_type", LAYERED)
def test_the_layers_kept_compute_what_they_did(model_type: str, tmp_path: Path) -> None:
    whole = make(model_type)
    before = logits(whole)
    small = keep_layers(whole, [0, 2])
    assert len(blocks(small)) == small.config.num_hidden_layers == 2
    assert torch.equal(logits(whole), before)
    expected = logits(skip(whole, {1, 3}))
    torch.testing.assert_close(logits(small), expected, rtol=1e-5, atol=1e-5)
    assert (expected - before).abs().max() > 1e-3
    assert torch.equal(logits(reloaded(small, tmp_path)), logits(small))


def test_layer_types_follow_their_layers() -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    small = keep_layers(make("qwen3", layer_types=kinds, use_sliding_window=True, sliding_window=4), [1, 3])
    assert small.config.layer_types == ["sliding_attention", "full_attention"]
    gemma = keep_layers(make("gemma3_text"), [1, 2])
    assert gemma.config.layer_types == ["full_attention", "sliding_attention"]
    attention: list[Any] = [block.self_attn for block in blocks(gemma)]
    assert [each.layer_idx for each in attention] == [0, 1]
    assert keep_layers(make("deberta-v2", num_hidden_layers=2), [1]).config.pos_att_type == ["p2c", "c2p"]


@pytest.mark.parametrize("model_type", DECODERS)
def test_a_layer_that_changes_nothing_has_no_influence(model_type: str) -> None:
    found = of_blocks(skip(make(model_type), {1}), word_level(), ["w1 w2 w3 w4 w5", "w9", "w7 w8"])
    assert found[1] == pytest.approx(0, abs=1e-6)
    assert min(found[0], *found[2:]) > 1e-3


def test_a_layer_whose_number_counts_cannot_move() -> None:
    whole = make("gpt2", scale_attn_by_inverse_layer_idx=True)
    assert torch.equal(logits(keep_layers(whole, [0, 1])), logits(skip(whole, {2, 3})))
    with pytest.raises(StageError, match="scale_attn_by_inverse_layer_idx"):
        keep_layers(whole, [0, 2])


def test_a_layer_that_cannot_stand_first_is_told() -> None:
    assert keep_layers(make("modernbert"), [0, 3]).config.layer_types == ["full_attention", "sliding_attention"]
    with pytest.raises(StageError, match=r"has other parts.*layers\.0\.attn_norm\.weight"):
        keep_layers(make("modernbert"), [1, 2])


@pytest.mark.parametrize("model_type", [*BERTS, *LLAMAS])
def test_all_parts_kept_change_nothing(model_type: str) -> None:
    whole = make(model_type)
    every = [list(range(HEADS))] * LAYERS, [list(range(NEURONS))] * LAYERS, list(range(HIDDEN))
    same = keep_width(whole, heads=every[0], neurons=every[1], hidden=every[2])
    assert torch.equal(logits(same), logits(whole))
    assert torch.equal(logits(keep_width(whole)), logits(whole))
    assert same.config.to_dict() == {
        **whole.config.to_dict(),
        **({"head_dim": HEAD_DIM} if model_type == "qwen2" else {}),
    }
    assert not {p.data_ptr() for p in same.parameters()} & {p.data_ptr() for p in whole.parameters()}


@pytest.mark.parametrize("model_type", [*BERTS, *LLAMAS])
def test_without_neurons_as_with_their_outputs_at_zero(model_type: str, tmp_path: Path) -> None:
    whole = make(model_type)
    neurons = [sorted(torch.randperm(NEURONS)[:40].tolist()) for _ in range(LAYERS)]
    small = keep_width(whole, neurons=neurons)
    before = logits(whole)
    expected = logits(silence(whole, [list(range(HEADS))] * LAYERS, neurons))
    torch.testing.assert_close(logits(small), expected, rtol=1e-5, atol=1e-5)
    assert (expected - before).abs().max() > 1e-3
    assert anatomy(small).neurons == 40
    assert small.num_parameters() < whole.num_parameters()
    assert torch.equal(logits(reloaded(small, tmp_path)), logits(small))


@pytest.mark.parametrize("model_type", LLAMAS)
@pytest.mark.parametrize(
    ("heads", "key_value_heads"),
    [([[1, 2], [0, 3], [0, 2], [1, 3]], 2), ([[2, 3], [0, 1], [0, 1], [2, 3]], 1), ([[3], [0], [1], [2]], 1)],
    ids=["one of each group", "whole groups", "one of one group"],
)
def test_without_heads_as_with_their_outputs_at_zero(
    model_type: str, heads: list[list[int]], key_value_heads: int, tmp_path: Path
) -> None:
    whole = make(model_type)
    small = keep_width(whole, heads=heads)
    parts = anatomy(small)
    assert (parts.heads, parts.key_value_heads, parts.head_dim) == (len(heads[0]), key_value_heads, HEAD_DIM)
    before = logits(whole)
    expected = logits(silence(whole, heads, [list(range(NEURONS))] * LAYERS))
    torch.testing.assert_close(logits(small), expected, rtol=1e-5, atol=1e-5)
    assert (expected - before).abs().max() > 1e-3
    assert torch.equal(logits(reloaded(small, tmp_path)), logits(small))


@pytest.mark.parametrize("model_type", [*BERTS, *LLAMAS])
def test_narrower_in_all_ways_holds_the_rows_asked_for(model_type: str, tmp_path: Path) -> None:
    whole = make(model_type)
    each = [[1, 3], [0, 2], [0, 3], [1, 2]]
    heads = [each[0]] * LAYERS if model_type == "mpnet" else each
    neurons = [sorted(torch.randperm(NEURONS)[:24].tolist()) for _ in range(LAYERS)]
    hidden = sorted(torch.randperm(HIDDEN)[: 2 * HEAD_DIM].tolist())
    # electra has a projection between embeddings and blocks only where their sizes differ
    if model_type == "electra":
        whole = make(model_type, embedding_size=12)
    small = keep_width(whole, heads=heads, neurons=neurons, hidden=hidden)
    old, new = anatomy(whole), anatomy(small)
    assert (new.heads, new.head_dim, new.hidden, new.neurons) == (2, HEAD_DIM, 16, 24)
    for index in range(LAYERS):
        rows = [head * HEAD_DIM + row for head in heads[index] for row in range(HEAD_DIM)]
        assert torch.equal(new.layers[index].query.weight, old.layers[index].query.weight[rows][:, hidden])
        assert torch.equal(new.layers[index].output.weight, old.layers[index].output.weight[hidden][:, rows])
        assert torch.equal(new.layers[index].down.weight, old.layers[index].down.weight[hidden][:, neurons[index]])
        for up, whole_up in zip(new.layers[index].up, old.layers[index].up, strict=True):
            assert torch.equal(up.weight, whole_up.weight[neurons[index]][:, hidden])
    embeddings = small.get_input_embeddings(), whole.get_input_embeddings()
    assert isinstance(embeddings[0], nn.Embedding)
    assert isinstance(embeddings[1], nn.Embedding)
    columns = range(12) if model_type == "electra" else hidden
    assert torch.equal(embeddings[0].weight, embeddings[1].weight[:, list(columns)])
    assert logits(small).isfinite().all()
    assert torch.equal(logits(reloaded(small, tmp_path)), logits(small))


def test_electra_without_a_projection_stays_without() -> None:
    small = keep_width(make("electra", embedding_size=HIDDEN), heads=[[0, 1]] * LAYERS, hidden=range(16))
    assert small.config.embedding_size == small.config.hidden_size == 16
    with pytest.raises(StageError, match=r"has other parts.*embeddings_project"):
        keep_width(make("electra", embedding_size=16), heads=[[0, 1]] * LAYERS, hidden=range(16))


@pytest.mark.parametrize("model_type", ["distilbert", "qwen3"])
def test_cuts_follow_one_another(model_type: str) -> None:
    whole = make(model_type)
    neurons = [[1, 5, 9], [0, 2, 4]]
    small = keep_width(keep_layers(whole, [0, 3]), neurons=neurons)
    expected = silence(keep_layers(whole, [0, 3]), [list(range(HEADS))] * 2, neurons)
    torch.testing.assert_close(logits(small), logits(expected), rtol=1e-5, atol=1e-5)


def test_the_new_model_is_what_the_old_one_was() -> None:
    """Its class, dtype, mode and settings; and no random number is drawn from the common stream."""
    whole = AutoModelForSequenceClassification.from_config(
        make("qwen3", id2label={0: "a", 1: "b", 2: "c"}, problem_type="multi_label_classification").config,
        dtype=torch.bfloat16,
        attn_implementation="eager",
    )
    assert whole.training
    state = torch.get_rng_state()
    small = keep_width(keep_layers(whole, [0]), heads=[[0, 2]])
    assert torch.equal(torch.get_rng_state(), state)
    assert type(small) is type(whole)
    assert (small.dtype, small.training, small.device) == (torch.bfloat16, True, whole.device)
    assert small.model.rotary_emb.inv_freq.dtype == torch.float32
    assert small.config._attn_implementation == "eager"
    assert small.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert small.config.problem_type == "multi_label_classification"


@pytest.mark.parametrize(
    ("model_type", "arguments", "error", "message"),
    [
        ("gpt2", {}, ModelError, "gpt2 model cannot be taken apart"),
        ("bert", {"neurons": [[0]] * 3}, StageError, r"one selection for each of 4 layers"),
        ("bert", {"neurons": [[0], [1], [2], [3, 4]]}, StageError, r"got \[1, 1, 1, 2\] of them"),
        ("bert", {"neurons": [[]] * LAYERS}, StageError, r"neurons of layer 0 to keep: got \[\]"),
        ("bert", {"neurons": [[64]] * LAYERS}, StageError, r"got \[64\].*0 to 63"),
        ("bert", {"neurons": [[-1]] * LAYERS}, StageError, r"got \[-1\]"),
        ("bert", {"neurons": [[3, 3]] * LAYERS}, StageError, "none twice"),
        ("bert", {"neurons": [[5, 3]] * LAYERS}, StageError, "ascending"),
        ("bert", {"heads": [[0, 1, 2]] * LAYERS}, StageError, "3 heads of size 8 and 32 hidden.*keep 24"),
        ("bert", {"hidden": range(24)}, StageError, "4 heads of size 8 and 24 hidden.*keep 32"),
        ("qwen3", {"heads": [[0, 1, 2]] * LAYERS}, StageError, "each 2 in a row share keys and values"),
        ("qwen3", {"heads": [[0, 1], [0, 2], [0, 2], [0, 2]]}, StageError, "as many key/value heads in each layer"),
        ("llama", {"hidden": range(30)}, StageError, "num_attention_heads = 4, hidden_size = 30.*not a multiple"),
        (
            "mpnet",
            {"heads": [[0, 1], [0, 1], [0, 1], [0, 2]], "hidden": range(16)},
            StageError,
            r"relative_attention_bias.*same heads in all layers",
        ),
    ],
)
def test_a_selection_that_cannot_be_is_refused(
    model_type: str, arguments: dict[str, Any], error: type[BantamError], message: str
) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        keep_width(make(model_type), **arguments)


@pytest.mark.parametrize("layers", [[], [4], [-1], [1, 0], [2, 2]])
def test_layers_that_are_not_there_are_refused(layers: list[int]) -> None:
    with pytest.raises(StageError, match=r"layers to keep: got .* Expected at least one of 0 to 3, in ascending order"):
        keep_layers(make("bert"), layers)


def test_layers_that_share_weights_cannot_be_taken_out() -> None:
    with pytest.raises(ModelError, match="albert"):
        keep_layers(make("albert"), [0])


def test_a_narrow_model_exports_like_any_other(tmp_path: Path) -> None:
    parent = write_tiny_model(tmp_path / "baseline", "bert")
    whole = AutoModelForSequenceClassification.from_pretrained(parent.folder)
    small = keep_width(keep_layers(whole, [1]), heads=[[0, 1, 3]], neurons=[list(range(7))], hidden=range(24))
    small.save_pretrained(parent.folder)
    details = onnx.write(parent, tmp_path, ExportConfig(name="onnx", stage="export", format="onnx"), fuse=True)
    assert details["fused_attention"] == 1
    session = InferenceSession(tmp_path / "model.onnx")
    ids = np.arange(4, 14).reshape(2, 5)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    with torch.no_grad():
        expected = small(**{name: torch.from_numpy(value) for name, value in inputs.items()}).logits
    np.testing.assert_allclose(session.run(None, inputs)[0], expected.numpy(), atol=1e-5)

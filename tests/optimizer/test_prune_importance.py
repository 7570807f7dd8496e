"""Importance against plain loops: gradients by finite differences and autograd text by text, masks one at a time."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from optimizer.architecture import Anatomy, anatomy, blocks
from optimizer.prune.importance import Batch, Gradients, fisher, gradients, masked, taylor
from optimizer.surgery import keep_width
from optimizer.surgery.importance import by_magnitude, of_blocks
from tests.optimizer.tiny_models import LABELS, VOCABULARY, write_tiny_classifier

TEXTS = (9, 6, 2)


def load(folder: Path, model_type: str) -> PreTrainedModel:
    write_tiny_classifier(folder, model_type)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64)
    assert isinstance(model, PreTrainedModel)
    model.eval()
    return model


@pytest.fixture(params=["bert", "qwen3"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedModel:
    return load(tmp_path, request.param)


def batch_of(lengths: tuple[int, ...] = TEXTS) -> Batch:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, VOCABULARY, (len(lengths), max(lengths)), generator=draw)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    labels = torch.randint(0, 2, (len(lengths), len(LABELS)), generator=draw).double()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def singles(batch: Batch) -> list[Batch]:
    """Each text alone, without padding."""
    rows = [(row, int(batch["attention_mask"][row].sum())) for row in range(len(batch["labels"]))]
    return [
        {
            "input_ids": batch["input_ids"][row : row + 1, :length],
            "attention_mask": batch["attention_mask"][row : row + 1, :length],
            "labels": batch["labels"][row : row + 1],
        }
        for row, length in rows
    ]


def ones(parts: Anatomy) -> tuple[Tensor, Tensor, Tensor]:
    layers = len(parts.layers)
    shapes = ((1, layers, parts.heads), (1, layers, parts.neurons), (1, parts.hidden))
    heads, neurons, hidden = (torch.ones(shape, dtype=torch.float64) for shape in shapes)
    return heads, neurons, hidden


@torch.no_grad()
def slope(model: PreTrainedModel, text: Batch, kind: int, index: tuple[int, ...]) -> float:
    """Of the loss at one mask's 1, by central differences; large ones where the norms compute in fp32, as in qwen3."""
    size = 1e-5 if anatomy(model).tied else 1e-2
    losses = []
    for step in (size, -size):
        masks = ones(anatomy(model))
        masks[kind][index] += step
        with masked(anatomy(model), *masks):
            losses.append(float(model(**text).loss))
    return (losses[0] - losses[1]) / (2 * size)


def test_gradients_of_a_padded_batch_are_those_of_each_text_alone(model: PreTrainedModel) -> None:
    batch = batch_of()
    found = gradients(model, [batch])
    tolerance = 1e-6 if anatomy(model).tied else 2e-3
    for row, text in enumerate(singles(batch)):
        for kind, (values, index) in enumerate(((found.heads, (1, 2)), (found.neurons, (0, 5)), (found.hidden, (7,)))):
            assert float(values[(row, *index)]) == pytest.approx(slope(model, text, kind, (0, *index)), abs=tolerance)
    assert found.heads.abs().min() > 0
    assert found.neurons.shape == (3, 2, 64)


def test_batches_are_put_one_below_the_other(model: PreTrainedModel) -> None:
    batch = batch_of()
    whole, alone = gradients(model, [batch]), gradients(model, singles(batch))
    for a, b in ((whole.heads, alone.heads), (whole.neurons, alone.neurons), (whole.hidden, alone.hidden)):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_mask_of_zero_is_the_part_cut_out(model: PreTrainedModel) -> None:
    parts, batch = anatomy(model), batch_of()
    heads, neurons, hidden = ones(parts)
    neurons[0, 1, [3, 9]] = 0
    kept = [list(range(64)), [i for i in range(64) if i not in (3, 9)]]
    kept[0] = kept[0][:62]
    neurons[0, 0, [62, 63]] = 0
    of_heads = None
    if not parts.tied:
        heads[0, :, :2] = 0
        of_heads = [[2, 3], [2, 3]]
    with masked(parts, heads, neurons, hidden):
        expected = model(**batch).logits
    torch.testing.assert_close(keep_width(model, heads=of_heads, neurons=kept)(**batch).logits, expected)


def test_without_masks_nothing_is_left_behind(model: PreTrainedModel) -> None:
    batch = batch_of()
    with torch.no_grad():
        before = model(**batch).logits
        with masked(anatomy(model), *(0 * mask for mask in ones(anatomy(model)))):
            assert not torch.allclose(model(**batch).logits, before)
        assert torch.equal(model(**batch).logits, before)


def test_taylor_and_fisher_are_means_over_texts() -> None:
    found = Gradients(
        heads=torch.tensor([[[1.0, -2.0]], [[-3.0, 2.0]]]),
        neurons=torch.tensor([[[0.0]], [[4.0]]]),
        hidden=torch.tensor([[1.0], [-1.0]]),
    )
    assert taylor(found).heads.tolist() == [[2.0, 2.0]]
    assert fisher(found).heads.tolist() == [[5.0, 4.0]]
    assert fisher(found).neurons.tolist() == [[8.0]]
    assert taylor(found).hidden.tolist() == [1.0]


def test_magnitude_is_the_sum_of_squares_of_what_goes_with_a_part(model: PreTrainedModel) -> None:
    parts = anatomy(model)
    found = by_magnitude(model)

    def squares(*weights: Tensor) -> float:
        return float(sum(weight.detach().double().square().sum() for weight in weights))

    layer, d = parts.layers[1], parts.head_dim
    head, of_group = slice(3 * d, 4 * d), slice(3 // parts.group * d, (3 // parts.group + 1) * d)
    shared = squares(layer.key.weight[of_group], layer.value.weight[of_group]) / parts.group
    own = squares(layer.query.weight[head], layer.output.weight[:, head])
    assert float(found.heads[1, 3]) == pytest.approx(own + shared)
    assert float(found.neurons[1, 5]) == pytest.approx(
        squares(*(up.weight[5] for up in layer.up), layer.down.weight[:, 5])
    )
    every = [
        (reader.weight[:, 7]) for part in parts.layers for reader in (part.query, part.key, part.value, *part.up)
    ] + [writer.weight[7] for part in parts.layers for writer in (part.output, part.down)]
    assert float(found.hidden[7]) == pytest.approx(squares(*every))
    assert found.heads.shape == (2, 4)


@pytest.mark.parametrize("model_type", ["bert", "qwen3", "gpt2"])
def test_influence_is_the_mean_angle_over_real_tokens(tmp_path: Path, model_type: str) -> None:
    model, texts = load(tmp_path, model_type), ["w1 w2 w3 w4 w5", "w9", "w7 w8"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    found = of_blocks(model, tokenizer, texts)
    states: list[list[Tensor]] = [[] for _ in range(3)]
    hooks = [
        block.register_forward_hook(
            lambda _, args, out, i=i: states[i + 1].append(out if isinstance(out, Tensor) else out[0])
        )
        for i, block in enumerate(blocks(model))
    ]
    hooks.append(blocks(model)[0].register_forward_pre_hook(lambda _, args: states[0].append(args[0])))
    with torch.no_grad():
        for text in texts:
            model(**tokenizer(text, return_tensors="pt"))
    flat = [torch.cat([s[0] for s in each]) for each in states]
    expected = [1 - float(torch.cosine_similarity(a, b, dim=-1).mean()) for a, b in itertools.pairwise(flat)]
    assert found == pytest.approx(expected, abs=1e-6)
    assert len(found) == 2

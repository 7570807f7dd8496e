"""Attention in fp32 under bf16: the same model, only more exact; taken by training, and put back after it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from optimizer import finetune
from optimizer.catalog import Checkpoint
from optimizer.data import Dataset
from optimizer.training.attention import NAME, SHORT, attention_in_fp32, sdpa_fp32
from tests.optimizer.moods import CONFIG, context_in
from tests.optimizer.tiny_models import CONFIGS, VOCABULARY, write_tiny_model

WITHOUT_SDPA = {"bloom", "deberta-v2", "fnet", "mpnet"}
"""They mix tokens in a way of their own."""


@pytest.fixture
def precisions(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """What PyTorch's attention was called in."""
    seen: list[torch.dtype] = []
    attend = functional.scaled_dot_product_attention

    def spy(query: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        seen.append(query.dtype)
        return attend(query, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    return seen


def logits(model: PreTrainedModel, *, bf16: bool) -> torch.Tensor:
    ids = torch.randint(4, VOCABULARY, (4, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0  # texts of two lengths, so that there is a mask to apply
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        inputs = {"input_ids": ids} if model.config.model_type == "fnet" else {"input_ids": ids, "attention_mask": mask}
        found: torch.Tensor = model(**inputs).logits.float()
    return found


@pytest.mark.parametrize("architecture", CONFIGS)
def test_each_architecture_answers_as_before_and_attends_in_fp32_if_it_uses_sdpa(
    architecture: str, tmp_path: Path, precisions: list[torch.dtype]
) -> None:
    folder = write_tiny_model(tmp_path, architecture).folder
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    before, rounded = logits(model, bf16=False), logits(model, bf16=True)
    chosen = model.config._attn_implementation
    precisions.clear()
    with attention_in_fp32(model):
        torch.testing.assert_close(logits(model, bf16=False), before)
        inside = logits(model, bf16=True)
    assert model.config._attn_implementation == chosen
    assert set(precisions) == (set() if architecture in WITHOUT_SDPA else {torch.float32})
    # What bf16 costs elsewhere stays; it must not be another model.
    assert (inside - before).abs().max() <= 2 * (rounded - before).abs().max()


@pytest.mark.parametrize(("tokens", "precision"), [(SHORT, torch.float32), (SHORT + 1, torch.bfloat16)])
def test_long_texts_stay_in_bf16(tokens: int, precision: torch.dtype, precisions: list[torch.dtype]) -> None:
    states = torch.randn(1, 1, tokens, 4, dtype=torch.bfloat16)
    mask = torch.zeros(1, 1, tokens, tokens, dtype=torch.bfloat16)
    mixed, _ = sdpa_fp32(torch.nn.Module(), states, states, states, mask, is_causal=False)
    assert precisions == [precision]
    assert mixed.dtype == torch.bfloat16


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_training_attends_in_fp32(
    precision: str, tmp_path: Path, moods: Dataset, untrained: Checkpoint, precisions: list[torch.dtype]
) -> None:
    config = CONFIG.model_copy(update={"precision": precision, "epochs": 1.0, "rows": 64})
    made = finetune.run(None, config, context_in(tmp_path, moods, untrained))
    assert set(precisions) == {torch.float32}
    assert NAME not in (made.folder / "config.json").read_text()

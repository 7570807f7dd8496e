"""Multiply-adds and bytes against those counted by hand, and the limits that follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bantam.artifact import Artifact
from benchmarks.bench import limits, work
from tests.plugins.tiny import write_checkpoint

HIDDEN, LABELS = 16, 3
TINY_BYTES = 4 * (HIDDEN * LABELS + LABELS)
"""Head and bias; the embedding is a table, of which a text reads a few rows."""
AXES = 2 * 8
"""Two int64 that say over which axes the mean goes."""


def test_onnx(tiny_artifact: Artifact) -> None:
    found = work.count(tiny_artifact.folder, ["model.onnx", "tokenizer.json"], tokens=7)
    assert found == work.Work(macs=HIDDEN * LABELS, weight_bytes=TINY_BYTES + AXES)


def test_openvino(make_artifact: Callable[..., Artifact]) -> None:
    folder = make_artifact(layout="openvino").folder
    found = work.count(folder, ["model.xml", "model.bin", "tokenizer.json"], tokens=7)
    assert found.macs == HIDDEN * LABELS
    assert TINY_BYTES <= found.weight_bytes < TINY_BYTES + 200


def test_pytorch(tmp_path: Path) -> None:
    """A BERT of two layers, 32 hidden, 64 neurons, on 9 tokens; pooler and head see one token."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokens, hidden, neurons, labels = 9, 32, 64, 3
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=labels).eval()
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "model")
    layer = tokens * (4 * hidden * hidden + 2 * hidden * neurons) + 2 * tokens * tokens * hidden
    expected = 2 * layer + hidden * hidden + hidden * labels
    found = work.count(tmp_path / "model", ["model.safetensors"], tokens)
    assert found.macs == expected
    words = 4 * hidden * model.config.vocab_size
    assert found.weight_bytes == 4 * sum(each.numel() for each in model.parameters()) - words


def test_fused_nodes_count_as_what_they_were() -> None:
    assert work.node_macs("DynamicQuantizeMatMul", [[1, 5, 8], [8, 4]], [[1, 5, 4]]) == 5 * 8 * 4
    whole = work.node_macs("Attention", [[1, 5, 8], [8, 24]], [[1, 5, 8]])
    apart = work.node_macs("MatMul", [[1, 5, 8], [8, 24]], [[1, 5, 24]])
    apart += work.node_macs("MultiHeadAttention", [[1, 5, 8]] * 3, [[1, 5, 8]])
    assert whole == apart
    assert work.node_macs("Softmax", [[1, 5, 5]], [[1, 5, 5]]) == 0


def test_a_file_of_no_known_format_is_said(tiny_artifact: Artifact) -> None:
    with pytest.raises(ValueError, match=r"got tokenizer\.json, expected a file that ends with \.onnx"):
        work.count(tiny_artifact.folder, ["tokenizer.json"], tokens=7)


RATES = {"gmacs": {"fp32": {"square": 100.0, "own": 50.0}}, "copy_gb_s": 20.0, "last_cache_mb": 32.0}


def test_the_limit_is_the_slower_of_product_and_copy_unless_weights_stay_in_the_cache() -> None:
    large = limits.limit(work.Work(macs=200_000_000, weight_bytes=100_000_000), "fp32", RATES, p50_ms=10.0)
    assert (large["macs_ms"], large["bytes_ms"], large["cached"]) == (2.0, 5.0, False)
    assert (large["limit_ms"], large["times"]) == (5.0, 2.0)
    small = limits.limit(work.Work(macs=200_000_000, weight_bytes=30_000_000), "fp32", RATES, p50_ms=10.0)
    assert (small["bytes_ms"], small["cached"], small["limit_ms"], small["times"]) == (1.5, True, 2.0, 5.0)


def test_rates_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TRY_S", 0.01)
    monkeypatch.setattr(limits, "SQUARE", 512)
    monkeypatch.setattr(limits, "COPY_BYTES", 2**25)
    rates = limits.measure(threads=1)
    assert set(rates["gmacs"]) == {"fp32", "bf16", "int8"}
    assert all(0.1 < rate < 1e5 for found in rates["gmacs"].values() for rate in found.values())
    assert 0.1 < rates["copy_gb_s"] < 1e4

"""The engine on a tiny real model: order, padding, cutting, both runtimes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bantam.artifact import LAYOUTS, Artifact, Compute, seal
from serving.backend.cores import usable_cores
from serving.backend.engine import PROGRAMS, Engine, micro_batches, sigmoid, softmax
from serving.backend.manifest import read_manifest
from serving.backend.program import MAX_PADDED_TOKENS

TEXTS = ["i love it", "hate", "", "that is so very much fear ! " * 3, "😀 ñ \x00", "i", "love " * 200]


def direct(artifact: Artifact, text: str) -> np.ndarray:
    """Logits ``[labels]`` of one text, unpadded, by tokenizers and ONNX Runtime alone."""
    import onnxruntime as ort
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(artifact.folder / "tokenizer.json"))
    ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
    limit = artifact.manifest.signature.max_length
    if ids.shape[1] > limit:  # cut, and the closing special token kept
        ids = np.concatenate([ids[:, : limit - 1], ids[:, -1:]], axis=1)
    session = ort.InferenceSession(str(artifact.folder / "model.onnx"))
    logits: np.ndarray = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
    return logits


@pytest.mark.parametrize("micro_batch", [1, 2, 8])
def test_scores_keep_the_order_of_the_texts(tiny_artifact: Artifact, micro_batch: int) -> None:
    scores = Engine(tiny_artifact.folder, threads=2, micro_batch=micro_batch).probabilities(TEXTS)
    expected = 1 / (1 + np.exp(-np.stack([direct(tiny_artifact, text) for text in TEXTS])))
    assert scores.dtype == np.float32
    assert scores.shape == (len(TEXTS), 3)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_single_label_scores_are_a_softmax(make_artifact: Callable[..., Artifact]) -> None:
    artifact = make_artifact(task="single_label")
    scores = Engine(artifact.folder, threads=1).probabilities(TEXTS)
    logits = np.exp(np.stack([direct(artifact, text) for text in TEXTS]))
    np.testing.assert_allclose(scores, logits / logits.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("micro_batch", [1, 4])
def test_openvino_gives_the_scores_of_onnx_runtime(
    tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], micro_batch: int
) -> None:
    openvino = make_artifact(layout="openvino")
    scores = Engine(openvino.folder, threads=1, micro_batch=micro_batch).probabilities(TEXTS)
    np.testing.assert_allclose(scores, Engine(tiny_artifact.folder, threads=1).probabilities(TEXTS), atol=1e-6)


def test_pairs_are_read_together_and_a_regression_is_its_logit(make_artifact: Callable[..., Artifact]) -> None:
    import onnxruntime as ort
    from tokenizers import Tokenizer

    artifact = make_artifact(task="regression", labels=("relatedness",), pair=True)
    pairs = [("i love it", "hate"), ("hate", "i love it"), ("", "so"), ("love " * 40, "day " * 41)]
    scores = Engine(artifact.folder, threads=2).probabilities(pairs)
    tokenizer = Tokenizer.from_file(str(artifact.folder / "tokenizer.json"))
    tokenizer.enable_truncation(artifact.manifest.signature.max_length)
    session = ort.InferenceSession(str(artifact.folder / "model.onnx"))
    for pair, score in zip(pairs, scores, strict=True):
        ids = np.array([tokenizer.encode(*pair).ids], dtype=np.int64)
        (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        np.testing.assert_allclose(score, logits[0], atol=1e-5)
    assert scores.dtype == np.float32
    assert scores.shape == (4, 1)
    with pytest.raises(ValueError, match="Got 'i love it', expected a pair of texts"):
        Engine(artifact.folder, threads=1).probabilities(["i love it"])


def test_a_long_text_is_cut_where_the_signature_says(make_artifact: Callable[..., Artifact]) -> None:
    left, right = (Engine(make_artifact(truncation_side=side).folder, threads=1) for side in ("left", "right"))
    text = "hate " * 100 + "love " * 100
    np.testing.assert_allclose(left.probabilities([text]), left.probabilities(["love " * 62]), atol=1e-6)
    np.testing.assert_allclose(right.probabilities([text]), right.probabilities(["hate " * 62]), atol=1e-6)
    assert np.abs(left.probabilities([text]) - right.probabilities([text])).max() > 0.1


def test_a_manifest_of_before_reads_single_texts_and_cuts_at_the_right(make_artifact: Callable[..., Artifact]) -> None:
    artifact = make_artifact()
    path = artifact.folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name in ("pair", "truncation_side"):
        del manifest["signature"][name]
    path.write_text(json.dumps(manifest), encoding="utf-8")
    found = read_manifest(artifact.folder)
    assert (found.pair, found.truncation_side) == (False, "right")
    assert Engine(artifact.folder, threads=1).probabilities(TEXTS).shape == (len(TEXTS), 3)


def test_no_text_gives_no_row(tiny_artifact: Artifact) -> None:
    assert Engine(tiny_artifact.folder, threads=1).probabilities([]).shape == (0, 3)


def test_int8_scores_do_not_depend_on_the_neighbours(make_int8: Artifact) -> None:
    engine = Engine(make_int8.folder, threads=2, micro_batch=8)
    alone = np.concatenate([engine.probabilities([text]) for text in TEXTS])
    np.testing.assert_array_equal(engine.probabilities(TEXTS), alone)


@pytest.fixture
def make_int8(make_artifact: Callable[..., Artifact]) -> Artifact:
    """The tiny classifier with its head quantized dynamically: one activation scale for a whole batch."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    artifact = make_artifact(compute=Compute(batch_invariant=False))
    model = artifact.folder / "model.onnx"
    quantized = artifact.folder / "quantized.onnx"
    quantize_dynamic(str(model), str(quantized), weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
    quantized.replace(model)
    return Artifact(artifact.folder, seal(artifact.folder, artifact.manifest))


def test_int8_batched_would_depend_on_the_neighbours(make_int8: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    # The reason for the test above: without micro-batches of one, scores differ.
    engine = Engine(make_int8.folder, threads=1, micro_batch=8)
    alone = engine.probabilities(TEXTS)
    monkeypatch.setattr(engine, "placement", replace(engine.placement, micro_batch=8))
    assert np.abs(engine.probabilities(TEXTS) - alone).max() > 1e-4


def test_an_unknown_format_names_those_that_are_served(make_artifact: Callable[..., Artifact]) -> None:
    artifact = make_artifact()
    manifest = artifact.folder / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"layout": "onnx"', '"layout": "hf"'))
    with pytest.raises(ValueError, match=r"'hf' cannot be served. Export it to: onnx, openvino"):
        Engine(artifact.folder)


def test_every_layout_that_can_be_served_has_a_program() -> None:
    assert set(PROGRAMS) == {name for name, layout in LAYOUTS.items() if layout.servable}


def test_a_device_that_the_model_was_not_made_for_is_refused(tiny_artifact: Artifact) -> None:
    with pytest.raises(ValueError, match=r"made for cpu, got device 'cuda'\. Run it on one of those"):
        Engine(tiny_artifact.folder, device="cuda")


def test_a_manifest_of_another_kind_says_what_is_missing(make_artifact: Callable[..., Artifact]) -> None:
    artifact = make_artifact()
    manifest = artifact.folder / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("batch_invariant", "invariant"))
    with pytest.raises(ValueError, match=r"KeyError: 'batch_invariant'\. Expected the manifest of an exported model"):
        Engine(artifact.folder)


def test_micro_batches_hold_each_text_once_longest_first() -> None:
    lengths = [3, 50, 7, 7, 512, 1, 0]
    batches = micro_batches(lengths, 3)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert [[lengths[i] for i in batch] for batch in batches] == [[512, 50, 7], [7, 3, 1], [0]]


def test_micro_batches_bound_the_padded_tokens() -> None:
    lengths = [2000, 2000, 2000, 9000, 10]
    for batch in micro_batches(lengths, 64):
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= MAX_PADDED_TOKENS["cpu"]
    assert micro_batches([], 8) == []


def test_bucketed_micro_batches_have_a_power_of_two_of_texts() -> None:
    assert [len(batch) for batch in micro_batches([5] * 13, 8, bucket=8, powers_of_two=True)] == [8, 4, 1]


def test_sigmoid_and_softmax_never_overflow() -> None:
    extreme = np.array([[-1e4, 0.0, 1e4]], dtype=np.float32)
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_allclose(sigmoid(extreme), [[0.0, 0.5, 1.0]], atol=1e-38)
        np.testing.assert_allclose(softmax(extreme), [[0.0, 0.0, 1.0]])
    assert sigmoid(extreme).dtype == softmax(extreme).dtype == np.float32


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this system")
def test_threads_default_to_the_cores_that_may_be_used(tiny_artifact: Artifact) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert usable_cores() == 1
        assert Engine(tiny_artifact.folder).placement.threads == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_an_empty_text_without_special_tokens_is_one_pad_token(make_artifact: Callable[..., Artifact]) -> None:
    artifact = make_artifact()
    path = artifact.folder / "tokenizer.json"
    strip_special_tokens(path)
    scores = Engine(artifact.folder, threads=1).probabilities(["", "love"])
    assert np.isfinite(scores).all()
    assert not np.allclose(scores[0], scores[1])


def strip_special_tokens(path: Path) -> None:
    """Remove the tokenizer's post-processor, as in GPT-2's."""
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["post_processor"] = None
    path.write_text(json.dumps(tokenizer), encoding="utf-8")

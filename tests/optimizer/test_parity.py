from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from bantam.artifact import LAYOUTS, Artifact, Signature
from bantam.errors import ParityError
from optimizer import logits, parity
from optimizer.logits import Batch, Logits, Vocabulary
from tests.conftest import write_tokenizer

SIGNATURE = Signature("multi_label", ("a", "b"), ("input_ids", "attention_mask"), max_length=512, pad_token_id=7)
VOCABULARY = Vocabulary(np.arange(30), after=np.array([], dtype=np.int64))


def model(batch: Batch) -> NDArray[np.float32]:
    """Mean and largest of the tokens that count, over 10."""
    mask = batch["attention_mask"]
    masked = batch["input_ids"] * mask
    got: NDArray[np.float32] = np.stack([masked.sum(1) / mask.sum(1), masked.max(1)], axis=1).astype(np.float32)
    got /= 10
    return got


def check(
    reference: Logits,
    exported: Logits,
    signature: Signature = SIGNATURE,
    *,
    vocabulary: Vocabulary = VOCABULARY,
    precision: str = "fp32",
) -> dict[str, Any]:
    return parity.check(parity.answers(reference, signature, vocabulary=vocabulary), exported, precision=precision)


def test_every_layout_of_a_model_can_be_opened() -> None:
    assert set(logits.LOADERS) == set(LAYOUTS) - {"scores"}


def test_lattice_reaches_both_extremes_but_not_at_once() -> None:
    shapes = [(len(lengths), max(lengths)) for lengths in parity.lattice(512)]
    assert {1, 64} <= {batch for batch, _ in shapes}
    assert {1, 512} <= {tokens for _, tokens in shapes}
    assert max(batch * tokens for batch, tokens in shapes) <= 64 * 32
    assert any(len(set(lengths)) > 10 for lengths in parity.lattice(512))


def test_a_large_model_is_compared_on_few_rows_of_all_lengths() -> None:
    few = [*parity.lattice(512, parity.FEW)]
    assert {len(lengths) for lengths in few} == {1, 2, 3, 5}
    assert {max(lengths) for lengths in few} >= {max(lengths) for lengths in parity.lattice(512)} - {24, 32}
    assert sum(len(lengths) * max(lengths) for lengths in few) < 5000


@pytest.mark.parametrize("longest", [1, 2, 5, 128, 512])
def test_lattice_keeps_to_the_longest_input(longest: int) -> None:
    lengths = [length for row in parity.lattice(longest) for length in row]
    assert (min(lengths), max(lengths)) == (1, longest)


def test_tokens_are_padded_on_the_right_and_are_no_padding_elsewhere() -> None:
    batch = parity.tokens((5, 1, 3), SIGNATURE, VOCABULARY, np.random.default_rng(0))
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert ((batch["input_ids"] == 7) == (batch["attention_mask"] == 0)).all()
    assert batch["input_ids"].max() < 30


def test_texts_end_as_the_tokenizer_ends_them_with_no_special_token_before(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer.json")
    vocabulary = logits.vocabulary(tmp_path)
    assert vocabulary.after.tolist() == [3]
    batch = parity.tokens((5, 1, 3), SIGNATURE, vocabulary, np.random.default_rng(0))["input_ids"]
    assert batch[1, 0] == batch[0, 4] == batch[2, 2] == 3
    assert (batch == 3).sum() == 3


def test_equal_models_pass_and_give_figures() -> None:
    figures = check(model, model)
    assert figures["max_difference"] == 0
    assert figures["comparisons"] > 100
    assert figures["padding_moves_reference"] == 0
    assert not figures["padding_matters"]


def test_all_mismatches_are_gathered_before_it_raises() -> None:
    def exported(batch: Batch) -> NDArray[np.float32]:
        got = model(batch)
        if batch["input_ids"].shape == (1, 1):
            got[0, 0] = np.nan
        if batch["input_ids"].shape == (1, 512):
            got[0, 1] += 0.25
        if len(got) == 64:
            raise RuntimeError("out of luck")
        return got

    with pytest.raises(ParityError) as error:
        check(model, exported)
    message = str(error.value)
    # NaN at 1 x 1; 0.25 at 1 x 512; nothing for the three batches of 64, one of which is compared row by row too.
    assert "in 69 of" in message
    assert "of some it makes no logits, or too few, or none that are finite" in message
    assert "Its runtime refuses 3 batches, the first with: RuntimeError: out of luck" in message
    assert message.count("\n") == 1 + parity.SHOWN + 1 + 1 + 1
    assert "and 57 more" in message


def test_a_single_mismatch_is_shown_with_its_shape_and_size() -> None:
    def exported(batch: Batch) -> NDArray[np.float32]:
        return model(batch) + np.float32(0.01 * (batch["input_ids"].shape == (1, 127)))

    with pytest.raises(
        ParityError, match=r"in 1 of \d+ comparisons \(fp32\); largest difference of a logit 0\.01, "
    ) as error:
        check(model, exported)
    assert "      1     127  batch                 0.01" in str(error.value)


def test_an_export_that_ignores_the_mask_is_caught() -> None:
    def exported(batch: Batch) -> NDArray[np.float32]:
        return model({**batch, "attention_mask": np.ones_like(batch["attention_mask"])})

    with pytest.raises(ParityError, match=r"row \d of"):
        check(model, exported, replace_longest(3))


def replace_longest(longest: int) -> Signature:
    return Signature("multi_label", ("a", "b"), ("input_ids", "attention_mask"), max_length=longest, pad_token_id=7)


def test_rows_are_not_compared_alone_where_padding_moves_the_reference() -> None:
    def padded_mean(batch: Batch) -> NDArray[np.float32]:
        return np.asarray(batch["input_ids"].mean(1, keepdims=True), dtype=np.float32)

    figures = check(padded_mean, padded_mean)
    assert figures["padding_moves_reference"] > 1
    assert figures["comparisons"] < check(model, model)["comparisons"]


def test_bf16_is_bounded_more_loosely_than_fp32() -> None:
    def rounded(batch: Batch) -> NDArray[np.float32]:
        return model(batch) * np.float32(1 + 2**-8)

    assert check(model, rounded, precision="bf16")["max_difference"] > 1e-4
    with pytest.raises(ParityError, match="fp32"):
        check(model, rounded)


def test_a_damaged_onnx_weight_is_caught(tiny_artifact: Artifact, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_artifact.folder, damaged)
    content = onnx.load(damaged / "model.onnx")
    weight = next(w for w in content.graph.initializer if w.name == "head")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0] += 0.01
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "head"))
    onnx.save(content, damaged / "model.onnx")
    signature, vocabulary = tiny_artifact.manifest.signature, logits.vocabulary(damaged)
    intact = logits.of(tiny_artifact, threads=1)
    # Not exactly equal: this model's rows, padded or not, are summed in different orders.
    assert check(intact, intact, signature, vocabulary=vocabulary)["max_difference"] < 1e-5
    with pytest.raises(ParityError, match="differs from its source"):
        check(intact, logits.of(Artifact(damaged, tiny_artifact.manifest), threads=1), signature, vocabulary=vocabulary)

"""Architectures of other kinds than BERT's: what works, and what is refused before training, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from transformers import AutoConfig

from bantam.artifact import Artifact
from bantam.errors import ModelError, StageError
from benchmarks.architectures import tiny
from benchmarks.architectures.outcome import VARIANTS, Outcome
from benchmarks.architectures.page import page
from benchmarks.architectures.processes import known, run
from optimizer import export, finetune, logits, quantize
from optimizer.catalog import Checkpoint
from optimizer.config import ExportConfig, FinetuneConfig
from optimizer.data import Dataset, load_dataset
from optimizer.load import resolve
from optimizer.load.small import _with_few_layers
from optimizer.load.tokenizer import load_tokenizer
from optimizer.logits import Batch
from optimizer.quantize.onnx_dynamic import DynamicInt8Config
from optimizer.stage import RunContext
from optimizer.training.memory import within_memory
from optimizer.training.one_step import take_one_step
from tests.optimizer.moods import context_in

FINETUNE = FinetuneConfig(name="baseline", rows=16, dev_rows=8, epochs=1, batch_size=8, precision="fp32")
ONNX = ExportConfig(name="onnx", parent="baseline", format="onnx")
INT8 = DynamicInt8Config(name="int8", parent="onnx")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(str(tiny.write_data(tmp_path_factory.mktemp("data") / "moods.csv", 100)))


def checkpoint(folder: Path, model_type: str) -> Checkpoint:
    return resolve(str(tiny.write_checkpoint(folder / model_type, model_type)), log=lambda _: None)


@pytest.mark.parametrize("model_type", ["t5", "xlnet", "mixtral"])
def test_who_is_no_plain_encoder_is_trained_and_exported(model_type: str, data: Dataset, tmp_path: Path) -> None:
    """T5 gives hidden states and classifies from the token that ends a text, XLNet its memory; Mixtral has experts."""
    context = context_in(tmp_path / "run", data, checkpoint(tmp_path, model_type))
    baseline = finetune.run(None, FINETUNE, context)
    assert 0 <= baseline.manifest.metrics["dev"]["macro_f1"] <= 1
    exported = _exported(baseline, context, tmp_path)
    int8 = context_in(tmp_path / "int8", data, context.checkpoint, {"onnx": exported})
    assert quantize.run(exported, INT8, int8).size_bytes < exported.size_bytes
    assert exported.manifest.metrics["parity"]["max_difference"] < 1e-4
    # XLNet reads the last token, whatever it is: it is trained with padding on the left, and served without any.
    assert exported.manifest.compute.batch_invariant == (model_type != "xlnet")
    assert load_tokenizer(baseline.folder).padding_side == ("left" if model_type == "xlnet" else "right")
    assert [each.name for each in onnx.load(exported.folder / "model.onnx").graph.output] == ["logits"]


def test_who_takes_labels_without_naming_them_in_its_signature_is_trained(data: Dataset, tmp_path: Path) -> None:
    context = context_in(tmp_path / "run", data, checkpoint(tmp_path, "qwen3_5"))
    baseline = finetune.run(None, FINETUNE, context)
    assert 0 <= baseline.manifest.metrics["dev"]["macro_f1"] <= 1


def _exported(parent: Artifact, context: RunContext, tmp_path: Path) -> Artifact:
    target = context_in(tmp_path / "export", context.data, context.checkpoint, {"baseline": parent})
    return export.run(parent, ONNX, target)


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("reformer", "ReformerForSequenceClassification cannot be trained: ValueError: If training, "),
        ("canine", "^CanineForSequenceClassification has no table of token embeddings"),
    ],
)
def test_who_cannot_be_trained_is_refused_by_name_at_the_first_step(
    model_type: str, message: str, data: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        take_one_step(checkpoint(tmp_path, model_type), data, FINETUNE, lambda _: None)


def test_what_a_model_raises_while_it_is_trained_is_translated(data: Dataset, tmp_path: Path) -> None:
    context = context_in(tmp_path, data, Checkpoint("odd", tmp_path, "test", "local", "MIT", "digest"))

    def training(_: object) -> None:
        raise ValueError("All examples must have the same number of <eos> tokens.")

    with pytest.raises(StageError, match="odd cannot be trained: ValueError: All examples must have the same"):
        within_memory(training, FINETUNE, context)


@pytest.mark.parametrize(
    ("model_type", "changes", "fewer"),
    [
        ("bert", {"num_hidden_layers": 12}, {"num_hidden_layers": 2}),
        ("t5", {"num_layers": 6, "num_decoder_layers": 5}, {"num_layers": 2, "num_decoder_layers": 2}),
        # One layer in four has attention, among state spaces.
        ("jamba", {"num_hidden_layers": 8, "attn_layer_period": 4, "attn_layer_offset": 3}, {"num_hidden_layers": 4}),
        # Experts come after three layers without.
        ("deepseek_v3", {"num_hidden_layers": 6, "first_k_dense_replace": 3}, {"num_hidden_layers": 4}),
        ("funnel", {"block_sizes": [4, 4]}, {}),
    ],
)
def test_a_small_model_has_a_layer_of_each_kind(
    model_type: str, changes: dict[str, Any], fewer: dict[str, Any]
) -> None:
    config = AutoConfig.for_model(model_type, **{**tiny.settings(model_type), **changes}).to_dict()
    smaller = _with_few_layers(config)
    assert {name: value for name, value in smaller.items() if value != config[name]} == fewer


def test_the_command_tells_who_passes_from_who_is_refused_and_keeps_it(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    found = {outcome.architecture: outcome for outcome in run(["bert", "reformer"], results, jobs=2, seconds=240)}
    assert known(results) == found
    bert, reformer = found["bert"], found["reformer"]
    assert (bert.outcome, bert.failed, bert.foretold) == ("passed", {}, [])
    assert bert.macro_f1 is not None
    assert bert.macro_f1 > 0.9
    assert bert.text_difference is not None
    assert bert.text_difference < 1e-4
    assert reformer.outcome == "refused"
    assert "ReformerForSequenceClassification cannot be trained" in reformer.why
    assert reformer.refused_s is not None
    assert reformer.refused_s < 60


def test_the_page_has_a_row_for_each_outcome_and_names_who_has_none() -> None:
    outcomes = {
        "bert": Outcome("bert", "passed", seconds=40.0, macro_f1=1.0, text_difference=1e-7),
        "fnet": Outcome("fnet", "passed in part", failed={VARIANTS[2]: "differs | <much>\nvery"}, macro_f1=0.98),
    }
    shown = page(outcomes, ["bert", "fnet", "yoso"])
    assert "| bert | passed | 1.00 | yes | yes | yes | yes | 1e-07 | 40 |  |" in shown
    assert "| fnet | passed in part | 0.98 | yes | yes | no | yes |" in shown
    assert r"openvino-fp32: differs \| &lt;much> very |" in shown
    assert "Not run: yoso." in shown


@pytest.mark.parametrize(
    ("rows", "message"),
    [(0, r"logits are of shape \[0, 3\], not \[2, 3\]"), (None, "cannot be run: RuntimeError: no kernel")],
)
def test_a_quantized_model_that_gives_no_logits_is_a_failed_variant(
    rows: int | None,
    message: str,
    data: Dataset,
    tiny_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As what NNCF makes of experts, with which OpenVINO answers nothing."""

    def of(artifact: Artifact, **_: object) -> Callable[[Batch], NDArray[np.float32]]:
        def answer(_: Batch) -> NDArray[np.float32]:
            if artifact.name == "made" and rows is None:
                raise RuntimeError("no kernel")
            return np.ones((rows if artifact.name == "made" and rows is not None else 1, 3), dtype=np.float32)

        return answer

    monkeypatch.setattr(logits, "of", of)
    context = context_in(tmp_path, data, Checkpoint("odd", tmp_path, "test", "local", "MIT", "digest"))
    made = replace(tiny_artifact, name="made")
    with pytest.raises(StageError, match=message):
        quantize._compare(tiny_artifact, made, context, [{}, {}])

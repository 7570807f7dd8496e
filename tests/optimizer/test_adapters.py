"""LoRA, QLoRA and GaLore on a toy decoder: they learn, the head survives, a killed training goes on where it was."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from bantam.artifact import Artifact
from bantam.errors import ModelError, ParityError
from optimizer import export, finetune, prune
from optimizer.catalog import Checkpoint
from optimizer.config import AdapterConfig, ExportConfig, FinetuneConfig, LayersConfig, VocabularyConfig
from optimizer.data import Dataset
from optimizer.load import resolve
from optimizer.load.model import load_model
from optimizer.training import adapters, galore, progress, room
from tests.optimizer.moods import context_in
from tests.optimizer.tiny_models import write_tiny_classifier
from tests.optimizer.toy_decoder import load_toy_decoder

WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"adapter": AdapterConfig(method="lora", rank=8, alpha=16, keep=True)},
    "qlora": {"adapter": AdapterConfig(method="qlora", rank=8, alpha=16, dropout=0.1)},
    "galore": {"optimizer": "galore"},
}


def config(way: str, **more: Any) -> FinetuneConfig:
    usual = {"epochs": 2.0, "batch_size": 16, "learning_rate": 5e-3, "precision": "fp32"}
    whole = {**usual, **WAYS[way], **more}
    return FinetuneConfig(name="baseline", **{"freeze_embeddings": "adapter" in whole, **whole})


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return load_toy_decoder(tmp_path_factory.mktemp("decoder"))


class Trained:
    """A fine-tuned artifact, and the head as it was when training ended."""

    def __init__(self, folder: Path, way: str, moods: Dataset, decoder: Checkpoint) -> None:
        self.heads: list[bytes] = []
        with pytest.MonkeyPatch.context() as patch:
            merge = adapters.merge

            def watched(model: Any, batches: Any) -> float:
                self.heads.append(head_of(model))
                return merge(model, batches)

            patch.setattr(adapters, "merge", watched)
            self.artifact = finetune.run(None, config(way), context_in(folder, moods, decoder))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, moods: Dataset, decoder: Checkpoint) -> Trained:
    return Trained(tmp_path_factory.mktemp("lora"), "lora", moods, decoder)


def head_of(model: Any) -> bytes:
    weight: torch.Tensor = model.score.weight
    return weight.detach().numpy().tobytes()


def losses(artifact: Artifact) -> list[float]:
    return [entry["loss"] for entry in artifact.manifest.metrics["log"] if "loss" in entry]


@pytest.mark.parametrize("way", ["full", "qlora", "galore"])
def test_the_loss_falls(way: str, tmp_path: Path, moods: Dataset, decoder: Checkpoint) -> None:
    artifact = finetune.run(None, config(way), context_in(tmp_path, moods, decoder))
    first, *_, last = losses(artifact)
    assert last < 0.8 * first
    assert artifact.manifest.layout == "hf"
    if way == "qlora":
        assert artifact.manifest.metrics["adapter"]["largest_difference"] < 1e-4
        # Weights beside which nothing was trained would be those of NF4: some of its 16 values for each block.
        assert load_model(artifact.folder).dtype == torch.float32


def test_an_adapter_is_merged_into_a_model_as_any_other(lora: Trained, decoder: Checkpoint) -> None:
    first, *_, last = losses(lora.artifact)
    assert last < 0.8 * first
    saved, began = (
        load_file(lora.artifact.folder / "model.safetensors"),
        load_file(decoder.folder / "model.safetensors"),
    )
    assert {name.removeprefix("model.") for name in saved} == {*began, "score.weight"}
    kept = "embed_tokens.weight"
    assert torch.equal(saved[f"model.{kept}"], began[kept])
    assert not torch.equal(saved["model.layers.0.mlp.up_proj.weight"], began["layers.0.mlp.up_proj.weight"])
    measured = lora.artifact.manifest.metrics["adapter"]
    assert 0 < measured["largest_difference"] < 1e-4
    assert measured["trained_parameters"] < 0.5 * lora.artifact.manifest.details["parameters"]


def test_a_kept_adapter_gives_the_same_model_beside_its_base(lora: Trained) -> None:
    files = lora.artifact.manifest.files
    assert {f"{finetune.ADAPTER}/{name}" for name in ("adapter_config.json", "adapter_model.safetensors")} < {*files}
    assert not any(finetune.ADAPTER in name for name in lora.artifact.manifest.deployable)
    merged = resolve(str(lora.artifact.folder / finetune.ADAPTER), log=lambda _: None)
    ids = torch.tensor([[4, 5, 6, 7, 8, 9]])
    with torch.inference_mode():
        logits = [load_model(folder)(input_ids=ids).logits for folder in (merged.folder, lora.artifact.folder)]
    torch.testing.assert_close(*logits)


def test_matrices_of_weights_in_4_bits_are_not_kept() -> None:
    with pytest.raises(ValidationError, match="keep = true is for lora"):
        AdapterConfig(method="qlora", keep=True)


def test_the_trained_head_is_in_what_every_stage_writes(lora: Trained, moods: Dataset, decoder: Checkpoint) -> None:
    (head,) = lora.heads
    assert head != head_of(load_model(decoder.folder, labels=moods.labels, task=moods.task))
    folder = lora.artifact.folder.parent
    sources = {"baseline": lora.artifact}
    stages: dict[str, Any] = {
        "words": (prune, VocabularyConfig(name="words", parent="baseline")),
        "layers": (prune, LayersConfig(name="layers", parent="baseline", layers=(0,))),
        "onnx": (export, ExportConfig(name="onnx", parent="baseline", format="onnx")),
    }
    made = {
        name: module.run(lora.artifact, stage, context_in(folder / name, moods, decoder, sources))
        for name, (module, stage) in stages.items()
    }
    for artifact in (lora.artifact, made["words"], made["layers"]):
        assert head_of(load_model(artifact.folder)) == head
    graph = onnx.load(made["onnx"].folder / "model.onnx").graph
    arrays = [numpy_helper.to_array(each) for each in graph.initializer]
    assert any(head in (array.tobytes(), np.ascontiguousarray(array.T).tobytes()) for array in arrays)


@pytest.mark.parametrize("way", ["lora", "qlora", "galore"])
def test_a_killed_training_goes_on_to_the_same_weights(
    way: str, tmp_path: Path, moods: Dataset, decoder: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = config(way, rows=160, epochs=1.0)
    whole = finetune.run(None, asked, context_in(tmp_path / "whole", moods, decoder))
    step = progress.ProgressBar.on_step_end

    def die_late(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 7:
            raise KeyboardInterrupt
        step(self, args, state, control, **kwargs)

    monkeypatch.setattr(progress.ProgressBar, "on_step_end", die_late)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(None, asked, context_in(tmp_path / "killed", moods, decoder))
    (checkpoint,) = (tmp_path / "killed" / "scratch").glob("checkpoint-*")
    assert checkpoint.name == "checkpoint-5"
    if way != "galore":
        assert all("lora_" in name or "score" in name for name in load_file(checkpoint / "model.safetensors"))
    monkeypatch.undo()
    moves: list[bool] = []
    monkeypatch.setattr(galore.ProjectorsFollow, "on_train_begin", lambda *_, **more: moves.append("optimizer" in more))
    resumed = finetune.run(None, asked, context_in(tmp_path / "killed", moods, decoder))
    assert moves == ([True] if way == "galore" else [])
    assert resumed.manifest.metrics["forecast"]["steps"] == 5
    hashes = [each.manifest.files["model.safetensors"]["sha256"] for each in (whole, resumed)]
    assert hashes[0] == hashes[1]


def test_recomputed_activations_give_the_same_model(
    lora: Trained, tmp_path: Path, moods: Dataset, decoder: Checkpoint
) -> None:
    artifact = finetune.run(None, config("lora", gradient_checkpointing=True), context_in(tmp_path, moods, decoder))
    saved, other = (load_file(each.folder / "model.safetensors") for each in (artifact, lora.artifact))
    assert all(torch.allclose(saved[name], other[name], atol=1e-4) for name in other)


def test_four_bits_are_what_the_matrices_are_added_to(decoder: Checkpoint, moods: Dataset) -> None:
    model = load_model(decoder.folder, labels=moods.labels, task=moods.task)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    adapters.put_into(model, AdapterConfig(method="qlora", target_modules=("q_proj",)))
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    assert all(".q_proj.lora_" in name or name == "score.weight" for name in trained)
    assert adapters.merge(model, [{"input_ids": torch.arange(5, 15)[None]}]) < 1e-4
    after = dict(model.named_parameters())
    assert {*after} == {*before}
    assert not adapters.has_adapter(model)
    for name, weight in before.items():
        rounded = name in {f"{each}.weight" for each in adapters.linears(model)}
        assert torch.equal(weight, after[name]) != rounded, name
        blocks = list(after[name].detach().reshape(-1, 64)) if rounded else []
        assert all(len(block.unique()) <= 16 for block in blocks)


def test_a_merge_that_changes_the_model_is_refused(
    decoder: Checkpoint, moods: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(decoder.folder, labels=moods.labels, task=moods.task)
    adapters.put_into(model, AdapterConfig())
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    monkeypatch.setattr(adapters, "_with_weight", lambda base, weight: base)
    with pytest.raises(ParityError, match="with its adapter merged gives logits that differ"):
        adapters.merge(model, [{"input_ids": torch.arange(5, 15)[None]}])


def test_layers_that_are_not_there_are_named(tmp_path: Path, moods: Dataset, decoder: Checkpoint) -> None:
    asked = config("full", adapter=AdapterConfig(target_modules=("query",)))
    with pytest.raises(ModelError, match=r"no linear layers named query.*Known: down_proj, gate_proj, k_proj"):
        finetune.run(None, asked, context_in(tmp_path, moods, decoder))


@pytest.mark.parametrize("several", [False, True])
def test_projections_go_where_the_parameters_of_a_resumed_training_are(several: bool) -> None:
    """On a GPU they are read from a checkpoint into the memory of the CPU; here the other device is ``meta``."""
    parameters = [nn.Parameter(torch.empty(4, 4, device="meta")) for _ in range(2)]
    plain: Any = torch.optim.SGD(parameters)
    matrix = torch.eye(4)
    projector = SimpleNamespace(ortho_matrix=[matrix, matrix] if several else matrix)
    plain.state[parameters[0]] = {"projector": projector}
    plain.state[parameters[1]] = {"step": 0}
    for optimizer in (plain, SimpleNamespace(optimizer=plain)):
        projector.ortho_matrix = [matrix, matrix] if several else matrix
        galore.ProjectorsFollow().on_train_begin(None, None, None, optimizer=optimizer)
        moved = projector.ortho_matrix
        assert all(each.is_meta for each in (moved if isinstance(moved, list) else [moved]))


def test_galore_is_for_linear_layers_and_says_so_before_training(tmp_path: Path, moods: Dataset) -> None:
    folder = write_tiny_classifier(tmp_path / "gpt2", "gpt2").folder
    gpt2 = Checkpoint("gpt2", folder, "test", "local", "MIT", "digest")
    context = context_in(tmp_path, moods, gpt2)
    with pytest.raises(ModelError, match=r"no layers for optimizer.* got Conv1D, expected some of class Linear"):
        finetune.run(None, config("galore"), context)
    adamw, qlora = (room.needs_of(config(way), context).weights for way in ("full", "qlora"))
    assert qlora >= adamw, "Conv1D stays as it is, beside the matrices"


def test_an_adapter_and_galore_are_one_too_many() -> None:
    with pytest.raises(ValidationError, match="take one"):
        config("lora", optimizer="galore")


def test_embeddings_beside_an_adapter_are_frozen_or_refused() -> None:
    with pytest.raises(ValidationError, match=r"freeze_embeddings = false .* an adapter freezes all .* leave one out"):
        config("lora", freeze_embeddings=False)
    assert config("lora", freeze_embeddings=True).freeze_embeddings


def test_an_encoder_takes_an_adapter_too(tmp_path: Path, moods: Dataset, untrained: Checkpoint) -> None:
    artifact = finetune.run(None, config("lora", rows=160, epochs=1.0), context_in(tmp_path, moods, replace(untrained)))
    began, saved = load_file(untrained.folder / "model.safetensors"), load_file(artifact.folder / "model.safetensors")
    # The pooler belongs to the head, and is trained as a whole; the layers' norms are not.
    assert not torch.equal(began["pooler.dense.bias"], saved["bert.pooler.dense.bias"])
    norm = "encoder.layer.0.output.LayerNorm.weight"
    assert torch.equal(began[norm], saved[f"bert.{norm}"])


def test_libraries_say_nothing_at_import_and_come_only_where_they_are_wanted() -> None:
    code = "import sys, optimizer.finetune; assert not {'peft', 'bitsandbytes'} & {*sys.modules}; import peft"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")

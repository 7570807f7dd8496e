"""Distillation at toy size: students learn from what teachers say, and what cannot be is told clearly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from bantam.artifact import Artifact
from bantam.errors import ModelError, StageError
from optimizer import distill, finetune
from optimizer.catalog import Checkpoint
from optimizer.config import Augmentation, DistillConfig, LossWeights
from optimizer.data import Dataset
from optimizer.distill import teacher as teacher_module
from optimizer.distill.rows import changed_copies
from optimizer.distill.student import layer_map, make_student, spread
from optimizer.reference import Reference
from tests.optimizer.decoder_tokenizers import write_decoder
from tests.optimizer.moods import CONFIG, DISTILL, LOSSES, context_in, macro_f1


def distilled(
    folder: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint, **changes: Any
) -> tuple[Artifact, Path]:
    """The artifact of DISTILL with these changes, and the folder of what teachers said."""
    config = DistillConfig.model_validate({**DISTILL.model_dump(exclude_unset=True), **changes})
    sources = {"baseline": fine_tuned, "other": fine_tuned}
    context = context_in(folder, moods, untrained, sources)
    return distill.run(fine_tuned, config, context), context.shared


def logits_of(artifact: Artifact, texts: list[str]) -> np.ndarray:
    """Logits of a Hugging Face folder, loaded as a user would."""
    tokenizer = AutoTokenizer.from_pretrained(artifact.folder)
    model = AutoModelForSequenceClassification.from_pretrained(artifact.folder).eval()
    with torch.inference_mode():
        return np.asarray(model(**tokenizer(texts, padding=True, return_tensors="pt")).logits)


def test_a_student_of_half_the_layers_learns_from_its_teacher_without_labels(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    artifact, _ = distilled(tmp_path, fine_tuned, moods, untrained, losses={"soft": 1.0})
    assert AutoConfig.from_pretrained(artifact.folder).num_hidden_layers == 1
    assert macro_f1(artifact, moods) > 0.9
    texts = list(moods.splits["test"].single[:50])
    before = logits_of(fine_tuned, texts)
    assert np.corrcoef(before.ravel(), logits_of(artifact, texts).ravel())[0, 1] > 0.95
    assert artifact.manifest.details["layers"] == (0,)
    assert [step["stage"] for step in artifact.manifest.lineage] == ["finetune", "distill"]


@pytest.mark.parametrize(
    "weights",
    LOSSES,
    ids="+".join,
)
def test_every_loss_trains(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint, weights: dict[str, float]
) -> None:
    artifact, _ = distilled(tmp_path, fine_tuned, moods, untrained, losses=weights, epochs=3, relation_heads=4)
    losses = [entry["loss"] for entry in artifact.manifest.metrics["log"] if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]


def test_a_narrower_student_learns_through_projections_that_are_not_saved(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    artifact, _ = distilled(
        tmp_path,
        fine_tuned,
        moods,
        untrained,
        layers=None,
        heads=1,
        hidden=16,
        neurons=32,
        losses={"soft": 1, "hidden": 1},
    )
    config = AutoConfig.from_pretrained(artifact.folder)
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (16, 1, 32)
    assert macro_f1(artifact, moods) > 0.8
    _, report = AutoModelForSequenceClassification.from_pretrained(artifact.folder, output_loading_info=True)
    assert not report["unexpected_keys"]
    assert not report["missing_keys"]


def test_several_teachers_are_averaged_and_asked_once(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    forward = teacher_module._forward

    def counted(*args: Any) -> Any:
        asked.append(1)
        return forward(*args)

    monkeypatch.setattr(teacher_module, "_forward", counted)
    artifact, _ = distilled(tmp_path, fine_tuned, moods, untrained, teachers=("baseline", "other"), epochs=1)
    assert artifact.manifest.details["teachers"] == [fine_tuned.digest] * 2
    # Both are the same model here, so that the second one's answers are there already.
    assert len(asked) == -(-len(moods.splits["train"].single) // 32)


def test_texts_without_labels_and_changed_copies_are_learned_from(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    more = tmp_path / "more.txt"
    more.write_text("we love it\n\nthey hate it\n", encoding="utf-8")
    artifact, _ = distilled(
        tmp_path, fine_tuned, moods, untrained, rows=50, epochs=1, unlabelled=str(more), augmentation={"copies": 2}
    )
    assert artifact.manifest.metrics["rows"] == 3 * 52


def test_changed_copies_leave_special_tokens_alone_and_repeat(untrained: Checkpoint) -> None:
    tokenizer = AutoTokenizer.from_pretrained(untrained.folder)
    rows = [{"input_ids": tokenizer("love the day so great")["input_ids"], "labelled": 1.0} for _ in range(50)]
    augmentation = Augmentation(copies=1, mask=0.3, replace=0.3)
    copies = changed_copies(rows, tokenizer, augmentation, seed=1)
    assert copies == changed_copies(rows, tokenizer, augmentation, seed=1)
    assert copies != changed_copies(rows, tokenizer, augmentation, seed=2)
    for row, copy in zip(rows, copies, strict=True):
        assert (copy["input_ids"][0], copy["input_ids"][-1]) == (row["input_ids"][0], row["input_ids"][-1])
    changed = np.mean([np.not_equal(a["input_ids"], b["input_ids"])[1:-1] for a, b in zip(rows, copies, strict=True)])
    masked = np.mean([np.equal(copy["input_ids"], tokenizer.mask_token_id)[1:-1] for copy in copies])
    assert 0.2 < masked < 0.4
    assert masked < changed < 0.7


def test_layers_are_spread_evenly_and_each_imitates_its_share() -> None:
    assert (spread(3, 6), spread(2, 6), spread(1, 6), spread(4, 12)) == ((0, 2, 5), (0, 5), (0,), (0, 4, 7, 11))
    assert layer_map(DISTILL, 3, 6) == ((0, 1), (1, 3), (2, 5))
    assert layer_map(DISTILL, 2, 6) == ((0, 2), (1, 5))


@pytest.mark.parametrize(
    ("choose", "kept"), [("first", (0,)), ("last", (1,)), ("even", (0,)), ("importance", None)], ids=str
)
def test_layers_are_chosen(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint, choose: str, kept: tuple[int, ...]
) -> None:
    config = DISTILL.model_copy(update={"choose": choose})
    context = context_in(tmp_path, moods, untrained)
    (_, student), chosen = make_student(fine_tuned, config, context)
    teacher = AutoModelForSequenceClassification.from_pretrained(fine_tuned.folder)
    assert len(chosen) == 1
    assert kept in (None, chosen)
    name = "attention.self.query.weight"
    assert torch.equal(
        student.state_dict()[f"bert.encoder.layer.0.{name}"],
        teacher.state_dict()[f"bert.encoder.layer.{chosen[0]}.{name}"],
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (0, 7)}, r"keeps layers \[0, 7\] of 'baseline', which has 2. Expected numbers from 0 to 1"),
        ({"layers": 3}, r"keeps 3 layers of 'baseline', which has 2: a student is no larger"),
        ({"layer_map": ((0, 6),), "losses": {"hidden": 1}}, r"to layer 6 of the teacher. Expected .* from 0 to 1"),
        ({"neurons": 65}, r"neurons = 65; 'baseline' has 64"),
    ],
)
def test_what_the_parent_does_not_have_is_told(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageError, match=message):
        distilled(tmp_path, fine_tuned, moods, untrained, **changes)


def test_a_student_larger_than_its_teacher_is_refused(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    small, _ = distilled(tmp_path / "small", fine_tuned, moods, untrained, epochs=0.1)
    sources = {"small": replace(small, name="small"), "baseline": fine_tuned}
    context = context_in(tmp_path / "large", moods, untrained, sources)
    config = DistillConfig(stage="distill", name="large", parent="baseline", teachers=("small",))
    with pytest.raises(StageError, match=r"the student has [\d,]+ parameters, its teacher 'small' only [\d,]+"):
        distill.run(fine_tuned, config, context)


def test_a_teacher_with_other_tokens_gives_logits_only(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    other = other_tokens(untrained, tmp_path / "other")
    changes: dict[str, Any] = {"model": "other", "layers": None, "epochs": 10, "freeze_embeddings": False}
    with pytest.raises(StageError, match=r"splits texts into other tokens than the student, so that hidden would"):
        distilled(tmp_path / "no", fine_tuned, moods, other, losses={"soft": 1, "hidden": 1}, **changes)
    artifact, _ = distilled(tmp_path / "yes", fine_tuned, moods, other, losses={"soft": 1}, **changes)
    assert macro_f1(artifact, moods) > 0.8


def test_an_encoder_learns_from_a_decoder_also_on_texts_without_labels(
    tmp_path: Path, moods: Dataset, untrained: Checkpoint
) -> None:
    """The teacher has a byte-level BPE tokenizer that adds nothing, the student WordPiece with [CLS] and [SEP]."""
    texts = list(moods.splits["train"].single)
    decoder = write_decoder(tmp_path / "decoder", texts)
    training = CONFIG.model_copy(update={"epochs": 5.0, "evaluations_per_epoch": 1})
    teacher = replace(finetune.run(None, training, context_in(tmp_path / "teacher", moods, decoder)), name="baseline")
    assert macro_f1(teacher, moods) > 0.9
    more = tmp_path / "more.txt"
    more.write_text("\n".join(texts[100:]), encoding="utf-8")
    few: dict[str, Any] = {"model": "tiny", "layers": None, "rows": 100, "losses": {"soft": 1}}
    few |= {"epochs": 8, "freeze_embeddings": False, "evaluations_per_epoch": 1}
    artifact, _ = distilled(tmp_path / "more", teacher, moods, untrained, unlabelled=str(more), **few)
    assert artifact.manifest.metrics["rows"] == len(texts)
    assert AutoConfig.from_pretrained(artifact.folder).model_type == "bert"
    assert macro_f1(artifact, moods) > 0.8
    test = list(moods.splits["test"].single[:50])
    said = Reference.load(teacher.folder).probabilities(test)
    learnt = Reference.load(artifact.folder).probabilities(test)
    assert np.corrcoef(said.ravel(), learnt.ravel())[0, 1] > 0.8
    with pytest.raises(StageError, match=r"other tokens than the student, so that hidden would"):
        distilled(tmp_path / "no", teacher, moods, untrained, **{**few, "losses": {"soft": 1, "hidden": 1}})


def other_tokens(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The same checkpoint with two words' numbers exchanged."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    text = tokenizer.backend_tokenizer.to_str().replace('"love":5', '"swap":5').replace('"great":6', '"love":6')
    from tokenizers import Tokenizer
    from transformers import AutoModel, PreTrainedTokenizerFast

    special = {name: getattr(tokenizer, name) for name in ("unk_token", "pad_token", "cls_token", "sep_token")}
    backend = Tokenizer.from_str(text.replace('"swap":5', '"great":5'))
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **special).save_pretrained(folder)
    AutoModel.from_pretrained(checkpoint.folder).save_pretrained(folder)
    return Checkpoint("other", folder, "test", "local", "Apache-2.0", "other digest")


def test_an_exported_teacher_is_refused(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    exported = Artifact(fine_tuned.folder, replace(fine_tuned.manifest, layout="onnx"), "onnx-fp32")
    with pytest.raises(StageError, match=r"learns from 'onnx-fp32', which is onnx fp32. Expected .* before its export"):
        distill.run(exported, DISTILL, context_in(tmp_path, moods, untrained))


def test_a_teacher_with_other_labels_is_refused(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    signature = replace(fine_tuned.manifest.signature, labels=("joy", "anger"))
    other = Artifact(fine_tuned.folder, replace(fine_tuned.manifest, signature=signature))
    with pytest.raises(StageError, match=r"labels are joy, anger; the data set's are anger, fear, joy\. Expected"):
        distill.run(other, DISTILL, context_in(tmp_path, moods, untrained))


def test_no_loss_at_all_and_two_kinds_of_student_are_refused_by_the_recipe() -> None:
    with pytest.raises(ValueError, match="all loss weights are 0"):
        LossWeights(soft=0)
    with pytest.raises(ValueError, match="give either model or these"):
        DistillConfig(stage="distill", name="x", parent="y", model="bert", layers=2)


def test_a_student_that_is_no_model_is_a_clear_error(
    tmp_path: Path, fine_tuned: Artifact, moods: Dataset, untrained: Checkpoint
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nobody-knows"}')
    wrong = Checkpoint("wrong", tmp_path, "test", "local", "Apache-2.0", "digest")
    with pytest.raises(ModelError, match="cannot be loaded as a classifier"):
        distilled(tmp_path / "out", fine_tuned, moods, wrong, model="wrong", layers=None)

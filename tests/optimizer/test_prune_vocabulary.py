from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from bantam.artifact import Artifact, seal
from bantam.errors import DataError, StageError
from optimizer.config import VocabularyConfig
from optimizer.data import Split
from optimizer.prune import vocabulary
from optimizer.stage import RunContext
from optimizer.training.classifier import load_artifact
from tests.optimizer.tiny_models import LABELS, make_context, write_tiny_model
from tests.optimizer.tiny_tokenizers import (
    SEEN,
    UNSEEN,
    classifier,
    tokens,
    word_piece,
    wrapped,
)

PRUNE = VocabularyConfig(name="pruned", parent="baseline")


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    context = make_context(tmp_path / "pruned")
    splits = {"train": SEEN[:30], "dev": [*SEEN[30:], *UNSEEN[:10]], "test": UNSEEN[10:]}
    targets = np.random.default_rng(0).integers(0, 2, (100, len(LABELS))).astype(np.uint8)
    made = {name: Split(tuple(texts), targets[: len(texts)]) for name, texts in splits.items()}
    return replace(context, data=replace(context.data, splits=made))


@pytest.fixture
def parent(tmp_path: Path) -> Artifact:
    artifact = write_tiny_model(tmp_path / "baseline", "bert")
    before = wrapped(word_piece(), "token_type_ids")
    classifier(before).save_pretrained(artifact.folder)
    before.save_pretrained(artifact.folder)
    # As if it had been trained: what random weights decide is not tried.
    return Artifact(artifact.folder, seal(artifact.folder, replace(artifact.manifest, random_weights=False)))


def test_the_stage_writes_an_artifact_that_says_what_went(parent: Artifact, context: RunContext) -> None:
    pruned = Artifact.load(vocabulary.run(parent, PRUNE, context).folder, verify=True)
    old, _ = load_artifact(parent.folder)
    new, model = load_artifact(pruned.folder)
    details = pruned.manifest.details
    assert details["tokens"] == {"before": len(old), "after": len(new)}
    assert details["parameters"] == model.num_parameters()
    assert details["texts"] == 50
    # Half of dev has words that train lacks.
    assert 0 < details["dev_share_changed"] <= 0.5
    assert pruned.manifest.signature.max_length == parent.manifest.signature.max_length
    assert pruned.manifest.signature.pad_token_id == new.pad_token_id
    assert [entry["stage"] for entry in pruned.manifest.lineage] == ["finetune", "prune"]
    assert not pruned.manifest.random_weights
    assert tokens(new, UNSEEN[:10]) == tokens(old, UNSEEN[:10])  # dev counts as well


def test_texts_of_further_files_keep_their_tokens(parent: Artifact, context: RunContext, tmp_path: Path) -> None:
    file = tmp_path / "more.txt"
    file.write_text("\n".join(UNSEEN), encoding="utf-8")
    config = PRUNE.model_copy(update={"corpora": (str(file),)})
    pruned = vocabulary.run(parent, config, context)
    old, new = load_artifact(parent.folder)[0], load_artifact(pruned.folder)[0]
    assert tokens(new, UNSEEN) == tokens(old, UNSEEN)
    assert pruned.manifest.details["dev_share_changed"] == 0


def test_unseen_tokens_stay_until_few_classes_would_change(parent: Artifact, context: RunContext) -> None:
    kept = {}
    train = Split((*SEEN[:20], *UNSEEN[10:40]), np.zeros((50, 3), dtype=np.uint8))
    context = replace(context, data=replace(context.data, splits={**context.data.splits, "train": train}))
    for tolerance in (None, 0.03):
        target = context.folder / str(tolerance)
        target.mkdir()
        config = PRUNE.model_copy(update={"tolerance": tolerance})
        details = vocabulary.run(parent, config, replace(context, folder=target)).manifest.details
        # Two of 20 texts say nothing against a share of 3%.
        assert details["dev_share_changed"] <= (0.1 if tolerance else 1)
        assert details.get("tolerance_kept") is (True if tolerance else None)
        kept[tolerance] = details["tokens"]["after"]
    assert kept[None] < kept[0.03]


def test_what_random_weights_decide_is_not_tried(
    parent: Artifact, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(vocabulary, "_Trial", None)
    random = Artifact(parent.folder, seal(parent.folder, replace(parent.manifest, random_weights=True)))
    config = PRUNE.model_copy(update={"tolerance": 0.01})
    pruned = vocabulary.run(random, config, replace(context, log=said.append)).manifest
    assert pruned.random_weights
    assert said[0].endswith("nothing tried: what random weights decide means nothing")
    assert not {"tolerance_kept", "dev_share_changed"} & {*pruned.details}


class Trial:
    """``changed`` texts of 64, less those that ``tokens`` unseen tokens each save."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, changed: int, tokens: int, seen: int = 32) -> None:
        self.encodings, self.vocabulary, self.largest = [frozenset[int]()] * 64, None, 0
        self.count, self.tokens, self.seen = changed, tokens, list(range(seen))
        monkeypatch.setattr(vocabulary, "_likely_first", lambda *_: list(range(seen, 10_000)))

    def changed(self, ids: Collection[int]) -> int:
        self.largest = max(self.largest, len(ids))
        return max(0, self.count - (len(ids) - len(self.seen)) // self.tokens)

    def enough(self, tolerance: float) -> Any:
        return vocabulary._enough(cast(Any, self), self.seen, tolerance)


def test_a_single_text_of_few_keeps_a_tolerance_of_half_a_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Trial(monkeypatch, changed=1, tokens=4).enough(0.005)
    assert (len(found.ids), found.share, found.kept) == (32, 1 / 64, True)
    # Of two, one may remain.
    found = Trial(monkeypatch, changed=2, tokens=4).enough(0.005)
    assert (len(found.ids), found.share, found.kept) == (32 + 4, 1 / 64, True)


def test_unseen_tokens_are_no_more_than_the_seen_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(monkeypatch, changed=9, tokens=20)
    found = trial.enough(0.005)
    assert trial.largest == 64
    assert (len(found.ids), found.share, found.kept) == (64, 8 / 64, False)
    # Where more tokens save nothing, none stay.
    found = Trial(monkeypatch, changed=9, tokens=100).enough(0.005)
    assert (len(found.ids), found.share, found.kept) == (32, 9 / 64, False)


def test_a_tolerance_that_is_not_kept_is_said(
    parent: Artifact, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary._Trial, "changed", lambda self, ids: 7)
    said: list[str] = []
    config = PRUNE.model_copy(update={"tolerance": 0.01})
    details = vocabulary.run(parent, config, replace(context, log=said.append)).manifest.details
    assert "35.00% of unseen texts change a class, not the 1.00% of tolerance" in said[-1]
    assert (details["tolerance_kept"], details["dev_share_changed"]) == (False, 0.35)


def test_a_file_that_is_not_there_is_refused(parent: Artifact, context: RunContext) -> None:
    with pytest.raises(DataError, match=r"absent\.txt cannot be read"):
        vocabulary.run(parent, PRUNE.model_copy(update={"corpora": ("absent.txt",)}), context)


def test_a_text_that_would_be_cut_otherwise_stops_the_stage(parent: Artifact, context: RunContext) -> None:
    """``12☃`` is unknown as a whole, because after ``12`` nothing fits; without ``12`` it is ``1`` and ``##2☃``."""
    before = wrapped(word_piece())
    state = json.loads(before.backend_tokenizer.to_str())
    vocabulary_ = state["model"]["vocab"]
    for token in ("1", "3", "12", "##2☃"):
        vocabulary_.setdefault(token, len(vocabulary_))
    before = wrapped(Tokenizer.from_str(json.dumps(state)), "token_type_ids")
    classifier(before).save_pretrained(parent.folder)
    before.save_pretrained(parent.folder)
    train = context.data.splits["train"]
    odd = Split(("32☃", "12☃", *train.texts), np.zeros((32, 3), dtype=np.uint8))
    assert tokens(before, ["12☃"]) == [["<s>", "<unk>", "</s>"]]
    data = replace(context.data, splits={**context.data.splits, "train": odd})
    with pytest.raises(StageError, match="'12☃' is cut otherwise"):
        vocabulary.run(parent, PRUNE, replace(context, data=data))


def test_pieces_of_one_score_may_change_places() -> None:
    """What decides between them is the last bit of a sum, which is not that of the file when it is read again."""

    def unigram(first: float, short: float, long: float) -> PreTrainedTokenizerFast:
        pieces = [("<unk>", 0.0), ("x", first), ("ha", short), ("haha", long), ("h", -9.0), ("a", -9.0)]
        return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.Unigram(pieces, unk_id=0)), unk_token="<unk>")

    before, after = unigram(-0.3, -1.7, -2.9), unigram(-0.2, -1.7, -2.9)
    assert tokens(before, ["xhahaha"]) == [["x", "haha", "ha"]]
    assert tokens(after, ["xhahaha"]) == [["x", "ha", "haha"]]
    vocabulary.check_same_tokens(before, after, ["xhahaha"])
    with pytest.raises(StageError, match="'xhahaha' is cut otherwise"):
        vocabulary.check_same_tokens(before, unigram(-0.3, -1.7, -99.0), ["xhahaha"])

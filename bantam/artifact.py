"""An artifact: a folder of files with a ``manifest.json``. The seam between ``optimizer/`` and ``serving/``.

Standard library only, because everything else builds on it. A folder is written beside its final place and renamed
into it, so that it is either whole or absent, whenever the process is killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

from bantam.errors import ArtifactError
from bantam.licence import Licence, licences_in

MANIFEST = "manifest.json"
SCHEMA = 2
Text = str | tuple[str, str]
"""What a classifier reads: a text, or a pair of texts. Tokenizers take either."""
EXAMPLES = {False: '"I love it"', True: '("A man is asleep", "Somebody sleeps")'}
"""What to ask a model, as Python: by whether it reads pairs."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
"""What an exported model's tokenizer is made of."""


@dataclass(frozen=True)
class Layout:
    """What kind of files a model is in, and what can be done with them."""

    format: str
    """The word for it in reports and messages."""
    weights: tuple[str, ...] = ()
    """Graph and weights; those that are there are deployable, beside the tokenizer's files. Without: all files are."""
    trainable: bool = False
    exports_to: tuple[str, ...] = ()
    """Names of the layouts that it can be exported to."""
    servable: bool = False


LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        "hf": Layout("pytorch", trainable=True, exports_to=("onnx", "openvino")),
        "hf-quantized": Layout("pytorch"),
        "onnx": Layout("onnx", ("model.onnx", "model.onnx.data"), exports_to=("openvino",), servable=True),
        "openvino": Layout("openvino", ("model.xml", "model.bin"), servable=True),
        "scores": Layout("scores"),
    }
)
"""Every layout by name: ``hf`` is a Hugging Face folder, ``hf-quantized`` one in fewer bits, by torch or a library
that transformers reads it through, ``scores`` a variant's answers on a data set."""


@dataclass(frozen=True)
class Numbers:
    """In what the weights, or the activations, are stored and multiplied."""

    kind: Literal["float", "bfloat", "normal", "int", "grid"] = "float"
    """``normal``: steps at the quantiles of the normal distribution (NormalFloat, Dettmers et al. 2023); ``grid``:
    points that round normal numbers with the least error, alone or in pairs (HIGGS, Malinovskii et al. 2024)."""
    bits: int = 32
    scheme: Literal["symmetric", "asymmetric"] | None = None
    """Whether 0 is represented without an offset; None for floats."""
    granularity: Literal["tensor", "channel", "row", "block"] | None = None
    """What shares a scale; None for floats."""
    dynamic: bool | None = None
    """Activations in integers: True if the scale is found while computing, False if it was calibrated."""

    @property
    def label(self) -> str:
        """``fp32``, ``bf16``, ``nf4``, ``int8``, ``grid3`` ..."""
        short = {"float": "fp", "bfloat": "bf", "normal": "nf"}
        return f"{short.get(self.kind, self.kind)}{self.bits}"


@dataclass(frozen=True)
class Compute:
    """What a model computes in, and what follows from it for who runs it."""

    weights: Numbers = Numbers()
    activations: Numbers = Numbers()
    batch_invariant: bool = True
    """A text's logits depend on no neighbour or padding (fp16 on a GPU: up to a tolerance): the engine may batch."""
    devices: tuple[Literal["cpu", "cuda"], ...] = ("cpu",)
    padded_to: int = 1
    """Tokens to a multiple of which every text is padded, a single one too, so that it is invariant."""

    @property
    def precision(self) -> str:
        """The label of whichever has fewer bits: the word for it in reports and messages."""
        return min(self.weights, self.activations, key=lambda numbers: numbers.bits).label


@dataclass(frozen=True)
class Signature:
    """What a classifier takes and gives: enough to run it without the library that made it."""

    task: str
    """``multi_label`` (sigmoid per label), ``single_label`` (softmax over labels) or ``regression`` (as it is)."""
    labels: tuple[str, ...]
    """In the order of the outputs; one name for ``regression``."""
    inputs: tuple[str, ...]
    """Names of the model's inputs, all int64 ``[batch, tokens]``: input_ids, attention_mask, token_type_ids."""
    max_length: int
    """Longest input in tokens, special tokens included; longer texts are cut."""
    pad_token_id: int = 0
    pair: bool = False
    """Whether it reads two texts at a time, such as a premise and a hypothesis."""
    truncation_side: Literal["left", "right"] = "right"
    """At which end a longer text is cut; of a pair, tokens of the longer text are cut first."""


@dataclass(frozen=True)
class Manifest:
    """What is in an artifact and where it comes from."""

    stage: str
    key: str
    """Hash of all that went into it; see :func:`cache_key`."""
    layout: str
    """A name of :data:`LAYOUTS`."""
    signature: Signature
    compute: Compute = Compute()
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Path below the folder -> ``{"sha256": hex, "bytes": int}``, the manifest itself left out."""
    deployable: tuple[str, ...] = ()
    """The files that production needs: weights, graph, tokenizer. Their sum is the variant's size."""
    lineage: tuple[dict[str, Any], ...] = ()
    """One entry a stage, oldest first: stage, key, and its config with digests in place of other stages' names."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Measured while it was made (seconds, losses, parity); not part of its identity."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else a reader of this format needs, such as thresholds or the source of the weights."""
    random_weights: bool = False
    """True if the weights are random: sizes and times mean something, predictions do not."""
    licences: tuple[Licence, ...] = ()
    """Of all checkpoints that it descends from, teachers included; no part of its content."""
    quantization: str | None = None
    """In what weights of these were stored once, where that was fewer bits (``Q4_K_M``); no part of its content."""
    schema: int = SCHEMA

    @property
    def kind(self) -> str:
        """Format and precision, for messages: ``onnx int8``."""
        return f"{LAYOUTS[self.layout].format} {self.compute.precision}"

    @property
    def is_fp32(self) -> bool:
        """Whether weights and activations are 32-bit floats: what can be exported or quantized further."""
        return self.compute.precision == "fp32"


@dataclass(frozen=True)
class Artifact:
    """A finished artifact on disk."""

    folder: Path
    manifest: Manifest
    name: str = ""
    """What the run that uses it calls it, for messages; by default the folder's name. No part of its content."""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.folder.name)

    @property
    def servable(self) -> bool:
        """Whether a server can run it."""
        return LAYOUTS[self.manifest.layout].servable

    @property
    def size_bytes(self) -> int:
        """Bytes that production must ship for this model."""
        return sum(int(self.manifest.files[name]["bytes"]) for name in self.manifest.deployable)

    @property
    def digest(self) -> str:
        """Hash of the content: equal files, signature and details give an equal digest, whenever they were made."""
        m = self.manifest
        return cache_key(
            files={name: entry["sha256"] for name, entry in m.files.items()},
            signature=asdict(m.signature),
            details=m.details,
            layout=m.layout,
            compute=asdict(m.compute),
        )

    @classmethod
    def load(cls, folder: Path, *, verify: bool = False) -> Artifact:
        """Read the artifact in ``folder``; with ``verify``, hash each file.

        Raises :class:`ArtifactError` if it has no readable manifest, or a file is missing, changed or of another size.
        """
        artifact = cls.described(folder)
        for name, entry in artifact.manifest.files.items():
            path = folder / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise ArtifactError(
                    f"{path}: missing or not {entry['bytes']} bytes long. Delete the folder and run again."
                )
            if verify and sha256(path) != entry["sha256"]:
                raise ArtifactError(f"{path}: its content has changed since it was written. Delete the folder.")
        return artifact

    @classmethod
    def described(cls, folder: Path) -> Artifact:
        """What the manifest in ``folder`` says, whether or not its files are there.

        Raises :class:`ArtifactError` if it cannot be read.
        """
        try:
            raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if raw["schema"] != SCHEMA:
                raise ArtifactError(
                    f"{folder}: manifest schema {raw['schema']}, expected {SCHEMA}. Delete the folder and run again."
                )
            signature: dict[str, Any] = raw["signature"]
            signature |= {"labels": tuple(signature["labels"]), "inputs": tuple(signature["inputs"])}
            raw["signature"], raw["compute"] = Signature(**signature), _compute(raw["compute"])
            raw["deployable"], raw["lineage"] = tuple(raw["deployable"]), tuple(raw["lineage"])
            raw["licences"], raw["details"] = licences_in(raw), dict(raw.get("details", {}))
            artifact = cls(folder, Manifest(**raw))
            if artifact.manifest.layout not in LAYOUTS:
                raise ValueError(f"layout {artifact.manifest.layout!r}, expected one of {', '.join(LAYOUTS)}")
            for name, entry in artifact.manifest.files.items():
                _check_file(name, entry)
            if unknown := {*artifact.manifest.deployable} - {*artifact.manifest.files}:
                raise ValueError(f"deployable {', '.join(sorted(unknown))}, expected names of its files")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise ArtifactError(f"{folder}: no readable {MANIFEST} ({exc}). Delete the folder and run again.") from exc
        return artifact


def deployable_files(folder: Path, layout: str) -> tuple[str, ...]:
    """Names of the files in ``folder`` that production needs: graph, weights, tokenizer; or all, of a checkpoint."""
    if not LAYOUTS[layout].weights:
        return tuple(sorted(path.name for path in folder.iterdir()))
    return (*(name for name in LAYOUTS[layout].weights if (folder / name).exists()), *TOKENIZER_FILES)


def _compute(raw: dict[str, Any]) -> Compute:
    numbers = Numbers(**raw["weights"]), Numbers(**raw["activations"])
    return Compute(*numbers, raw["batch_invariant"], tuple(raw["devices"]), raw.get("padded_to", 1))


def _check_file(name: str, entry: Any) -> None:
    """Raise ``ValueError`` for a path that could lead out of the folder on any system, or without digest and size."""
    if not (isinstance(entry, dict) and isinstance(entry.get("sha256"), str) and isinstance(entry.get("bytes"), int)):
        raise ValueError(f"file {name!r} has {entry!r}, expected its sha256 and bytes")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
        raise ValueError(f"file {name!r} is not a path below the folder")


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_key(**parts: Any) -> str:
    """Hash of JSON-serialisable parts; the order of keys does not count. 64 hexadecimal digits."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hash all files in ``folder``, write its manifest, return it with ``files`` filled in."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    missing = [name for name in manifest.deployable if name not in files]
    if missing:
        raise ArtifactError(f"{folder}: {', '.join(missing)} should ship but was not written.")
    return _write(folder, replace(manifest, files=files))


def with_metrics(artifact: Artifact, **metrics: Any) -> Artifact:
    """The same with more metrics, which are no part of its identity; its manifest is written again."""
    manifest = replace(artifact.manifest, metrics={**artifact.manifest.metrics, **metrics})
    return replace(artifact, manifest=_write(artifact.folder, manifest))


def _write(folder: Path, manifest: Manifest) -> Manifest:
    text = json.dumps(asdict(manifest), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest

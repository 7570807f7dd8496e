"""What the engine reads of ``manifest.json``, which ``bantam.artifact`` writes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple


class ModelManifest(NamedTuple):
    """A model as far as whoever runs it must know it."""

    layout: str
    task: str
    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    max_length: int
    pad_token_id: int
    bf16: bool
    """Whether it is computed in bfloat16."""
    batch_invariant: bool
    """Whether a text's logits are the same beside other texts and padding."""
    padded_to: int
    """Its logits are those if each text, a single one as well, is padded to a multiple of so many tokens."""
    devices: tuple[str, ...]
    pair: bool
    """Whether it reads two texts at a time."""
    truncation_side: str
    """At which end a longer text is cut: ``left`` or ``right``."""
    standard_operators: bool
    """Whether the graph has none but ONNX's own: not the fused attention of ONNX Runtime."""
    weights: str
    """Hash of graph and weights."""
    memory_bytes: int
    """What the model takes in memory: more than its files have, where weights are restored from fewer bits."""


def read_manifest(folder: Path) -> ModelManifest:
    """The manifest in ``folder``. Raises ``ValueError`` if it is not one that this engine understands."""
    path = folder / "manifest.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        signature, compute = raw["signature"], raw["compute"]
        return ModelManifest(
            layout=raw["layout"],
            task=signature["task"],
            labels=tuple(signature["labels"]),
            inputs=tuple(signature["inputs"]),
            max_length=signature["max_length"],
            pad_token_id=signature["pad_token_id"],
            bf16=compute["activations"]["kind"] == "bfloat",
            batch_invariant=compute["batch_invariant"],
            padded_to=compute.get("padded_to", 1),
            devices=tuple(compute["devices"]),
            pair=signature.get("pair", False),  # these three: absent from what was published before there were any
            truncation_side=signature.get("truncation_side", "right"),
            standard_operators=raw.get("details", {}).get("fused_attention") == 0,
            weights=_hash(raw["files"], raw["deployable"]),
            memory_bytes=raw.get("details", {}).get("memory_bytes", _size(raw["files"], raw["deployable"])),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ValueError(
            f"{path}: {type(exc).__name__}: {exc}. Expected the manifest of an exported model. Publish the model again."
        ) from exc


def _size(files: dict[str, dict[str, int]], deployable: list[str]) -> int:
    return sum(files[name]["bytes"] for name in deployable if name in files)


def _hash(files: dict[str, dict[str, str]], deployable: list[str]) -> str:
    hashes = [files[name]["sha256"] for name in deployable if name in files]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()

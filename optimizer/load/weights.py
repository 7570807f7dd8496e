"""What weights a folder holds: names and shapes, from the headers of its safetensors files alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bantam.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
METADATA = "__metadata__"
"""What is no tensor in the header of a safetensors file."""
WEIGHTS = (SINGLE, INDEX, "model-*-of-*.safetensors")
INSIDE = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
}
"""What training tools put into tensors' names, wherever a module was wrapped."""
BEFORE = {"module.": "DataParallel", "model.": "Lightning", "net.": "Lightning"}
"""What they put in front of every name."""
_POINTER = b"version https://git-lfs"
_AGAIN = "Copy it again, or save the model again with save_pretrained."


def has_weights(folder: Path) -> bool:
    """Whether ``folder`` has weights in safetensors, in one file or with an index."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def refuse_pointers(files: Iterable[Path]) -> None:
    """Raise :class:`ModelError` for a file that is empty, or stands for one in Git LFS."""
    for path in files:
        size = path.stat().st_size
        with path.open("rb") as file:
            pointer = size < 1000 and file.read(len(_POINTER)) == _POINTER
        if pointer:
            raise ModelError(
                f"{path} is a Git LFS pointer ({size} bytes), not the file itself.\n"
                f"Get the files: git lfs pull in {path.parent}, or hf download MODEL --local-dir FOLDER."
            )
        if not size:
            raise ModelError(f"{path} is empty. {_AGAIN}")


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor, by name. Raises :class:`ModelError` for files that are damaged or missing."""
    if (folder / SINGLE).is_file():
        return _header(folder / SINGLE)
    if not has_weights(folder):
        raise ModelError(f"{folder} has no weights in safetensors. Expected {SINGLE}, as save_pretrained writes it.")
    try:
        parts = sorted({*json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ModelError(f"{folder / INDEX} is no index of weights: {type(exc).__name__}: {exc}. {_AGAIN}") from exc
    missing = [name for name in parts if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} of the {len(parts)} files that {INDEX} names are not there: "
            f"{', '.join(missing[:3])}{' ...' * (len(missing) > 3)}. Copy them into it."
        )
    return {name: shape for part in parts for name, shape in _header(folder / part).items()}


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    _, header = read_header(path)
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != METADATA}


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """The header of a safetensors file, and its length in bytes: each tensor's entry by name, and the metadata.

    Raises :class:`ModelError` for a file that is none, or was cut off.
    """
    refuse_pointers([path])
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError(f"its header would end at byte {length + 8:,} of {size:,}")
            header = json.loads(file.read(length))
        tensors = [entry for name, entry in header.items() if name != METADATA]
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
        if end > size:
            raise ValueError(f"it has {size:,} bytes of {end:,}: the copy was cut off")
        if not all(isinstance(entry["shape"], list) for entry in tensors):
            raise ValueError("a tensor in its header has no shape")
        return length, header
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as exc:
        raise ModelError(f"{path} is no safetensors file: {exc}. {_AGAIN}") from exc


def own_names(names: Iterable[str]) -> dict[str, str]:
    """Each name without what may be a training tool's in it; ``model.`` may be the model's own as well."""
    own = {name: name for name in names}
    for part in INSIDE:
        own = {name: left.replace(part, "") for name, left in own.items()}
    while own and (shared := [part for part in BEFORE if all(left.startswith(part) for left in own.values())]):
        own = {name: left.removeprefix(shared[0]) for name, left in own.items()}
    return own

"""Weights in PyTorch's own files (pytorch_model.bin), as safetensors: read as tensors only, so that no code runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bantam.artifact import cache_key, sha256
from bantam.errors import ModelError
from bantam.files import cache_folder
from optimizer.load.folder import CONFIG, TOKENIZER, made_once
from optimizer.load.weights import INDEX, refuse_pointers

PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")


def pickled(folder: Path) -> list[Path]:
    """The files of weights that ``folder`` has in PyTorch's format."""
    return sorted(path for pattern in PICKLED[::2] for path in folder.glob(pattern))


def converted(folder: Path, log: Callable[[str], None]) -> Path:
    """A folder in Bantam's cache with the same model in safetensors; made on the first call.

    Raises :class:`ModelError` if the files hold more than tensors, or cannot be read.
    """
    found = pickled(folder)
    others = [folder / name for name in (CONFIG, *TOKENIZER) if (folder / name).is_file()]
    refuse_pointers([*found, *others])
    key = cache_key(files={path.name: sha256(path) for path in (*found, *others)})
    target = cache_folder() / "converted" / f"{folder.name}-{key[:12]}"
    log(f"{folder.name}: {', '.join(path.name for path in found)} is read as tensors only and kept as {target}")

    def make(new: Path) -> None:
        index: dict[str, str] = {}
        for number, path in enumerate(found, start=1):
            name = f"model-{number:05}-of-{len(found):05}.safetensors"
            index |= dict.fromkeys(_convert(path, new / name), name)
        (new / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}, indent=1), encoding="utf-8")
        for path in others:
            shutil.copyfile(path, new / path.name)

    return made_once(target, make)


def _convert(path: Path, target: Path) -> list[str]:
    """Write the tensors of one file; returns their names."""
    import torch
    from safetensors.torch import save_file

    zipped = _is_zip(path)
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        content = content.get("state_dict", content)
        tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
        if not tensors:
            raise ValueError("it holds no tensors by name")
    except Exception as exc:  # damaged files raise whatever comes; what is no tensor, an error without a base here
        raise ModelError(
            f"{path} cannot be read as tensors alone ({type(exc).__name__}): it is damaged, or would run code.\n"
            "Expected the weights as save_pretrained writes them. If you trust it, load it where it was made and "
            "save_pretrained there: that writes safetensors."
        ) from exc
    # Tied weights share memory, which safetensors does not write.
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, target, {"format": "pt"})
    return list(tensors)


def _is_zip(path: Path) -> bool:
    """Whether it can be mapped into memory: files of PyTorch before 1.6 cannot."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"

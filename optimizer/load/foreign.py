"""What other tools make of a model and Bantam does not start from, each with what to bring instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bantam.errors import ModelError

ADAPTER = "adapter_config.json"
_SOURCE = "Give the model that it was made of{source}, as save_pretrained wrote it: Bantam compresses and exports it."
_OLD = (
    "Convert it once, with transformers 4 and {library}: AutoModelForSequenceClassification.from_pretrained(FOLDER, "
    "{flag}=True).save_pretrained('converted'); then give the folder 'converted'."
)
_KINDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("is an ONNX export", ("*.onnx", "ort_config.json"), _SOURCE),
    ("is an OpenVINO export", ("openvino_*.xml",), _SOURCE),
    ("is a TensorRT, Core ML or TFLite export", ("*.engine", "*.plan", "*.mlpackage", "*.tflite"), _SOURCE),
    ("has TensorFlow weights", ("*.h5", "*.ckpt.index"), _OLD.format(library="tensorflow", flag="from_tf")),
    ("has Flax weights", ("*.msgpack",), _OLD.format(library="flax", flag="from_flax")),
)


def refuse_foreign(folder: Path, shown: str) -> None:
    """Raise :class:`ModelError` if what ``folder`` has instead of weights is another tool's."""
    if any(folder.glob("adapter_model.*")):
        raise ModelError(
            f"{shown} holds an adapter's weights without {ADAPTER}, which names the model that they belong to.\n"
            "Copy that file there too, as peft's save_pretrained wrote both."
        )
    for what, patterns, do in _KINDS:
        found = [path.name for pattern in patterns for path in folder.glob(pattern)]
        if found:
            source = named_source(_read(folder / "config.json"))
            raise ModelError(f"{shown} {what} ({found[0]}), not a model.\n{do.format(source=source)}")


def refuse_unfinished(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise :class:`ModelError` if weights are another tool's compressed numbers, or have an adapter beside them."""
    if (folder / ADAPTER).is_file():
        raise ModelError(
            f"{folder} has a model's weights and an adapter ({ADAPTER}); expected one model.\n"
            "Remove the adapter's files if it is merged into the weights already; else merge them with peft's "
            "merge_and_unload and give the result."
        )
    found = config.get("quantization_config")
    file = next((name for name in ("quantize_config.json", "quant_config.json") if (folder / name).is_file()), None)
    if found or file:
        method = found.get("quant_method") if isinstance(found, Mapping) else None
        raise ModelError(
            f"{folder} is compressed already ({method or file or 'quantization_config in its config.json'}).\n"
            + _SOURCE.format(source=named_source(config))
        )


def named_source(config: Mapping[str, Any]) -> str:
    """`` (NAME)`` of what a model was made of, if its config says so."""
    name = config.get("_name_or_path")
    return f" ({name})" if name and isinstance(name, str) else ""


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

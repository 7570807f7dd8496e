"""GGUF files, llama.cpp's own format, as Hugging Face folders: converted once, into Bantam's cache.

transformers knows how tensors, numbers and tokens are called there, for the architectures that it lists. Only what a
classifier has is taken: the model without its language modelling head, which is trained with a new one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bantam.artifact import sha256
from bantam.errors import ModelError
from bantam.files import cache_folder
from bantam.memory import available_mb, give_back
from optimizer.catalog import CATALOG
from optimizer.load.folder import CONFIG, made_once
from optimizer.load.gguf_header import ADVICE, HEAD, Facts, read, refuse_unexpected, refuse_unread, shapes
from optimizer.load.pickled import pickled
from optimizer.load.weights import has_weights, refuse_pointers
from optimizer.quiet import no_bars

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ENDING = ".gguf"
FACTS = "gguf.json"
"""What the folder keeps of the file that is in no other file of it."""
_NAME = "model.gguf"
"""What transformers finds the file as: it knows this ending alone."""
_SHOWN = 3


def gguf_file(model: str) -> Path | None:
    """The GGUF file that ``model`` names, by its own path or that of a folder with it; None if it names none.

    Raises :class:`ModelError` for a folder with several.
    """
    # Not what a link points at: a file in the hub's cache has its name in the link alone.
    path = Path(os.path.abspath(Path(model).expanduser()))
    if path.is_file() and path.suffix.lower() == ENDING:
        return path
    if model in CATALOG or not path.is_dir() or has_weights(path) or pickled(path):
        return None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == ENDING)
    if len(found) > 1:
        raise ModelError(
            f"{model} holds {len(found)} GGUF files ({', '.join(file.name for file in found[:_SHOWN])}"
            f"{' ...' * (len(found) > _SHOWN)}); expected one. Give the path of one of them."
        )
    return found[0] if found else None


def converted(file: Path, log: Callable[[str], None]) -> Path:
    """The Hugging Face folder of a GGUF file in Bantam's cache; made on the first call. See :func:`convert`."""
    refuse_pointers([file])
    target = cache_folder() / "converted" / f"{file.stem}-{sha256(file)[:12]}"
    return made_once(target, lambda folder: convert(file, folder, log))


def facts_in(folder: Path) -> Facts | None:
    """What the GGUF file said that ``folder`` was converted from; None if it was not."""
    try:
        return Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def convert(file: Path, target: Path, log: Callable[[str], None]) -> None:
    """Write the model in ``file`` into the empty folder ``target``: config, weights in safetensors, tokenizer.

    All weights are stored in fp32 or bf16 if the file says that it is in these, else in fp16: it has three bits more
    than bf16, which would round a weight in 8 bits by as much as half its step. Norms, which files have in 32 bits
    beside matrices in fewer, are rounded like all (fp16: by 0.05% at most). What is beyond fp16 makes it bf16 for all.
    Raises :class:`ModelError` if transformers cannot read the file, would leave something of it out, or there is too
    little memory or disk.
    """
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    from optimizer.load.model import reading

    facts = read(file)
    with reading(file, f"a model ({facts.architecture})", ADVICE), tempfile.TemporaryDirectory() as alone:
        # By itself: transformers would also read what lies beside it, such as an adapter.
        (Path(alone) / _NAME).symlink_to(file.resolve())
        at: dict[str, Any] = {"gguf_file": _NAME, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(alone, **at)
        with torch.device("meta"):
            refuse_unread(file, facts, AutoModelForSequenceClassification.from_config(config))
        _check_room(file, facts, target)
        log(
            f"{file.name}: {facts.architecture} in {facts.type} becomes a Hugging Face folder, once. A large "
            "vocabulary takes a minute or two"
        )
        with no_bars():
            weights = _loaded(file, Path(alone), facts)
            with torch.device("meta"):
                model = AutoModel.from_config(config, dtype=weights.dtype)
            # Into a model of its own: one that comes from GGUF cannot be saved.
            model.load_state_dict(weights.state_dict(), assign=True)
            model.save_pretrained(target)
            AutoTokenizer.from_pretrained(alone, **at).save_pretrained(target)
    # Stored in 16 bits, computed in 32: Gemma's activations are beyond what fp16 can hold.
    saved = json.loads((target / CONFIG).read_text(encoding="utf-8"))
    (target / CONFIG).write_text(json.dumps(saved | {"dtype": "float32"}, indent=2), encoding="utf-8")
    (target / FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")


def _check_room(file: Path, facts: Facts, target: Path) -> None:
    """Raise :class:`ModelError` if the weights, which become larger, have no room in memory or on the disk."""
    counts = [prod(shape) for name, shape in shapes(file).items() if name not in HEAD]
    weights = sum(counts) * (4 if facts.type == "F32" else 2) / 1e6
    # transformers has one tensor at a time in 32 bits, twice.
    for what, needed, free in (
        ("memory", weights + 8 * max(counts, default=0) / 1e6, available_mb()),
        (f"disk at {target.parent}", weights, shutil.disk_usage(target).free / 1e6),
    ):
        if needed > free:
            advice = "take a smaller model" if what == "memory" else "set BANTAM_CACHE to a folder on another disk"
            raise ModelError(
                f"{file.name} becomes a folder of {weights / 1000:.2f} GB, for which {needed / 1000:.2f} GB of {what} "
                f"are needed, and {free / 1000:.2f} GB are free.\nFree some, or {advice}."
            )


def _loaded(file: Path, folder: Path, facts: Facts) -> PreTrainedModel:
    """The model in ``file`` without its head, each weight a finite number; ``folder`` has that file alone."""
    import torch

    first = {"F32": torch.float32, "BF16": torch.bfloat16}.get(facts.type, torch.float16)
    for dtype in dict.fromkeys((first, torch.bfloat16)):  # what is beyond fp16
        base = _loaded_in(dtype, file, folder)
        if _finite(base.parameters()):
            return base
        del base  # not beside the next
        give_back()
    raise ModelError(f"{file} has weights that are no numbers, or infinite: it is damaged. Copy it again.")


def _loaded_in(dtype: torch.dtype, file: Path, folder: Path) -> PreTrainedModel:
    from transformers import AutoModelForSequenceClassification, GgufConfig

    from optimizer.load import guard

    model, info = AutoModelForSequenceClassification.from_pretrained(
        folder,
        gguf_file=_NAME,
        dtype=dtype,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
        trust_remote_code=False,
    )
    guard.check(model, info, {}, file, new=True)
    refuse_unexpected(file, info["unexpected_keys"])
    base: PreTrainedModel = model.base_model
    return base


def _finite(parameters: Any) -> bool:
    import torch

    return all(bool(torch.isfinite(part).all()) for part in parameters)

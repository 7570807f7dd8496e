"""Checkpoints as PyTorch models: the one place that asks transformers for one.

Weights come from safetensors, and all that the model has come from there: only a classification head may be new, where
it is asked for. Code that a checkpoint brings never runs and nobody is asked about it: where transformers knows the
model's type, its own code is taken; where not, that is an error.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel
from transformers import logging as transformers_logging

from bantam.artifact import Artifact
from bantam.errors import ModelError, UserError
from optimizer.load import guard
from optimizer.load.folder import CONFIG, read_config
from optimizer.load.head import fit, label_names, read_head
from optimizer.load.weights import BEFORE, INSIDE, own_names, shapes

if TYPE_CHECKING:
    from transformers.utils.quantization_config import QuantizationConfigMixin

_ADVICE = "Expected a Hugging Face folder that transformers reads as a text classifier, as save_pretrained writes it."


def load_model(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    attention: Literal["eager", "sdpa"] | None = None,
    labels: tuple[str, ...] | None = None,
    task: str | None = None,
    new_head: bool = True,
    quantization: QuantizationConfigMixin | None = None,
    log: Callable[[str], None] = print,
) -> PreTrainedModel:
    """The classifier in a Hugging Face folder, for inference (``eval``), on ``device`` in ``dtype``.

    ``attention``: by default as transformers prefers. ``labels`` with ``task``: what the outputs are to be, in this
    order; a head of the same labels is kept, its rows moved to their places, and any other replaced by a new one with
    random weights, if ``new_head``; without them it is the folder's. ``quantization``: of weights as they are read;
    what was saved needs none. Raises :class:`ModelError` if it is no classifier, or weights are missing or do not fit.
    """
    config = load_config(folder)
    rows = None
    if labels is not None and task is not None:
        rows = _rows(folder, labels, task, new_head=new_head)
        config.update(_named(labels) | {"problem_type": task if task == "regression" else f"{task}_classification"})
    weights = shapes(folder)
    own = _unwrapped(folder, weights, config, log)
    with reading(folder, "a classifier"):
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=attention,
            quantization_config=quantization,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the guard refuses what does not fit, by name
            key_mapping={f"^{re.escape(name)}$": to for name, to in own.items()} or None,
        )
    model._weight_conversions = None if own else model._weight_conversions  # saved under its own names
    new = labels is not None and rows is None
    guard.check(model, info, {own.get(name, name): shape for name, shape in weights.items()}, folder, new=new)
    if new and read_head(folder):
        guard.renew_head(model)
    if rows is not None:
        with reading(
            folder, "a classifier with its outputs in the order of the data's labels", "FINETUNE=always trains it."
        ):
            guard.reorder(model, rows, folder)
    return cast(PreTrainedModel, model.to(device).eval())


def load_made(artifact: Artifact, *, threads: int | None = None, device: str = "cpu") -> PreTrainedModel:
    """What Bantam has made in PyTorch, for inference on ``device``, in the numbers that its manifest says.

    ``threads``: of this process from now on; by default as many as torch likes. Raises as :func:`load_model`.
    """
    if threads:
        torch.set_num_threads(threads)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(artifact.manifest.compute.weights.label, torch.float32)
    return load_model(artifact.folder, device=device, dtype=dtype)


def load_config(folder: Path) -> PreTrainedConfig:
    """The config of a Hugging Face folder, its labels in whatever form it has them; of transformers' own classes."""
    raw = read_config(folder)
    if "id2label" in raw or "label2id" in raw:
        raw |= _named(label_names(raw))
        raw.pop("num_labels", None)
    raw.pop("auto_map", None)
    with reading(folder, "a classifier"), tempfile.TemporaryDirectory() as mended:
        path = Path(mended) / CONFIG
        path.write_text(json.dumps(raw), encoding="utf-8")
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=False)
    return config


def forward_inputs(model: PreTrainedModel) -> set[str]:
    """Names of the arguments of the model's forward method."""
    return set(inspect.signature(model.forward).parameters)


def _named(labels: tuple[str, ...]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def _rows(folder: Path, labels: tuple[str, ...], task: str, *, new_head: bool) -> tuple[int, ...] | None:
    """Which outputs of the folder's head are ``labels``; None if it has none, or other ones, and may be replaced."""
    head = read_head(folder)
    if head is None:
        if not new_head:
            raise ModelError(f"{folder} has no trained classification head. Train one: FINETUNE=auto or always.")
        return None
    try:
        rows = fit(head, labels, task).rows(labels)
        if rows is None and not new_head:
            raise ModelError(f"Its head has {len(head.labels)} labels; expected these {len(labels)} alone.")
    except ModelError as exc:
        if not new_head:
            raise ModelError(f"{folder} cannot be taken as it is. {exc} Train it: FINETUNE=auto or always.") from exc
        return None
    return rows


def _unwrapped(
    folder: Path, names: Iterable[str], config: PreTrainedConfig, log: Callable[[str], None]
) -> dict[str, str]:
    """The model's own name for each tensor that a training tool has named otherwise; said. Empty if all are its own."""
    own = {name: to for name, to in own_names(names).items() if name != to}
    if not own:
        return {}
    with reading(folder, "a classifier"), torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    known = guard.known_names(model)
    if len(known & {*own}) >= len(known & {*own.values()}):
        return {}
    example = next(iter(own))
    tools = dict.fromkeys(
        tool for part, tool in {**INSIDE, **BEFORE}.items() if part in example.removesuffix(own[example])
    )
    log(f"{folder.name}: {example} and others are named as {' and '.join(tools)} does; read as {own[example]}")
    return own


@contextmanager
def reading(folder: Path, what: str, advice: str = _ADVICE) -> Iterator[None]:
    """Without progress bars and the report of what was not loaded, which we check; errors as :class:`ModelError`."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logger = logging.getLogger("transformers.modeling_utils")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as exc:  # transformers, safetensors and tokenizers raise whatever comes, bare Exception included
        raise ModelError(_told(exc, folder, what, advice)) from exc
    finally:
        logger.setLevel(level)


def _told(exc: Exception, folder: Path, what: str, advice: str) -> str:
    """What cannot be read and what to do about it, in at most three lines."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    reason = " ".join(lines)[:300] or type(exc).__name__
    if isinstance(exc, KeyError):
        reason = f"it lacks {reason}, or does not know it"
    if isinstance(exc, ImportError):
        advice = "Install the library that it names (sentencepiece, protobuf or tiktoken for a tokenizer) into .venv."
    return f"{folder} cannot be loaded as {what}: {reason}\n{advice}"

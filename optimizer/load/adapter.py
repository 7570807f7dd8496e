"""A peft adapter and the model that it was trained beside, as one Hugging Face folder: merged once, then cached.

peft puts the two together; what is ours is to know that nothing of either is missing, and that the sum is the same.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bantam.artifact import cache_key, sha256
from bantam.errors import ModelError, reason
from bantam.files import cache_folder
from optimizer.catalog import CATALOG, Checkpoint
from optimizer.load.folder import TOKENIZER, made_once
from optimizer.load.foreign import ADAPTER
from optimizer.load.head import read_head, unnamed
from optimizer.load.weights import has_weights, refuse_pointers

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
TOLERANCE = 1e-3
"""Largest difference of a logit between the two apart and merged, relative to the largest: sums in another order."""
_TEXTS = ("An adapter is merged.", "So?", "The sum of the two is what is compressed, and " * 8)
_MERGE = (
    "Merge the two once, with peft: AutoPeftModelForSequenceClassification.from_pretrained(FOLDER, num_labels=N)"
    ".merge_and_unload().save_pretrained('merged')\nPut the tokenizer there too, and give the folder 'merged'."
)


def adapter_in(folder: Path) -> bool:
    """Whether ``folder`` holds an adapter, and no model."""
    return (folder / ADAPTER).is_file() and not has_weights(folder)


def base_of(folder: Path) -> str:
    """The model that the adapter was trained beside: a name of the catalog, a folder or a hub id.

    A relative path is looked for beside the adapter too. Raises :class:`ModelError` if there is none in its config.
    """
    try:
        name = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise ModelError(
            f"{folder / ADAPTER} does not say what the adapter was trained beside: {reason(exc)}. Expected JSON with "
            "base_model_name_or_path, as peft's save_pretrained writes it."
        ) from exc
    if not name or not isinstance(name, str):
        raise ModelError(
            f"{folder / ADAPTER} has base_model_name_or_path = {name!r}; expected the model that it was trained beside."
        )
    if not Path(name).expanduser().is_dir() and (folder.parent / name).is_dir():
        name = str(folder.parent / name)
    if adapter_in(Path(name).expanduser()):
        raise ModelError(
            f"{folder} holds an adapter for {name}, which is an adapter itself; expected a model. {_MERGE}"
        )
    return next((entry.name for entry in CATALOG.values() if entry.hub_id == name), name)


def merged(folder: Path, base: Checkpoint, log: Callable[[str], None]) -> Path:
    """The Hugging Face folder of ``base`` with the adapter in ``folder`` merged into it; made on the first call.

    In fp32, with the adapter's tokenizer if it brings one. Raises :class:`ModelError` if the adapter is no text
    classifier's, is of a kind that cannot be merged, has no trained head, or does not fit its base.
    """
    files = [folder / name for name in (ADAPTER, *WEIGHTS, *TOKENIZER) if (folder / name).is_file()]
    if not any(path.name in WEIGHTS for path in files):
        raise ModelError(f"{folder} has {ADAPTER} and no weights; expected {WEIGHTS[0]}, as save_pretrained writes it.")
    refuse_pointers(files)
    key = cache_key(base=base.digest, files={path.name: sha256(path) for path in files})

    def make(target: Path) -> None:
        log(f"{folder.name} is merged into {base.name}, which it was trained beside; kept in Bantam's cache")
        _merge(folder, base, target, log)
        own = [path for path in files if path.name in TOKENIZER]
        for path in own or [base.folder / name for name in TOKENIZER if (base.folder / name).is_file()]:
            shutil.copyfile(path, target / path.name)

    return made_once(cache_folder() / "converted" / f"{folder.name}-{key[:12]}", make)


def _merge(folder: Path, base: Checkpoint, target: Path, log: Callable[[str], None]) -> None:
    import torch

    from optimizer.load.model import reading

    with reading(folder, "an adapter", _MERGE), torch.inference_mode():
        adapted = _together(folder, base, log)
        before = _logits(adapted.eval(), base)
        whole = adapted.merge_and_unload(safe_merge=True)
        after = _logits(whole.eval(), base)
    difference, allowed = float((after - before).abs().max()), TOLERANCE * max(1.0, float(before.abs().max()))
    if not difference <= allowed:
        raise ModelError(
            f"{folder} merged into {base.name} gives logits that differ by {difference:.1e} from those of the two "
            f"apart; expected at most {allowed:.1e}. Please report this, with {ADAPTER}."
        )
    whole.save_pretrained(target)


def _together(folder: Path, base: Checkpoint, log: Callable[[str], None]) -> Any:
    """The base with the adapter in it, as peft runs the two; all of the adapter's weights have found their place."""
    from peft import PeftConfig, PeftModelForSequenceClassification, TaskType
    from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(folder))
    if config.task_type != TaskType.SEQ_CLS:
        raise ModelError(
            f"{folder} holds an adapter for {config.task_type or 'a task that it does not name'}; expected one of a "
            "text classifier (SEQ_CLS), with its head.\nTrain one on your data, or give the base: Bantam trains it."
        )
    weights = load_peft_weights(str(folder), device="cpu")
    model = _base(folder, base, weights, log)
    config.inference_mode = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)  # peft's matter
        adapted: Any = PeftModelForSequenceClassification(model, config)
    if not hasattr(adapted.base_model, "merge_and_unload"):
        raise ModelError(f"{folder} holds an adapter of kind {config.peft_type}, which is no part of the weights.")
    found: Any = set_peft_model_state_dict(adapted, weights)
    parts = (adapted.base_model.prefix, ".modules_to_save.")
    missing = [name for name in found.missing_keys if any(part in name for part in parts)]
    for names, what in ((missing, "lacks weights of"), (found.unexpected_keys, "has weights that have no place in")):
        if names:
            raise ModelError(
                f"{folder} {what} {type(model).__name__} with its adapter: {', '.join(names[:3])}.\n"
                f"Expected those of {ADAPTER} for {base.name}, all of them: save the adapter again."
            )
    return adapted


def _base(folder: Path, base: Checkpoint, weights: Mapping[str, Tensor], log: Callable[[str], None]) -> PreTrainedModel:
    """The base as a classifier of the adapter's labels, in fp32; its head is to be filled if the adapter brings one."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from optimizer.load.guard import of_head
    from optimizer.load.model import load_config, load_model

    with torch.device("meta"):
        empty = AutoModelForSequenceClassification.from_config(load_config(base.folder), trust_remote_code=False)
    # The last matrix outside of the encoder, whatever it is called, has a row a label.
    last = [name for name, part in empty.named_parameters() if part.ndim == 2 and of_head(empty, name)][-1]
    brought = [len(tensor) for name, tensor in weights.items() if name.endswith(f".{last}")]
    own = read_head(base.folder)
    if not brought and own is None:
        raise ModelError(
            f"{folder} has no classification head, and neither has {base.name}: its outputs would be random.\n"
            f"Expected a tensor {last}, which peft saves for the task SEQ_CLS. Train it again with its head."
        )
    if own is not None and brought in ([], [len(own.labels)]):
        return load_model(base.folder, log=log)
    task = "regression" if brought == [1] else "single_label"
    model = load_model(base.folder, labels=unnamed(brought[0]), task=task, log=log)
    if task == "single_label":
        model.config.problem_type = None  # a text may have one label or several: the data decides
    return model


def _logits(model: Any, base: Checkpoint) -> Tensor:
    """Logits ``[texts, labels]``, text by text."""
    import torch

    from optimizer.load.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(base.folder)
    batches = (tokenizer(text, return_tensors="pt", truncation=True, max_length=64) for text in _TEXTS)
    return torch.cat([model(input_ids=batch["input_ids"]).logits for batch in batches])

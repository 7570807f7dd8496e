"""A tokenizer for an architecture whose own is out of reach. A stand-in: token counts are near, not equal."""

from __future__ import annotations

from pathlib import Path

from bantam.errors import ModelError

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
_ALPHABET = 256


def write_tokenizer(folder: Path, vocabulary: int, *, max_length: int | None) -> int:
    """Train a byte-level BPE tokenizer on the bundled texts, write it to ``folder``, return the id of its pad token.

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

"""Vocabulary: tokens that the data never uses go, and their rows of the word embeddings with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from optimizer.artifact import Artifact
from optimizer.config import PruneConfig
from optimizer.data.texts import read_texts
from optimizer.errors import StageError
from optimizer.stage import RunContext
from optimizer.surgery.vocabulary import encode_in_full, keep_tokens, needed_tokens, with_companions
from optimizer.training.classifier import load_artifact, write


def run(parent: Artifact, config: PruneConfig, context: RunContext) -> Artifact:
    """Keep the tokens of train, dev and ``config.corpora``, and what any text can be written in.

    All these texts are cut into exactly the same tokens as before, which is checked on each of them: the model gives
    the same logits. The manifest says what share of dev has tokens that the other texts lack: so many unseen texts are
    read otherwise than before. Raises :class:`StageError` if a text is cut otherwise, :class:`ModelError` for a
    tokenizer whose vocabulary cannot be cut, :class:`DataError` for a file of texts that cannot be read.
    """
    tokenizer, model = load_artifact(parent.folder)
    dev = context.data.splits["dev"].texts
    others = [*context.data.splits["train"].texts]
    for path in config.corpora:
        others += read_texts(Path(path).expanduser())
    ids = needed_tokens(tokenizer, others)
    known = set(with_companions(model, tokenizer, ids))
    unseen = sum(not known.issuperset(encoding.ids) for encoding in encode_in_full(tokenizer, dev))
    smaller, rewritten = keep_tokens(model, tokenizer, {*ids, *needed_tokens(tokenizer, dev)})
    check_same_tokens(tokenizer, rewritten, [*others, *dev])
    return write(
        smaller,
        rewritten,
        config,
        context,
        longest=parent.manifest.signature.max_length,
        parent=parent,
        details={
            "tokens": {"before": len(tokenizer), "after": len(rewritten)},
            "texts": len(others) + len(dev),
            "dev_share_with_unseen_tokens": round(unseen / len(dev), 4),
        },
        random_weights=parent.manifest.random_weights,
    )


def check_same_tokens(before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Raise :class:`StageError` unless both tokenizers cut each text into the same tokens, whatever their ids."""
    for text, old, new in zip(texts, encode_in_full(before, texts), encode_in_full(after, texts), strict=True):
        if old.tokens != new.tokens:
            gone, come = (
                [t for t in a if t not in b][:4] for a, b in ((old.tokens, new.tokens), (new.tokens, old.tokens))
            )
            raise StageError(
                f"Without the tokens that no text needs, {text[:60]!r} is cut otherwise: {come} in place of {gone}. "
                "Expected the same tokens: leave the vocabulary of this model as it is."
            )

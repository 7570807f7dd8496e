"""Vocabulary: tokens that the data never uses go, and their rows of the word embeddings with them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from bantam.artifact import Artifact, Signature, Text
from bantam.errors import StageError
from optimizer.config import VocabularyConfig
from optimizer.data import Dataset
from optimizer.data.files import read_texts
from optimizer.evaluate import UNTUNED, predict, tune_thresholds
from optimizer.load.tokenizer import load_tokenizer
from optimizer.reference import Reference
from optimizer.stage import RunContext
from optimizer.surgery.vocabulary import WholeVocabulary, encode_in_full, is_free, needed_tokens
from optimizer.training.classifier import load_artifact, write


def run(parent: Artifact, config: VocabularyConfig, context: RunContext) -> Artifact:
    """Keep the tokens of train, dev and ``config.corpora``, and what any text can be written in.

    All these texts are cut into exactly the same tokens as before, which is checked on each of them: the model gives
    the same logits. Other texts may lose words to smaller pieces; how often that changes a class is tried on dev, as if
    dev had not been seen, and with ``config.tolerance`` unseen tokens stay too, as :func:`_enough` says. A regression
    has no classes, and what random weights decide means nothing, so that nothing is tried and none of them stay. Raises
    :class:`StageError` if a text is cut otherwise, :class:`ModelError` for a tokenizer whose vocabulary cannot be cut,
    :class:`DataError` for a file of texts that cannot be read.
    """
    tokenizer, model = load_artifact(parent.folder)
    dev = context.data.splits["dev"].texts
    others: list[Text] = [*context.data.splits["train"].texts]
    for path in config.corpora:
        others += read_texts(Path(path).expanduser())
    vocabulary = WholeVocabulary(model, tokenizer)
    found = _Found(needed_tokens(tokenizer, others))
    if not (why := _nothing_to_try(parent, context)):
        found = _enough(_Trial(vocabulary, parent.manifest.signature, context.data), found.ids, config.tolerance)
    smaller, rewritten = vocabulary.keep({*found.ids, *needed_tokens(tokenizer, dev)})
    tried = f"{found.share:.2%} of unseen texts change a class" if found.share is not None else f"nothing tried: {why}"
    if not found.kept:
        tried += f", not the {config.tolerance:.2%} of tolerance: that took too many unseen tokens"
    context.log(f"{config.name}: {len(rewritten):,} of {len(tokenizer):,} tokens; {tried}")
    details: dict[str, Any] = {} if found.share is None else {"dev_share_changed": round(found.share, 5)}
    if found.share is not None and config.tolerance is not None:
        details["tolerance_kept"] = found.kept
    made = write(
        smaller,
        rewritten,
        config,
        context,
        longest=parent.manifest.signature.max_length,
        parent=parent,
        details={
            "tokens": {"before": len(tokenizer), "after": len(rewritten)},
            "texts": len(others) + len(dev),
            **details,
        },
        random_weights=parent.manifest.random_weights,
    )
    check_same_tokens(tokenizer, load_tokenizer(made.folder), [*others, *dev])
    return made


def _nothing_to_try(parent: Artifact, context: RunContext) -> str:
    """Why there are no classes that mean something; empty if there are."""
    if context.data.task == "regression":
        return "a regression has no classes"
    return "what random weights decide means nothing" if parent.manifest.random_weights else ""


class _Trial:
    """How many dev texts change a class with a smaller vocabulary, at the thresholds that suit the whole model."""

    def __init__(self, vocabulary: WholeVocabulary, signature: Signature, data: Dataset) -> None:
        dev = data.splits["dev"]
        self.vocabulary, self.signature, self.dev = vocabulary, signature, dev
        self.encodings = [frozenset(encoding.ids) for encoding in encode_in_full(vocabulary.tokenizer, dev.texts)]
        probabilities = Reference(vocabulary.model, vocabulary.tokenizer, signature).probabilities(dev.texts)
        self.thresholds: tuple[float, ...] | None = None
        if data.task == "multi_label":
            untuned = (UNTUNED,) * len(data.labels)
            self.thresholds = tune_thresholds(probabilities, dev.targets) if data.labelled else untuned
        self.classes = predict(probabilities, self.thresholds)

    def changed(self, ids: Collection[int]) -> int:
        """How many dev texts' predicted classes are not all the same with only these tokens."""
        known = frozenset(self.vocabulary.with_companions(ids))
        rows = [row for row, encoding in enumerate(self.encodings) if not encoding <= known]
        if not rows:
            return 0
        smaller = Reference(*self.vocabulary.keep(ids), self.signature)
        after = predict(smaller.probabilities([self.dev.texts[row] for row in rows]), self.thresholds)
        return int((after != self.classes[rows]).any(axis=1).sum())


MOST_TRIED = 1024
"""Unseen tokens by which a vocabulary grows at most from one trial to the next larger one."""


@dataclass(frozen=True)
class _Found:
    """A vocabulary: its tokens, the share of dev texts that change a class with it, and whether that will do."""

    ids: list[int]
    share: float | None = None
    """None where there is nothing to try."""
    kept: bool = True


def _enough(trial: _Trial, seen: list[int], tolerance: float | None) -> _Found:
    """``seen`` and the fewest unseen tokens, likely ones first, with which the tolerance is kept.

    It is kept unless significantly more texts change than that (one-sided, at 5%): a single text of a small dev says
    nothing about the share. More tokens change fewer classes: their number is doubled until it suffices, then found by
    bisection. There are at most as many of them as ``seen`` has, since the last texts cost most of all: of Gemma's
    262,144 tokens, each text of sms-spam that was still uncovered took tens of thousands, nearly the whole vocabulary.
    If that does not suffice, the vocabulary that changed the fewest texts is taken, the smallest of several.
    """
    from scipy.stats import binom

    rows = len(trial.encodings)
    if tolerance is None:
        return _Found(seen, trial.changed(seen) / rows)
    unseen = _likely_first(trial.vocabulary, seen)[: len(seen)]
    step = max(1, min(len(unseen) // 16, MOST_TRIED))
    allowed = int(binom.ppf(0.95, rows, tolerance))

    def ids(steps: int) -> list[int]:
        return [*seen, *unseen[: steps * step]]

    @cache
    def changed(steps: int) -> int:
        return trial.changed(ids(steps))

    tried = [0, 1]
    while changed(tried[-1]) > allowed and tried[-1] * step < len(unseen):
        tried.append(2 * tried[-1])
    kept = changed(tried[-1]) <= allowed
    if kept:
        steps = bisect_left(range(tried[-1]), True, key=lambda steps: changed(steps) <= allowed)
    else:
        steps = min(tried, key=changed)
    return _Found(ids(steps), changed(steps) / rows, kept)


def _likely_first(vocabulary: WholeVocabulary, seen: list[int]) -> list[int]:
    """The other tokens, those first that are written in letters of the data's tokens.

    A vocabulary of many languages has most of its tokens for others than the data's. Each of the two in order of ids,
    which is that of frequency for words and pieces: WordPiece and Unigram are made so, BPE by its merges. Single
    letters stand first in byte-level BPE; in BPE made by SentencePiece (Gemma), they come after all merges, though some
    are frequent, and a token that is merged from them brings them along.
    """
    letters = {letter for number in seen for letter in vocabulary.names[number]}
    usable = {number for token, number in vocabulary.numbers.items() if not is_free(token)}
    return sorted(usable - {*seen}, key=lambda number: (not letters.issuperset(vocabulary.names[number]), number))


def check_same_tokens(before: PreTrainedTokenizerBase, after: PreTrainedTokenizerBase, texts: Sequence[Text]) -> None:
    """Raise :class:`StageError` unless both tokenizers cut each text into the same tokens, whatever their ids.

    Their order may differ: where a Unigram model can put two pieces either way round ('ha' and 'haha'), the last bit of
    a sum of scores decides, and tokenizers reads numbers back with another last bit than it wrote.
    """
    for text, old, new in zip(texts, encode_in_full(before, texts), encode_in_full(after, texts), strict=True):
        if sorted(old.tokens) != sorted(new.tokens):
            gone, come = (
                [t for t in a if t not in b][:4] for a, b in ((old.tokens, new.tokens), (new.tokens, old.tokens))
            )
            raise StageError(
                f"Without the tokens that no text needs, {text[:60]!r} is cut otherwise: {come} in place of {gone}. "
                "Expected the same tokens: leave the vocabulary of this model as it is."
            )

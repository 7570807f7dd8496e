"""Is a text treated as the model's own tokenizer treats it? Tokenizer, truncation, pairs and model, all together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Artifact, Text, cache_key
from bantam.errors import ParityError
from bantam.run.builder import kept_or_made
from bantam.run.score import answers, computed_by, score_name
from optimizer.evaluate import apart
from optimizer.stage import RunContext
from serving.backend.engine import Engine

if TYPE_CHECKING:
    from optimizer.reference import Reference

SPLIT = "probes"
"""What the texts are called among the scores of a run."""
TOLERANCE = 1e-4
"""Most that scores may be :func:`apart`: fp32 sums in another order move them by some 1e-6, a token more or less
by far more."""
SHOWN = 60
LONG = " ".join(f"{word} {number}" for number in range(300) for word in ("It", "was", "good,", "not", "bad!"))
"""Longer than any encoder reads, and its two ends differ."""
PROBES = (
    *("", " ", "\n\t", "a", "I love it!", "  two  spaces  ", "UPPER and lower", "don't can't we've", "a\nb\r\nc"),
    *(
        "Grüße aus Köln, naïve café",
        "e\u0301 and é",
        "\ufb01ne \uff21\uff22\uff23 ½",
        "日本語のテキスト",
        "привет мир",
        "مرحبا بالعالم",
        "ไทย",
    ),
    *(
        "👍🏽 👩‍👩‍👧 🇨🇭",
        "<s> [CLS] </s> [MASK]",
        "http://a.b/c?d=e&f=%20",
        "1,234.56 €",
        "x" * 300,
        "\u200b\ufeff\u00ad",
    ),
    *(LONG, LONG[::-1], "end " * 3 + LONG + " The end is what counts"),
)
"""What tokenizers treat in ways of their own."""


def probes(pair: bool) -> tuple[Text, ...]:
    """The texts that are compared, or pairs of them: short with long, long with short, each with itself."""
    if not pair:
        return PROBES
    return (*zip(PROBES, PROBES[::-1], strict=True), *((text, text) for text in PROBES))


def check(reference: Artifact, exported: Artifact, context: RunContext) -> float:
    """The largest difference of a score between ``reference``, run by transformers, and ``exported``, by our engine.

    ``exported`` is to compute the same in another format. What was found is kept. Raises :class:`ParityError` that
    shows the texts, if it is more than ``TOLERANCE``.
    """
    texts = probes(reference.manifest.signature.pair)
    key = cache_key(
        texts=texts,
        tolerance=TOLERANCE,
        models=[(each.digest, computed_by(each.manifest.layout)) for each in (reference, exported)],
    )

    def make(target: RunContext) -> Artifact:
        difference = apart(*(_scores(each, texts, context.threads) for each in (reference, exported)))
        if not (difference <= TOLERANCE).all():
            raise ParityError(_report(exported.name, texts, difference))
        found = {"texts": len(texts), "max_difference": float(difference.max())}
        return answers(target, exported, key, stage="text-parity", metrics=found)

    kept = kept_or_made(score_name(exported.name, SPLIT), replace(context, key=key), make)
    return float(kept.manifest.metrics["max_difference"])


def _scores(artifact: Artifact, texts: Sequence[Text], threads: int) -> NDArray[np.float32]:
    """One text at a time: how texts are put together in batches is not what is compared."""
    model: Reference | Engine
    if artifact.manifest.layout == "hf":
        from optimizer.reference import Reference

        model = Reference.load(artifact.folder, threads=threads)
    else:
        model = Engine(artifact.folder, threads=threads, micro_batch=1)
    return np.concatenate([model.probabilities([text]) for text in texts])


def _report(name: str, texts: Sequence[Text], difference: np.ndarray) -> str:
    wrong = [i for i in np.argsort(-difference) if not difference[i] <= TOLERANCE]
    shown = ", ".join(f"{_short(texts[i])} by {difference[i]:.1e}" for i in wrong[:3])
    return (
        f"{name} treats {len(wrong)} of {len(texts)} texts otherwise than the model's own tokenizer in transformers: "
        f"scores differ for {shown}; expected at most {TOLERANCE:g}.\nPlease report this tokenizer with its files, or "
        "take a model with another one."
    )


def _short(text: Text) -> str:
    parts = [text] if isinstance(text, str) else text
    return " / ".join(repr(part if len(part) <= SHOWN else part[: SHOWN - 3] + "...") for part in parts)

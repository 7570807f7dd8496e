"""Does an exported model compute what its source computes? Gathers every mismatch before it raises."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bantam.artifact import Signature
from bantam.errors import ParityError, reason
from optimizer.logits import Batch, Logits, Vocabulary

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}
"""Largest difference of a logit, in units of the largest logit or 1.

fp32: sums in another order move a logit by some 1e-6; a wrong mask, weight or shape moves it by far more than 1e-4,
which moves a probability by at most 2.5e-5. fp16 keeps 11 bits, 5e-4 for each rounding; 8e-4 was seen at the end of
MiniLM, on a CPU, which runs it by casts and may leave some roundings out: the bound leaves room for those, and moves a
probability by at most 5e-3. bf16 keeps 8 bits, 4e-3 for each rounding; 2e-2 was seen at the end of
MiniLM, so this bound only catches what is broken, and the figure itself is recorded.
"""

LONGEST = 512
LARGEST = 64
FEW = 5
"""Rows of the largest batch for a model of billions of parameters: half the tokens, and all lengths."""
SHOWN = 12


@dataclass(frozen=True)
class Answered:
    """A batch of tokens, and the source's logits for it."""

    lengths: tuple[int, ...]
    """Tokens of each row without padding."""
    batch: Batch
    logits: NDArray[np.float32]
    alone: tuple[NDArray[np.float32], ...]
    """For each row without the others and without padding, ``[1, labels]``; empty where no row is padded."""


@dataclass(frozen=True)
class InputDifference:
    """One input and how far apart the two models are on it."""

    batch: int
    tokens: int
    what: str
    difference: float
    """Largest absolute difference of a logit; infinite if there is none, or one that is not finite, or too few."""
    allowed: float


def answers(
    reference: Logits, signature: Signature, *, vocabulary: Vocabulary, rows: int = LARGEST, seed: int = 0
) -> list[Answered]:
    """What a model answers to random tokens: lengths 1 to 512, batches 1 to ``rows``, right padding of mixed lengths.

    Kept, so that a large model need not be in memory beside what it was exported to.
    """
    rng = np.random.default_rng(seed)
    found = []
    for lengths in lattice(min(signature.max_length, LONGEST), rows):
        batch = tokens(lengths, signature, vocabulary, rng)
        mixed = enumerate(lengths) if len(set(lengths)) > 1 else ()
        alone = (reference({name: array[i : i + 1, :length] for name, array in batch.items()}) for i, length in mixed)
        found.append(Answered(lengths, batch, reference(batch), tuple(alone)))
    return found


def check(expected: Iterable[Answered], exported: Logits, *, precision: str = "fp32") -> dict[str, Any]:
    """Compare an exported model with the :func:`answers` of its source.

    Each row of a padded batch is also compared with the source's answer to that row alone, unless padding moves the
    source itself, as it does FNet, which has no attention mask, and XLNet, which reads the last token.

    Returns the figures for the manifest. Raises :class:`ParityError` with all that differ by more than ``TOLERANCE``.
    """
    comparisons: list[InputDifference] = []
    refused: list[str] = []
    padding_moves, padding_matters = 0.0, False
    for answer in expected:
        got = _attempt(exported, answer.batch, refused)
        comparisons.append(_compare(answer.logits, got, answer.lengths, "batch", precision))
        for i, alone in enumerate(answer.alone):
            moved = float(np.abs(answer.logits[i] - alone[0]).max())
            padding_moves = max(padding_moves, moved)
            if moved > _allowed(alone, "fp32"):
                padding_matters = True
            else:
                what = f"row {i} of {len(answer.lengths)}"
                comparisons.append(_compare(alone, got[i : i + 1], answer.lengths[i : i + 1], what, precision))
    wrong = [c for c in comparisons if not c.difference <= c.allowed]
    if wrong:
        raise ParityError(_report(wrong, len(comparisons), precision, refused))
    return {
        "comparisons": len(comparisons),
        "max_difference": max(c.difference for c in comparisons),
        "tolerance": TOLERANCE[precision],
        "padding_moves_reference": padding_moves,
        "padding_matters": padding_matters,
    }


def lattice(longest: int, largest: int = LARGEST) -> Iterator[tuple[int, ...]]:
    """The lengths of the rows of each batch: both extremes of either dimension, but not of both at once (memory)."""
    for length in (1, 2, 3, 7, 16, 19, 33, 64, 127, 128, 256, longest - 1, longest):
        if 0 < length <= longest:
            yield (length,)
    yield (longest, 1)
    yield (1, longest // 2 or 1, longest)
    for rows, most in ((2, 5), (3, 64), (5, 37), (8, 128), (17, 24), (LARGEST, 32)):
        most = min(most, longest)
        if rows <= largest:
            yield tuple(1 + (i * (most - 1)) // (rows - 1) for i in reversed(range(rows)))
    yield (1,) * largest
    yield (min(20, longest),) * largest


def tokens(
    lengths: tuple[int, ...], signature: Signature, vocabulary: Vocabulary, rng: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """Random tokens of these lengths, padded on the right; each input int64 ``[len(lengths), max(lengths)]``.

    Special tokens are at the end, where the tokenizer puts them, and nowhere else: some models classify from the one
    that ends a text. A text shorter than these has the last of them.
    """
    shape = (len(lengths), max(lengths))
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.full(shape, signature.pad_token_id, dtype=np.int64)
    ordinary = vocabulary.ordinary[vocabulary.ordinary != signature.pad_token_id]
    for row, length in zip(ids, lengths, strict=True):
        body = rng.choice(ordinary, max(0, length - len(vocabulary.after)))
        row[:length] = np.concatenate([body, vocabulary.after])[-length:]
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, dtype=np.int64)}
    return {name: inputs[name] for name in signature.inputs}


def _attempt(exported: Logits, batch: Batch, refused: list[str]) -> NDArray[np.float32]:
    """Its logits; none, which is as far off as can be, if the runtime refuses the batch: why is added to the list."""
    try:
        return exported(batch)
    except Exception as exc:  # noqa: BLE001  (runtimes raise classes of their own, straight below Exception)
        refused.append(reason(exc))
        return np.empty((0, 0), dtype=np.float32)


def _allowed(expected: NDArray[np.float32], precision: str) -> float:
    return TOLERANCE[precision] * max(1.0, float(np.abs(expected).max()))


def _compare(
    expected: NDArray[np.float32], got: NDArray[np.float32], lengths: tuple[int, ...], what: str, precision: str
) -> InputDifference:
    comparable = expected.shape == got.shape and np.isfinite(expected).all() and np.isfinite(got).all()
    difference = float(np.abs(expected - got).max()) if comparable else float("inf")
    return InputDifference(
        len(lengths), max(lengths), what, difference, _allowed(expected, precision) if comparable else 0.0
    )


def _report(wrong: list[InputDifference], total: int, precision: str, refused: list[str]) -> str:
    wrong = sorted(wrong, key=lambda c: -c.difference)
    most = f"largest difference of a logit {wrong[0].difference:.3g}, allowed {wrong[0].allowed:.3g}."
    if np.isinf(wrong[0].difference):
        most = "of some it makes no logits, or too few, or none that are finite."
    lines = [f"{c.batch:>7}{c.tokens:>8}  {c.what:<14}{c.difference:>12.3g}{c.allowed:>12.3g}" for c in wrong[:SHOWN]]
    if len(wrong) > SHOWN:
        lines.append(f"    and {len(wrong) - SHOWN} more")
    if refused:
        lines.append(f"Its runtime refuses {len(refused)} batches, the first with: {refused[0]}")
    return "\n".join(
        [
            f"The exported model differs from its source in {len(wrong)} of {total} comparisons ({precision}); {most}",
            "  batch  tokens  what            difference     allowed",
            *lines,
            "Nothing was kept. Please report this architecture with its config.json, or choose another model.",
        ]
    )

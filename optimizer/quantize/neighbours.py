"""Whether a text's logits depend on the texts beside it: int8 tells a last bit of fp32 apart.

With scales that are fixed, or a token's own, the products themselves are exact. What is left is fp32 between them,
where a last bit can tip a value over to the next integer. With ONNX Runtime's CPU kernels (1.31, an x86-64 with
AVX-512), texts of 4n + 3 tokens alone differ from themselves padded, and by the same to whatever width: presumably
the product of a single row, as is attention of the first token alone, adds four values in two pairs and three left
over otherwise. Padded to multiples of 4, logits do not move at all, whatever the width and the other texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bantam.artifact import Signature
from optimizer.logits import Batch, Logits

WIDTH = 4
"""Tokens to a multiple of which texts are padded."""
TEXTS = 32
"""Training texts that are compared."""
SAME = 1e-6
"""What a logit may differ by."""


def differ(model: Logits, signature: Signature, batches: Sequence[Batch], multiple: int = WIDTH) -> float:
    """Largest difference of a logit between texts alone and in one batch; ``batches`` has one text each.

    Alone they are padded to a multiple of ``multiple`` tokens; together at least as far as that of the longest one.
    """
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    alone = [
        _padded(batch, signature, -(-length // multiple) * multiple)
        for batch, length in zip(batches, lengths, strict=True)
    ]
    widest = max(batch["input_ids"].shape[1] for batch in alone)
    together = [_padded(batch, signature, widest) for batch in batches]
    answers = model({name: np.concatenate([batch[name] for batch in together]) for name in signature.inputs})
    return float(np.abs(answers - np.concatenate([model(batch) for batch in alone])).max())


def _padded(batch: Batch, signature: Signature, width: int) -> Batch:
    """A text's inputs ``[1, tokens]`` as ``[1, width]``, or fewer if the model takes fewer tokens."""
    tokens = batch["input_ids"].shape[1]
    width = max(tokens, min(width, signature.max_length))
    fill = {"input_ids": signature.pad_token_id}
    return {
        name: np.pad(values, ((0, 0), (0, width - tokens)), constant_values=fill.get(name, 0))
        for name, values in batch.items()
    }

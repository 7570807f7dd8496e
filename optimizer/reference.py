"""A Hugging Face folder in PyTorch: what a user has before Bantam; eager and in fp32 the baseline of every report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bantam.artifact import Artifact, Signature, Text
from optimizer.load.model import forward_inputs, load_made
from optimizer.load.tokenizer import columns, load_tokenizer

ACTIVATIONS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "multi_label": torch.sigmoid,
    "single_label": lambda logits: logits.softmax(-1),
    "regression": lambda logits: logits,
}
"""Task -> from logits ``[rows, labels]`` to scores."""


class Reference:
    """A PyTorch model and its tokenizer, for texts."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, signature: Signature) -> None:
        self.model, self.tokenizer, self.signature = model.eval(), tokenizer, signature

    @classmethod
    def load(cls, folder: Path, *, threads: int | None = None, device: str = "cpu") -> Reference:
        """The model and tokenizer of an artifact in layout ``hf``, fp32, or ``hf-quantized``, on ``device``."""
        artifact = Artifact.load(folder)
        model = load_made(artifact, threads=threads, device=device)
        if artifact.manifest.details.get("compile"):
            model.compile(dynamic=True)
        return cls(model, load_tokenizer(folder), artifact.manifest.signature)

    def probabilities(self, texts: Sequence[Text], *, batch_size: int = 32) -> NDArray[np.float32]:
        """Scores float32 ``[texts, labels]``, in the order given; batches hold texts of like lengths.

        Probabilities, or the raw logit of a regression.
        """
        result = np.empty((len(texts), len(self.signature.labels)), dtype=np.float32)
        order = sorted(range(len(texts)), key=lambda i: sum(map(len, texts[i])))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            result[rows] = self._batch([texts[i] for i in rows])
        return result

    @torch.inference_mode()
    def _batch(self, texts: list[Text]) -> NDArray[Any]:
        batch = self.tokenizer(
            *columns(texts),
            return_tensors="pt",
            padding=len(texts) > 1,
            truncation=True,
            max_length=self.signature.max_length,
        )
        feeds = {name: batch[name] for name in self.signature.inputs}
        if not feeds["input_ids"].numel():
            pad = {"input_ids": self.signature.pad_token_id}
            feeds = {name: torch.full((len(texts), 1), pad.get(name, 0)) for name in feeds}
        if "attention_mask" in feeds:
            mask = feeds["attention_mask"]
            # A text of nothing but padding is read at its first place, so its tokens are there on either side.
            blank = (feeds["input_ids"] == self.signature.pad_token_id).all(dim=1)
            mask[blank] = mask[blank].sort(dim=1, descending=True).values
            # An empty text has no token where the tokenizer adds none: its padding counts as one, as in the engine.
            mask[:, 0] |= ~mask.any(dim=1)
            if self.tokenizer.padding_side == "left" and "position_ids" in forward_inputs(self.model):
                feeds["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
        on_device = {name: tensor.to(self.model.device) for name, tensor in feeds.items()}
        logits = self.model(**on_device).logits.float()
        return np.asarray(ACTIVATIONS[self.signature.task](logits).cpu().numpy())

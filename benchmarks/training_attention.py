"""Why training on a CPU attends in fp32: one bf16 step of a classifier, with and without, in interleaved rounds.

``python -m benchmarks.training_attention`` needs nothing: the model has MiniLM's sizes and random weights. The ratio is
the median over the rounds of the two times in the same round.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import BertConfig, BertForSequenceClassification

from optimizer.training.attention import attention_in_fp32

LABELS = 7
LENGTHS = (16, 24, 48, 96, 192, 512)


def step_ms(model: BertForSequenceClassification, texts: int, tokens: int, *, fp32: bool) -> float:
    """Milliseconds of forward and backward under bf16 autocast."""
    ids = torch.randint(1000, 30000, (texts, tokens))
    labels = torch.zeros(texts, LABELS)
    with attention_in_fp32(model) if fp32 else nullcontext(), torch.autocast("cpu", dtype=torch.bfloat16):
        start = time.perf_counter()
        model(input_ids=ids, labels=labels).loss.backward()
        return 1e3 * (time.perf_counter() - start)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dropout", type=float, default=0.0, help="of attention: above 0, PyTorch takes other kernels")
    arguments = parser.parse_args()
    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=arguments.dropout,
        id2label={i: f"LABEL_{i}" for i in range(LABELS)},
        problem_type="multi_label_classification",
    )
    model = BertForSequenceClassification(config).train()
    model.get_input_embeddings().requires_grad_(False)
    table = Table("tokens", "all bf16, ms", "attention fp32, ms", "times faster")
    for tokens in LENGTHS:
        pairs = [
            [step_ms(model, arguments.batch, tokens, fp32=fp32) for fp32 in (False, True)]
            for _ in range(arguments.rounds + 1)
        ]
        before, after = np.array(pairs[1:]).T  # the first warms up
        figures = (np.median(before), np.median(after))
        ratio = np.median(before / after)
        table.add_row(str(tokens), *(f"{each:.0f}" for each in figures), f"{ratio:.2f}")
    Console().print(table, f"{torch.__version__}, {torch.get_num_threads()} threads, {arguments.rounds} rounds")


if __name__ == "__main__":
    main()

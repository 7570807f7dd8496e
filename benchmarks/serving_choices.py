"""Why Bantam serves the way it does: processes, memory pages, ONNX Runtime's spinning, queue time-out, side by side.

``python -m benchmarks.serving_choices build/minilm-goemotions-ekman-int8-quick/onnx-int8`` publishes that variant
once for each choice, each in a server of its own, and asks them in interleaved rounds with one client, next to the
same engine in process. It prints medians and tails over all rounds.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from rich.console import Console
from rich.table import Table

from bantam.artifact import Artifact, seal
from bantam.client.classifier import Classifier
from bantam.run.latency import draw_texts
from optimizer.data import load_dataset
from serving.repository import publish
from serving.server import Server

SPINNING = re.compile(r"    options\.add_session_config_entry\(\"session\.(?:intra_op|force).*\n")
ENTRY = '    options.add_session_config_entry("{}", "{}")\n'
NEVER = ENTRY.format("session.intra_op.allow_spinning", "0")
SHORT = ENTRY.format("session.intra_op.spin_duration_us", "50") + ENTRY.format("session.force_spinning_stop", "1")
QUEUE_TIMEOUT = "dynamic_batching {\n  default_queue_policy {\n    default_timeout_microseconds: 5000000\n  }\n}"


@dataclass(frozen=True)
class ServingChoice:
    """One way to serve; None leaves Bantam's own."""

    name: str
    spinning: str | None = None
    queue: str | None = None
    """Of Triton's batcher, which the inline backend does without."""
    malloc: str | None = None
    """GLIBC_TUNABLES of the server."""
    isolated: bool = False
    """The model in a process of its own."""


CHOICES = (
    ServingChoice("as Bantam serves"),
    ServingChoice("a process for each model", isolated=True),
    ServingChoice("memory in pages of 4 KiB", malloc="glibc.malloc.hugetlb=0"),
    ServingChoice("threads never spin", spinning=NEVER),
    ServingChoice("threads spin for 50 us", spinning=SHORT),
    ServingChoice("threads spin as ONNX Runtime likes", spinning=""),
    ServingChoice("a process for each model, queue time-out of 5 s", queue=QUEUE_TIMEOUT, isolated=True),
)


def serve(choice: ServingChoice, variant: Artifact, root: Path) -> Server:
    """Publish ``variant`` changed by ``choice`` and start a server for it."""
    state = publish(variant, root, "model", thresholds=None)
    program, config = state.folder / "backend" / "onnx_program.py", root / "model" / "config.pbtxt"
    if choice.spinning is not None:
        kept, count = SPINNING.subn("", program.read_text())
        assert count, "expected a line of the program that sets how threads spin"
        marker = "    return ort.InferenceSession("
        assert marker in kept
        program.write_text(kept.replace(marker, choice.spinning + marker))
        seal(state.folder, Artifact.described(state.folder).manifest)
    if choice.queue is not None:
        text, count = re.subn(r"dynamic_batching \{\s*\}", choice.queue, config.read_text())
        assert count, "expected a plain dynamic_batching in the config"
        config.write_text(text)
    with patch.dict(os.environ, {} if choice.malloc is None else {"GLIBC_TUNABLES": choice.malloc}):
        return Server(root, isolated=choice.isolated).start()


def latencies_ms(ask: Callable[[list[str]], object], texts: list[str]) -> list[float]:
    """Milliseconds of each text, one after the other."""
    result = []
    for text in texts:
        start = time.perf_counter()
        ask([text])
        result.append(1e3 * (time.perf_counter() - start))
    return result


def main() -> None:
    """The command."""
    from serving.backend.engine import Engine

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", type=Path)
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    variant = Artifact.load(options.variant)
    texts = draw_texts(load_dataset(options.data).splits["test"].single, options.texts)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        asked: dict[str, Callable[[list[str]], object]] = {"in process": Engine(options.variant).probabilities}
        for number, choice in enumerate(CHOICES):
            server = serve(choice, variant, Path(folder, str(number)))
            stack.callback(server.stop)
            asked[choice.name] = stack.enter_context(Classifier(server.grpc_address, "model")).probabilities
        results: dict[str, list[float]] = {name: [] for name in asked}
        for number in range(options.rounds + 1):
            for name, ask in asked.items():
                found = latencies_ms(ask, texts)
                results[name] += found if number else []  # the first round warms up
    table = Table(
        "", "p50 ms", "p95 ms", "p99 ms", "max ms", "over 400 ms", title=f"{options.variant.name}, one client"
    )
    for name, found in results.items():
        p50, p95, p99 = np.percentile(found, [50, 95, 99])
        slow = sum(value > 400 for value in found)
        table.add_row(name, f"{p50:.2f}", f"{p95:.2f}", f"{p99:.2f}", f"{max(found):.0f}", f"{slow} of {len(found)}")
    Console().print(table)


if __name__ == "__main__":
    main()

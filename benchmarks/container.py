"""What the container costs: one client's p50 and the time until the server is ready, beside the same server outside.

``python -m benchmarks.container minilm --repository model_repo``, with a Docker engine and the image of ``make image``.
Both serve at the same time, and are asked in turn, so that they share the machine's hours: the bars are a p50 within
10% with host networking, and readiness within 5 seconds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from bantam.client.classifier import Classifier
from optimizer.data import load_dataset
from serving.container import Container
from serving.server import Server

MOST_RATIO, MOST_READY_S = 1.10, 5.0
WARM = 50


def times_ms(address: str, model: str, texts: list[str]) -> list[float]:
    """How long one client waits for each text."""
    with Classifier(address, model) as classify:
        for text in texts[:WARM]:
            classify.probabilities([text])
        found = []
        for text in texts:
            begun = time.perf_counter()
            classify.probabilities([text])
            found.append((time.perf_counter() - begun) * 1e3)
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="minilm")
    parser.add_argument("--repository", type=Path, default=Path("model_repo"))
    parser.add_argument("--data", default="goemotions-ekman")
    parser.add_argument("--image", default="")
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=6)
    asked = parser.parse_args()
    texts = [str(text) for text in load_dataset(asked.data).splits["dev"].texts[: asked.texts]]
    found: dict[str, list[float]] = {"outside": [], "host network": [], "published port": []}
    begun = time.perf_counter()
    with Container(asked.repository, image=asked.image, models=[asked.model], network="host") as inside:
        ready = time.perf_counter() - begun
        with (
            Container(asked.repository, image=asked.image, models=[asked.model]) as published,
            Server(asked.repository, models=[asked.model], follow=True) as outside,
        ):
            addresses = (outside.grpc_address, inside.grpc_address, published.grpc_address)
            for _ in range(asked.rounds):
                for name, address in zip(found, addresses, strict=True):
                    found[name] += times_ms(address, asked.model, texts)
    medians = {name: float(np.median(times)) for name, times in found.items()}
    for name, times in found.items():
        p50, p99 = np.percentile(times, [50, 99])
        print(f"{name:<15} p50 {p50:.3f} ms, p99 {p99:.3f} ms, {p50 / medians['outside']:.3f} of outside")
    print(f"ready after {ready:.2f} s")
    good = medians["host network"] <= MOST_RATIO * medians["outside"] and ready <= MOST_READY_S
    print("within the bars" if good else "NOT within the bars")
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()

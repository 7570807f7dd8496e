"""How long a rollback takes: from the call that ``bantam rollback`` makes until the other version answers.

``python -m benchmarks.rollback build/RUN/onnx-int8`` serves two versions of an exported variant, as ``bantam serve``
does, from a repository that it makes itself, and rolls back again and again. It prints medians and the longest: until
``config.pbtxt`` is replaced, until Triton is shown the other version (``FOLLOW_S``), until Triton has seen it, and
until that is loaded and answers.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bantam.artifact import Artifact
from bantam.client.classifier import Classifier
from bantam.errors import ServerError
from bantam.machine import describe_machine
from serving.repository import publish, rollback
from serving.server import FOLLOW_S, Server

TEXT = "i love it"
LOADING = re.compile(r'^I(?P<time>\d{4} [\d:.]+) .*"loading: model:(?P<version>\d+)"', re.MULTILINE)
PARTS = ("replaced", "shown", "seen", "loaded", "whole")


def until(condition: Callable[[], bool]) -> float:
    """When it came true, as ``time.time`` has it."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "expected within a minute"
        time.sleep(0.002)
    return time.time()


def loading(log: Path, already: int) -> float | None:
    """When Triton set out to load for the ``already + 1``st time; None if it has not yet."""
    found = list(LOADING.finditer(log.read_text(encoding="utf-8", errors="replace")))
    if len(found) <= already:
        return None
    said = f"{datetime.now(UTC).year}{found[already]['time']}"
    return datetime.strptime(said, "%Y%m%d %H:%M:%S.%f").replace(tzinfo=UTC).timestamp()


def once(root: Path, server: Server, classify: Classifier, said: list[str]) -> list[float]:
    """Roll back once; seconds of each part."""
    already = len(LOADING.findall(server.log.read_text(encoding="utf-8", errors="replace")))
    before, start = len(said), time.time()
    version = rollback(root, "model").number
    replaced = time.time()
    assert server._view is not None
    view = server._view
    shown = until(lambda: view.shown["model"].number == version)
    answered = until(lambda: classify(TEXT).version == str(version))
    seen = loading(server.log, already) or shown
    until(lambda: len(said) > before)
    return [replaced - start, shown - replaced, seen - shown, answered - seen, answered - start]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path, help="an exported variant, such as build/RUN/onnx-int8")
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    artifact = Artifact.load(options.artifact)
    labels = len(artifact.manifest.signature.labels)
    multi = artifact.manifest.signature.task == "multi_label"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in (1, 2):  # two versions of the same weights
            publish(artifact, root, "model", thresholds=[0.1 * number] * labels if multi else None, micro_batch=number)
        with Server(root, follow=True) as server, Classifier(server.grpc_address, "model") as classify:
            said: list[str] = []
            threading.Thread(target=_follow, args=(server, said), daemon=True).start()
            rounds = []
            for number in range(options.times):
                time.sleep(1.0 + number / options.times)  # at any moment between two looks of Triton
                rounds.append(once(root, server, classify, said))
    found = 1e3 * np.array(rounds)
    print(f"{describe_machine().title}, load {os.getloadavg()[0]:.1f}; {options.times} rollbacks, FOLLOW_S {FOLLOW_S}")
    for column, part in enumerate(PARTS):
        p50, longest = np.median(found[:, column]), found[:, column].max()
        print(f"{part:<10}median {p50:7.0f} ms   longest {longest:7.0f} ms")


def _follow(server: Server, said: list[str]) -> None:
    with contextlib.suppress(ServerError):  # it is stopped at the end
        server.wait(said.append)


if __name__ == "__main__":
    main()

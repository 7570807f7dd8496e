"""``bantam serve`` of a bucket: a real Triton takes what is promoted there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bantam.artifact import Artifact
from bantam.client import Classifier
from serving import tritonserver
from serving.remote import Remote
from serving.repository import stage, take

pytestmark = [
    pytest.mark.triton,
    pytest.mark.slow,
    pytest.mark.skipif(
        not tritonserver.serving_python().exists(), reason=f"no serving environment at {tritonserver.serving_python()}"
    ),
]
SECONDS = 60.0


def upload(remote: Remote, artifact: Artifact, root: Path, number: int) -> None:
    first = stage(artifact, root / f"first-{number}", "tiny", thresholds=[0.5] * 3)
    remote.upload(take(first.folder, root / f"staged-{number}", "tiny", number=number))


def test_what_is_promoted_and_rolled_back_in_a_bucket_is_served(
    bucket: str, tiny_artifact: Artifact, make_artifact: Callable[..., Artifact], tmp_path: Path
) -> None:
    remote = Remote(bucket)
    upload(remote, tiny_artifact, tmp_path, 1)
    upload(remote, make_artifact(labels=("fear", "joy", "anger")), tmp_path, 2)
    remote.promote("tiny", 1)
    command = [
        sys.executable,
        "-m",
        "bantam",
        "serve",
        "--json",
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--watch-port",
        "0",
    ]
    with subprocess.Popen(
        [*command, "--repository", bucket],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            announced = json.loads(process.stdout.readline())
            with Classifier(announced["grpc"], "tiny") as classify:
                assert classify("i love it").version == "1"
                remote.promote("tiny", 2)
                until(lambda: classify("i love it").version == "2")
                remote.rollback("tiny")
                until(lambda: classify("i love it").version == "1")
        finally:
            process.kill()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)

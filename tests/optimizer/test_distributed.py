"""Two processes train what one does: the same global batch gives the same loss curve, and one of them writes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from bantam.artifact import Artifact
from bantam.run.store import Store
from optimizer import distributed
from tests.optimizer.moods import load_moods, load_tiny

ROOT = Path(__file__).resolve().parents[2]


def train(folder: Path, processes: int) -> dict[str, Artifact]:
    """Both stages of train_on_ranks, by so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
    command = [
        sys.executable,
        *(launcher if processes > 1 else []),
        "-m",
        "tests.optimizer.train_distributed",
        str(folder),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [*folder.glob("*/*.tmp-*"), *folder.glob("run/.work")]
    return {name: Artifact.load(folder / "run" / name, verify=True) for name in ("baseline", "distilled")}


def test_two_processes_follow_the_loss_curve_of_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    load_moods(tmp_path / "one")
    load_tiny(tmp_path / "one" / "tiny")
    shutil.copytree(tmp_path / "one", tmp_path / "two", dirs_exist_ok=True)
    one, two = train(tmp_path / "one", 1), train(tmp_path / "two", 2)
    # From the very same teacher, which training to the last bit is not.
    shutil.copytree(tmp_path / "one", tmp_path / "again")
    store = Store(tmp_path / "again")
    shutil.rmtree(store.folder(one["distilled"].manifest.key))
    two["distilled"] = train(tmp_path / "again", 2)["distilled"]
    for stage in ("baseline", "distilled"):
        before, after = (each[stage].manifest.metrics for each in (one, two))
        assert (before["batch_size"], after["batch_size"]) == (16, 8)
        assert before["steps"] == after["steps"]
        curves = [[entry["loss"] for entry in metrics["log"] if "loss" in entry] for metrics in (before, after)]
        assert len(curves[0]) >= 3
        np.testing.assert_allclose(curves[1], curves[0], rtol=5e-3)
        weights = [load_file(each[stage].folder / "model.safetensors") for each in (one, two)]
        for name, expected in weights[0].items():
            np.testing.assert_allclose(weights[1][name], expected, atol=2e-2, err_msg=name)
    assert two["distilled"].manifest.signature == one["distilled"].manifest.signature


def test_a_run_that_was_started_plainly_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.count() == 1
    assert distributed.is_main()
    done = []
    with distributed.main_first("cpu"):
        done.append(True)
    distributed.wait("cpu")
    assert done == [True]

"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .manifest import ModelManifest
from .program import Feeds, Placement


class OnnxProgram:
    """``model.onnx`` in ``folder``."""

    bucket = 1

    def __init__(self, folder: Path, manifest: ModelManifest, placement: Placement) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = placement.threads
        options.inter_op_num_threads = 1
        # Threads that never spin pay a wake-up at each operator (MiniLM int8: 3.0 ms against 2.0); threads that spin
        # for long, or after a run, take the cores from Triton, the client and our other micro-batches (p99 11 ms
        # against 6). 50 us would be too short for the pauses between operators when caches are cold, as they are in a
        # server: then one client waits 0.05 ms longer, on a slow machine 0.1.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "200")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        # One thread of ours per core keeps it busy.
        self.parallel = placement.threads

    def __call__(self, feeds: Feeds) -> np.ndarray:
        """Logits, float32 ``[texts, labels]``."""
        logits: np.ndarray = self._session.run(["logits"], feeds)[0]
        return logits

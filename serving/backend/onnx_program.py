"""ONNX Runtime, on the CPU or a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .manifest import ModelManifest
from .program import Feeds, Placement
from .providers import BUCKET, check, providers


class OnnxProgram:
    """``model.onnx`` in ``folder``."""

    powers_of_two = False

    def __init__(self, folder: Path, manifest: ModelManifest, placement: Placement) -> None:
        import onnxruntime as ort

        on_cpu = placement.device == "cpu"
        options = ort.SessionOptions()
        options.intra_op_num_threads = placement.threads if on_cpu else 1
        options.inter_op_num_threads = 1
        # Threads that never spin pay a wake-up at each operator (MiniLM int8: 3.0 ms against 2.0); threads that spin
        # for long, or after a run, take the cores from Triton, the client and our other micro-batches (p99 11 ms
        # against 6). 50 us would be too short for the pauses between operators when caches are cold, as they are in a
        # server: then one client waits 0.05 ms longer, on a slow machine 0.1.
        options.add_session_config_entry("session.intra_op.spin_duration_us", "200")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        asked = providers(placement, manifest, ort.get_available_providers())
        if not on_cpu:
            ort.preload_dlls()  # CUDA's libraries, where they came from a package index
        self._session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=asked)
        self.providers = tuple(self._session.get_providers())
        check(placement, self.providers)
        # One thread of ours per core keeps it busy; a GPU runs one batch after the other.
        self.parallel = placement.threads if on_cpu else 1
        self.bucket = 1 if on_cpu else BUCKET

    def __call__(self, feeds: Feeds) -> np.ndarray:
        """Logits, float32 ``[texts, labels]``."""
        logits: np.ndarray = self._session.run(["logits"], feeds)[0]
        return logits

"""OpenVINO on the CPU."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from .manifest import ModelManifest
from .program import Feeds, Placement


class OpenVinoProgram:
    """``model.xml`` and ``model.bin`` in ``folder``."""

    bucket = 8
    """Kernels are prepared anew for each new shape (10 to 15 ms), so lengths are rounded up to multiples of 8."""
    warmed = True
    powers_of_two = True
    providers: tuple[str, ...] = ("CPU",)
    parallel = 1
    """In latency mode there is one stream, and what comes meanwhile queues.

    A second compiled model with a stream a core does not pay (MiniLM int8, 2 cores): the same scores and 1.07 times the
    texts a second in micro-batches of 8, for 104 MB more and each new shape's kernels twice.
    """

    def __init__(self, folder: Path, manifest: ModelManifest, placement: Placement) -> None:
        import openvino as ov

        config = {
            "INFERENCE_PRECISION_HINT": "bf16" if manifest.bf16 else "f32",
            "INFERENCE_NUM_THREADS": placement.threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Pinned, two servers on one machine would share one core.
            "ENABLE_CPU_PINNING": False,
        }
        self._model = ov.Core().compile_model(str(folder / "model.xml"), "CPU", config)
        self._output = self._model.output("logits")
        # A request serves one thread at a time; a new one for each text would cost 0.1 ms.
        self._own = threading.local()

    def __call__(self, feeds: Feeds, *, runs: int = 1) -> np.ndarray:
        """Logits, float32 ``[texts, labels]``; one run or more make no difference."""
        if not hasattr(self._own, "request"):
            self._own.request = self._model.create_infer_request()
        results = self._own.request.infer(feeds, share_inputs=True, share_outputs=True)
        return np.array(results[self._output], dtype=np.float32)

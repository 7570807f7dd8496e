"""ONNX Runtime on a GPU: CUDA, and TensorRT where it takes the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .manifest import ModelManifest
from .onnx_program import session
from .program import Feeds, Placement
from .providers import BUCKET, check, providers, usable


class CudaProgram:
    """``model.onnx`` in ``folder`` on the first GPU. Raises ``ValueError`` if there is none that it can run on.

    What fails on it, at load or at a run, raises: nothing goes to the CPU in its place.
    """

    bucket = BUCKET
    warmed = True
    powers_of_two = False
    parallel = 1
    """A GPU runs one batch after the other."""

    def __init__(self, folder: Path, manifest: ModelManifest, placement: Placement) -> None:
        import onnxruntime as ort

        available = usable(ort.get_available_providers())
        asked = providers(placement, manifest, available)
        ort.preload_dlls()  # CUDA's libraries, where they came from a package index
        self._session = session(folder / "model.onnx", 1, asked)
        self.providers = tuple(self._session.get_providers())
        check(asked, self.providers)

    def __call__(self, feeds: Feeds, *, runs: int = 1) -> np.ndarray:
        """Logits, float32 ``[texts, labels]``; one run or more make no difference."""
        logits: np.ndarray = self._session.run(["logits"], feeds)[0]
        return logits

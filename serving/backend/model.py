"""Triton's Python backend: TEXT (BYTES, UTF-8, ``[batch, 1]``) to SCORES (FP32, ``[batch, labels]``).

Copied with ``engine.py`` into each version folder. The interpreter is the serving environment's: ``server.py`` puts it
first on PATH, where the backend's embedded Python looks for its home; in a container it is the only one.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # exists inside Triton only


class TritonPythonModel:
    """One instance of the model; Triton calls its methods from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load and warm up the engine; Triton reports the version ready when this returns."""
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb_utils.TritonModelException(
                f"Triton's Python backend got numpy {np.__version__} from {Path(np.__file__).parent}; it needs numpy < 2 "
                "(with 2, inputs silently arrive as zeros). Install 'numpy<2' in the serving environment."
            )
        parameters = json.loads(args["model_config"])["parameters"]
        threads = int(parameters["threads"]["string_value"]) if "threads" in parameters else None
        folder = Path(args["model_repository"]) / args["model_version"]
        self.engine = load_engine(folder).Engine(
            folder, threads=threads, micro_batch=int(parameters["micro_batch"]["string_value"])
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Score the texts of all requests that Triton merged as one batch; a bad request gets its own error."""
        texts: list[str] = []
        parts: list[slice | Exception] = []
        for request in requests:
            try:
                decoded = decode(pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy())
            except Exception as exc:
                parts.append(exc)
            else:
                parts.append(slice(len(texts), len(texts) + len(decoded)))
                texts += decoded
        try:
            scores = self.engine.scores(texts)
        except Exception as exc:
            # Never let it out: it would fail the requests without a reason. The log keeps the traceback.
            pb_utils.Logger.log_error(traceback.format_exc())
            failure = RuntimeError(f"The model failed on this batch: {type(exc).__name__}: {exc}")
            parts = [part if isinstance(part, Exception) else failure for part in parts]
        return [
            pb_utils.InferenceResponse(error=pb_utils.TritonError(str(part), error_code(part)))
            if isinstance(part, Exception)
            else pb_utils.InferenceResponse([pb_utils.Tensor("SCORES", scores[part])])
            for part in parts
        ]


def decode(tensor: Any) -> list[str]:
    """The texts of a TEXT tensor, ``[batch, 1]`` of bytes. Raises ``ValueError`` naming the first that is not UTF-8."""
    texts = []
    for row, value in enumerate(tensor.reshape(-1)):
        try:
            texts.append(value.decode("utf-8"))
        except UnicodeDecodeError as exc:
            raise ValueError(
                f"TEXT[{row}] is not UTF-8: byte 0x{value[exc.start]:02x} at position {exc.start} ({exc.reason}). "
                "Encode texts as UTF-8."
            ) from exc
    return texts


def error_code(error: Exception) -> int:
    """The client's mistake, or ours."""
    code: int = pb_utils.TritonError.INVALID_ARG if isinstance(error, ValueError) else pb_utils.TritonError.INTERNAL
    return code


def load_engine(folder: Path) -> ModuleType:
    """Import the engine.py of this version folder by its path, whatever else is called ``engine`` on sys.path."""
    spec = importlib.util.spec_from_file_location("bantam_engine", folder / "engine.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder / 'engine.py'} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

"""Runs ``model.py`` inside Triton's process: what ``backend.c`` calls to load a model and to have texts scored.

As in the stub process of Triton's Python backend, the class in ``model.py`` is made and initialized once, and its
``execute`` gets the requests that Triton merged as one batch.
"""

from __future__ import annotations

import importlib.util
import json
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # the one beside this file

Answer = tuple[int, bytes, bytes, int, int]
"""``OK``, the output's name, its float32 values, rows, columns; or Triton's error code, the message, and nothing."""
OK = -1


LIMIT_MS = 2000
"""How long a request may wait where the config does not say: ``serving.triton_config``, which is not here."""

MOST_MS = 24 * 3600 * 1000


def initialize(folder: str, version: int, config: bytes) -> tuple[Any, bytes, int, int]:
    """Load a version of a model: its TritonPythonModel, no message, for how many milliseconds requests may wait, and
    how many texts a batch may have. Or None and why it cannot be loaded.
    """
    try:
        settings = json.loads(config)
        check(settings)
        limit_ms = limit(settings)
        model = load(Path(folder, str(version), "model.py"))
        model.initialize(
            {"model_repository": folder, "model_version": str(version), "model_config": config.decode("utf-8")}
        )
    except BaseException as exc:  # noqa: BLE001  # the caller is C
        # As information: what is logged as an error is shown to the user, who gets this message already.
        pb_utils.Logger.log_info(traceback.format_exc())
        text = str(exc) if isinstance(exc, pb_utils.TritonModelException) else f"{type(exc).__name__}: {exc}"
        return None, text.strip().encode("utf-8", "replace") or b"unknown", 0, 0
    return model, b"", limit_ms, int(settings["max_batch_size"])


def execute(model: Any, batch: Sequence[tuple[bytes, int, int]]) -> list[Answer]:
    """Answer the requests of a batch, each given as its BYTES tensor in the form that travels, rows and columns."""
    try:
        responses = model.execute([Request(*request) for request in batch])
        return [answer(response, rows) for (_, rows, _), response in zip(batch, responses, strict=True)]
    except BaseException as exc:  # noqa: BLE001  # the caller is C; each request gets an answer
        pb_utils.Logger.log_error(traceback.format_exc())
        error = pb_utils.TritonError(f"model.py failed: {type(exc).__name__}: {exc}")
        return [answer(pb_utils.InferenceResponse(error=error), 0)] * len(batch)


def answer(response: pb_utils.InferenceResponse, expected: int) -> Answer:
    """A response of the model for ``backend.c``. Raises ``ValueError`` unless it has as many rows as expected."""
    if response.failure is not None:
        return response.failure.status, response.failure.text.encode("utf-8", "replace"), b"", 0, 0
    (tensor,) = response.tensors
    values = tensor.as_numpy()
    rows, columns = values.shape
    if rows != expected:
        raise ValueError(f"{tensor.label} has {rows} rows for {expected} of the request.")
    return OK, tensor.label.encode(), values.astype(np.float32, copy=False).tobytes(), rows, columns


class Request:
    """A request as ``model.py`` sees it: one tensor of texts, ``[rows, columns]``."""

    def __init__(self, raw: bytes, rows: int, columns: int) -> None:
        self._raw = raw
        self._shape = rows, columns

    def input(self, name: str) -> pb_utils.Tensor:
        """Its one tensor, whatever the name, of ``bytes``. Raises ``ValueError`` if they are not that many texts."""
        values = np.empty(self._shape, dtype=object)
        texts = values.reshape(-1)  # the same memory
        raw, at = self._raw, 0
        for number in range(len(texts)):
            end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
            if at + 4 > len(raw) or end > len(raw):
                raise ValueError(f"{name} ends within text {number} of {len(texts)}: it has {len(raw)} bytes.")
            texts[number] = raw[at + 4 : end]
            at = end
        if at < len(raw):
            raise ValueError(f"{name} has {len(raw)} bytes; its {len(texts)} texts take {at}.")
        return pb_utils.Tensor(name, values)


def check(config: dict[str, Any]) -> None:
    """Raise TritonModelException unless the model takes texts and gives scores, which is all that goes through here."""
    inputs, outputs = ([(found["data_type"], found["dims"]) for found in config[way]] for way in ("input", "output"))
    decoupled = config.get("model_transaction_policy", {}).get("decoupled", False)
    sizes = [(kind, [int(size) for size in dims]) for kind, dims in inputs]
    texts = sizes in ([("TYPE_STRING", [1])], [("TYPE_STRING", [2])])
    scores = [(kind, len(dims)) for kind, dims in outputs] == [("TYPE_FP32", 1)]
    if not (texts and scores) or decoupled or config.get("max_batch_size", 0) < 1:
        raise pb_utils.TritonModelException(
            f"Inputs are {inputs}, outputs {outputs}; expected batches of one text or two (TYPE_STRING, [1] or "
            "[2]) and one list of scores (TYPE_FP32), one answer to a request. Serve others with isolated models: "
            "bantam serve --isolated."
        )


def limit(config: dict[str, Any]) -> int:
    """For how long requests may wait, in milliseconds. Raises TritonModelException if the config says nonsense."""
    said = config.get("parameters", {}).get("limit_ms", {}).get("string_value", str(LIMIT_MS))
    if not said.isdecimal() or not 1 <= int(said) <= MOST_MS:
        raise pb_utils.TritonModelException(f"limit_ms is {said!r}, expected milliseconds, from 1 to {MOST_MS:,}.")
    return int(said)


def load(path: Path) -> Any:
    """A new TritonPythonModel from this file; several models and versions have a model.py each."""
    spec = importlib.util.spec_from_file_location("model", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel()

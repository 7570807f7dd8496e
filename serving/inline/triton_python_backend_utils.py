"""What ``model.py`` imports from Triton's Python backend, for when it runs inside Triton's own process.

The same names and meanings as in the module that the stub process provides (Triton's python_backend, README), as far as
``model.py`` uses them. ``host.py`` connects it with Triton.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Protocol

import numpy as np

LOG_INFO, LOG_ERROR = 0, 2  # TRITONSERVER_LogLevel


class TritonModelException(Exception):  # Triton's name
    """Raised by ``initialize`` for a model that cannot be loaded."""


class TritonError:
    """Why a request failed. ``code``: one of the constants, the values of Triton's ``TRITONSERVER_Error_Code``."""

    INTERNAL = 1
    INVALID_ARG = 3

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        self.text = message
        self.status = code


class Tensor:
    """A named array."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.label = name
        self._array = array

    def as_numpy(self) -> np.ndarray:
        """The array; an input of BYTES has elements of type ``bytes``."""
        return self._array


class InferenceResponse:
    """The answer to one request: tensors, or an error."""

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.tensors = output_tensors
        self.failure = error


class Logger:
    """Writes to Triton's log."""

    @staticmethod
    def log_info(message: str) -> None:
        """As information."""
        _log(LOG_INFO, message)

    @staticmethod
    def log_error(message: str) -> None:
        """As an error."""
        _log(LOG_ERROR, message)


class InferenceRequest(Protocol):
    """A request as the model sees it."""

    def input(self, name: str) -> Tensor:
        """Its input; models that run here have one."""


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor:
    """The request's input."""
    return request.input(name)


def _log(level: int, message: str) -> None:
    # From the process itself. What it returns if it fails is not asked for: where should that be logged?
    ctypes.CDLL(None).TRITONSERVER_LogMessage(level, b"model.py", 0, message.encode("utf-8", "replace"))

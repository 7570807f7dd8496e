"""Runs ``model.py`` inside Triton's process: Triton's API for backends on one side, the Python backend's on the other.

``backend.c`` imports this module in the Python that it has started, and calls :func:`install`. Triton then calls
:func:`initialize`, :func:`execute` and :func:`finalize`, the latter two from the thread of a model's instance.
"""

from __future__ import annotations

import ctypes
import importlib.util
import struct
import time
import traceback
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import triton_api as api
import triton_python_backend_utils as pb_utils  # the one beside this file

CONFIG_VERSION = 1
Initialize = ctypes.CFUNCTYPE(c_void_p, c_void_p)
Finalize = ctypes.CFUNCTYPE(c_void_p, c_void_p)
Execute = ctypes.CFUNCTYPE(c_void_p, c_void_p, POINTER(c_void_p), c_uint32)


class Handlers(ctypes.Structure):
    """``handlers`` of backend.c."""

    _fields_ = (("initialize", Initialize), ("finalize", Finalize), ("execute", Execute))


_models: dict[int, Any] = {}
"""The TritonPythonModel of each instance, by Triton's address of the instance."""
_installed: list[Handlers] = []
"""ctypes' functions live as long as the objects that hold them."""


def install(address: int) -> None:
    """Put the functions that Triton calls into the ``handlers`` of backend.c, at this address."""
    handlers = Handlers(Initialize(initialize), Finalize(finalize), Execute(execute))
    _installed.append(handlers)
    ctypes.memmove(address, byref(handlers), ctypes.sizeof(handlers))


def initialize(instance: int) -> int | None:
    """Load the model of a new instance. Returns None, or the address of a Triton error that says why it failed."""
    try:
        arguments = describe(instance)
        model = load(Path(arguments["model_repository"], arguments["model_version"], "model.py"))
        model.initialize(arguments)
        _models[instance] = model
    except BaseException as exc:  # noqa: BLE001  # nothing may get out of a function that C calls
        # As information: what is logged as an error is shown to the user, who has this error's message already.
        pb_utils.Logger.log_info(traceback.format_exc())
        text = str(exc) if isinstance(exc, pb_utils.TritonModelException) else f"{type(exc).__name__}: {exc}"
        address: int = api.error_new(pb_utils.TritonError.INTERNAL, text.strip().encode("utf-8", "replace"))
        return address
    return None


def finalize(instance: int) -> None:
    """Drop the model of an instance that Triton unloads."""
    _models.pop(instance, None)


def execute(instance: int, addresses: Sequence[int], count: int) -> None:
    """Answer and release the requests that Triton merged as one batch."""
    begin = time.monotonic_ns()
    requests = [Request(addresses[i]) for i in range(count)]
    try:
        responses = _models[instance].execute(requests)
    except BaseException as exc:  # noqa: BLE001  # all requests get an answer, whatever happens
        pb_utils.Logger.log_error(traceback.format_exc())
        error = pb_utils.TritonError(f"model.py failed: {type(exc).__name__}: {exc}")
        responses = [pb_utils.InferenceResponse(error=error)] * count
    model_ends = time.monotonic_ns()
    sent = [attempt(send, request, response) for request, response in zip(requests, responses, strict=True)]
    times = (begin, begin, model_ends, time.monotonic_ns())
    for request, response, success in zip(requests, responses, sent, strict=True):
        success = success and response.failure is None
        attempt(api.report_statistics, instance, request.address, success, *times)
        attempt(api.request_release, request.address, api.RELEASE_ALL)
    attempt(api.report_batch_statistics, instance, sum(request.rows for request in requests), *times)


def attempt(function: Any, *arguments: Any) -> bool:
    """Whether a call of Triton succeeded; if not, its log says why."""
    try:
        function(*arguments)
    except api.ApiError as exc:
        pb_utils.Logger.log_error(str(exc))
        return False
    return True


class Request:
    """A request of Triton, as ``model.py`` sees it."""

    def __init__(self, address: int) -> None:
        self.address = address
        self.rows = 0
        """Texts in the request, known once the model has read them."""

    def input(self, name: str) -> pb_utils.Tensor:
        """The input of this name, of BYTES: an object array of ``bytes`` with the request's shape.

        Raises ``ValueError`` if it is of another type or if its bytes are not what its shape says.
        """
        tensor, buffer = c_void_p(), c_void_p()
        datatype, shape, dimensions = c_int(), POINTER(c_int64)(), c_uint32()
        size, buffers = c_uint64(), c_uint32()
        api.request_input(self.address, name.encode(), byref(tensor))
        api.input_properties(
            tensor, None, byref(datatype), byref(shape), byref(dimensions), byref(size), byref(buffers)
        )
        if datatype.value != api.BYTES:
            raise ValueError(f"{name} has Triton's data type {datatype.value}, expected BYTES ({api.BYTES}).")
        parts = []
        for index in range(buffers.value):
            api.input_buffer(tensor, index, byref(buffer), byref(size), byref(c_int(api.CPU)), byref(c_int64()))
            parts.append(ctypes.string_at(buffer, size.value))
        sizes = shape[: dimensions.value]
        self.rows = sizes[0]
        return pb_utils.Tensor(name, elements(name, b"".join(parts), sizes))


def elements(name: str, raw: bytes, shape: Sequence[int]) -> np.ndarray:
    """A BYTES tensor from the form in which it travels: before each element its length, little-endian uint32."""
    values = np.empty(int(np.prod(shape)), dtype=object)
    at = 0
    for index in range(len(values)):
        if at + 4 > len(raw) or (end := at + 4 + struct.unpack_from("<I", raw, at)[0]) > len(raw):
            raise ValueError(f"{name} of shape {list(shape)} ends within element {index}: it has {len(raw)} bytes.")
        values[index] = raw[at + 4 : end]
        at = end
    if at < len(raw):
        raise ValueError(f"{name} of shape {list(shape)} takes {at} bytes; it has {len(raw)}.")
    return values.reshape(shape)


def send(request: Request, response: pb_utils.InferenceResponse) -> None:
    """Answer a request. Raises :class:`triton_api.ApiError`; the client has an error then, too."""
    answer = c_void_p()
    api.response_new(byref(answer), request.address)
    failure, raised = response.failure, None
    if failure is None:
        try:
            for tensor in response.tensors:
                write(answer, tensor)
        except api.ApiError as exc:
            failure, raised = pb_utils.TritonError(str(exc)), exc
    error = None if failure is None else api.error_new(failure.status, failure.text.encode("utf-8", "replace"))
    try:
        api.response_send(answer, api.FINAL, error)
    finally:
        if error is not None:
            api.error_delete(error)
    if raised is not None:
        raise raised


def write(answer: c_void_p, tensor: pb_utils.Tensor) -> None:
    """Copy a float32 tensor into a response."""
    array = np.ascontiguousarray(tensor.as_numpy(), dtype=np.float32)
    output, buffer = c_void_p(), c_void_p()
    shape = (c_int64 * array.ndim)(*array.shape)
    api.response_output(answer, byref(output), tensor.label.encode(), api.FP32, shape, array.ndim)
    api.output_buffer(output, byref(buffer), array.nbytes, byref(c_int(api.CPU)), byref(c_int64()))
    ctypes.memmove(buffer, array.ctypes.data, array.nbytes)


def describe(instance: int) -> dict[str, str]:
    """What the Python backend tells a model's ``initialize``: name, version, folder and configuration (JSON)."""
    model, message = c_void_p(), c_void_p()
    name, folder, version, kind = c_char_p(), c_char_p(), c_uint64(), c_int()
    text, size = c_char_p(), c_size_t()
    api.instance_model(instance, byref(model))
    api.model_name(model, byref(name))
    api.model_version(model, byref(version))
    api.model_repository(model, byref(kind), byref(folder))
    api.model_config(model, CONFIG_VERSION, byref(message))
    try:
        api.message_to_json(message, byref(text), byref(size))
        config = ctypes.string_at(text, size.value)
    finally:
        api.message_delete(message)
    return {
        "model_name": (name.value or b"").decode(),
        "model_version": str(version.value),
        "model_repository": (folder.value or b"").decode(),
        "model_config": config.decode(),
    }


def load(path: Path) -> Any:
    """A new TritonPythonModel from this file; several models and versions have a model.py each."""
    spec = importlib.util.spec_from_file_location("model", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel()

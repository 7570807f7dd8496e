"""Triton's C API for backends through ctypes, as far as ``host.py`` uses it.

Source: tritonbackend.h and tritonserver.h of triton-inference-server/core; the names there are TRITONBACKEND_x and
TRITONSERVER_x. Each function here raises :class:`ApiError` where Triton's returns an error.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

LIBRARY = ctypes.CDLL(None)  # the process itself
BYTES, FP32 = 13, 11  # TRITONSERVER_DataType
CPU = 0  # TRITONSERVER_MemoryType
LOG_INFO, LOG_ERROR = 0, 2  # TRITONSERVER_LogLevel
FINAL = 1  # TRITONSERVER_RESPONSE_COMPLETE_FINAL
RELEASE_ALL = 1  # TRITONSERVER_REQUEST_RELEASE_ALL


class ApiError(Exception):
    """Triton's own words for why a call failed."""


def _function(name: str, *arguments: Any, result: Any = None) -> Callable[..., Any]:
    function = LIBRARY[name]
    function.argtypes = arguments
    function.restype = result
    return function


def _checked(name: str, *arguments: Any) -> Callable[..., None]:
    """A function that returns a TRITONSERVER_Error, or NULL if all is well."""
    function = _function(name, *arguments, result=c_void_p)

    def check(error: int | None, *_: object) -> None:
        if error is not None:
            text = error_message(error).decode("utf-8", "replace")
            error_delete(error)
            raise ApiError(f"{name}: {text}")

    function.errcheck = check  # type: ignore[attr-defined]
    return function


error_new = _function("TRITONSERVER_ErrorNew", c_int, c_char_p, result=c_void_p)
error_message = _function("TRITONSERVER_ErrorMessage", c_void_p, result=c_char_p)
error_delete = _function("TRITONSERVER_ErrorDelete", c_void_p)
log_message = _checked("TRITONSERVER_LogMessage", c_int, c_char_p, c_int, c_char_p)
message_to_json = _checked("TRITONSERVER_MessageSerializeToJson", c_void_p, POINTER(c_char_p), POINTER(c_size_t))
message_delete = _checked("TRITONSERVER_MessageDelete", c_void_p)

instance_model = _checked("TRITONBACKEND_ModelInstanceModel", c_void_p, POINTER(c_void_p))
model_name = _checked("TRITONBACKEND_ModelName", c_void_p, POINTER(c_char_p))
model_version = _checked("TRITONBACKEND_ModelVersion", c_void_p, POINTER(c_uint64))
model_repository = _checked("TRITONBACKEND_ModelRepository", c_void_p, POINTER(c_int), POINTER(c_char_p))
model_config = _checked("TRITONBACKEND_ModelConfig", c_void_p, c_uint32, POINTER(c_void_p))

request_input = _checked("TRITONBACKEND_RequestInput", c_void_p, c_char_p, POINTER(c_void_p))
request_release = _checked("TRITONBACKEND_RequestRelease", c_void_p, c_uint32)
# name, datatype, shape, dimensions, bytes, buffers
input_properties = _checked(
    "TRITONBACKEND_InputProperties",
    c_void_p,
    POINTER(c_char_p),
    POINTER(c_int),
    POINTER(POINTER(c_int64)),
    POINTER(c_uint32),
    POINTER(c_uint64),
    POINTER(c_uint32),
)
# input, index, buffer, bytes, memory type, memory type's id
input_buffer = _checked(
    "TRITONBACKEND_InputBuffer",
    c_void_p,
    c_uint32,
    POINTER(c_void_p),
    POINTER(c_uint64),
    POINTER(c_int),
    POINTER(c_int64),
)

response_new = _checked("TRITONBACKEND_ResponseNew", POINTER(c_void_p), c_void_p)
# response, output, name, datatype, shape, dimensions
response_output = _checked(
    "TRITONBACKEND_ResponseOutput", c_void_p, POINTER(c_void_p), c_char_p, c_int, POINTER(c_int64), c_uint32
)
# output, buffer, bytes, memory type, memory type's id
output_buffer = _checked(
    "TRITONBACKEND_OutputBuffer", c_void_p, POINTER(c_void_p), c_uint64, POINTER(c_int), POINTER(c_int64)
)
response_send = _checked("TRITONBACKEND_ResponseSend", c_void_p, c_uint32, c_void_p)
# instance, request, success, and nanoseconds of the monotonic clock: begin, model begins, model ends, end
report_statistics = _checked(
    "TRITONBACKEND_ModelInstanceReportStatistics", c_void_p, c_void_p, c_bool, c_uint64, c_uint64, c_uint64, c_uint64
)
# instance, texts in the batch, and the same four
report_batch_statistics = _checked(
    "TRITONBACKEND_ModelInstanceReportBatchStatistics", c_void_p, c_uint64, c_uint64, c_uint64, c_uint64, c_uint64
)

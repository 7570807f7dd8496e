"""Whether there is a GPU to serve on: asked of its driver before Triton is, which says less."""

from __future__ import annotations

import ctypes

from bantam.errors import ServerError
from serving.view import Target

START_TIMEOUT_S = 900.0
"""TensorRT is expected to take minutes for a model that it has not seen on this kind of GPU."""


def check(target: Target) -> None:
    """Raise :class:`ServerError` if models are to run on a GPU and CUDA's driver sees none."""
    if target == "gpu" and not (found := count()):
        raise ServerError(
            f"Got --target gpu, and CUDA's driver sees {found} GPUs here; expected one. Look at what nvidia-smi says "
            "(a container needs `--gpus all`), or serve with --target cpu."
        )


def count() -> int:
    """How many GPUs CUDA's driver sees; 0 without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    number = ctypes.c_int(0)
    done = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(number)) == 0
    return number.value if done else 0

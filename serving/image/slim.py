"""Removes from the image's environment what is never read when models are served.

Run in the build stage: ``python3 -m serving.image.slim ENVIRONMENT``. Licences and metadata of the packages stay.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

UNREAD = (
    # Tests, types and sources of programs that are not built here.
    *("*/tests", "*/**/tests", "**/*.pyi", "**/*.pyx", "**/*.pxd", "**/*.a", "*/include", "*/core/include", "*/cmake"),
    *("**/*.c", "**/*.h"),
    *("numpy/f2py", "numpy/distutils", "numpy/typing"),
    # Triton is used without the Python library around it, and by one version of Python.
    *("pytriton/*.py", "pytriton/[!t]*", "nvidia_pytriton.libs/libpython3-*", "pytriton/tritonserver/external_libs"),
    # The engines: what other processors need, and what reads, trains or converts other formats.
    *(
        "onnxruntime/capi/libonnxruntime.so*",
        "onnxruntime/transformers",
        "onnxruntime/tools",
        "onnxruntime/quantization",
    ),
    *("onnxruntime/datasets", "onnxruntime/backend"),
    *(f"openvino/libs/libopenvino_{name}*" for name in ("intel_gpu", "intel_npu", "auto", "hetero", "c.so")),
    *(f"openvino/libs/libopenvino_{name}_frontend*" for name in ("onnx", "paddle", "gguf", "jax", "pytorch")),
    *("openvino/libs/libopenvino_tensorflow*", "openvino/libs/cache.json", "openvino/libs/*.pc"),
    *("openvino/tools", "openvino/torch", "openvino/frontend/[!_f]*"),
)
"""Patterns below site-packages."""
SERVICES = ("s3", "signin", "sso", "sso-oidc", "sts")
"""Of Amazon's services, the one that is asked, and those that say who asks."""
STUBS = "pytriton/tritonserver/python_backend_stubs"


def slim(environment: Path) -> None:
    """Remove what is unread. Raises ``FileNotFoundError`` if this is no environment."""
    (site,) = environment.glob("lib/python3*/site-packages")
    version = site.parent.name.removeprefix("python")
    unread = [path for pattern in UNREAD for path in site.glob(pattern)]
    unread += [path for path in site.glob(f"{STUBS}/*") if path.name != version]
    unread += [path for path in site.glob("botocore/data/*") if path.is_dir() and path.name not in SERVICES]
    unread += [environment / "share", environment / "include"]
    for path in unread:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    slim(Path(sys.argv[1]))

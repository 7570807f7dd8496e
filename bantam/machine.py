"""What this machine is and which libraries are installed: what a figure means nothing without.

Best effort on Linux, macOS and Windows; what cannot be found out is absent.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections import Counter
from pathlib import Path

import psutil

from bantam import __version__
from bantam.programs import output
from bantam.report.provenance import Machine
from serving.backend.cores import usable_cores

INSTRUCTION_SETS = (
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme"),
)
"""Linux's names of what int8 and bf16 inference gains from, x86-64 and Arm."""

LIBRARIES = (
    *("torch", "transformers", "accelerate", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf"),
    *("tokenizers", "numpy", "tritonclient", "nvidia-pytriton"),
)

_AVX512 = ("avx2", "fma", "avx512f")
_UP_TO = {
    **dict.fromkeys(("SSE41", "AVX"), ()),
    **dict.fromkeys(("AVX2", "AVX2_VNNI", "AVX2_VNNI_2"), ("avx2", "fma", "avx_vnni")),
    "AVX512_CORE": _AVX512,
    "AVX512_CORE_VNNI": (*_AVX512, "avx512_vnni"),
    "AVX512_CORE_BF16": (*_AVX512, "avx512_vnni", "avx512_bf16"),
    "AVX512_CORE_FP16": (*_AVX512, "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
}
"""What oneDNN may use where ONEDNN_MAX_CPU_ISA limits it; AMX and later values leave all."""
_WINDOWS_FEATURES = {40: "avx2", 41: "avx512f", 43: "asimddp"}
_MAC_FEATURES = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
}
_CGROUP = Path("/sys/fs/cgroup")


def describe_machine() -> Machine:
    """CPU, usable cores, instruction sets, GPU and memory of this machine, container limits respected."""
    cpu, isa = _processor()
    return Machine(
        cpu=cpu,
        cores=usable_cores(_CGROUP),
        isa=isa,
        gpu=_gpu(),
        memory_gib=_memory_gib(),
        os=f"{platform.system()} {platform.machine()}",
    )


def cpu_kind(layout: str) -> str:
    """What the engine of a layout chooses its kernels by: instruction sets, or the processor's name if not known.

    Where two machines differ in it, an int8 model's scores may. OpenVINO computes through oneDNN, whose own limit,
    ONEDNN_MAX_CPU_ISA, counts; ONNX Runtime's kernels know no such limit.
    """
    cpu, isa = _processor()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() if layout == "openvino" else ""
    allowed = _UP_TO.get(limit)
    if isa is None:
        return f"{platform.machine()} {cpu or 'unknown'}"
    return " ".join([platform.machine(), *(name for name in isa if allowed is None or name in allowed)])


def versions(site_packages: Path | None = None) -> dict[str, str]:
    """Versions of the installed :data:`LIBRARIES`, and of Bantam; of another environment by its ``site-packages``."""
    path = sys.path if site_packages is None else [str(site_packages)]
    found = {"python": platform.python_version(), "bantam": __version__} if site_packages is None else {}
    for name in LIBRARIES:
        distribution = next(iter(importlib.metadata.distributions(name=name, path=path)), None)
        if distribution is not None:
            found[name] = distribution.version
    return found


def _processor() -> tuple[str | None, tuple[str, ...] | None]:
    """The CPU's name and its instruction sets."""
    systems = {"Windows": _windows_processor, "Darwin": _mac_processor, "Linux": _linux_processor}
    return systems.get(platform.system(), _linux_processor)()


def _linux_processor() -> tuple[str | None, tuple[str, ...] | None]:
    return parse_cpuinfo(_read(Path("/proc/cpuinfo")) or "")


def parse_cpuinfo(text: str) -> tuple[str | None, tuple[str, ...] | None]:
    """Name and instruction sets from the text of Linux's ``/proc/cpuinfo``, x86-64 or Arm; None what it lacks."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    name = fields.get("model name") or platform.processor() or None
    return name, tuple(name for name in INSTRUCTION_SETS if name in flags) if flags else None


def _mac_processor() -> tuple[str | None, tuple[str, ...] | None]:
    isa = tuple(name for key, name in _MAC_FEATURES.items() if output("sysctl", "-n", key) == "1")
    return output("sysctl", "-n", "machdep.cpu.brand_string"), isa or None


def _windows_processor() -> tuple[str | None, tuple[str, ...] | None]:
    if sys.platform == "win32":  # a type checker skips this block elsewhere
        import ctypes
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
            name = str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return name, tuple(name for code, name in _WINDOWS_FEATURES.items() if present(code)) or None
    else:  # noqa: RET505 - outside of it, a type checker on Windows calls it unreachable
        return None, None


def _memory_gib() -> float:
    limit = (_read(_CGROUP / "memory.max") or "").strip()
    total: int = psutil.virtual_memory().total
    return round(min(total, int(limit) if limit.isdigit() else total) / 2**30, 1)


def _gpu() -> str | None:
    """Names of NVIDIA's GPUs as ``nvidia-smi`` gives them: ``2 x NVIDIA H200``."""
    names = output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    if names is None:
        return None
    counts = Counter(line.strip() for line in names.splitlines() if line.strip())
    return ", ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items()) or None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None

"""What this machine has, what is missing, and how to get it. ``make doctor`` and ``bantam doctor``.

Standard library only at import time, and run by any Python from 3.11 on: it has to work where the set-up does not.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from bantam.checkout import OPTIMIZER, SERVING, site_packages
from bantam.doctor.check import SETUP, Check
from bantam.doctor.containers import docker_engine
from bantam.doctor.environments import optimizer_environment, serving_environment
from bantam.programs import output

ROOT = Path(__file__).resolve().parents[2]
PORTS = {8000: "HTTP", 8001: "gRPC", 8002: "metrics", 8003: "watch"}
MIN_GLIBC = (2, 35)
"""What the embedded Triton of nvidia-pytriton 0.7 is linked against."""
MIN_DISK_GIB, MIN_MEMORY_GIB = 5.0, 4.0
COMPILER = "Needed to serve models inside Triton's process, some tenths of a millisecond faster for each request."
INT8_INSTRUCTIONS = {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"}


def diagnose(root: Path = ROOT) -> list[Check]:
    """Look at the machine and at the two environments in ``root``. Takes a few seconds; never raises."""
    looks: tuple[Callable[[Path], list[Check]], ...] = (
        *(_machine, _disk, _gpu, optimizer_environment, serving_environment),
        *(_triton, _compiler, docker_engine, _hub, _ports),
    )
    return [check for look in looks for check in _safely(look, root)]


def as_text(checks: list[Check]) -> str:
    """The checks as lines for a terminal, advice below what it is about."""
    marks = {"ok": "ok", "missing": "MISSING", "warning": "WARNING"}
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{marks[check.status]:<7}  {check.name:<{width}}  {check.found}")
        if check.advice:
            lines.append(f"{'':7}  {'':{width}}  {check.advice}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Print the diagnosis; with ``--json`` for scripts."""
    checks = diagnose()
    print(json.dumps([asdict(check) for check in checks], indent=1) if "--json" in arguments else as_text(checks))


def _safely(look: Callable[[Path], list[Check]], root: Path) -> list[Check]:
    try:
        return look(root)
    except Exception as exc:  # noqa: BLE001 - a diagnosis that crashes on an odd machine is of no use there
        name = look.__name__.strip("_").replace("_", " ")
        return [Check(name, "warning", f"could not be looked at: {type(exc).__name__}: {exc}")]


def _machine(root: Path) -> list[Check]:
    try:
        from bantam.machine import describe_machine
    except ImportError:
        return [Check("processor", "missing", f"{os.cpu_count()} cores, {platform.machine()}", f"To see more: {SETUP}")]
    machine = describe_machine()
    isa, cores, memory = machine.isa or (), machine.cores or 1, machine.memory_gib
    found = f"{machine.cpu or platform.machine()}, {cores} cores usable; {', '.join(isa) or 'instruction sets unknown'}"
    if cores < (os.cpu_count() or 1):
        found += f"; limited by affinity or a container, of {os.cpu_count()}"
    advice = ""
    if platform.machine() == "x86_64" and "avx2" not in isa:
        advice = "No AVX2: inference will be slow, and some libraries may not start."
    elif not INT8_INSTRUCTIONS & set(isa):
        advice = "No int8 instructions (VNNI, AMX): int8 saves memory here, but little time."
    checks = [Check("processor", "warning" if advice else "ok", found, advice)]
    if memory is not None:
        advice = f"`make optimize` takes up to {MIN_MEMORY_GIB:.0f} GiB for minilm." if memory < MIN_MEMORY_GIB else ""
        checks.append(Check("memory", "warning" if advice else "ok", f"{memory:.1f} GiB", advice))
    return checks


def _disk(root: Path) -> list[Check]:
    free = shutil.disk_usage(root).free / 2**30
    advice = f"Set-up and a run take up to {MIN_DISK_GIB:.0f} GiB: make room in {root}." if free < MIN_DISK_GIB else ""
    return [Check("disk", "warning" if advice else "ok", f"{free:.1f} GiB free", advice)]


def _gpu(root: Path) -> list[Check]:
    names = output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
    if names is None:
        advice = "Needed for TARGET=gpu only: an NVIDIA GPU and its driver (nvidia-smi must run)."
        return [Check("GPU", "missing", "no NVIDIA GPU", advice)]
    found = "; ".join(names.splitlines())
    site = site_packages(root / OPTIMIZER)
    if site and not (site / "onnxruntime/capi/libonnxruntime_providers_cuda.so").exists():
        advice = "To use the GPU: `make setup TARGET=gpu`."
        return [Check("GPU", "warning", f"{found}; onnxruntime without its CUDA provider", advice)]
    return [Check("GPU", "ok", found)]


def _triton(root: Path) -> list[Check]:
    on_path = shutil.which("tritonserver")
    if on_path:
        return [Check("Triton", "ok", on_path)]
    site = site_packages(root / SERVING)
    if site is None or not (site / "pytriton/tritonserver/bin/tritonserver").exists():
        return [Check("Triton", "missing", f"neither on the PATH nor in {SERVING}", SETUP)]
    library, version = platform.libc_ver()
    if library == "glibc" and tuple(map(int, version.split(".")[:2])) < MIN_GLIBC:
        needed = ".".join(map(str, MIN_GLIBC))
        advice = f"It needs glibc {needed} or later (Debian 12, Ubuntu 22.04): serve with the container."
        return [Check("Triton", "warning", f"embedded, but glibc is {version}", advice)]
    return [Check("Triton", "ok", "the embedded one of nvidia-pytriton")]


def _compiler(root: Path) -> list[Check]:
    """With a C compiler, served models run inside Triton's process."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return []
    try:
        from serving.inline.build import BuildError, build
    except ImportError:
        return [Check("C compiler", "ok" if shutil.which("cc") else "missing", shutil.which("cc") or "no cc", COMPILER)]
    with tempfile.TemporaryDirectory() as private:
        folder = Path(private, "python")
        folder.mkdir()
        try:
            build(folder)
        except BuildError as exc:
            return [Check("C compiler", "missing", str(exc), COMPILER)]
    return [Check("C compiler", "ok", os.environ.get("CC") or "cc")]


def _hub(root: Path) -> list[Check]:
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    advice = "Only minilm and local folders work without it. Behind a proxy set HTTPS_PROXY; for a mirror HF_ENDPOINT."
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return [Check("model hub", "missing", "HF_HUB_OFFLINE is set", advice)]
    if not hub.startswith(("https://", "http://")):
        return [Check("model hub", "warning", f"HF_ENDPOINT is {hub!r}, expected an http(s) address", advice)]
    try:
        with urllib.request.urlopen(urllib.request.Request(hub, method="HEAD"), timeout=4):  # noqa: S310 - checked above
            return [Check("model hub", "ok", hub)]
    except urllib.error.HTTPError as exc:
        return [Check("model hub", "ok", f"{hub} answers ({exc.code})")]
    except OSError as exc:
        return [Check("model hub", "missing", f"{hub} is out of reach: {getattr(exc, 'reason', exc)}", advice)]


def _ports(root: Path) -> list[Check]:
    taken = [f"{port} ({use})" for port, use in PORTS.items() if not _is_free(port)]
    if taken:
        advice = "Stop what holds them, or serve elsewhere: make serve PORT=9001."
        return [Check("ports", "warning", f"in use: {', '.join(taken)}", advice)]
    return [Check("ports", "ok", f"{', '.join(map(str, PORTS))} are free")]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do, so that connections which are only lingering do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True

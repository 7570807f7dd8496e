"""Where ``tritonserver`` is on this machine, and the command line that starts it.

On PATH (a Triton container) or inside the nvidia-pytriton wheel of the serving environment.
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bantam.checkout import SERVING, root
from bantam.errors import ServerError
from bantam.telemetry import VARIABLES
from serving.inline.build import BuildError, build

STUB = "triton_python_backend_stub"
PYTHON_VARIABLE = "BANTAM_SERVING_PYTHON"
ADMIN_HEADER = "closed\nby Bantam"
"""Header that Triton wants for its administration. Its command line can be read by all users of the machine, so that a
secret would be none: what closes it is that no header's name can hold a line feed, in HTTP or in gRPC."""
ADMIN_APIS = "shared-memory,model-repository,trace,logging"
REPOSITORY_POLL_S = 1
"""How often Triton looks for a version that has taken another's place, in whole seconds; inline models do not wait for
it."""
EXIT_S = 5
"""How long an ending Triton waits for connections over HTTP to close, and then for requests to be answered. An idle
connection that a client keeps is waited for too."""
ENTRY = re.compile(r"(?P<level>[IWEF])\d{4} [\d:.]+ \d+ \S+\] (?P<text>.*)")
HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Asks for memory in pages of 2 MiB where the system gives them on demand, as most do. A model's weights are read from
end to end for each text; in pages of 4 KiB, and after a pause, much of that is looking up where they are."""
NOISE = re.compile("CudaDriverHelper|NVML|DCGM|^failed to load all models$")
"""Said by every start on a machine without a GPU, and after each error of a model."""
PREFIXES = re.compile(
    r"^(error: |ERROR: Failed to create instance: |failed to load '\S+' version \d+: |"
    r"(Invalid argument: )?load failed for model '\S+': version \d+ is at UNAVAILABLE state: )*(Internal: )?"
)
PROBE = (
    "import json, sys, sysconfig; print(json.dumps([sysconfig.get_path('purelib'), sysconfig.get_config_var('LIBDIR'), "
    "sysconfig.get_config_var('INSTSONAME'), '%d.%d' % sys.version_info[:2]]))"
)


@dataclass(frozen=True)
class Installation:
    """A Triton that can be started."""

    binary: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it needs besides ours."""
    stub_backend: Mapping[str, Path] = field(default_factory=dict)
    """Files of Triton's own Python backend to put together in one folder, by name; empty if Triton finds it itself."""
    prefix: Path | None = None
    """The serving environment that it is in, if it is in one."""


class Backend(NamedTuple):
    """The Python backend that one Triton uses."""

    folder: Path | None
    """Where it is; None if Triton finds its own."""
    isolated: bool
    """True if each model runs in a process of its own, Triton's stub; False if all run in Triton's process."""
    reason: str
    """Why models are isolated though nobody asked for it; else empty."""


def find(python: Path | None = None) -> Installation:
    """``tritonserver`` on PATH, else the wheel's in the serving environment; with ``python``, that environment's.

    Raises :class:`ServerError` that says what was looked for and what to do.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise ServerError(
            f"Triton runs on Linux x86-64; this is {platform.system()} {platform.machine()}. Serve the repository with "
            "the container (docker/cpu.Dockerfile); the client works here."
        )
    on_path = shutil.which("tritonserver")
    if python is None and on_path is not None:
        return Installation(Path(on_path))
    return _embedded(python or serving_python())


def serving_python() -> Path:
    """The interpreter of the serving environment: named in BANTAM_SERVING_PYTHON, or in the checkout.

    Raises :class:`ServerError` if there is neither.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return Path(named)
    checkout = root()
    if checkout is None:
        raise ServerError(
            "No tritonserver on PATH, and Bantam was installed without its checkout, which holds the serving "
            f"environment. Serve from a checkout (make serve), or name the Python of one in {PYTHON_VARIABLE}."
        )
    return checkout / SERVING / "bin" / "python"


def _embedded(python: Path) -> Installation:
    """The Triton of the nvidia-pytriton wheel that is installed for ``python``."""
    try:
        probe = subprocess.run([python, "-I", "-c", PROBE], capture_output=True, text=True, check=True, timeout=60)
        site, libraries, libpython, version = json.loads(probe.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as exc:
        raise ServerError(
            f"No tritonserver on PATH, and no serving environment at {python} ({exc}). Make it with 'make setup', or "
            f"name the Python of one in {PYTHON_VARIABLE}."
        ) from exc
    triton = Path(site, "pytriton", "tritonserver")
    stub = triton / "python_backend_stubs" / version / STUB
    if not (triton / "bin" / "tritonserver").is_file() or not stub.is_file():
        raise ServerError(
            f"{site} has no Triton for Python {version}. Install the serving environment again with 'make setup' "
            "(nvidia-pytriton 0.7.0)."
        )
    files = {path.name: path for path in (triton / "backends" / "python").iterdir() if path.is_file()}
    return Installation(
        triton / "bin" / "tritonserver",
        environment={
            # The backend must load the libpython of the interpreter whose packages it uses. The user's own folders come
            # after: CUDA, cuDNN or TensorRT may be in one.
            "LD_LIBRARY_PATH": ":".join(
                filter(None, [libraries, f"{site}/nvidia_pytriton.libs", os.environ.get("LD_LIBRARY_PATH")])
            ),
            # Where the interpreter itself is linked without one, the one of its version that the stub asks for, too.
            "BANTAM_LIBPYTHON": libpython if ".so" in libpython else f"libpython{version}.so.1.0",
            # Its Python takes the environment of the first python3 on PATH for its own.
            "PATH": f"{python.absolute().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        },
        stub_backend={**files, stub.name: stub},
        prefix=Path(site).parents[2],
    )


def environment(installation: Installation) -> dict[str, str]:
    """Triton's environment: ours, without what would change which Python packages its backend sees."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    fixed = {"PYTHONDONTWRITEBYTECODE": "1"}  # a published version stays as it was written
    return {"GLIBC_TUNABLES": HUGE_PAGES, **ours, **fixed, **VARIABLES, **installation.environment}


def lay_out(installation: Installation, folder: Path, *, isolated: bool) -> Backend:
    """Put a Python backend into a new folder: the inline one, or if that cannot be or ``isolated``, Triton's own."""
    if not installation.stub_backend:
        return Backend(None, True, "" if isolated else f"{installation.binary} has a Python backend of its own")
    folder.mkdir(parents=True)
    why = ""
    if not isolated:
        try:
            build(folder, installation.prefix)
            return Backend(folder, False, "")
        except BuildError as exc:
            why = str(exc)
    for name, path in installation.stub_backend.items():
        (folder / name).symlink_to(path)
    return Backend(folder, True, why)


def command(
    installation: Installation,
    backend: Backend,
    models: Path,
    run_dir: Path,
    endpoints: Mapping[str, tuple[str, int]],
    *,
    poll: bool,
) -> list[str]:
    """The command line of a Triton that serves what is in the folder ``models``, with ``poll`` also what comes later.

    The name of ``run_dir`` prefixes Triton's shared memory. ``endpoints``: address and port of gRPC, HTTP, metrics.
    """
    backends = [] if backend.folder is None else [f"--backend-directory={backend.folder.parent}"]
    # Clients may ask for inference, health, metadata, configuration and statistics. The rest is for nobody: with the
    # shared-memory API open, a client could read and write the Python backend's memory (CVE-2025-23319 and its kin).
    # Loading models is refused in these modes, whatever the key.
    key = f"{ADMIN_HEADER}={secrets.token_hex(16)}"
    return [
        str(installation.binary),
        f"--model-repository={models.resolve()}",
        *backends,
        f"--backend-config=python,shm-region-prefix-name={run_dir.name}-",
        f"--model-control-mode={'poll' if poll else 'none'}",
        f"--repository-poll-secs={REPOSITORY_POLL_S}",
        "--exit-on-error=false",  # one broken model is no reason to stop the others
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_S}",
        *(
            option
            for protocol, (host, port) in endpoints.items()
            for option in (f"--{protocol.lower()}-address={host}", f"--{protocol.lower()}-port={port}")
        ),
        "--allow-gpu-metrics=false",
        f"--grpc-restricted-protocol={ADMIN_APIS}:{key}",
        f"--http-restricted-api={ADMIN_APIS}:{key}",
    ]


def reasons(log: str, most: int = 15) -> list[str]:
    """The lines of Triton's log that say why something failed: errors with what follows them, at most ``most``."""
    lines: list[str] = []
    error = False
    for line in log.splitlines():
        entry = ENTRY.match(line)
        if entry:
            error = entry["level"] in "EF"
        elif line.lower().startswith(("+--", "| ", "error:", "signal")):
            error = line.lower().startswith("error:")
        # Triton says the same cause up to three times, each behind another prefix and before the same stack.
        text = PREFIXES.sub("", entry["text"].strip('"') if entry else line.strip()).split(r"\n\nAt:")[0]
        text = text.removesuffix(r"\n").removesuffix(";")
        if error and text and not NOISE.search(text) and text not in lines:
            lines.append(text)
    return lines[-most:]

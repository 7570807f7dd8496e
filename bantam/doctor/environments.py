"""The doctor's look at the two environments: made, complete, as pinned, and fit for what they are for.

Reads what is installed from the outside, so that a broken environment can be told. Standard library only.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from pathlib import Path

from bantam.checkout import OPTIMIZER, SERVING, site_packages
from bantam.doctor.check import SETUP, Check
from bantam.programs import output

AGAIN = "`rm -rf {0} && make setup` makes it anew."


def optimizer_environment(root: Path) -> list[Check]:
    """``.venv``: versions, and the builds of torch and onnxruntime that do not go together."""
    versions, checks = _environment(root, OPTIMIZER, "constraints.txt")
    if "torchvision" in versions:
        found = f"torchvision {versions['torchvision']}"
        advice = f"It breaks transformers beside a CPU build of torch: `{OPTIMIZER}/bin/pip uninstall torchvision`."
        checks.append(Check(f"{OPTIMIZER}: torchvision", "warning", found, advice))
    if "torch" in versions:
        for_gpu = (root / OPTIMIZER / ".ready-gpu").exists()
        cuda = any(name.startswith("nvidia-cu") for name in versions)
        checks += _torch_build(versions["torch"], cuda, for_gpu)
    return checks


def serving_environment(root: Path) -> list[Check]:
    """``.venv-serving``: versions, numpy below 2, and the libpython that Triton's Python stub loads."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        advice = "The embedded Triton is for Linux on x86-64; elsewhere serve with the container."
        return [Check(SERVING, "missing", f"{platform.system()} {platform.machine()}", advice)]
    versions, checks = _environment(root, SERVING, "constraints-serving.txt")
    if versions and versions.get("numpy", "1").split(".")[0] != "1":
        advice = f"With numpy 2, Triton's Python models read zeros in silence. {AGAIN.format(SERVING)}"
        checks.append(Check(f"{SERVING}: numpy", "warning", f"numpy {versions['numpy']}, expected below 2", advice))
    if versions:
        checks.append(_libpython(root / SERVING / "bin/python"))
    return checks


def _environment(root: Path, name: str, pins: str) -> tuple[dict[str, str], list[Check]]:
    """Installed versions by canonical name, and what is to be said of the environment as a whole."""
    site = site_packages(root / name)
    if (root / name / ".unfinished").exists():
        return {}, [Check(name, "warning", "its set-up was interrupted", SETUP)]
    if site is None:
        return {}, [Check(name, "missing", "not made yet", SETUP)]
    versions = {_canonical(found.name): found.version for found in importlib.metadata.distributions(path=[str(site)])}
    checks = []
    pinned = _pins(root / pins)
    wrong = [
        f"{key} {version}, not {pinned[key]}"
        for key, version in sorted(versions.items())
        # The local part, as in 2.13.0+cpu, names a build of the same version.
        if key in pinned and version.partition("+")[0] != pinned[key]
    ]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        advice = f"{AGAIN.format(name)} {pins} names the versions."
        checks.append(Check(name, "warning", "; ".join(wrong[:5]) + more, advice))
    else:
        checks.append(Check(name, "ok", f"{len(versions)} packages, as pinned"))
    if {"onnxruntime", "onnxruntime-gpu"} <= versions.keys():
        found = "onnxruntime and onnxruntime-gpu, which overwrite each other"
        checks.append(Check(f"{name}: onnxruntime", "warning", found, AGAIN.format(name)))
    return versions, checks


def _torch_build(version: str, cuda: bool, for_gpu: bool) -> list[Check]:
    if cuda and not for_gpu:
        advice = (
            f"It works, but takes 3 GB more. `rm -rf {OPTIMIZER} && make setup TORCH_INDEX=<index of CPU builds>`; "
            "PyTorch's install page names it."
        )
        return [
            Check(f"{OPTIMIZER}: torch", "warning", f"torch {version}, a CUDA build in a set-up for the CPU", advice)
        ]
    if for_gpu and not cuda:
        advice = (
            f"`rm -rf {OPTIMIZER} && make setup TARGET=gpu TORCH_INDEX=<index of CUDA builds>`; PyTorch's install page "
            "names it."
        )
        return [
            Check(f"{OPTIMIZER}: torch", "warning", f"torch {version}, a CPU build in a set-up for the GPU", advice)
        ]
    return []


def _libpython(python: Path) -> Check:
    """Triton's Python stub loads the shared libpython of the interpreter that its environment was made from."""
    code = (
        "import sysconfig as s; print(s.get_config_var('LIBDIR') or '', s.get_config_var('INSTSONAME') or '', sep='/')"
    )
    library = Path(output(str(python), "-c", code) or "/unknown")
    if ".so" not in library.name:
        advice = (
            "Triton needs one: use the system's Python with its libpython package, or a build with --enable-shared."
        )
        return Check("libpython", "missing", f"{python} has no shared libpython", advice)
    if not any(path.exists() for path in (library, *Path("/usr/lib").glob(f"*/{library.name}"))):
        advice = f"Debian, Ubuntu: `apt install {library.name.partition('.so')[0]}`."
        return Check("libpython", "missing", f"{library} is not there", advice)
    return Check("libpython", "ok", library.name)


def _pins(path: Path) -> dict[str, str]:
    """``name==version`` lines of a constraints file; none if this is an installed package and there is no such file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {_canonical(name): version for name, _, version in (line.partition("==") for line in lines) if version}


def _canonical(name: str) -> str:
    """A distribution's name as PEP 503 normalises it."""
    return re.sub(r"[-_.]+", "-", name).lower()

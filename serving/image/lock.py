"""Writes docker/requirements*.txt: what the images need of the constraints, each wheel by its hash.

``python -m serving.image.lock``, in a checkout where pip reaches a package index. Wheels for Linux on x86-64 alone, and
for both Pythons that an image has: Debian's 3.11, and the 3.12 of NVIDIA's Triton image.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bantam.checkout import root
from bantam.errors import ContainerError

PYTHONS = ("3.11", "3.12")
PLATFORMS = tuple(f"manylinux_{version}_x86_64" for version in ("2_35", "2_28", "2_27", "2_24", "2_17", "2_12", "2_5"))
FRONT = (
    *("annotated-doc", "annotated-types", "anyio", "filelock", "grpcio", "h11", "httpcore2", "idna", "markdown-it-py"),
    *("mdurl", "ml-dtypes", "numpy", "packaging", "protobuf", "psutil", "pydantic", "pydantic-core", "pygments"),
    *("python-rapidjson", "rich", "shellingham", "tokenizers", "tritonclient", "truststore", "typer"),
    *("typing-extensions", "typing-inspection"),
)
"""What ``bantam serve`` imports, and what is imported in Triton beside the engine."""
S3 = (
    *("aiobotocore", "aiohappyeyeballs", "aiohttp", "aioitertools", "aiosignal", "attrs", "botocore", "frozenlist"),
    *("fsspec", "jmespath", "multidict", "propcache", "python-dateutil", "s3fs", "six", "urllib3", "wrapt", "yarl"),
)
"""s3fs, and what it needs besides."""
FILES = {
    "requirements": (FRONT, "bantam serve, and what it runs in Triton beside an engine"),
    "requirements-s3": (S3, "repositories on s3://"),
    "requirements-triton": (("nvidia-pytriton",), "Triton"),
    "requirements-onnxruntime": (("onnxruntime",), "the engine ONNX Runtime"),
    "requirements-openvino": (("openvino",), "the engine OpenVINO"),
    "requirements-onnxruntime-gpu": (("onnxruntime-gpu",), "the engine ONNX Runtime with CUDA"),
}
"""File in docker/: the packages in it, and what they are."""
CONSTRAINTS = {
    ("constraints-serving.txt", "constraints-gpu.txt"): [name for name in FILES if name != "requirements-s3"],
    ("constraints.txt",): ["requirements-s3"],
}
"""Where the versions are those that are tested: who asks a bucket has another environment than Triton."""


def lock(checkout: Path) -> None:
    """Write the files. Raises :class:`ContainerError` with pip's words if it cannot resolve them."""
    for constraints, files in CONSTRAINTS.items():
        found: dict[str, tuple[str, set[str]]] = {}
        hashes: dict[str, set[str]] = defaultdict(set)
        names = [name for file in files for name in FILES[file][0]]
        for python in PYTHONS:
            for name, version, digest in resolve(checkout, names, python, constraints):
                hashes[name].add(digest)
                found[name] = version, hashes[name]
        _write(checkout, files, found)


def _write(checkout: Path, files: Sequence[str], found: Mapping[str, tuple[str, set[str]]]) -> None:
    for file in files:
        packages, what = FILES[file]
        lines = [f"# Of the images: {what}. Written by python -m serving.image.lock.\n"]
        for name in sorted(packages):
            version, digests = found[name]
            lines.append(
                " ".join([f"{name}=={version}", *(f"--hash=sha256:{digest}" for digest in sorted(digests))]) + "\n"
            )
        (checkout / "docker" / f"{file}.txt").write_text("".join(lines), encoding="utf-8")


def resolve(
    checkout: Path, names: Sequence[str], python: str, constraints: Sequence[str]
) -> list[tuple[str, str, str]]:
    """Name, version and SHA-256 of the wheel that pip would take for each, as constrained."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--no-deps", "--no-input"]
    pip += ["--only-binary=:all:", f"--python-version={python}", *(f"--platform={name}" for name in PLATFORMS)]
    for file in constraints:
        pip += ["-c", str(checkout / file)]
    with tempfile.TemporaryDirectory() as private:
        report = Path(private, "report.json")
        done = subprocess.run(
            [*pip, f"--target={private}", f"--report={report}", *names], capture_output=True, text=True
        )
        if done.returncode != 0:
            raise ContainerError(f"pip could not resolve the images' packages for Python {python}:\n{done.stderr}")
        installed = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [
        (
            re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower(),
            item["metadata"]["version"],
            item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in installed
    ]


if __name__ == "__main__":
    folder = root()
    if folder is None:
        sys.exit("Expected a checkout of Bantam: its constraints are what is written.")
    lock(folder)

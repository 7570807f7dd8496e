"""Builds the images of docker/ with Docker's own command line, whose BuildKit keeps secrets out of what it builds.

What is told of where packages come from (pip's configuration, certificates, a ``sources.list``) goes in as secrets: it
is used while the image is built, and is neither in the image nor in its history.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bantam.checkout import root
from bantam.errors import ContainerError, RepositoryError
from serving.repository import published
from serving.triton_config import CONFIG, GPU_CONFIG
from serving.version_folder import EVIDENCE

SERVER = "bantam-cpu"
"""The image of the server without a model; with one, the model's name is its tag."""
ENGINES = ("onnxruntime", "openvino")
CLIENT_VARIABLE = "DOCKER"
CLIENTS = ("docker", "/usr/bin/docker")
OWN_BUILDKIT = (18, 23)
"""Versions of Docker's command line that speak to BuildKit by themselves; newer ones have a plugin for it, buildx."""
PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "timeout", "default-timeout", "proxy")
"""What of pip's configuration holds in a build too. Folders of this machine are out of its reach."""


@dataclass(frozen=True)
class Secrets:
    """Where a build takes packages from: files that it reads as secrets. None: as the base image has it."""

    pip: Path | None = None
    """A pip.conf."""
    apt: Path | None = None
    """A sources.list."""
    ca: Path | None = None
    """Certificates (PEM) that both are to trust."""
    torch: Path | None = None
    """The address of the package index to take PyTorch from, which may have a password in it."""

    def options(self) -> list[str]:
        """For the command line. Raises :class:`ContainerError` if one is not there."""
        found = {"pip": self.pip, "apt": self.apt, "ca": self.ca, "torch": self.torch}
        for name, path in found.items():
            if path is not None and not path.is_file():
                raise ContainerError(f"{path}: no such file, expected one for the build's secret {name!r}.")
        return [f"--secret=id={name},src={path.resolve()}" for name, path in found.items() if path]


@contextmanager
def pips_own(torch_index: str = "") -> Iterator[Secrets]:
    """What this environment's pip is configured with, as far as it holds elsewhere, inside the block.

    ``torch_index``: a package index for PyTorch beside that.
    """
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    settings = read_pip_settings(done.stdout if done.returncode == 0 else "")
    ca = settings.pop("cert", None)
    with tempfile.TemporaryDirectory(prefix="bantam-image-") as private:
        conf = Path(private, "pip.conf")
        conf.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()), "utf-8")
        torch = Path(private, "torch-index")
        torch.write_text(torch_index, "utf-8")
        yield Secrets(pip=conf if settings else None, ca=Path(ca) if ca else None, torch=torch if torch_index else None)


def read_pip_settings(listed: str) -> dict[str, str]:
    """``cert`` and what else of ``pip config list`` holds in a build; what comes later counts, as for pip."""
    found = {}
    # The environment counts most, and is listed first.
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, quoted = line.partition("=")
        name, value = key.rpartition(".")[2], quoted.strip("'\"")
        if name in PIP_OPTIONS:
            value = " ".join(part for part in value.replace(r"\n", " ").split() if not part.startswith("file:"))
        if value and name in (*PIP_OPTIONS, "cert"):
            found[name] = value
    return found


def client() -> str:
    """A ``docker`` that can build with BuildKit. Raises :class:`ContainerError` that says what was found."""
    named = os.environ.get(CLIENT_VARIABLE)
    found = {path: None for name in ((named,) if named else CLIENTS) if (path := shutil.which(name))}
    for path in found:
        if _says(path, "buildx", "version") or OWN_BUILDKIT[0] <= _major(path) < OWN_BUILDKIT[1]:
            return path
    said = f"{', '.join(found)} without BuildKit" if found else f"no {named or 'docker'} on the PATH"
    raise ContainerError(
        f"Got {said}, expected Docker with its plugin buildx. Install it (Debian 13, Ubuntu: apt install docker.io "
        f"docker-buildx), or name another in {CLIENT_VARIABLE}."
    )


def build(
    dockerfile: str,
    tag: str,
    secrets: Secrets,
    *,
    context: Path | None = None,
    arguments: Mapping[str, str] | None = None,
    target: str = "",
    network: str = "default",
    fresh: bool = False,
) -> None:
    """Build ``docker/<dockerfile>.Dockerfile`` as the image ``tag``; what Docker says goes to standard error.

    ``context``: what is copied from, the checkout if left out. ``target``: the last stage to be built. ``network``: the
    build's, ``host`` where containers have no way out of their own. ``fresh``: nothing of an earlier build, and
    the base as its registry has it now. Raises :class:`ContainerError`.
    """
    folder = root()
    if folder is None:
        raise ContainerError("Bantam was installed without its checkout, which images are built from. Build there.")
    docker = client()
    command = [docker, "build", f"--file={folder / 'docker' / dockerfile}.Dockerfile", f"--tag={tag}"]
    command += [f"--network={network}", *secrets.options(), *([f"--target={target}"] if target else [])]
    command += [f"--build-arg={name}={value}" for name, value in (arguments or {}).items()]
    if fresh:
        command += ["--no-cache", *(["--pull"] if _has_a_registry(docker, (arguments or {}).get("BASE", "")) else [])]
    command += ["--platform=linux/amd64", str(context or folder)]
    try:
        done = subprocess.run(command, stdout=sys.stderr, env={**os.environ, "DOCKER_BUILDKIT": "1"})
    except OSError as exc:
        raise ContainerError(f"The image {tag} could not be built: {docker}: {exc.strerror}.") from exc
    if done.returncode != 0:
        raise ContainerError(f"The image {tag} could not be built; Docker's own words are above.")


def arguments_of(kind: str, *, engines: str = ",".join(ENGINES), base: str = "", triton: str = "") -> dict[str, str]:
    """Build arguments of an image: ``cpu``, ``gpu`` or ``optimizer``. ``base``: what to start from, if not as usual.

    ``engines``: separated by commas. ``triton``: NVIDIA's image, for ``gpu``, if it is to come from somewhere else.
    Raises :class:`ContainerError` for an unknown engine, and for a ``triton`` of another image.
    """
    if triton and kind != "gpu":
        raise ContainerError(f"Got {triton} for the image for {kind}, which has none of NVIDIA's; expected kind gpu.")
    chosen = [engine.strip() for engine in engines.split(",") if engine.strip()]
    if not chosen or set(chosen) - set(ENGINES):
        raise ContainerError(f"Got the engines {', '.join(chosen) or 'none'}, expected of {', '.join(ENGINES)}.")
    found = {"ENGINES": " ".join(chosen) if kind == "cpu" else "", "TRITON": triton, "BASE": base}
    return {name: value for name, value in found.items() if value}


def bake(models: Sequence[str], repository: Path, tag: str, *, server: str = SERVER) -> None:
    """Build the image ``tag``: that of the server, with the published ``models``.

    Raises :class:`ContainerError`, and :class:`RepositoryError` if one is not published.
    """
    with tempfile.TemporaryDirectory(prefix="bantam-image-") as context:
        for name in models:
            copy_published(repository, name, Path(context, name))
        build("model", tag, Secrets(), context=Path(context), arguments={"SERVER": server})


def copy_published(repository: Path, name: str, target: Path) -> None:
    """Copy a model with the version that is served, without its evidence: that has texts of the data in it.

    Raises :class:`RepositoryError` if it is not published.
    """
    version = published(repository, name)
    if version is None:
        raise RepositoryError(f"{repository} has no model {name!r}, expected a published one. Publish it first.")
    shutil.copytree(
        version.folder, target / str(version.number), ignore=shutil.ignore_patterns("__pycache__", EVIDENCE)
    )
    for config in (CONFIG, GPU_CONFIG):
        if (source := version.folder.parent / config).is_file():
            (target / config).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, target / config)
    for path in (target, *target.rglob("*")):  # who runs the server is somebody else than who publishes
        path.chmod(0o755 if path.is_dir() else 0o644)


def _has_a_registry(docker: str, image: str) -> bool:
    """Whether an image can be pulled anew: one that is here without a digest was made here."""
    return not image or _says(docker, "image", "inspect", "--format={{len .RepoDigests}}", image).strip() != "0"


def _says(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _major(path: str) -> int:
    """The first number of Docker's version; 0 if it does not say."""
    number = _says(path, "--version").removeprefix("Docker version ").partition(".")[0]
    return int(number) if number.isdecimal() else 0

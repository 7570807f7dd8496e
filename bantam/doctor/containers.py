"""The doctor's look at Docker: an engine that answers, what builds images with it, and the server's image.

Through the Python package ``docker``, as everything else that runs containers; before the set-up, which installs it,
through Docker's command line. Standard library only at import time.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
from pathlib import Path

from bantam.doctor.check import Check
from bantam.programs import output

USE = "Needed for the container images, and to serve where Triton cannot run by itself:"
INSTALL = f"{USE} install Docker (Debian, Ubuntu: `apt install docker.io`)."
START = f"{USE} start it (`systemctl start docker`, Docker Desktop)."
X86 = ("x86_64", "amd64", "AMD64")


def docker_engine(root: Path) -> list[Check]:
    """What engine there is, what builds images, and that of ``make image``. ``root`` is not looked at."""
    try:
        from serving.container import image_name
        from serving.docker_engine import engine
    except ImportError:
        return [_by_command_line()]
    from bantam.errors import ContainerError

    try:
        client = engine()
    except ContainerError as exc:
        if isinstance(exc.__cause__, ImportError):
            return [_by_command_line()]
        return [Check("Docker", "missing", _why(exc), _advice(exc))]
    with contextlib.closing(client):
        version = client.version()
        names = {tag for image in client.images.list() for tag in image.tags}
    found = f"engine {version['Version']} for {version['Os']}/{version['Arch']}"
    image = image_name()
    tag = image if ":" in image.rpartition("/")[2] else f"{image}:latest"
    checks = [Check("Docker", "warning", f"{found}: {platform.machine()}", _emulated()), _builder()]
    if platform.machine() in X86:
        checks[0] = Check("Docker", "ok", found)
    if tag in names:
        return [*checks, Check("image", "ok", tag)]
    return [*checks, Check("image", "missing", f"no image {tag}", "To serve from a container: `make image`.")]


def _builder() -> Check:
    """The command line that builds images, with BuildKit."""
    from bantam.errors import ContainerError
    from serving.image.build import client

    try:
        return Check("image build", "ok", client())
    except ContainerError as exc:
        said, _, advice = str(exc).partition(". ")
        return Check("image build", "missing", said, advice)


def _by_command_line() -> Check:
    if shutil.which("docker") is None:
        return Check("Docker", "missing", "no docker command", INSTALL)
    server = output("docker", "version", "--format", "{{.Server.Version}}")
    if server is None:
        return Check("Docker", "missing", "a client, but no daemon that answers", START)
    return Check("Docker", "ok", f"engine {server}")


def _why(exc: Exception) -> str:
    return str(exc).partition(". ")[0]


def _advice(exc: Exception) -> str:
    if "Permission denied" in str(exc):
        return f"{USE} be allowed to use it: `sudo usermod -aG docker $USER`, then log in again."
    return START if shutil.which("docker") or shutil.which("dockerd") else INSTALL


def _emulated() -> str:
    return (
        "Triton comes with nvidia-pytriton, which has builds for x86-64 alone: the image is emulated here, several "
        "times slower than it would be on a server."
    )

"""Writes the root file system of the image: the Debian packages that are named and what they depend on, no others.

Run in the build stage, ``python3 -m serving.image.rootfs FOLDER PACKAGE...``, on a Debian that has them installed.
Their documentation stays behind, except their licences; ``/var/lib/dpkg/status`` lists them, for who scans the image.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

DPKG = Path("/var/lib/dpkg")
LEFT_OUT = frozenset(
    {"debconf", "dpkg", "install-info", "libc-bin", "mailcap", "mawk", "media-types", "openssl", "perl-base"}
)
"""Dependencies that only an installation needs."""
GENERATED = (Path("/etc/ssl/certs/ca-certificates.crt"),)
"""What an installation has written: no package lists it."""
DOCUMENTATION = re.compile(
    r"/usr/share/(doc/(?!.*/copyright$)|man/|info/|locale/|lintian/|bug/|doc-base/|linda/|menu/)"
)
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/sbin"}
"""Debian's file system since 12, while packages may name the old places."""
FOLDERS = {"dev": 0o755, "models": 0o755, "proc": 0o755, "run": 0o755, "sys": 0o755, "tmp": 0o1777, "var/tmp": 0o1777}
USER = 10001
"""Who runs the server: nobody else on the host is likely to be."""
FILES = {
    "etc/passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\nbantam:x:{USER}:{USER}:bantam:/tmp:/usr/sbin/nologin\n",
    "etc/group": f"root:x:0:\nbantam:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}

Package = Mapping[str, str]
"""The fields of a package in dpkg's database."""


def read_status(text: str) -> dict[str, Package]:
    """The installed packages by name."""
    packages: dict[str, Package] = {}
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): ?(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            packages[fields["Package"]] = {**fields, "": stanza}
    return packages


def closure(packages: Mapping[str, Package], wanted: Iterable[str]) -> list[str]:
    """The packages wanted and all that they depend on, sorted. Raises ``KeyError`` if one is not installed."""
    provided = {
        virtual.split()[0]: name for name, fields in packages.items() for virtual in parts(fields.get("Provides", ""))
    }
    found: set[str] = set()
    left = list(wanted)
    while left:
        name = left.pop()
        if name in found or name in LEFT_OUT:
            continue
        found.add(name)
        fields = packages[name]
        for alternatives in parts(f"{fields.get('Depends', '')},{fields.get('Pre-Depends', '')}"):
            names = [re.split(r"[\s:(]", choice.strip())[0] for choice in alternatives.split("|")]
            installed = next(
                (n if n in packages else provided[n] for n in names if n in packages or n in provided), None
            )
            if installed is None and not LEFT_OUT & set(names):
                raise KeyError(f"{name} depends on {alternatives}, which is not installed")
            left += [installed] if installed else []
    return sorted(found)


def parts(field: str) -> list[str]:
    """The entries of a field that separates them by commas."""
    return [part.strip() for part in field.split(",") if part.strip()]


def files_of(name: str, fields: Package) -> list[Path]:
    """The files and folders of a package, without what documents it."""
    lists = (DPKG / "info" / f"{name}:{fields['Architecture']}.list", DPKG / "info" / f"{name}.list")
    lines = next(path for path in lists if path.exists()).read_text(encoding="utf-8").splitlines()
    # A package may have the licence of another one, by a link to that one's folder.
    links = [line for line in lines if re.fullmatch(r"/usr/share/doc/[^/]+", line) and Path(line).is_symlink()]
    return [Path(line) for line in lines if line in links or not DOCUMENTATION.match(line)]


def copy(path: Path, root: Path) -> None:
    """Copy a file, link or folder (without what is in it) to its place below ``root``, with its mode."""
    target = root / path.relative_to("/")
    if path.is_symlink():
        if not target.is_symlink() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path.readlink())
    elif path.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif path.is_file():  # else it was removed, as slim images do with documentation
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
        target.chmod(path.stat().st_mode & 0o755)  # without setuid and setgid


def write(root: Path, wanted: Iterable[str]) -> list[str]:
    """Fill ``root``; returns the names of the packages that are in it."""
    packages = read_status((DPKG / "status").read_text(encoding="utf-8"))
    names = closure(packages, wanted)
    for link, target in LINKS.items():
        (root / target).mkdir(parents=True, exist_ok=True)
        (root / link).symlink_to(target)
    for name in names:
        for path in files_of(name, packages[name]):
            copy(path, root)
    for path in GENERATED:
        copy(path, root)
    for folder, mode in FOLDERS.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder).chmod(mode)
    for file, text in FILES.items():
        (root / file).write_text(text, encoding="utf-8")
    status = root / (DPKG / "status").relative_to("/")
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text("".join(packages[name][""].strip("\n") + "\n\n" for name in names), encoding="utf-8")
    subprocess.run(["ldconfig", "-r", str(root)], check=True)
    return names


if __name__ == "__main__":
    print(" ".join(write(Path(sys.argv[1]), sys.argv[2:])))

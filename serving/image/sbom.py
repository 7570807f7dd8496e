"""Writes what is inside the image: a bill of materials (CycloneDX 1.6) and the licences, by package.

Run in the build stage: ``python3 -m serving.image.sbom ROOT ENVIRONMENT FOLDER VERSION``, after ``rootfs`` and
``slim``. What a model descends from, and its licences, are in its version folder.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

from serving.image.rootfs import read_status

SBOM, LICENCES = "sbom.cdx.json", "licences.txt"
LONGEST_NAME = 100
"""Some packages put the whole text where the licence's name is expected."""


@dataclass(frozen=True)
class Component:
    """A package in the image."""

    name: str
    version: str
    purl: str
    licences: tuple[str, ...]
    """As the package names them; empty if it does not."""
    texts: tuple[str, ...]
    """Paths of their texts in the image."""
    bundled: Mapping[str, str] = field(default_factory=dict)
    """Native libraries that travel inside it: name and SHA-256."""

    def as_dict(self) -> dict[str, Any]:
        """As a component of CycloneDX."""
        nested = [
            {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
            for name, digest in sorted(self.bundled.items())
        ]
        licences = [{"license": {"name": name}} for name in self.licences]
        return {
            "type": "library",
            "bom-ref": self.purl,
            "name": self.name,
            "version": self.version,
            "purl": self.purl,
            **({"licenses": licences} if licences else {}),
            **({"components": nested} if nested else {}),
        }


def python_packages(environment: Path) -> list[Component]:
    """What is installed in an environment."""
    (site,) = environment.glob("lib/python3*/site-packages")
    found = []
    for package in distributions(path=[str(site)]):
        name = re.sub(r"[-_.]+", "-", package.name).lower()
        files = [site / str(file) for file in package.files or ()]
        texts = [str(f) for f in files if _is_licence(f)]
        bundled = {f.name: _sha256(f) for f in files if f.parent.parent == site and _is_bundled(f)}
        purl = f"pkg:pypi/{name}@{quote(package.version)}"
        found.append(Component(name, package.version, purl, _licences(package), tuple(sorted(texts)), bundled))
    return sorted(found, key=lambda component: component.name)


def debian_packages(root: Path) -> list[Component]:
    """What is in a root file system that ``rootfs`` wrote."""
    found = []
    for name, fields in sorted(read_status((root / "var/lib/dpkg/status").read_text(encoding="utf-8")).items()):
        version, architecture = fields["Version"], fields["Architecture"]
        copyright_file = Path("/usr/share/doc", name, "copyright")
        text = root / copyright_file.relative_to("/")
        named: tuple[str, ...] = ()
        if text.is_file():  # in the machine-readable form if it has such fields
            lines = re.findall(r"^License: *(\S.*)$", text.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
            named = tuple(sorted({line.strip() for line in lines if len(line) <= LONGEST_NAME}))
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}&distro=debian-12"
        found.append(Component(name, version, purl, named, (str(copyright_file),) if text.is_file() else ()))
    return found


def bill(components: Iterable[Component], version: str) -> dict[str, Any]:
    """The document of CycloneDX for a ``version`` of Bantam; the same for the same components."""
    listed = [component.as_dict() for component in components]
    digest = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(digest[:32], version=4)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "container",
                "bom-ref": "bantam-cpu",
                "name": "bantam-cpu",
                "version": version,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": listed,
    }


def table(components: Iterable[Component]) -> str:
    """The licences of each package, and where in the image their texts are."""
    lines = ["What is in this image besides Bantam (Apache-2.0), its licences, and where their texts are.\n"]
    for component in components:
        lines.append(f"{component.name} {component.version}: {', '.join(component.licences) or 'see its text'}\n")
        lines += [f"    {text}\n" for text in component.texts]
    return "".join(lines)


def write(root: Path, environment: Path, folder: Path, version: str) -> None:
    """Write both files into ``folder``, which is made."""
    components = [*python_packages(environment), *debian_packages(root)]
    folder.mkdir(parents=True)
    (folder / SBOM).write_text(json.dumps(bill(components, version), indent=1) + "\n", encoding="utf-8")
    (folder / LICENCES).write_text(table(components), encoding="utf-8")


def _licences(package: Distribution) -> tuple[str, ...]:
    def said(field: str) -> list[str]:
        return [str(value) for value in package.metadata.get_all(field) or ()]

    classifiers = [line.rpartition(" :: ")[2] for line in said("Classifier") if line.startswith("License ::")]
    plain = [value for value in said("License") if value and len(value) <= LONGEST_NAME]
    return tuple(said("License-Expression") or classifiers or plain)


def _is_licence(path: Path) -> bool:
    named = re.search(r"licen[cs]e|copying|notice|third.?party", path.name.lower())
    return named is not None and not path.suffix.startswith(".py") and path.is_file()


def _is_bundled(path: Path) -> bool:
    return path.parent.name.endswith(".libs") and path.is_file()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])

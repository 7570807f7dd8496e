"""What one Triton sees: a model repository of links to the versions that it serves, and to nothing else.

Triton polls such a repository for changes. In the published one it would load a served model again whenever a version
is staged or pruned beside it; here a model changes in one step, when a link is replaced.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from bantam.errors import RepositoryError, ServerError
from serving import repository, triton_config
from serving.repository import Version
from serving.triton_config import CONFIG, served_version
from serving.version_folder import gpu_config

CACHE = "__pycache__"
Target = Literal["cpu", "gpu"]
"""What a server runs models on; those that were not made for a GPU run on the CPU beside it."""


class View:
    """Two new folders in ``folder``: ``models``, which Triton reads, and ``versions``, where the links in it lead.

    A version's ``config.pbtxt`` is the one for ``target``, so that what is promoted is one file whatever the hardware.
    ``inline``: for a Triton with the inline backend, which wants models configured otherwise.
    """

    def __init__(
        self, folder: Path, versions: Iterable[Version], target: Target = "cpu", *, inline: bool = False
    ) -> None:
        self._target = target
        self.models = folder / "models"
        self._versions = folder / "versions"
        self.models.mkdir()
        self._versions.mkdir()
        self._made = 0
        self._inline = inline
        self.shown: dict[str, Version] = {}
        """The version of each model that is in ``models``."""
        for version in versions:
            self.show(version)

    def show(self, version: Version) -> None:
        """Put a version in the place of the one of its model that is shown, in one step.

        Raises ``OSError`` if there is no space, or no such version any more, and :class:`RepositoryError` if its
        config.pbtxt is none, or asks for a GPU that is not the first; then the other one is still shown.
        """
        # Made anew also for one that was shown before: Triton takes only what is newer than what it has.
        self._made += 1
        target = self._versions / f"{version.name}-{self._made}"
        target.mkdir()
        text = config_of(version, self._target)
        (target / CONFIG).write_text(triton_config.inline(text) if self._inline else text, encoding="utf-8")
        files = target / str(version.number)
        files.mkdir()
        for path in version.folder.resolve().iterdir():
            if path.name != CACHE:
                (files / path.name).symlink_to(path)
        # In the place of a folder, so that the Python of an isolated model, which no setting reaches, writes none:
        # Triton would load the model again because of it.
        (files / CACHE).touch()
        link = self._versions / f"{version.name}.link"
        link.unlink(missing_ok=True)  # of a time when the next step failed
        link.symlink_to(target)
        os.replace(link, self.models / version.name)
        self.shown[version.name] = version

    def take_back(self, version: Version) -> None:
        """Show a version again that Triton has still, also where its folder was removed meanwhile."""
        self.shown[version.name] = version
        with contextlib.suppress(OSError, RepositoryError):
            self.show(version)


def config_of(version: Version, target: Target = "cpu") -> str:
    """The config.pbtxt that a version is served with: the model's, with what an operator changed in it, if promoted.

    For a GPU with what :func:`serving.triton_config.on_gpu` changes in that, if the version was made for GPUs. Raises
    :class:`RepositoryError` if it is no config, or asks for a GPU that is not the first.
    """
    config = _promoted(version) or (version.folder / CONFIG).read_text(encoding="utf-8")
    return (gpu_config(version.folder, config) if target == "gpu" else None) or config


def _promoted(version: Version) -> str | None:
    """The model's own config.pbtxt, if it is of this version."""
    with contextlib.suppress(OSError, RepositoryError):
        text = (version.folder.parent / CONFIG).read_text(encoding="utf-8")
        if (served := served_version(text)) and served.number == version.number:
            return text
    return None


def chosen(root: Path, models: Iterable[str], staged: Mapping[str, Version]) -> list[Version]:
    """The versions of these models to serve: those staged, else those published.

    Raises :class:`ServerError` if there are none, or if a file of one is not as it was published.
    """
    versions = []
    for name in models:
        version = staged.get(name) or repository.published(root, name)
        if version is None:
            known = ", ".join(repository.models(root)) or "none"
            raise ServerError(f"{root} has no model {name!r}. Published: {known}.")
        repository.verified(version.folder, ServerError)
        versions.append(version)
    if not versions:
        raise ServerError(f"{root}: no model is published there. Publish one with 'make optimize'.")
    return versions

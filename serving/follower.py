"""Has a running Triton serve what is promoted, without a restart and without a key to its administration."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bantam.errors import RepositoryError
from serving import repository, tritonserver
from serving.repository import Version
from serving.view import View


class Follower:
    """Keeps what a polling Triton serves at what a repository's models are promoted to.

    ``log``: Triton's. ``has_loaded`` says whether a version answers, and waits a moment if not. A version that is not
    loaded in ``timeout_s`` seconds is given up.
    """

    def __init__(
        self, root: Path, view: View, log: Path, has_loaded: Callable[[Version], bool], timeout_s: float
    ) -> None:
        self._root = root
        self._view = view
        self._log = log
        self._has_loaded = has_loaded
        self._timeout_s = timeout_s
        self._refused: dict[str, int] = {}
        """Versions that cannot be loaded, by model: they are not tried again."""

    def step(self) -> Iterator[str]:
        """Have Triton serve what has been promoted since; gives a line for the user about each version."""
        for name, served in list(self._view.shown.items()):
            with contextlib.suppress(RepositoryError):  # damaged, or withdrawn: what is served goes on
                version = repository.published(self._root, name)
                if version is None or version.number == served.number:
                    self._refused.pop(name, None)
                elif version.number != self._refused.get(name):
                    yield self._replace(served, version)

    def _replace(self, served: Version, version: Version) -> str:
        read = self._log.stat().st_size
        deadline = time.monotonic() + self._timeout_s
        try:
            repository.verified(version.folder)
            self._view.show(version)
        except (OSError, RepositoryError) as exc:  # such as a full disk: no reason to stop what is served
            self._refused[version.name] = version.number
            return f"{version.name} stays at version {served.number}: {version.number} cannot be served ({exc})."
        while not self._has_loaded(version):
            with self._log.open("rb") as log:
                log.seek(read)
                said = log.read().decode("utf-8", "replace")
            if f"failed to load '{version.name}'" in said or time.monotonic() > deadline:
                self._view.show(served)  # Triton has it still; from here on it does not try the other one
                self._refused[version.name] = version.number
                why = "".join(f"\n  {line}" for line in tritonserver.reasons(said))
                return f"{version.name} stays at version {served.number}: {version.number} cannot be served.{why}"
        return f"{version.name}: version {version.number} is served; before, {served.number} was."

"""Has a running Triton serve what is promoted, without a restart and without a key to its administration."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bantam.errors import RepositoryError, ServerError
from serving import repository, tritonserver
from serving.repository import Version
from serving.triton_config import CONFIG
from serving.view import View


class Follower:
    """Keeps what a polling Triton serves at what a repository's models are promoted to.

    ``log``: Triton's. ``has_loaded`` says whether a version answers, and waits a moment if not. A version that is not
    loaded in ``timeout_s`` seconds is given up. ``read``: which config.pbtxt of each model was read, by its inode and
    time, kept for the follower after this one: a version that cannot be loaded is tried once.
    """

    def __init__(
        self,
        root: Path,
        view: View,
        log: Path,
        has_loaded: Callable[[Version], bool],
        timeout_s: float,
        read: dict[str, tuple[int, int]],
    ) -> None:
        self._root = root
        self._view = view
        self._log = log
        self._has_loaded = has_loaded
        self._timeout_s = timeout_s
        self._read = read

    def step(self) -> Iterator[str]:
        """Have Triton serve what has been promoted since; gives a line for the user about each version.

        Raises :class:`ServerError` if Triton ends meanwhile.
        """
        for name, served in list(self._view.shown.items()):
            if not self._has_changed(name):
                continue
            with contextlib.suppress(RepositoryError):  # damaged, or withdrawn: what is served goes on
                version = repository.published(self._root, name)
                if version is not None and version.number != served.number:
                    yield self._replace(served, version)

    def _has_changed(self, name: str) -> bool:
        """Whether the model's config.pbtxt, which names its version, is another one than when this was last asked."""
        try:
            found = (self._root / name / CONFIG).stat()
        except OSError:  # withdrawn
            return False
        before, self._read[name] = self._read.get(name), (found.st_ino, found.st_mtime_ns)
        return before != self._read[name]

    def _replace(self, served: Version, version: Version) -> str:
        read = self._log.stat().st_size
        stays = f"{version.name} stays at version {served.number}: {version.number} cannot be served"
        try:
            repository.verified(version.folder)
            self._view.show(version)
        except (OSError, RepositoryError) as exc:  # such as a full disk: no reason to stop what is served
            return f"{stays} ({exc})."
        try:
            why = self._why_not_loaded(version, read)
        except ServerError as exc:  # it may have been that version: the next start is without it
            self._view.take_back(served)
            raise ServerError(f"{exc}\n  {stays}, because Triton ended while it was loaded.") from exc
        if why is not None:
            self._view.take_back(served)  # Triton has it still; from here on it does not try the other one
            return f"{stays}.{why}"
        return f"{version.name}: version {version.number} is served; before, {served.number} was."

    def _why_not_loaded(self, version: Version, read: int) -> str | None:
        """Wait until Triton has loaded it: None, or what its log says after the first ``read`` bytes."""
        deadline = time.monotonic() + self._timeout_s
        while not self._has_loaded(version):
            with self._log.open("rb") as log:
                # A log that has grown large begins anew.
                log.seek(read if read <= os.fstat(log.fileno()).st_size else 0)
                said = log.read().decode("utf-8", "replace")
            if f"failed to load '{version.name}'" in said or time.monotonic() > deadline:
                return "".join(f"\n  {line}" for line in tritonserver.reasons(said))
        return None

"""What is done of a corpus, in a folder beside the output: finished parts in order, and how far they go.

A part is written before the state that counts it, each whole or not at all: killed in between, the part is written
again, with the same rows and bytes.
"""

from __future__ import annotations

import contextlib
import glob
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bantam.errors import DataError, UserError
from bantam.files import sweep
from bantam.label.place import Place

STATE = "state.json"
PARTS = ".parts"
LOCK = "lock"


@dataclass
class Done:
    """What has been labelled so far."""

    begun: dict[str, Any]
    """What was asked for: see :meth:`Progress.begin`."""
    parts: int = 0
    rows: int = 0
    without_text: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    """How many rows have each label."""
    finished: bool = False
    """Whether the output is in its place."""


class Ledger:
    """The folder of parts of one output."""

    def __init__(self, output: Place) -> None:
        self._output = output
        self._folder = output.beside(PARTS)
        self._state = self._folder.inside(STATE)
        self.done = Done({})

    def begin(self, asked: Mapping[str, Mapping[str, Any]], *, overwrite: bool) -> None:
        """Go on with what is there, or begin. ``asked``: by what it is of, such as the input: what answers follow from.

        Raises :class:`DataError` if what is there is of something else, or finished by another command.
        """
        known = self._read()
        if known is None:
            if self._output.exists() and not overwrite:
                raise DataError(
                    f"{self._output} is there already, and nothing that is unfinished beside it. --overwrite puts "
                    "another one in its place."
                )
            self.done = Done({name: dict(values) for name, values in asked.items()})
            self._save()
            return
        for name, values in asked.items():
            before = known.begun.get(name, {})
            if changed := [key for key in {*values, *before} if values.get(key) != before.get(key)]:
                key = min(changed)
                raise DataError(
                    f"{self._folder} was begun with another {name} ({key}: {str(before.get(key))[:80]}; now "
                    f"{str(values.get(key))[:80]}). Bring that back to go on, or remove the folder to begin anew."
                )
        self.done = known

    def add(self, content: bytes, said: Counter[str], rows: int, without_text: int) -> None:
        """The next part: its rows, how many have each label, and how many had no text."""
        with self._part(self.done.parts).writing() as file:
            file.write(content)
        self.done.parts += 1
        self.done.rows += rows
        self.done.without_text += without_text
        for label, count in said.items():
            self.done.labels[label] = self.done.labels.get(label, 0) + count
        self._save()

    def parts(self) -> list[Place]:
        """The finished parts, in order."""
        return [self._part(number) for number in range(self.done.parts)]

    def finish(self) -> None:
        """The output is in its place; nothing else stays."""
        self.done.finished = True
        self._save()
        self.clear()

    def clear(self) -> None:
        """Remove the parts; what says that they are of no use any more goes last."""
        for part in self.parts():
            part.remove()
        self._state.remove()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time; on this machine's disks, a bucket has no locks."""
        if "://" in str(self._output):
            yield
            return
        folder = Path(str(self._folder))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise DataError(f"{folder} cannot be made ({exc.strerror}). Expected a folder for the output.") from exc
        try:
            with FileLock(folder / LOCK, timeout=0):
                # What a killed run was writing: nobody else writes either of these.
                sweep(folder)
                for left in folder.parent.glob(f"{glob.escape(self._output.name)}.tmp-*"):
                    left.unlink(missing_ok=True)
                try:
                    yield
                finally:
                    if [path.name for path in folder.glob("*")] in ([], [LOCK]):
                        shutil.rmtree(folder)
        except Timeout as exc:
            raise UserError(f"Another process is writing {self._output}. Wait for it, or end it.") from exc

    def _part(self, number: int) -> Place:
        return self._folder.inside(f"part-{number:08d}")

    def _read(self) -> Done | None:
        if not self._state.exists():
            return None
        with self._state.reading(), self._state.open("rb") as file:
            content = file.read()
        try:
            return Done(**json.loads(content))
        except (ValueError, TypeError) as exc:
            raise DataError(f"{self._state} is damaged ({exc}). Remove {self._folder} to begin anew.") from exc

    def _save(self) -> None:
        with self._state.writing() as file:
            file.write(json.dumps(asdict(self.done), indent=1).encode())

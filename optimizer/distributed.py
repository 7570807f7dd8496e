"""One run on several processes or machines, as ``accelerate launch`` and ``torchrun`` start them.

Each process runs the same stages in the same order. The main one alone writes artifacts; the others take part in
training and wait where the main one works alone. On several machines the build folder is on a disk that all see.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def count() -> int:
    """Number of processes of this run; 1 if it was started plainly."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this is the process that writes."""
    return int(os.environ.get("RANK", "0")) == 0


def agreed(value: bool, device: str) -> bool:
    """What the main process says, in all of them; each one calls this, and waits for the others."""
    if count() == 1:
        return value
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=device == "cpu")
    (said,) = broadcast_object_list([value])
    return bool(said)


def wait(device: str) -> None:
    """Until all processes are here; ``device`` is the run's, ``cpu`` or ``cuda``."""
    if count() > 1:
        from accelerate import PartialState

        PartialState(cpu=device == "cpu").wait_for_everyone()


@contextmanager
def main_first(device: str) -> Iterator[None]:
    """The main process runs the block alone; the others afterwards, when what it wrote is there to be read."""
    if not is_main():
        wait(device)
    yield
    if is_main():
        wait(device)

"""What teachers say: computed once, kept on disk, read back by memory map.

A folder holds one ``.npy`` a quantity: ``logits`` float32 ``[rows, labels]``; ``hidden-5``, ``queries-5`` ... float16
``[tokens, width]``, the real tokens of all rows one after the other; ``offsets`` int64 ``[rows + 1]``, where each row's
tokens start. ``progress.json`` says whose outputs these are and how many rows are there.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from bantam.errors import DiskFullError, StageError
from optimizer.architecture import anatomy, blocks

Row = Mapping[str, Sequence[int]]
"""An encoded text: ``input_ids`` and what else the model takes, of equal lengths, without padding."""
Rows = Sequence[int] | NDArray[np.integer[Any]]
"""Numbers of rows of the data set."""
Floats = NDArray[np.float32]
Array = NDArray[Any]

PROGRESS = "progress.json"
FLUSH_EVERY = 32
"""Batches between two records of progress: what a kill can cost."""
_PROJECTIONS = {"queries": "query", "keys": "key", "values": "value"}
_FLOAT16_MAX = 65504.0


@dataclass(frozen=True)
class Wanted:
    """Which outputs: logits; hidden states after, and projections in, these blocks (counted from 0)."""

    logits: bool = True
    hidden: tuple[int, ...] = ()
    queries: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()
    values: tuple[int, ...] = ()

    @property
    def of_tokens(self) -> tuple[tuple[str, int], ...]:
        """Kind and block of each quantity that has a value a token: ``("hidden", 5)``."""
        return tuple((kind, block) for kind in ("hidden", *_PROJECTIONS) for block in getattr(self, kind))


class Captured:
    """What a model computed inside in its last forward: ``captured.hidden[5]``, ``captured.queries[5]`` and so on.

    Each float32 ``[batch, tokens, width]``, with its gradient; projections as they leave their layer, all heads side by
    side, before any rotation. A context manager: the hooks go when it ends. Raises :class:`StageError` if a block does
    not exist, and :class:`ModelError` if projections are wanted of a model that cannot be taken apart.
    """

    def __init__(self, model: PreTrainedModel, wanted: Wanted) -> None:
        self.hidden: dict[int, Tensor] = {}
        self.queries: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._handles = [
            module.register_forward_hook(self._catch(getattr(self, kind), block))
            for kind, block, module in _modules(model, wanted)
        ]

    @staticmethod
    def _catch(kept: dict[int, Tensor], block: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            kept[block] = (output if isinstance(output, Tensor) else output[0]).float()

        return hook

    def __enter__(self) -> Captured:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks and let go of what was caught."""
        for handle in self._handles:
            handle.remove()
        for kept in (self.hidden, self.queries, self.keys, self.values):
            kept.clear()


def _modules(model: PreTrainedModel, wanted: Wanted) -> list[tuple[str, int, nn.Module]]:
    """Kind, block and module whose output it is, of each quantity wanted."""
    if not wanted.of_tokens:
        return []
    stack = blocks(model)
    for kind, block in wanted.of_tokens:
        if block not in range(len(stack)):
            raise StageError(
                f"The {kind} of layer {block} are wanted of a model whose layers are 0 to {len(stack) - 1}. "
                "Mend the layer map of the recipe."
            )
    layers = anatomy(model).layers if any(getattr(wanted, kind) for kind in _PROJECTIONS) else ()
    return [
        (kind, block, stack[block] if kind == "hidden" else getattr(layers[block], _PROJECTIONS[kind]))
        for kind, block in wanted.of_tokens
    ]


class TeacherOutputs:
    """A whole cache, opened for reading: what the teacher gave for rows of the data set, padded as their batch is."""

    def __init__(self, folder: Path) -> None:
        self.arrays: dict[str, Array] = {path.stem: np.load(path, mmap_mode="r") for path in folder.glob("*.npy")}

    def logits(self, rows: Rows) -> Floats:
        """The teacher's logits, ``[rows, labels]``."""
        return np.array(self.arrays["logits"][rows])

    def hidden(self, block: int, rows: Rows) -> Floats:
        """Hidden states after the block, ``[rows, longest, width]``; zeros at padding, which is to the right."""
        return self._tokens(f"hidden-{block}", rows)

    def queries(self, block: int, rows: Rows) -> Floats:
        """Output of the query projection in the block, shaped as :meth:`hidden`."""
        return self._tokens(f"queries-{block}", rows)

    def keys(self, block: int, rows: Rows) -> Floats:
        """Output of the key projection in the block, shaped as :meth:`hidden`."""
        return self._tokens(f"keys-{block}", rows)

    def values(self, block: int, rows: Rows) -> Floats:
        """Output of the value projection in the block, shaped as :meth:`hidden`."""
        return self._tokens(f"values-{block}", rows)

    def _tokens(self, name: str, rows: Rows) -> Floats:
        array, starts = self.arrays[name], self.arrays["offsets"][rows]
        lengths = self.arrays["offsets"][np.asarray(rows) + 1] - starts
        padded = np.zeros((len(starts), int(lengths.max()), array.shape[1]), dtype=np.float32)
        for values, start, length in zip(padded, starts, lengths, strict=True):
            values[:length] = array[start : start + length]
        _let_go(array)
        return padded


def _let_go(array: Array) -> None:
    """Take the pages of a memory map out of this process, which would have gigabytes of them after one epoch."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def teacher_outputs(
    model: PreTrainedModel,
    folder: Path,
    rows: Sequence[Row],
    wanted: Wanted,
    *,
    batch_size: int,
    pad_token_id: int,
    device: str,
    log: Callable[[str], None],
    key: str,
) -> TeacherOutputs:
    """Run ``model`` over ``rows`` once, in fp32, or read what an earlier call wrote into ``folder``.

    ``key`` stands for all that the outputs depend on: the teacher, the rows and what is wanted. A call that was killed
    goes on where its last record of progress is; outputs under another key are thrown away. The model is put onto
    ``device`` and into eval mode. One process at a time. Raises :class:`DiskFullError`, before anything is written, if
    the folder's disk has too little room, and what :class:`Captured` raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    offsets = np.cumsum([0, *(len(row["input_ids"]) for row in rows)], dtype=np.int64)
    cache = _Cache(folder, offsets, key)
    if cache.done == len(rows):
        return TeacherOutputs(folder)
    if cache.done:
        log(f"teacher outputs: going on after {cache.done} of {len(rows)} texts")
    # Longest first: if memory does not suffice, that shows at once.
    order = np.argsort(-np.diff(offsets), kind="stable")
    model.to(device).eval()  # type: ignore[arg-type]  # a string is a device to PyTorch
    with Captured(model, wanted) as captured, _bar() as bar:
        task = bar.add_task("", total=len(rows), completed=cache.done)
        for number, start in enumerate(range(cache.done, len(rows), batch_size), start=1):
            chosen = order[start : start + batch_size]
            outputs = _forward(model, pad([rows[i] for i in chosen], pad_token_id, device), captured, wanted)
            cache.write(chosen, outputs, log)
            if number % FLUSH_EVERY == 0 or start + len(chosen) == len(rows):
                cache.record(start + len(chosen))
            bar.update(task, advance=len(chosen))
    return TeacherOutputs(folder)


def pad(rows: Sequence[Row], pad_token_id: int, device: str = "cpu") -> dict[str, Tensor]:
    """A batch of rows: name -> int64 ``[rows, longest]``, padded on the right; a text without tokens has one of it."""
    one = {"input_ids": pad_token_id, "attention_mask": 1}
    return {
        name: pad_sequence(
            [torch.tensor(row[name] or [one.get(name, 0)], dtype=torch.long) for row in rows],
            batch_first=True,
            padding_value=pad_token_id if name == "input_ids" else 0,
        ).to(device)
        for name in rows[0]
    }


@torch.inference_mode()
def _forward(
    model: PreTrainedModel, batch: Mapping[str, Tensor], captured: Captured, wanted: Wanted
) -> dict[str, Array]:
    """Quantity -> its values as they are stored: ``[rows, labels]`` or ``[rows, longest, width]``."""
    logits = model(**batch).logits
    found = {"logits": logits.float()} if wanted.logits else {}
    for kind, block in wanted.of_tokens:
        found[f"{kind}-{block}"] = getattr(captured, kind)[block].clamp(-_FLOAT16_MAX, _FLOAT16_MAX).half()
    return {name: values.cpu().numpy() for name, values in found.items()}


class _Cache:
    """The files of a cache that is being written."""

    def __init__(self, folder: Path, offsets: Array, key: str) -> None:
        self.folder, self.offsets, self.key = folder, offsets, key
        self.done = self._rows_done()
        """Rows that are on disk, of the rows in the order of work."""
        self.arrays: dict[str, Any] = {}
        if self.done:
            self.arrays = {path.stem: np.load(path, mmap_mode="r+") for path in folder.glob("*.npy")}

    def _rows_done(self) -> int:
        try:
            progress = json.loads((self.folder / PROGRESS).read_text(encoding="utf-8"))
            return int(progress["rows"]) if progress["key"] == self.key else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def write(self, rows: Array, outputs: Mapping[str, Array], log: Callable[[str], None]) -> None:
        """Put the outputs of a batch where they belong; the first batch tells how large the files are."""
        if not self.arrays:
            self._allocate(outputs, log)
        for name, values in outputs.items():
            if name == "logits":
                self.arrays[name][rows] = values
                continue
            for row, padded in zip(rows, values, strict=True):
                start, end = self.offsets[row : row + 2]
                self.arrays[name][start:end] = padded[: end - start]

    def _allocate(self, outputs: Mapping[str, Array], log: Callable[[str], None]) -> None:
        for path in (self.folder / PROGRESS, *self.folder.glob("*.npy")):
            path.unlink(missing_ok=True)
        shapes = {
            name: (len(self.offsets) - 1 if name == "logits" else int(self.offsets[-1]), values.shape[-1])
            for name, values in outputs.items()
        }
        needed = sum(rows * width * outputs[name].itemsize for name, (rows, width) in shapes.items())
        free = shutil.disk_usage(self.folder).free
        log(f"teacher outputs: {needed / 1e6:.0f} MB of {', '.join(shapes)}, kept in {self.folder}")
        if needed > free:
            raise DiskFullError(
                f"{self.folder} has {free / 1e6:.0f} MB free; the teacher's outputs need {needed / 1e6:.0f} MB.\n"
                "Free some space, or use fewer losses that compare layers: logits alone need little."
            )
        np.save(self.folder / "offsets.npy", self.offsets)
        for name, shape in shapes.items():
            path = self.folder / f"{name}.npy"
            self.arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=outputs[name].dtype, shape=shape)
            if hasattr(os, "posix_fallocate"):
                # A full disk is an error here; found out on writing to the map, it would be a bus error.
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

    def record(self, done: int) -> None:
        """Make sure that all is on disk, then say so."""
        for array in self.arrays.values():
            array.flush()
            _let_go(array)
        temporary = self.folder / f"{PROGRESS}.tmp"
        temporary.write_text(json.dumps({"key": self.key, "rows": done}), encoding="utf-8")
        temporary.replace(self.folder / PROGRESS)


def _bar() -> Progress:
    return Progress(
        TextColumn("  asking the teacher"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

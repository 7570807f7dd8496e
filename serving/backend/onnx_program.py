"""ONNX Runtime on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .cores import TextThreads, int8_saturates
from .manifest import ModelManifest, read_manifest
from .program import Feeds, Placement
from .providers import CPU, Provider
from .work import multiply_adds_a_token

PAYING_WORK = 60_000_000
"""Multiply-adds of a text from which all cores are taken to be faster than one, where nothing was measured: on a
virtual AMD EPYC of 2 cores that was so from 39 million (`small` int8, 14 tokens), on a slower one from about 100."""
LARGE = 200_000_000
"""Bytes of a model in memory from which on it is held once: each session has weights of its own, which ONNX Runtime's
Python cannot share. A model of 23 MB takes 33 MB more for a second session, one of 87 MB 103, one of 346 MB 391; it
gives 1.2 (large, fp32) to 1.4 times (MiniLM, int8) the texts a second on 2 cores."""


class OnnxProgram:
    """``model.onnx`` in ``folder``.

    Runs side by side take one thread each: threads that share a run wait for each other at every operator. A run that
    leaves cores idle otherwise, and is long enough for that to pay, takes several, in a session of its own.
    """

    warmed = False
    powers_of_two = False
    providers: tuple[str, ...] = (CPU,)

    def __init__(self, folder: Path, manifest: ModelManifest, placement: Placement) -> None:
        path = folder / "model.onnx"
        self.bucket = manifest.padded_to
        self.text_threads = placement.text_threads or _by_work(path, placement.threads)
        several = self.text_threads.threads > 1 and self.text_threads.tokens <= manifest.max_length
        self._several: Any = session(path, self.text_threads.threads) if several else None
        self._one: Any = self._several if several and held_once(folder) else session(path, 1)
        # A caller of ours per core keeps it busy.
        self.parallel = placement.threads
        self._under_way: list[None] = []  # appended to and popped from by several threads: that is atomic

    def __call__(self, feeds: Feeds, *, runs: int = 1) -> np.ndarray:
        """Logits, float32 ``[texts, labels]``. ``runs``: what the caller has to run in all, this among it."""
        idle = 2 * max(runs, len(self._under_way) + 1) <= self.parallel
        long = feeds["input_ids"].size >= self.text_threads.tokens
        chosen = self._several if self._several is not None and idle and long else self._one
        self._under_way.append(None)
        try:
            logits: np.ndarray = chosen.run(["logits"], feeds)[0]
        finally:
            self._under_way.pop()
        return logits


def held_once(folder: Path) -> bool:
    """Whether the model in ``folder`` is too large for two sessions."""
    return read_manifest(folder).memory_bytes > LARGE


def session(path: Path, threads: int, providers: Sequence[Provider] = ((CPU, {}),)) -> Any:
    """An ``InferenceSession`` whose runs share so many threads of the CPU, the caller's among them."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that never spin pay a wake-up at each operator (MiniLM int8: 3.0 ms against 2.0); threads that spin
    # for long, or after a run, take the cores from Triton, the client and our other micro-batches (p99 11 ms
    # against 6). 50 us would be too short for the pauses between operators when caches are cold, as they are in a
    # server: then one client waits 0.05 ms longer, on a slow machine 0.1.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "200")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # Without a limit: weights that are shipped in few bits are restored once, and not, above 1 GiB, at each run.
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", "0")
    if int8_saturates():
        # Weights become uint8 as the model is loaded: exact, and slow (2.5 times MiniLM's time with VNNI).
        options.add_session_config_entry("session.x64quantprecision", "1")
    # Python's front would otherwise go on with fewer providers when one fails, at load or at a run, and print that.
    made = ort.InferenceSession(str(path), options, providers=[*providers], enable_fallback=0)
    _give_back()
    return made


def _give_back() -> None:
    """What a session took while it was made goes back to the system: restoring MiniLM from 3 bits takes 313 MB.

    glibc keeps it otherwise.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _by_work(path: Path, cores: int) -> TextThreads:
    """All cores for a text that computes enough; for any, if that cannot be counted."""
    try:
        work = multiply_adds_a_token(path)
    except ValueError:
        work = PAYING_WORK
    return TextThreads(cores, -(-PAYING_WORK // max(1, work)), cores)

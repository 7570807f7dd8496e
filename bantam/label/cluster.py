"""The scorers of a Ray cluster: an actor with an engine of one thread on each of its cores."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bantam
import optimizer
import serving
from bantam.artifact import MANIFEST, Text
from bantam.errors import StageError, UserError, reason
from bantam.label.model import LabelModel
from bantam.label.pool import TOKENIZER_THREADS, Pool

RETRIES = 3
"""Times that a list of texts is scored again after its actor, or the machine below it, has died."""


@contextlib.contextmanager
def ray_pool(model: LabelModel, address: str, workers: int | None) -> Iterator[Pool]:
    """An actor for each core of the cluster at ``address``, or so many; ``local`` starts one on this machine.

    Model and code go along; the packages that the engine needs have to be there. Raises :class:`UserError` if Ray is
    not installed or there is no such cluster.
    """
    try:
        import ray
    except ImportError as exc:
        raise UserError("--ray needs Ray: pip install '.[ray]' in Bantam's folder, and on the cluster.") from exc
    code = [str(Path(str(package.__file__)).parent) for package in (bantam, serving, optimizer)]
    try:
        ray.init(
            address=None if address == "local" else address,
            num_cpus=workers if address == "local" else None,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"py_modules": code, "env_vars": {TOKENIZER_THREADS: "false"}},
        )
    except (ConnectionError, RuntimeError, ValueError) as exc:
        raise UserError(f"--ray {address}: {reason(exc)}. Expected local, or a cluster's address: host:6379.") from exc
    try:
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        manifest = model.artifact.manifest
        files = {name: (model.artifact.folder / name).read_bytes() for name in (*manifest.deployable, MANIFEST)}
        shipped = ray.put(files)
        actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=RETRIES)(Actor)
        pool = Pool([_Remote(ray, actor.remote(shipped, model.micro_batch)) for _ in range(count)])
        try:
            yield pool
        finally:
            pool.close()
    finally:
        ray.shutdown()


class Actor:
    """An engine on a machine of the cluster."""

    def __init__(self, files: Mapping[str, bytes], micro_batch: int) -> None:
        """``files``: the model's, by name."""
        os.environ[TOKENIZER_THREADS] = "false"
        from serving.backend.engine import Engine

        with tempfile.TemporaryDirectory(prefix="bantam-model-") as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            self._engine = Engine(Path(folder), threads=1, micro_batch=micro_batch)

    def probabilities(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """``[texts, labels]``."""
        return self._engine.probabilities(texts)


class _Remote:
    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor

    def probabilities(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        try:
            return np.asarray(self._ray.get(self._actor.probabilities.remote(list(texts))))
        except self._ray.exceptions.RayError as exc:
            raise StageError(f"The Ray cluster failed: {reason(exc)}. Run the same command again: it goes on.") from exc

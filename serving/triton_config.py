"""A model's ``config.pbtxt``: typed config -> dict -> Triton's own protobuf -> text.

A key or value that Triton does not know fails here, not in the server.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from google.protobuf import json_format, text_format
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bantam.artifact import Signature
from bantam.errors import RepositoryError
from serving.backend.cores import TextThreads

INPUT = "TEXT"
OUTPUT = "SCORES"
LABELS_FILE = "labels.txt"
CONFIG = "config.pbtxt"
GPU_CONFIG = "configs/gpu.pbtxt"
"""What a Triton reads in its place that was started with --model-config-name=gpu."""
LIMIT = "limit_ms"
"""The parameter that says how long a request may wait, for the inline backend."""
LIMIT_MS = 2000
"""How long, where a config does not say."""
PREVIOUS = "previous_version"
"""The parameter that names the version that was served before; clients have no use for it."""


def _triton_messages() -> ModuleType:
    """``tritonclient.grpc.model_config_pb2`` without the package around it, most of what a rollback would wait for.

    Another module of the same messages may be imported beside it: protobuf has them once.
    """
    package = importlib.util.find_spec("tritonclient")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'tritonclient'", name="tritonclient")
    path = Path(package.origin).with_name("grpc") / "model_config_pb2.py"
    module = ModuleType("model_config_pb2")
    SourceFileLoader(module.__name__, str(path)).exec_module(module)
    return module


model_config_pb2 = _triton_messages()


class TritonConfig(BaseModel):
    """How one model is served."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int = Field(ge=1)
    """The one version that is served."""
    task: str = Field(pattern="^(multi_label|single_label|regression)$")
    labels: tuple[str, ...] = Field(min_length=1)
    pair: bool = False
    """Whether each text is a pair."""
    thresholds: tuple[float, ...] | None = None
    """One per label, multi_label only: a label is given if its score is at least this."""
    max_batch_size: int = Field(64, ge=1)
    micro_batch: int = Field(8, ge=1)
    threads: int | None = Field(None, ge=1)
    text_threads: TextThreads | None = None
    """As measured for this model; the engine's own rule if absent."""
    limit_ms: int | None = Field(None, ge=20, le=24 * 3600 * 1000)
    """A request that would wait longer than half of this is refused at once; ``LIMIT_MS`` if absent."""

    @model_validator(mode="after")
    def _fits_the_task(self) -> TritonConfig:
        if self.thresholds is not None and self.task != "multi_label":
            raise ValueError(
                "thresholds are for multi_label models; a single_label one takes the highest score, and a regression "
                "has no labels to give"
            )
        if self.task == "regression" and len(self.labels) != 1:
            raise ValueError(f"got {len(self.labels)} labels, expected one for a regression: the name of its score")
        if self.thresholds is not None and len(self.thresholds) != len(self.labels):
            raise ValueError(
                f"got {len(self.thresholds)} thresholds, expected one for each of {len(self.labels)} labels"
            )
        return self

    def parameters(self) -> dict[str, str]:
        """What the backend and the clients read from the model's config; values are JSON or plain strings."""
        values: dict[str, str] = {
            "task": self.task,
            "labels": json.dumps(self.labels, ensure_ascii=False),
            "micro_batch": str(self.micro_batch),
        }
        if self.pair:
            values["pair"] = "true"
        if self.thresholds is not None:
            values["thresholds"] = json.dumps(self.thresholds)
        if self.threads is not None:
            values["threads"] = str(self.threads)
        if self.text_threads is not None:
            values["text_threads"] = json.dumps(self.text_threads._asdict())
        if self.limit_ms is not None:
            values[LIMIT] = str(self.limit_ms)
        return values

    def as_dict(self) -> dict[str, Any]:
        """Triton's ModelConfig in the JSON form of its protobuf."""
        texts = [2 if self.pair else 1]
        return {
            "name": self.name,
            "backend": "python",
            "max_batch_size": self.max_batch_size,
            "version_policy": {"specific": {"versions": [self.version]}},
            "input": [{"name": INPUT, "data_type": "TYPE_STRING", "dims": texts}],
            "output": [
                {
                    "name": OUTPUT,
                    "data_type": "TYPE_FP32",
                    "dims": [len(self.labels)],
                    # Inside the version folder, so that a publish changes the labels and the model in one step.
                    "label_filename": f"{self.version}/{LABELS_FILE}",
                }
            ],
            "instance_group": [{"kind": "KIND_CPU", "count": 1}],
            # No queue delay: it adds itself to every single request. No max_queue_size: Triton's batcher stalls once a
            # short queue has been full. No queue time-out: with one, the batcher does not prefetch and misses the
            # wake-up for a request that comes just before the instance is free; 1 in 100 requests of a single client
            # then took 500 ms, the batcher's longest sleep. The inline backend has a queue of its own, with a bound
            # (:func:`inline`); where the stock one serves, clients bound their own waiting.
            "dynamic_batching": {},
            # Warms the path through Triton with an empty text; the engine warms itself with real ones.
            "model_warmup": [
                {
                    "name": "empty text",
                    "batch_size": 1,
                    "inputs": {INPUT: {"data_type": "TYPE_STRING", "dims": texts, "zero_data": True}},
                }
            ],
            "parameters": {key: {"string_value": value} for key, value in self.parameters().items()},
        }

    def to_pbtxt(self) -> str:
        """The text of ``config.pbtxt``."""
        return str(text_format.MessageToString(json_format.ParseDict(self.as_dict(), model_config_pb2.ModelConfig())))


def config_for(
    signature: Signature, name: str, thresholds: Sequence[float] | None, **options: int | TextThreads | None
) -> TritonConfig:
    """The config of a classifier's first version. Raises :class:`RepositoryError` if it cannot be served so."""
    try:
        return TritonConfig(
            name=name,
            version=1,
            task=signature.task,
            labels=signature.labels,
            pair=signature.pair,
            thresholds=None if thresholds is None else tuple(float(value) for value in thresholds),
            **options,
        )
    except ValidationError as exc:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in exc.errors())
        raise RepositoryError(f"Model {name!r} cannot be served like this: {problems}.") from exc


def written_by_us(text: str) -> TritonConfig:
    """The config that a config.pbtxt was written from, for a text that others may have changed.

    Triton's configuration can name an environment to unpack or another file to run; so this raises
    :class:`RepositoryError` for a text that says anything that :meth:`TritonConfig.to_pbtxt` does not write.
    """
    message = parse_pbtxt(text)
    message.parameters.pop(PREVIOUS, None)
    values = {key: parameter.string_value for key, parameter in message.parameters.items()}
    thresholds, threads, text_threads = (values.get(key) for key in ("thresholds", "threads", "text_threads"))
    try:
        (version,) = message.version_policy.specific.versions
        config = TritonConfig(
            name=message.name,
            version=version,
            task=values["task"],
            labels=tuple(json.loads(values["labels"])),
            pair=values.get("pair") == "true",
            thresholds=None if thresholds is None else tuple(json.loads(thresholds)),
            max_batch_size=message.max_batch_size,
            micro_batch=int(values["micro_batch"]),
            threads=None if threads is None else int(threads),
            text_threads=None if text_threads is None else TextThreads(**json.loads(text_threads)),
            limit_ms=int(values[LIMIT]) if LIMIT in values else None,
        )
    except (KeyError, TypeError, ValueError) as exc:  # pydantic's error is a ValueError
        raise RepositoryError(f"{CONFIG} is not one that Bantam writes ({exc!r}).") from exc
    ours, theirs = (json_format.MessageToDict(each) for each in (parse_pbtxt(config.to_pbtxt()), message))
    if odd := sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)):
        raise RepositoryError(f"{CONFIG} says of {', '.join(odd)} what Bantam does not write.")
    return config


def parse_pbtxt(text: str) -> Any:
    """Read a config.pbtxt as Triton's ``ModelConfig`` message. Raises :class:`RepositoryError` if it is none."""
    try:
        return text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as exc:
        raise RepositoryError(f"config.pbtxt is not a Triton model configuration: {exc}.") from exc


class ServedVersion(NamedTuple):
    """What a model's config.pbtxt says of its versions."""

    number: int
    previous: int | None
    """The version that was served before."""


def served_version(text: str) -> ServedVersion | None:
    """The one version that a config.pbtxt names, or None. Raises :class:`RepositoryError` if the text is no such."""
    message = parse_pbtxt(text)
    versions = list(message.version_policy.specific.versions)
    previous = message.parameters[PREVIOUS].string_value if PREVIOUS in message.parameters else ""
    return ServedVersion(versions[0], int(previous) if previous.isdecimal() else None) if len(versions) == 1 else None


def following(text: str, previous: int | None, before: str = "", published: str = "") -> str:
    """A version's config.pbtxt as it is when the version is served after another one, ``previous``.

    ``before``: the config that it replaces, of a version that was ``published`` with that one. A limit in which they
    differ was set by who runs the server, and goes on.
    """
    message = parse_pbtxt(text)
    if previous is not None:
        message.parameters[PREVIOUS].string_value = str(previous)
    found, own = (parse_pbtxt(each).parameters for each in (before, published))
    if LIMIT in found and (LIMIT not in own or own[LIMIT] != found[LIMIT]):
        message.parameters[LIMIT].CopyFrom(found[LIMIT])
    return str(text_format.MessageToString(message))


def on_gpu(text: str) -> str:
    """A version's config.pbtxt as it is on a machine with a GPU: on the first one, in runs as large as these take.

    Raises :class:`RepositoryError` if it asks for another one.
    """
    message = parse_pbtxt(text)
    _one_instance(message, gpu=True)
    message.parameters["device"].string_value = "cuda"
    message.parameters.pop("micro_batch", None)
    return str(text_format.MessageToString(message))


def inline(text: str) -> str:
    """A config.pbtxt as Triton reads it where the inline backend serves.

    Its queue stands in for Triton's batcher; it has one model, whatever brings the requests, so one instance will do.
    Raises :class:`RepositoryError` if that is to be on a GPU that is not the first.
    """
    message = parse_pbtxt(text)
    message.ClearField("dynamic_batching")
    _one_instance(message, gpu=any(group.kind == group.KIND_GPU for group in message.instance_group))
    return str(text_format.MessageToString(message))


def _one_instance(message: Any, *, gpu: bool) -> None:
    """Have the model run once, on the CPU or on the first GPU: the engine knows no other one."""
    if asked := sorted({number for group in message.instance_group for number in group.gpus} - {0}):
        raise RepositoryError(
            f"{CONFIG} of {message.name} has instance_group on GPU {', '.join(map(str, asked))}; expected gpus: [ 0 ], "
            "or none: a model runs on the first GPU that its server sees. Start a server with CUDA_VISIBLE_DEVICES for "
            "each of the others."
        )
    kinds = model_config_pb2.ModelInstanceGroup
    del message.instance_group[:]
    message.instance_group.add(kind=kinds.KIND_GPU if gpu else kinds.KIND_CPU, count=1, gpus=[0] if gpu else [])


def limit_ms(text: str) -> int:
    """How long a request to the model of this config.pbtxt may wait, in milliseconds."""
    parameters = parse_pbtxt(text).parameters
    said = parameters[LIMIT].string_value if LIMIT in parameters else ""
    return int(said) if said.isdecimal() else LIMIT_MS


def renamed(text: str, name: str, number: int) -> str:
    """A version's config.pbtxt as it is under another name and number, and before it was ever served."""
    message = parse_pbtxt(text)
    message.name = name
    message.version_policy.specific.versions[:] = [number]
    for output in message.output:
        output.label_filename = f"{number}/{LABELS_FILE}"
    message.parameters.pop(PREVIOUS, None)
    return str(text_format.MessageToString(message))

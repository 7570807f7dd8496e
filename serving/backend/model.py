"""Triton's Python backend: TEXT (BYTES, UTF-8, ``[batch, 1]``, or ``[batch, 2]`` for a model of pairs) to SCORES (FP32,
``[batch, labels]``).

Copied into each version folder, with the folder ``backend`` that it runs. The interpreter is the serving environment's:
``server.py`` puts it first on PATH, where the backend's embedded Python looks for its home; in a container it is the
only one.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # exists inside Triton only

Text = str | tuple[str, str]

sys.dont_write_bytecode = True  # a version folder stays as it was published

# What ``bantam serve`` wants of all models; another Triton that serves the version does without.
COUNTS = os.environ.get("BANTAM_COUNTS", "")
"""Folder for what is counted."""
CACHE_BYTES = int(os.environ.get("BANTAM_CACHE_BYTES", "0"))
"""How much of its answers a model keeps."""
REQUEST_BYTES = int(os.environ.get("BANTAM_REQUEST_BYTES", "0"))
"""The most that the texts of a request may have; 0: no limit."""
OPTIONS = ("threads", "micro_batch", "text_threads")
"""Parameters of the model's config that are the engine's."""


class TritonPythonModel:
    """One instance of the model; Triton calls its methods from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load and warm up the engine; Triton reports the version ready when this returns."""
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb_utils.TritonModelException(
                f"Got numpy {np.__version__} from {Path(np.__file__).parent}; Triton's Python backend needs numpy < 2 "
                "(with 2, its own silently gives zeros for inputs). Install 'numpy<2' in the serving environment."
            )
        config = json.loads(args["model_config"])
        parameters = config["parameters"]
        given = {key: json.loads(parameters[key]["string_value"]) for key in OPTIONS if key in parameters}
        # Where the files are, which may be linked to: an ONNX model looks for its weights beside itself.
        folder = Path(args["model_repository"], args["model_version"], "manifest.json").resolve().parent
        module = load_engine(folder)
        device = parameters["device"]["string_value"] if "device" in parameters else "cpu"
        engine = module.Engine(folder, device=device, **given)
        counts = importlib.import_module(f"{module.__package__}.counts").Counts
        if COUNTS:
            name, version = config["name"], args["model_version"]
            engine.counts = counts.shared(Path(COUNTS, f"{name}-{version}"), name, version)
        self.score: Callable[[list[Text]], Any] = engine.probabilities
        if CACHE_BYTES:
            cache = importlib.import_module(f"{module.__package__}.cache").ScoreCache
            self.score = cache(engine.probabilities, CACHE_BYTES, engine.counts or counts())

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Score the texts of all requests that Triton merged as one batch; a bad request gets its own error."""
        texts: list[list[Text] | Exception] = [attempt(decode, request) for request in requests]
        good = [part for part in texts if not isinstance(part, Exception)]
        probabilities = attempt(self.score, [text for part in good for text in part])
        if isinstance(probabilities, Exception):
            # One request may have broken the batch for the others: each on its own.
            return [respond(part if isinstance(part, Exception) else attempt(self.score, part)) for part in texts]
        ends = accumulate(0 if isinstance(part, Exception) else len(part) for part in texts)
        return [
            respond(part if isinstance(part, Exception) else probabilities[end - len(part) : end])
            for part, end in zip(texts, ends, strict=True)
        ]


def attempt(function: Callable[[Any], Any], argument: Any) -> Any:
    """What the function returns or raises: an exception let out of ``execute`` would fail all requests of the batch."""
    try:
        return function(argument)
    except Exception as exc:  # noqa: BLE001  # whatever it is, the client is told and the server goes on
        if not isinstance(exc, InvalidTextError):
            # Where, and not what the exception says: there may be a text in it, and texts do not go into logs.
            stack = "".join(traceback.format_tb(exc.__traceback__))
            pb_utils.Logger.log_error(f"The model failed on a request:\n{stack}{type(exc).__name__}")
        return exc


def respond(result: Any) -> Any:
    """Triton's response: probabilities ``[texts, labels]``, or an error that names the client's mistake or ours."""
    if not isinstance(result, Exception):
        return pb_utils.InferenceResponse([pb_utils.Tensor("SCORES", result)])
    if isinstance(result, InvalidTextError):
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(result), pb_utils.TritonError.INVALID_ARG))
    message = f"The model failed on this request: {type(result).__name__}: {result}"
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL))


class InvalidTextError(ValueError):
    """A text is not UTF-8, texts are too large, or their bytes are not what their shape says."""


def decode(request: Any) -> list[Text]:
    """The texts of a request's TEXT, ``[batch, 1]`` of bytes, or its pairs, ``[batch, 2]``.

    Raises :class:`InvalidTextError` at the first bad one.
    """
    try:
        values = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
    except ValueError as exc:  # lengths that Triton's own check has added up to beyond 32 bits
        raise InvalidTextError(f"{exc} Send each text behind its length, four bytes, little-endian.") from exc
    if values.ndim != 2:  # no text at all, though bytes of some: Triton itself refuses that without bytes
        raise InvalidTextError(f"TEXT has the shape {[*values.shape]}, expected [texts, 1], or [pairs, 2].")
    if REQUEST_BYTES and (size := sum(map(len, values.reshape(-1)))) > REQUEST_BYTES:
        raise InvalidTextError(
            f"The texts of this request have {size:,} bytes, expected at most {REQUEST_BYTES:,}. Send fewer at a time."
        )
    texts = [text_of(value, number, values.shape[1]) for number, value in enumerate(values.reshape(-1))]
    return [*texts] if values.shape[1] == 1 else [*zip(texts[::2], texts[1::2], strict=True)]


def text_of(value: bytes, number: int, columns: int) -> str:
    """The text of element ``number`` of TEXT, which has so many ``columns``."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as exc:
        row, column = divmod(number, columns)
        raise InvalidTextError(
            f"TEXT[{row if columns == 1 else f'{row}, {column}'}] is not UTF-8: byte 0x{value[exc.start]:02x} at "
            f"position {exc.start} ({exc.reason}). Encode texts as UTF-8."
        ) from exc


def load_engine(folder: Path) -> ModuleType:
    """The module ``engine`` of this version's own copy of the backend.

    As a package of a name of its own: versions and models that share a process keep their modules apart, and nothing
    else on sys.path is taken for them.
    """
    package = f"bantam_backend_{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}"
    source = folder / "backend" / "__init__.py"
    spec = importlib.util.spec_from_file_location(package, source, submodule_search_locations=[str(source.parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} cannot be imported.")
    # A list of them first: models are loaded side by side, and another one may be importing just now.
    for name in [name for name in list(sys.modules) if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]  # of an earlier load from the same folder
    sys.modules[package] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[package])
    return importlib.import_module(f"{package}.engine")

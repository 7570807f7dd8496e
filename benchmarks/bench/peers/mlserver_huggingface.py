"""MLServer with its HuggingFace runtime: transformers' pipeline, or Optimum's with ONNX Runtime, behind KServe v2.

As its documentation has it: ``pip install mlserver mlserver-huggingface``, a ``model-settings.json`` next to the model,
``mlserver start``. What a user has to see to, with the releases 1.7.1 of June 2025, the last there are:

- The command above resolves to transformers 4.53, with which, as users report, the runtime does not import ("cannot
  import name 'Conversation'", SeldonIO/MLServer#1955, open since November 2024); their way out is transformers 4.41.2.
- The Optimum that it takes, 1.27.0, does not import with torch 2.13 ("cannot import name '_attention_scale'"); 1.26.1
  does.
- Optimum 1.26.1 calls torch's exporter with what was then its default, TorchScript; today it has to be asked for.
- TensorFlow and Keras are installed and imported whatever the model is.
- Scores of all labels: only by sending ``top_k`` with each request, as an input whose content type is ``hg_json``.

Options: ``{"engine": "pytorch"}``, or for ``optimum_model``, which is ONNX Runtime, ``"onnxruntime-fp32"`` or
``"onnxruntime-int8"``: the latter is Optimum's quantizer on the export, as the documentation of Optimum has it, and
``model_kwargs`` to name its file. ``"protocol"``: "http" or "grpc", the one on the first port; both are served, and
one client saw the same p50 over each in a first try (400 requests).
Workers: none (``parallel_workers: 0``), for with one model another process only adds a hop between two. Threads: all
cores for ONNX Runtime, whose options the runtime cannot pass on.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.bench.driver import Job

MODEL, MODEL_SETTINGS = "classifier", "model-settings.json"
QUANTIZED = "model_quantized.onnx"
"""As Optimum names it."""


def prepare(checkpoint: Path, folder: Path, job: Job) -> None:
    """Save the checkpoint, or its export, in the model's folder, with the settings next to it."""
    engine, model = job.options["engine"], folder / "model"
    extra: dict[str, Any] = {"task": "text-classification"}
    if engine == "pytorch":
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        AutoModelForSequenceClassification.from_pretrained(checkpoint).save_pretrained(model)
        AutoTokenizer.from_pretrained(checkpoint).save_pretrained(model)
        extra |= {"framework": "pt", "intra_op_threads": job.threads}
    else:
        _export(checkpoint, model)
        extra |= {"optimum_model": True}
    if engine == "onnxruntime-int8":
        _quantize(model)
        extra |= {"model_kwargs": {"file_name": QUANTIZED}}
    settings = {
        "name": MODEL,
        "implementation": "mlserver_huggingface.HuggingFaceRuntime",
        "parameters": {"extra": extra},
    }
    (folder / MODEL_SETTINGS).write_text(json.dumps(settings, indent=2), encoding="utf-8")


def _export(checkpoint: Path, folder: Path) -> None:
    """What ``optimum-cli export onnx`` does, with the exporter of torch for which it was written."""
    import torch
    from optimum.exporters.onnx import main_export

    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    main_export(str(checkpoint), folder, task="text-classification")


def _quantize(folder: Path) -> None:
    """What ``optimum-cli onnxruntime quantize --avx512_vnni --per_channel`` does: int8, activations at run time."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    ORTQuantizer.from_pretrained(folder).quantize(save_dir=folder, quantization_config=config)
    (folder / "model.onnx").unlink()


def serve(folder: Path, job: Job, port: int) -> None:
    """``mlserver start`` with one protocol on the port and the other, and metrics, on the next two, until SIGTERM."""
    from mlserver.cli.main import root

    grpc_port, http_port = (port, port + 1) if job.options["protocol"] == "grpc" else (port + 1, port)
    settings = {
        "host": "127.0.0.1",
        "grpc_port": grpc_port,
        "http_port": http_port,
        "metrics_port": port + 2,
        "parallel_workers": 0,
        "debug": False,
    }
    (folder / "settings.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    # An absolute path, so it is written where the folder is now, and not where it was prepared.
    model_settings = json.loads((folder / MODEL_SETTINGS).read_text(encoding="utf-8"))
    model_settings["parameters"]["extra"]["pretrained_model"] = str(folder.resolve() / "model")
    (folder / MODEL_SETTINGS).write_text(json.dumps(model_settings, indent=2), encoding="utf-8")
    root(["start", str(folder)])


def sizes(folder: Path) -> list[Path]:
    """What production needs."""
    return sorted(path for path in (folder / "model").iterdir() if path.is_file())

"""Who takes part: one table. A contender is a peer's file with its options, in an environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent
OURS = ".venv"
"""The environment of Bantam itself, whose versions constraints.txt pins; all others are made by the bench."""


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    name: str
    peer: str
    """File in peers/, without its ending."""
    environment: str
    """File in environments/, without its ending; or :data:`OURS`."""
    packages: tuple[str, ...]
    """The distributions whose versions say what was measured, the most telling first."""
    steps: str
    """What a user must do to get here from a checkpoint, in words."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the peer's file reads as ``job.options``."""
    kind: Literal["in-process", "server"] = "in-process"
    protocol: str = ""
    """Of a server: a key of ``clients.CLIENTS``."""
    precision: str = "fp32"
    """Of its weights: fp32, bf16 or int8. An fp32 peer must answer what PyTorch does."""

    @property
    def file(self) -> Path:
        """The peer's file."""
        return HERE / "peers" / f"{self.peer}.py"

    @property
    def slug(self) -> str:
        """The name as a folder's."""
        return "".join(c if c.isalnum() else "-" for c in self.name.lower()).strip("-").replace("--", "-")


_TORCH = ("torch", "transformers")
_MLSERVER = ("mlserver", "mlserver-huggingface", "transformers")
_MLSERVER_STEPS = "model-settings.json, mlserver start; transformers 4.41.2 and Optimum 1.26.1, found in issue threads"
_PYTRITON_STEPS = "a function with @batch, Triton.bind; numpy below 2, libpython on LD_LIBRARY_PATH"
_OPTIMUM_ONNX = ("optimum-onnx", "onnxruntime", "transformers")
_OPTIMUM_ONNX_STEPS = "transformers below 4.58; export=True"
_OPTIMUM_INTEL = ("optimum-intel", "openvino", "nncf", "transformers")
_OPTIMUM_INTEL_STEPS = "2.1, for 2.2 wants torchvision; export=True"

_CTRANSLATE2 = ("ctranslate2", "transformers")
_CTRANSLATE2_STEPS = "a converter, for the encoder alone; the head by hand"

BASELINE = "PyTorch fp32"

CONTENDERS: tuple[Contender, ...] = (
    Contender(BASELINE, "pytorch", OURS, _TORCH, "from_pretrained"),
    Contender(
        "PyTorch bf16", "pytorch", OURS, _TORCH, "from_pretrained(dtype=bfloat16)", {"dtype": "bfloat16"},
        precision="bf16",
    ),
    Contender(
        "torch.compile fp32", "pytorch", OURS, _TORCH, "from_pretrained, torch.compile(dynamic=True), warm-up at each "
        "start; needs a C++ compiler where it runs", {"compile": True},
    ),
    Contender(
        "torch.compile bf16", "pytorch", OURS, _TORCH, "the same with dtype=bfloat16",
        {"dtype": "bfloat16", "compile": True}, precision="bf16",
    ),
    Contender(
        "ONNX Runtime fp32", "onnxruntime_fp32", OURS, ("onnxruntime", "torch", "onnxscript"),
        "torch.onnx.export with dynamic shapes, a session, the tokenizer by hand",
    ),
    Contender(
        "Optimum ONNX O2 fp32", "optimum_onnx", "optimum-onnx", _OPTIMUM_ONNX,
        f"{_OPTIMUM_ONNX_STEPS}; ORTOptimizer", {"optimize": "O2"},
    ),
    Contender(
        "Optimum ONNX int8", "optimum_onnx", "optimum-onnx", _OPTIMUM_ONNX,
        f"{_OPTIMUM_ONNX_STEPS}; ORTQuantizer, dynamic", {"quantize": "per-tensor"}, precision="int8",
    ),
    Contender(
        "Optimum ONNX int8 per channel", "optimum_onnx", "optimum-onnx", _OPTIMUM_ONNX,
        f"{_OPTIMUM_ONNX_STEPS}; ORTQuantizer, dynamic, per_channel=True", {"quantize": "per-channel"},
        precision="int8",
    ),
    Contender(
        "Optimum Intel OpenVINO bf16", "optimum_intel", "optimum-intel", _OPTIMUM_INTEL,
        _OPTIMUM_INTEL_STEPS, precision="bf16",
    ),
    Contender(
        "Optimum Intel OpenVINO int8 weights", "optimum_intel", "optimum-intel", _OPTIMUM_INTEL,
        f"{_OPTIMUM_INTEL_STEPS}; OVQuantizer, weights only", {"quantize": "weights"}, precision="int8",
    ),
    Contender(
        "Optimum Intel OpenVINO int8", "optimum_intel", "optimum-intel", _OPTIMUM_INTEL,
        f"{_OPTIMUM_INTEL_STEPS}; tokenized calibration texts, OVQuantizer", {"quantize": "static"}, precision="int8",
    ),
    Contender(
        "Olive int8", "olive", "olive", ("olive-ai", "onnxruntime", "torch"),
        "requests by hand; a workflow of three passes, for olive optimize fails; a session, the tokenizer by hand",
        precision="int8",
    ),
    Contender(
        "CTranslate2 int8", "ctranslate2_encoder", "ctranslate2", _CTRANSLATE2, _CTRANSLATE2_STEPS,
        {"inter_threads": 1, "intra_threads": 0}, precision="int8",
    ),
    Contender(
        "CTranslate2 int8, a thread a batch", "ctranslate2_encoder", "ctranslate2", _CTRANSLATE2,
        f"{_CTRANSLATE2_STEPS}; batches cut by hand", {"inter_threads": 0, "intra_threads": 1}, precision="int8",
    ),
    Contender(
        "FastAPI + transformers", "fastapi_pipeline", "fastapi", (*_TORCH, "fastapi", "uvicorn"),
        "a pipeline in an endpoint of 3 lines, uvicorn", {"engine": "pytorch"}, "server", "json",
    ),
    Contender(
        "FastAPI + Optimum int8", "fastapi_pipeline", "fastapi-optimum",
        ("optimum-onnx", "onnxruntime", "transformers", "fastapi"),
        "the same around Optimum's ONNX Runtime model: export, quantizer; transformers below 4.58",
        {"engine": "optimum-int8"}, "server", "json", "int8",
    ),
    Contender(
        "FastAPI + CTranslate2 int8", "ctranslate2_encoder", "ctranslate2", (*_CTRANSLATE2, "fastapi", "uvicorn"),
        f"{_CTRANSLATE2_STEPS}; an endpoint, uvicorn", {"inter_threads": 0, "intra_threads": 1}, "server", "json",
        "int8",
    ),
    Contender(
        "LitServe + Optimum int8", "litserve_optimum", "litserve",
        ("litserve", "optimum-onnx", "onnxruntime", "transformers"),
        "a LitAPI around Optimum's ONNX Runtime model: export, quantizer; transformers below 4.58", {}, "server",
        "json", "int8",
    ),
    Contender(
        "Infinity + Optimum int8", "infinity_server", "infinity",
        ("infinity_emb", "optimum-onnx", "onnxruntime", "transformers"),
        "export and quantizer of Optimum; infinity_emb v2 --engine optimum; click below 8.2, transformers below 4.58",
        {}, "server", "infinity", "int8",
    ),
    Contender(
        "text-embeddings-inference", "text_embeddings_inference", "fastapi-optimum", (),
        "the router's binary from its image or from source; export by Optimum for builds with ONNX Runtime", {},
        "server", "text-embeddings-router",
    ),
    Contender(
        "MLServer", "mlserver_huggingface", "mlserver", _MLSERVER, _MLSERVER_STEPS,
        {"engine": "pytorch", "protocol": "http"}, "server", "kserve-http",
    ),
    Contender(
        "MLServer + Optimum fp32", "mlserver_huggingface", "mlserver", (*_MLSERVER, "optimum", "onnxruntime"),
        f"{_MLSERVER_STEPS}; export by hand, for Optimum's own call of the exporter fails",
        {"engine": "onnxruntime-fp32", "protocol": "http"}, "server", "kserve-http",
    ),
    Contender(
        "MLServer + Optimum int8", "mlserver_huggingface", "mlserver", (*_MLSERVER, "optimum", "onnxruntime"),
        f"{_MLSERVER_STEPS}; export by hand, quantizer, the file's name as model_kwargs",
        {"engine": "onnxruntime-int8", "protocol": "http"}, "server", "kserve-http", "int8",
    ),
    Contender(
        "PyTriton + PyTorch", "pytriton_server", "pytriton", ("nvidia-pytriton", *_TORCH), _PYTRITON_STEPS,
        {"engine": "pytorch"}, "server", "triton-grpc",
    ),
    Contender(
        "PyTriton + ONNX Runtime int8", "pytriton_server", "pytriton", ("nvidia-pytriton", "onnxruntime"),
        f"{_PYTRITON_STEPS}; torch.onnx.export, stale shapes removed by hand, quantize_dynamic",
        {"engine": "onnxruntime-int8"}, "server", "triton-grpc", "int8",
    ),
)  # fmt: skip

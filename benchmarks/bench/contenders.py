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
)  # fmt: skip

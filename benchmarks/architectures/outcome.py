"""What became of an architecture."""

from __future__ import annotations

from dataclasses import dataclass, field

VARIANTS = ("onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-int8")


@dataclass
class Outcome:
    """What became of one architecture."""

    architecture: str
    outcome: str = "not built"
    """``passed``: all variants; ``passed in part``; ``refused`` before training, or ``failed`` after it had begun, by a
    message of Bantam; ``defect``: an exception that it does not know; ``not built`` so small by transformers."""
    why: str = ""
    seconds: float = 0.0
    """From the start of the run, the model being there, to its end."""
    refused_s: float | None = None
    """To the end of the rehearsal, if it refused."""
    macro_f1: float | None = None
    """On dev, fine-tuned; 0.33 is chance."""
    failed: dict[str, str] = field(default_factory=dict)
    """Why single variants could not be made, by name."""
    foretold: list[str] = field(default_factory=list)
    """Those that the rehearsal had named."""
    text_difference: float | None = None
    """Largest difference of a score between transformers and the served engine, on odd texts."""

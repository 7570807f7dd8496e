"""No library that is started from here reports to its makers. Standard library only.

Most are told by an environment variable, which processes that are started inherit. OpenVINO reports when it is imported
and knows no variable: it does without when its package ``openvino_telemetry`` has nothing to import.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

VARIABLES = {
    # ONNX Runtime's Linux and macOS wheels report each session; the variable has to be there before the import.
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
OPENVINO = "openvino_telemetry"


def off() -> None:
    """Turn reports off in this process and those that it starts, whatever its environment says.

    Called before the libraries are imported, and again in Python processes that are started.
    """
    os.environ.update(VARIABLES)
    sys.modules[OPENVINO] = ModuleType(OPENVINO)

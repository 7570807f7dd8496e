"""What runs inside Triton: copied into each version folder, so it imports nothing of Bantam but itself, relatively."""

import os
import sys
from types import ModuleType

# Before the engines are imported, here and in whatever Triton this runs in: they report to their makers otherwise.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = ModuleType("openvino_telemetry")

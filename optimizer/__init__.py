"""From a Hugging Face text classifier to small, exported files: load, fine-tune, distil, prune, quantize, export."""

from bantam import telemetry
from optimizer.quiet import quiet_import

telemetry.off()  # before any module of this package imports a library
quiet_import()

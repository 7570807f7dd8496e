"""``bantam optimize``."""

from __future__ import annotations

from dataclasses import replace

from bantam.commands.app import Json, command
from bantam.commands.terminal import log, show_report, typed
from bantam.run.request import OptimizeRequest


@command(
    examples="Examples:  bantam optimize minilm   |   bantam optimize ./my-model --data reviews.csv --max-drop 0.5   |"
    "   bantam optimize tinyllama --random-init"
)
def optimize(request: OptimizeRequest, as_json: Json = False) -> None:
    """Fine-tune, quantize and export; serve every variant, measure all, publish the best; print the report.

    Run it again after a failure or a kill: what is finished is kept.
    """
    from bantam.run.optimize import optimize, take_part
    from optimizer import distributed

    request = replace(request, command=typed())
    if distributed.is_main():
        show_report(*optimize(request, log), as_json)
    else:
        take_part(request)

"""What a user sees while a model trains."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from optimizer import distributed

WORDS = {"macro_f1": "macro-F1", "spearman": "Spearman", "agreement": "agreement"}
"""What may be high on dev, in words."""


class ProgressBar(TrainerCallback):
    """Steps done, time left, loss and the metric of dev that is to be high on one line."""

    def __init__(self, doing: str, judged_by: str) -> None:
        self.doing, self.judged_by = doing, judged_by
        self.progress = Progress(
            TextColumn(f"  {doing}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn(f"loss {{task.fields[loss]}}  dev {WORDS[judged_by]} {{task.fields[dev]}}"),
            console=Console(stderr=True, quiet=not distributed.is_main()),
        )
        self.task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar, at the step resumed from."""
        self.task = self.progress.add_task("", total=state.max_steps, completed=state.global_step, loss="-", dev="-")
        self.progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Show the newest loss and dev metric."""
        shown = {"loss": "loss", f"eval_{self.judged_by}": "dev"}
        fields: dict[str, Any] = {shown[k]: f"{v:.3f}" for k, v in (logs or {}).items() if k in shown}
        self.progress.update(self.task, **fields)
        if "dev" in fields and not self.progress.console.is_terminal:
            # A log file shows no bar: a line for each evaluation instead.
            self.progress.console.print(
                f"  {self.doing}: step {state.global_step} of {state.max_steps}, dev {WORDS[self.judged_by]} "
                f"{fields['dev']}"
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the last state on the screen."""
        self.progress.stop()

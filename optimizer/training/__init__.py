"""How models are trained: shared by the stages that do it, finetune and distill."""

import sys

from transformers.utils.import_utils import is_peft_available

# Transformers' Trainer imports peft where it is installed, and with it bitsandbytes: a second that only a training with
# an adapter needs to spend, which puts it into the model by itself. The answer is remembered.
if "peft" not in sys.modules:
    sys.modules["peft"] = None  # type: ignore[assignment]
    is_peft_available()
    del sys.modules["peft"]

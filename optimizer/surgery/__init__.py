"""Cut a model down: fewer layers, heads, neurons, hidden dimensions or tokens, in matrices that are really smaller.

Shared by the stages distill (to make a student) and prune; not a stage itself. Each function returns a new model of the
same class, built from a config with the new sizes, so that it saves, loads and exports like any other.
"""

from __future__ import annotations

from optimizer.surgery.layers import keep_layers
from optimizer.surgery.width import keep_width

__all__ = ["keep_layers", "keep_width"]

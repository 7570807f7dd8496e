"""Single weights become zero, in matrices that stay as large as they are.

Zeros alone make nothing faster: a runtime has to use them (OpenVINO's sparse weights, 2:4 on NVIDIA GPUs), and whether
it does is for a measurement to say. Later training keeps them by :mod:`optimizer.training.sparsity`.
"""

from __future__ import annotations

from bantam.artifact import Artifact
from bantam.errors import StageError
from optimizer.config import MagnitudeConfig, TwoOfFourConfig
from optimizer.stage import RunContext
from optimizer.training.classifier import load_artifact, write
from optimizer.training.sparsity import described, linears_of_blocks, two_of_four, zero_smallest


def run(parent: Artifact, config: MagnitudeConfig | TwoOfFourConfig, context: RunContext) -> Artifact:
    """Zero the smallest weights of all Linear modules of the blocks, at once: ``magnitude``, or ``2:4``.

    With ``magnitude``, ``config.ratio`` of the weights remain, ranked over all modules together (Han et al. 2015); with
    ``2:4`` the two largest of each four along the inputs (Mishra et al. 2021, "Accelerating Sparse Deep Neural
    Networks"). The manifest's ``details["sparsity"]`` has the ``pattern``, the ``ratio`` of weights that remain and the
    names of the ``modules``. Raises :class:`StageError` if there is no module to do it in, :class:`ModelError` for an
    architecture without one list of blocks.
    """
    tokenizer, model = load_artifact(parent.folder)
    found = linears_of_blocks(model)
    if config.method == "2:4":
        found = {name: linear for name, linear in found.items() if linear.in_features % 4 == 0}
    if not found:
        raise StageError(
            f"Stage {config.name!r}: the blocks of {config.parent!r} ({model.config.model_type}) have no Linear "
            f"that {config.method} fits. Expected some; for 2:4 their number of inputs is divided by 4. "
            "Use another method."
        )
    if isinstance(config, MagnitudeConfig):
        zero_smallest(found.values(), 1 - config.ratio)
    else:
        two_of_four(found.values())
    return write(
        model,
        tokenizer,
        config,
        context,
        longest=parent.manifest.signature.max_length,
        parent=parent,
        details=described(config.method, found),
        random_weights=parent.manifest.random_weights,
    )

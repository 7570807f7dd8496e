"""Keys that methods share which find the scales of activations from training texts."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from optimizer.config import CalibratedQuantizeConfig

Smooth = Literal[False] | Annotated[float, Field(strict=True, ge=0, le=1)]
"""Alpha of SmoothQuant (Xiao et al. 2023): how much of an activation's outliers goes into the weights; False: none."""


class StaticQuantizeConfig(CalibratedQuantizeConfig):
    """Scales that are known before anything is computed."""

    weights: Literal["channel", "tensor"] = "channel"
    """What shares a scale: an output channel, or a whole matrix."""
    activations: Literal["asymmetric", "symmetric"] = "asymmetric"
    """Whether their integers have an offset."""
    smooth: Smooth = False
    """SmoothQuant's alpha, such as 0.9, or false."""

    @model_validator(mode="after")
    def _smooths_channels(self) -> Self:
        if self.weights == "tensor" and self.smooth is not False:
            raise ValueError(
                f'got smooth = {self.smooth:g} and weights = "tensor", expected smooth = false beside it: outliers '
                "that go into the weights would take the one scale of a matrix from all others"
            )
        return self

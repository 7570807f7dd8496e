"""Serve a classifier with Triton, and talk to it. Production needs nothing of ``optimizer/`` but two small modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.client import AsyncClassifier, Classifier, Prediction

__all__ = ["AsyncClassifier", "Classifier", "Prediction"]


def __getattr__(name: str) -> Any:
    # Lazy, so that a module such as serving.repository does not load the gRPC client.
    if name in __all__:
        from serving import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

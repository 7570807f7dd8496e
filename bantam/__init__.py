"""Make a Hugging Face text classifier small and fast, serve it, and ask it.

What production code needs is here, resolved when it is first used (PEP 562), so that ``import bantam`` loads nothing::

    from bantam import Classifier, UnavailableError
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bantam.client import TLS, AsyncClassifier, Classifier, Description, Prediction
    from bantam.errors import (
        BantamError,
        ClientError,
        InvalidInputError,
        ModelNotFoundError,
        TimeoutExceeded,
        UnavailableError,
        UserError,
    )

__version__ = "0.1.0"

__all__ = [
    "TLS",
    "AsyncClassifier",
    "BantamError",
    "Classifier",
    "ClientError",
    "Description",
    "InvalidInputError",
    "ModelNotFoundError",
    "Prediction",
    "TimeoutExceeded",
    "UnavailableError",
    "UserError",
]

_CLIENT = ("TLS", "AsyncClassifier", "Classifier", "Description", "Prediction")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _CLIENT:
        from bantam import client as source
    else:
        from bantam import errors as source  # type: ignore[no-redef]
    return getattr(source, name)

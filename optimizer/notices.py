"""What libraries say at import that is of no use to a user. Standard library only.

Transformers imports torchao, and with an adapter bitsandbytes, which tell what they miss: kernels for GPUs and for
another Python, and a package of kernels that would be downloaded. Without these, both compute the same.
"""

from __future__ import annotations

import logging

SAID_BY = {
    "torchao": "Failed to load ",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "torch.utils._pytree": "%s is an Enum subclass",
}
"""Logger -> how the message begins that is left out, before anything is put into it."""


def off() -> None:
    """Leave exactly these messages out; called before the libraries are imported."""
    for name in SAID_BY:
        logging.getLogger(name).addFilter(_wanted)


def _wanted(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(SAID_BY[record.name])

"""What libraries say of themselves, and nobody can do anything about, is not said."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
from collections.abc import Iterator
from typing import Any

UNSAID = {
    # torchao tries all of its compiled kernels; those for GPUs do not load beside a torch for CPUs.
    "torchao": ("Failed to load ",),
    # torch about how torchao registers its enumerations.
    "torch.utils._pytree": ("%s is an Enum subclass and is now natively supported",),
    # bitsandbytes would fetch a kernel from the hub; it has others.
    "bitsandbytes.backends.cpu.ops": ("Failed to load CPU gemm_4bit_forward from kernels-community",),
    # Of each product of LLM.int8(), whose method it is.
    "bitsandbytes.autograd._functions": ("MatMul8bitLt: inputs will be cast from %s to float16",),
}
"""Logger -> how the messages begin that are left out."""


class _Unsaid(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be shown."""
        return not str(record.msg).startswith(UNSAID[record.name])


def quiet_import() -> None:
    """From now on leave out the messages of :data:`UNSAID`, and no others.

    Called once for the whole package, because transformers imports torchao by itself, whoever imports it first.
    """
    for name in UNSAID:
        logger = logging.getLogger(name)
        if not any(isinstance(each, _Unsaid) for each in logger.filters):
            logger.addFilter(_Unsaid())


BARS = ("transformers.modeling_gguf_pytorch_utils",)
"""Modules that show progress by tqdm itself, which the settings of their libraries do not reach."""


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """Without the progress bars of :data:`BARS`, where these are imported: stderr is for what a user has to know."""
    modules: list[Any] = [sys.modules[name] for name in BARS if name in sys.modules]
    before = [module.tqdm for module in modules]
    for module, bar in zip(modules, before, strict=True):
        module.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        for module, bar in zip(modules, before, strict=True):
            module.tqdm = bar

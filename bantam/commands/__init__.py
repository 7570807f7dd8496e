"""The command line, behind ``make``: one file a command, registered by :func:`bantam.commands.app.command`.

Exit codes: 0 done, 1 a failure, 2 a user's mistake, 130 Ctrl-C. Results go to standard output, progress to standard
error.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from bantam import telemetry
from bantam.errors import BantamError

if TYPE_CHECKING:
    from typer import Typer

COMMANDS = (
    "optimize",
    "serve",
    "publish",
    "promote",
    "rollback",
    "versions",
    "image",
    "container",
    "measure",
    "label",
    "load_test",
    "demo",
    "report",
    "card",
    "compare",
    "gc",
    "doctor",
)
"""Modules of this package, in the order in which ``bantam --help`` lists them."""


def application() -> Typer:
    """The command line with all its commands. What they need is imported when one is called."""
    from bantam.commands.app import app

    for name in COMMANDS:
        import_module(f"bantam.commands.{name}")
    return app


def main() -> NoReturn:
    """Run the command line; errors become one to three lines and an exit code. A traceback only with ``--debug``."""
    telemetry.off()
    try:
        application()()
    except BantamError as exc:
        _fail(exc, str(exc), exc.exit_code)
    except ModuleNotFoundError as exc:
        _fail(
            exc,
            f"{exc}. This command needs more than the client: pip install '.[optimize,demo]' in Bantam's folder.",
            2,
        )
    except Exception as exc:  # noqa: BLE001 the last place that can turn a defect of ours into something readable
        _fail(exc, f"{type(exc).__name__}: {exc}\nThis is a defect of Bantam. `bantam --debug ...` shows where.", 1)
    raise SystemExit(0)


def _fail(exc: BaseException, message: str, code: int) -> NoReturn:
    if "--debug" in sys.argv:
        traceback.print_exception(exc)
    if "--json" in sys.argv:
        print(json.dumps({"error": {"type": type(exc).__name__, "message": message}}))
    red, plain = ("\x1b[1;31m", "\x1b[0m") if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else ("", "")
    print(f"{red}error:{plain} {message}", file=sys.stderr)
    raise SystemExit(code)

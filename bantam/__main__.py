"""``python -m bantam``, and the command ``bantam``; with the client's wheel alone, it says what is missing."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

if os.getpid() == 1:
    # The first process of a container ignores what it does not handle: told to stop while it still imports, it stops.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def main() -> NoReturn:
    """Run the command line; exit code 2 where there is none."""
    try:
        from bantam.commands import main as run
    except ModuleNotFoundError as exc:
        print(
            f"error: {exc}. Installed here is Bantam's client alone; its commands need the checkout.\n"
            "Clone the repository with git and run `make setup` in it; README.md says what `make` does then.",
            file=sys.stderr,
        )
        raise SystemExit(2) from exc
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    run()


if __name__ == "__main__":
    main()

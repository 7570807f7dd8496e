"""``bantam doctor``."""

from __future__ import annotations

from bantam.commands.app import Json, command


@command()
def doctor(as_json: Json = False) -> None:
    """Say what is here, what is missing, and how to get it."""
    from bantam.doctor import main

    main(["--json"] if as_json else [])

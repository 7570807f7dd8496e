"""``bantam doctor``."""

from __future__ import annotations

import json

from bantam.commands.app import Json, command


@command()
def doctor(as_json: Json = False) -> None:
    """Say what is here, what is missing, and how to get it."""
    from bantam.doctor import as_text, diagnose

    checks = diagnose()
    print(json.dumps([vars(check) for check in checks], indent=1) if as_json else as_text(checks))

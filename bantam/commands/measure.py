"""``bantam measure``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from bantam.commands.app import Json, command
from bantam.commands.terminal import log
from bantam.errors import UnfaithfulError
from bantam.run.request import REPOSITORY, Digests, RepositoryAddress

if TYPE_CHECKING:
    from bantam.run.remeasure import Remeasured


@command(examples="Examples:  bantam measure minilm   |   .venv-serving/bin/python -m bantam measure minilm --json")
def measure(
    name: Annotated[str, Argument(help="A published name.")],
    repository: RepositoryAddress = str(REPOSITORY),
    digest: Digests = None,
    as_json: Json = False,
) -> None:
    """Score and time a published model again, on this machine, beside what it was measured to do when it was made.

    Needs the serving environment alone: the texts and the figures travel with the version.
    """
    from bantam.run.remeasure import remeasure
    from serving.mirror import local

    log(f"serving {name} and asking it the texts that it was published with")
    with local(repository, [name], digest or (), log, follow=False) as folder:
        found = remeasure(folder, name)
    if as_json:
        print(json.dumps({**asdict(found), "drop_points": found.drop_points, "kept": found.kept}, indent=1))
    else:
        print(table(found))
    if not found.kept:
        raise UnfaithfulError(
            f"{name} loses {found.drop_points:.2f} points of {found.metric} on this machine against where it was made; "
            f"its budget was {found.max_drop_points:g}. Run `bantam optimize` on this machine."
        )


def table(found: Remeasured) -> str:
    """The figures of here beside those of there, for a terminal."""

    def ms(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    rows = [
        ("", "here", "as published"),
        (found.metric, f"{found.value:.4f}", f"{found.published_value:.4f}"),
        ("p50 in process, ms", ms(found.in_process_ms.value), ms(found.published_in_process_ms)),
        ("p50 served, ms", ms(found.served_ms.value), ms(found.published_served_ms)),
    ]
    lines = [f"{first:<22}{second:>12}{third:>16}" for first, second, third in rows]
    changed = "" if found.decisions_changed is None else f"; {found.decisions_changed} rows are decided otherwise"
    return "\n".join(
        [
            f"{found.name}, version {found.version}, on {found.rows} texts of the test split",
            f"here: {found.machine}; published from: {found.made_on}",
            *lines,
            f"scores differ by at most {found.max_score_difference:.1e}{changed}",
            f"the model's process takes {found.server_peak_rss_mb:.0f} MB",
        ]
    )

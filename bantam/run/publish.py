"""Staged, checked, promoted: what is published has answered as it was measured, or the version before stays."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np

from bantam.client.classifier import Classifier
from bantam.errors import RepositoryError, UnfaithfulError
from bantam.report.schema import BASELINE
from bantam.run.evidence import evidence
from bantam.run.score import Scored
from bantam.run.state import Log, Run
from bantam.run.text_threads import alone
from optimizer.evaluate import apart
from serving.listing import check_interface, interface_of
from serving.repository import Version, baseline_of, discard, promote, published, stage, withdraw
from serving.server import Server
from serving.settings import Settings

SPLITS = ("dev", "test")


def publish_chosen(run: Run, chosen: str, log: Log) -> None:
    """Publish the chosen variant, and beside it the baseline's export, for those who compare the two.

    Both are checked before either is promoted. Without such an export, the baseline of an earlier run is withdrawn: the
    chosen variant was not made from it. Raises :class:`UnfaithfulError` if a staged model answers otherwise than what
    was measured, :class:`RepositoryError` if clients would not know its labels; then what this run has staged is
    removed, and what is served stays.

    Killed between the two promotions, the chosen variant's version before stays; the same command promotes it.
    """
    there, signature = interface_of(run.request.repository, run.name), run.scored[chosen].artifact.manifest.signature
    check_interface(run.name, there, signature, run.request.allow_new_labels)  # another one may have come since
    baseline_name, export = baseline_of(run.name), run.recipe.export_of(BASELINE)
    staged: list[tuple[str, Version]] = []  # the export may be what was chosen: then it is published under both names
    try:
        if export is not None:
            exported = replace(run.scored[BASELINE], artifact=run.artifacts[export])
            staged.append((export, _stage_and_check(run, exported, baseline_name)))
        staged.append((chosen, _stage_and_check(run, run.scored[chosen], run.name, chosen)))
    except BaseException:
        for _, version in staged:
            if version.changed:
                discard(version)
        raise
    if export is None and withdraw(run.request.repository, baseline_name):
        log(f"{baseline_name} withdrawn: it is of an earlier run, and {run.recipe.name!r} does not export the baseline")
    for variant, version in staged:
        run.published = promote(version)
        state = "published as" if run.published.changed else "is published already as"
        # How it was measured is not part of its content.
        kept = "" if version.changed else ", with the text_threads and limit_ms that were measured when it was made"
        log(f"{variant} {state} {run.published.folder}{kept}")


def _stage_and_check(run: Run, scored: Scored, name: str, chosen: str | None = None) -> Version:
    """Stage a variant and ask it dev and test; ``chosen``'s answers are kept for the report."""
    root = run.request.repository
    options = run.recipe.serving.model_dump()
    if found := alone(run, scored.artifact):
        options |= found.options
    known = "" if chosen is None else evidence(run, chosen)
    staged = stage(
        scored.artifact, root, name, thresholds=scored.thresholds, identity=run.identity, evidence=known, **options
    )
    if chosen is None and not staged.changed and _served_already(staged):
        return staged
    try:
        with (
            Server(root, staged=[staged], settings=Settings(target=run.request.target)) as server,
            Classifier(server.grpc_address, name, timeout=60) as client,
        ):
            answers = {split: client.probabilities(run.data.splits[split].texts) for split in SPLITS}
            if chosen is not None:
                run.answers[chosen, "test"] = answers["test"]
                run.server_peak_rss_mb = sum(process.peak for process in server.memory().values())
        # numpy's maximum, of which NaN is part; Python's would pass over it.
        difference = float(np.max([apart(scored.on(split), answers[split]).max() for split in SPLITS]))
        if not difference <= (allowed := run.tolerance(scored.artifact)):
            raise UnfaithfulError(
                f"{staged.folder}: staged for {name}, it answers with scores that differ from those measured by up to "
                f"{difference:.1e}, expected at most {allowed:g}. Nothing was published, and the version "
                "before, if any, stays. Please report this."
            )
    except BaseException:
        if staged.changed:
            discard(staged)
        raise
    return staged


def _served_already(staged: Version) -> bool:
    with suppress(RepositoryError):  # damaged: promoting mends it
        served = published(staged.root, staged.name)
        return served is not None and served.number == staged.number
    return False

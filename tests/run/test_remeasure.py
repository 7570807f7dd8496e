"""A version is measured again as it was published."""

from __future__ import annotations

from pathlib import Path

import pytest

from bantam.artifact import Artifact
from bantam.run.remeasure import _threads
from serving.backend.cores import TextThreads
from serving.repository import publish


@pytest.mark.parametrize("text_threads", [None, TextThreads(2, 24, 3)])
@pytest.mark.parametrize("threads", [None, 3])
def test_the_threads_are_those_that_it_was_published_with(
    tmp_path: Path, tiny_artifact: Artifact, threads: int | None, text_threads: TextThreads | None
) -> None:
    version = publish(tiny_artifact, tmp_path, "it", thresholds=None, threads=threads, text_threads=text_threads)
    assert _threads(version.folder) == {"threads": threads, "text_threads": text_threads}

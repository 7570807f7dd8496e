"""The second witness: what its report says, and what is said where it is missing."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from benchmarks.bench import servers, table, witness
from benchmarks.bench.contenders import OURS
from benchmarks.bench.process import PeerFailed
from benchmarks.bench.results import Figures, Results, Row, Witness
from benchmarks.bench.state import BenchRun, Settings

REPORT = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
1,431.5,12,402,31,8,1790,3,2,2251,2890,3320,4172
"""


def _run(tmp_path: Path) -> BenchRun:
    found = Results("", "", "quick", "tiny", "tiny", "", {}, threads=2, rounds=1, texts=1, tokens=1)
    run = BenchRun(Settings(build=tmp_path), print, None, found)  # type: ignore[arg-type]
    run.rows["ours"] = Row("ours", True, "int8", OURS, {}, "make optimize", "triton-grpc")
    return run


def test_its_report_is_read_by_the_names_of_the_columns() -> None:
    assert witness.read(REPORT) == {"p50": 2251, "p99": 4172, "rate": 431.5}


def test_what_it_saw_stands_beside_what_the_bench_saw() -> None:
    seen = Witness("ours", "perf_analyzer", 2.251, 4.172, 431.5)
    missing = Witness("other", "perf_analyzer", reason="no such file")
    rows = [Row(name, True, "int8", OURS, {}, "", "", served=Figures(2.3, 3.0, 4.0, 10, 420.0, 1.0, 90.0))
            for name in ("ours", "other")]  # fmt: skip
    found = Results("", "", "quick", "tiny", "tiny", "", {}, 2, 1, 1, 1, rows=rows, witness=[seen, missing])
    assert table.witnessed(found) == [["perf_analyzer, ours", "2.30 / 4.00", "2.25 / 4.17", "420", "432"]]
    assert "other: not seen by perf_analyzer: no such file" in table.remarks(found)
    assert "| perf_analyzer, ours | 2.30 / 4.00 |" in table.markdown(found)


def test_one_that_is_on_the_path_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / witness.TESTER
    program.write_text("#!/bin/sh\nexit 3\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert witness.find(_run(tmp_path)) == program


def test_where_its_wheel_does_not_run_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    with pytest.raises(PeerFailed, match=r"its wheel needs glibc 2\.38, this system has 2\.36"):
        witness.find(_run(tmp_path))


def test_one_that_fails_is_a_row_with_its_reason(tmp_path: Path) -> None:
    program = tmp_path / witness.TESTER
    program.write_text("#!/bin/sh\necho 'failed to get model metadata' >&2\nexit 99\n", encoding="ascii")
    program.chmod(0o755)
    with pytest.raises(PeerFailed, match=r"serve: exit code 99: failed to get model metadata"):
        witness._measured(program, 1, tmp_path / "texts.json", servers.CLIENTS_AT_ONCE)

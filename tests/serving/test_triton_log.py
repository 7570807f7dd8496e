"""Triton's log, read while it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.triton_log import LogReader

HEAD = 'I1127 21:24:03.812230 7426 server.cc:305] "'


def test_each_whole_line_is_given_once_with_its_level(tmp_path: Path) -> None:
    log, taken = tmp_path / "triton.log", list[tuple[str, str]]()
    reader = LogReader(lambda level, text: taken.append((level, text)))
    reader.read(log)  # not there yet
    log.write_text(f'{HEAD}Waiting"\nE1127 21:24:03.9 7426 python.cc:1] "It failed:\nat line 1\n\nW1127 21:24:04.0')
    reader.read(log)
    reader.read(log)
    assert taken == [("info", "Waiting"), ("error", "It failed:"), ("error", "at line 1")]
    with log.open("a") as file:
        file.write(' 7426 x.cc:2] "Beware"\n')
    reader.read(log)
    assert taken[3:] == [("warning", "Beware")]


def test_another_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    taken: list[str] = []
    reader = LogReader(lambda _, text: taken.append(text))
    for name in ("one", "two"):
        (tmp_path / name).write_text(f'{HEAD}{name}"\n')
        reader.read(tmp_path / name)
    assert taken == ["one", "two"]


def test_a_large_log_is_emptied_and_read_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.triton_log.MOST_BYTES", 100)
    log, taken = tmp_path / "triton.log", list[str]()
    reader = LogReader(lambda _, text: taken.append(text))
    with log.open("a") as triton:  # appends, as Triton does
        for number in range(10):
            triton.write(f'{HEAD}{number}"\n')
            triton.flush()
            reader.read(log)
            assert log.stat().st_size <= 100
    assert taken == [str(number) for number in range(10)]


def test_without_anybody_to_take_them_lines_are_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    log.write_text(f"{HEAD}one\n")
    LogReader(None).read(log)
    assert log.exists()

"""Triton's log, read while it is written."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bantam.errors import ServerError
from serving.triton_log import Journal, LogReader

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
    reader.read(None)
    assert len(taken) == 4


def test_another_log_is_read_from_its_beginning(tmp_path: Path) -> None:
    taken: list[str] = []
    reader = LogReader(lambda _, text: taken.append(text))
    for name in ("one", "two"):
        (tmp_path / name).write_text(f'{HEAD}{name}"\n')
        reader.read(tmp_path / name)
    assert taken == ["one", "two"]
    reader.read(None)


def test_the_last_lines_of_a_log_that_was_removed_are_read(tmp_path: Path) -> None:
    log, taken = tmp_path / "run" / "triton.log", list[str]()
    log.parent.mkdir()
    reader = LogReader(lambda _, text: taken.append(text))
    with log.open("a") as triton:
        triton.write(f'{HEAD}Waiting"\n')
        triton.flush()
        reader.read(log)
        triton.write(f'{HEAD}Exiting"\nthe end')
    shutil.rmtree(log.parent)
    reader.read(None)
    assert taken == ["Waiting", "Exiting", "the end"]


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
    reader.read(None)


def test_without_anybody_to_take_them_lines_are_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    log.write_text(f"{HEAD}one\n")
    reader = LogReader(None)
    reader.read(log)
    reader.read(None)
    assert log.exists()


SECONDS = 60.0


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def none() -> Path:
    raise ServerError("Triton is not running.")


def test_a_journal_writes_what_it_is_told_and_what_triton_says_to_the_end(tmp_path: Path) -> None:
    log, taken, running = tmp_path / "triton.log", list[str](), True
    journal = Journal(taken.append, lambda _, text: taken.append(text), lambda: log if running else none())
    log.write_text(f'{HEAD}one"\n')
    journal.start()
    until(lambda: taken == ["one"])
    journal.say("told")
    until(lambda: taken == ["one", "told"])
    with log.open("a") as triton:
        triton.write(f'{HEAD}two"\n')
    running = False
    log.unlink()
    journal.close()
    assert taken == ["one", "told", "two"]
    assert not journal.is_alive()


def test_who_does_not_read_a_log_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.triton_log.CLOSE_S", 0.1)
    reads, asked = threading.Event(), threading.Event()
    taken: list[str] = []

    def log(line: str) -> None:
        asked.set()
        reads.wait()
        taken.append(line)

    journal = Journal(log, None, none)
    journal.start()
    for number in range(1000):
        journal.say(str(number))
    assert asked.wait(SECONDS)
    journal.close()
    assert taken == []
    reads.set()
    journal.join(SECONDS)
    assert len(taken) == 1000


def test_a_log_whose_reader_has_gone_is_written_on() -> None:
    taken: list[str] = []

    def log(line: str) -> None:
        taken.append(line)
        if line == "lost":
            raise BrokenPipeError

    journal = Journal(log, None, none)
    journal.start()
    journal.say("lost")
    until(lambda: taken == ["lost"])
    journal.say("found")
    journal.close()
    assert taken == ["lost", "found"]

"""The store: one artifact a key for all runs, whole or not there; what nobody shows goes, on request."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from bantam.artifact import Artifact, Manifest, Signature, seal
from bantam.licence import Licence
from bantam.run.store import Store

KEY, OTHER = "a" * 64, "b" * 64
SIGNATURE = Signature("single_label", ("ham", "spam"), ("input_ids",), 8)


def write(folder: Path, key: str = KEY, content: str = "weights") -> None:
    """What a stage would make."""
    (folder / "model.bin").write_text(content)
    seal(folder, Manifest("test", key, "onnx", SIGNATURE, deployable=("model.bin",)))


def never(folder: Path) -> NoReturn:
    raise AssertionError("it is there already")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Of an empty build folder."""
    return Store(tmp_path)


def test_two_runs_show_one_artifact_by_names_of_their_own(store: Store) -> None:
    first = store.get_or_make(KEY, write, store.build / "one" / "baseline")
    second = store.get_or_make(KEY, never, store.build / "two" / "teacher")
    assert (first.name, second.name) == ("baseline", "teacher")
    assert first.folder.resolve() == second.folder.resolve() == store.folder(KEY).resolve()
    assert not Path(os.readlink(first.folder)).is_absolute(), "the build folder can be moved"


def test_a_link_follows_to_what_was_made_last(store: Store) -> None:
    link = store.build / "run" / "stage"
    store.get_or_make(KEY, write, link)
    store.get_or_make(OTHER, lambda folder: write(folder, OTHER, "others"), link)
    assert (link / "model.bin").read_text() == "others"
    assert (store.folder(KEY) / "model.bin").read_text() == "weights"
    assert store.shows(link, OTHER)
    assert store.shows(link, KEY) is None


def test_what_fails_half_way_is_not_there(store: Store) -> None:
    def fail(folder: Path) -> None:
        (folder / "model.bin").write_text("half")
        raise RuntimeError("half way")

    link = store.build / "run" / "stage"
    with pytest.raises(RuntimeError, match="half way"):
        store.get_or_make(KEY, fail, link)
    assert not link.is_symlink()
    assert [path.name for path in store.root.iterdir() if path.is_dir()] == []


def test_what_a_kill_left_is_removed_when_the_key_is_made_again(store: Store) -> None:
    left = store.root / f"{store.folder(KEY).name}.tmp-1"
    left.mkdir(parents=True)
    store.get_or_make(KEY, write, store.build / "run" / "stage")
    assert not left.exists()


def test_a_damaged_artifact_is_made_again(store: Store) -> None:
    store.get_or_make(KEY, write, store.build / "one" / "stage")
    (store.folder(KEY) / "model.bin").write_text("WEIGHTS")  # of the same length: seen by who takes it
    again = store.get_or_make(KEY, write, store.build / "two" / "stage")
    assert Artifact.load(again.folder, verify=True).size_bytes == 7
    (store.folder(KEY) / "model.bin").write_text("wei")  # seen by who has it
    store.get_or_make(KEY, write, store.build / "two" / "stage")
    assert (store.folder(KEY) / "model.bin").read_text() == "weights"


def test_who_needs_what_is_being_made_waits_and_says_so(tmp_path: Path) -> None:
    making, said = threading.Event(), []
    go_on = threading.Event()

    def slowly(folder: Path) -> None:
        making.set()
        assert go_on.wait(30)
        write(folder)

    def log(line: str) -> None:
        said.append(line)
        go_on.set()

    first = threading.Thread(target=lambda: Store(tmp_path).get_or_make(KEY, slowly, tmp_path / "one" / "baseline"))
    first.start()
    assert making.wait(30)
    found = Store(tmp_path, log).get_or_make(KEY, never, tmp_path / "two" / "teacher")
    first.join()
    assert found.size_bytes == 7
    assert [line.split(maxsplit=1) for line in said] == [["teacher", "waits for another run that is making the same"]]


def test_without_symbolic_links_a_run_shows_hard_links(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("a privilege is not held")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    link = store.build / "run" / "stage"
    store.get_or_make(KEY, write, link)
    assert not link.is_symlink()
    assert (link / "model.bin").samefile(store.folder(KEY) / "model.bin")
    assert store.shows(link, KEY)
    store.get_or_make(OTHER, lambda folder: write(folder, OTHER, "others"), link)
    assert (link / "model.bin").read_text() == "others"
    assert [removed.folder for removed in store.collect()] == [store.folder(KEY)]


def test_what_no_run_shows_is_collected(store: Store) -> None:
    used = store.get_or_make(KEY, write, store.build / "run" / "stage")
    store.get_or_make(OTHER, lambda folder: write(folder, OTHER), store.build / "gone" / "stage").folder.unlink()
    (store.root / "c.tmp-1").mkdir()
    planned = store.collect(dry_run=True)
    assert [removed.folder for removed in planned] == [store.folder(OTHER), store.root / "c.tmp-1"]
    assert planned[0].size_bytes > 7
    assert store.collect() == planned
    assert sorted(path.name for path in store.root.iterdir() if path.is_dir()) == [store.folder(KEY).name]
    assert store.shows(used.folder, KEY)
    assert store.collect() == []


@pytest.mark.parametrize("links", [True, False])
def test_a_run_shows_only_what_it_still_has_a_name_for(
    store: Store, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("a privilege is not held")

    if not links:
        monkeypatch.setattr(Path, "symlink_to", refuse)
    run = store.build / "run"
    store.get_or_make(KEY, write, run / "before")
    store.get_or_make(KEY, never, run / "after")
    store.get_or_make(OTHER, lambda folder: write(folder, OTHER), run / "dropped")
    foreign = run / "of the user"
    foreign.mkdir()
    write(foreign, "c" * 64)
    store.show_only(["after"], run)
    assert sorted(path.name for path in run.iterdir()) == ["after", "of the user"]
    assert [removed.folder for removed in store.collect()] == [store.folder(OTHER)]
    assert store.shows(run / "after", KEY)


def test_what_is_being_made_is_not_collected(store: Store) -> None:
    found = []

    def meanwhile(folder: Path) -> None:
        found.append(Store(store.build).collect())
        write(folder)

    store.get_or_make(KEY, meanwhile, store.build / "run" / "stage")
    assert found == [[]]


@pytest.mark.parametrize("copies", [False, True])
def test_a_manifest_names_the_licences_of_all_that_it_was_taken_for(
    store: Store, copies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever starts from a run's folder finds them there, whichever run has made what it shows."""
    if copies:
        monkeypatch.setattr(Path, "symlink_to", refused)
    one, two = store.build / "one" / "baseline", store.build / "two" / "baseline"
    unknown, gemma = Licence("unknown", "folder"), Licence("gemma", "gemma3-270m", outputs=True)
    made = store.get_or_make(KEY, write, one, (unknown,))
    assert store.get_or_make(KEY, never, two, (gemma,)).manifest.licences == (unknown, gemma)
    assert store.shows(two, KEY)
    again = store.get_or_make(KEY, never, one, (unknown,))
    assert again.manifest.licences == (unknown, gemma)
    assert Artifact.load(one, verify=True).digest == made.digest
    assert store.shows(two, KEY), "nothing new to name: as it was"


def refused(*_: object, **__: object) -> None:
    raise OSError("no links here")

"""The file of decisions: what is put is there, for everybody, and bad files are left alone."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.optimizer import decisions as module
from advconv_onnx.optimizer.decisions import Decisions, default_path
from advconv_onnx.records import Decision, Figure, Ratio

HERE = "cpu, 2 threads, Some Processor, 1.30.0, 0.1.0"
FASTER = Figure(Ratio(1.25, 1.2, 1.3), 4.5)
CRASHED = Figure(None, 4.5, "its process ended unexpectedly")


def decision(form: str = "f", figure: Figure = FASTER, situation: str = HERE) -> Decision:
    return Decision(situation, "window", form, figure)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "what? #1 100%.sqlite"


@pytest.fixture
def file(path: Path) -> Iterator[Decisions]:
    with contextlib.closing(Decisions(path)) as opened:
        yield opened


def reopened(path: Path) -> list[Decision]:
    with contextlib.closing(Decisions(path, writable=False)) as opened:
        return list(opened.entries())


def test_keeps_what_is_put(path: Path, file: Decisions) -> None:
    wanted = [decision("a"), decision("b", CRASHED)]
    for one in wanted:
        file.put(one)
    assert reopened(path) == wanted
    assert file.get(HERE, "window", "a") == FASTER
    assert file.get(HERE, "window", "b") == CRASHED
    assert file.get(HERE, "window", "c") is None
    assert file.get(HERE, "another", "a") is None


def test_a_figure_of_another_situation_is_another_one(file: Decisions) -> None:
    file.put(decision())
    assert file.get("elsewhere", "window", "f") is None
    file.put(decision(figure=CRASHED, situation="elsewhere"))
    assert file.get(HERE, "window", "f") == FASTER
    assert file.get("elsewhere", "window", "f") == CRASHED


def test_a_new_figure_replaces_the_old_one(file: Decisions) -> None:
    file.put(decision())
    file.put(decision(figure=CRASHED))
    assert list(file.entries()) == [decision(figure=CRASHED)]


def test_an_exported_file_is_merged_without_loss_of_ones_own(
    file: Decisions, tmp_path: Path
) -> None:
    file.put(decision("a"))
    file.put(decision("b", CRASHED))
    exported = tmp_path / "copy.sqlite"
    file.export(exported)
    assert reopened(exported) == list(file.entries())
    with (
        contextlib.closing(Decisions(tmp_path / "mine.sqlite")) as mine,
        contextlib.closing(Decisions(exported, writable=False)) as theirs,
    ):
        mine.put(decision("b", FASTER))
        assert mine.merge(theirs) == 1
        assert list(mine.entries()) == [decision("a"), decision("b", FASTER)]
        assert mine.merge(theirs) == 0


def test_clear_forgets_everything(file: Decisions) -> None:
    file.put(decision("a"))
    file.put(decision("b"))
    assert file.clear() == 2
    assert list(file.entries()) == []


def test_a_killed_process_has_kept_what_it_put(path: Path) -> None:
    code = (
        "import os, pathlib, sys\n"
        "from tests.optimizer.test_decisions import decision\n"
        "from advconv_onnx.optimizer.decisions import Decisions\n"
        "Decisions(pathlib.Path(sys.argv[1])).put(decision())\n"
        f"os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert reopened(path) == [decision()]


def put_many(path: Path, name: str) -> None:
    with contextlib.closing(Decisions(path)) as opened:
        for index in range(5):
            opened.put(decision(f"{name}{index}", Figure(None, 1.0, "why " * 500)))


def test_several_processes_make_and_fill_one_file(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=put_many, args=(path, name)) for name in "abc"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(reopened(path)) == 15


def test_an_older_file_is_emptied_and_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TABLE", "CREATE TABLE decisions (something)")
    with contextlib.closing(Decisions(path)):
        pass
    monkeypatch.undo()
    monkeypatch.setattr(module, "_VERSION", 2)
    with pytest.raises(InputError, match="older"):
        Decisions(path, writable=False)
    with contextlib.closing(Decisions(path)) as opened:
        opened.put(decision())
    assert reopened(path) == [decision()]


def read(path: Path) -> list[Decision]:
    with contextlib.closing(Decisions(path)) as opened:
        return list(opened.entries())


def execute(path: Path, *statements: str) -> None:
    path.parent.mkdir(exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def spoil(path: Path, how: str) -> None:
    """Make a file that cannot be used."""
    if how == "text":
        path.parent.mkdir()
        path.write_text("no database at all\n" * 100)
    elif how == "truncated":
        put_many(path, "a")
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "foreign":
        execute(path, "CREATE TABLE accounts (name)")
    elif how == "newer":
        put_many(path, "a")
        execute(path, "PRAGMA user_version = 99")
    elif how == "altered":
        put_many(path, "a")
        execute(path, "UPDATE decisions SET median = 'fast'")
    else:
        path.mkdir(parents=True)


PROBLEMS = {
    "text": "file is not a database",
    "truncated": "malformed",
    "foreign": "it is no file of decisions",
    "newer": "a newer advconv-onnx wrote it",
    "altered": "could not convert string to float: 'fast'",
    "folder": "unable to open database file",
}


@pytest.mark.parametrize("how", PROBLEMS)
def test_a_file_that_cannot_be_used_is_told_and_left_as_it_is(path: Path, how: str) -> None:
    spoil(path, how)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(InputError, match=rf"cannot use the cache '.*': .*{PROBLEMS[how]}"):
        read(path)
    assert (path.read_bytes() if path.is_file() else None) == before
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_a_file_to_read_is_not_made(path: Path) -> None:
    with pytest.raises(InputError, match="unable to open"):
        Decisions(path, writable=False)
    assert not path.exists()


def test_the_file_is_the_users_unless_the_environment_names_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert default_path() == Path(os.environ["ADVCONV_CACHE"])  # set for all tests
    monkeypatch.setenv("ADVCONV_CACHE", "there.sqlite")
    assert default_path() == Path("there.sqlite")
    for off in ("", "off"):
        monkeypatch.setenv("ADVCONV_CACHE", off)
        assert default_path() is None
    monkeypatch.delenv("ADVCONV_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    assert default_path() == tmp_path / "advconv-onnx" / "decisions.sqlite"

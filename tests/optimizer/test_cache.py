"""Whatever is wrong with the file, the search has a cache, and the user one line about it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from advconv_onnx.optimizer import decisions
from advconv_onnx.optimizer.cache import Cache

from .test_decisions import CRASHED, FASTER, HERE, PROBLEMS, spoil


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "decisions.sqlite"


@contextlib.contextmanager
def cache(path: Path | None) -> Iterator[Cache]:
    with contextlib.closing(Cache(HERE, path)) as opened:
        yield opened


def check_that_it_works(opened: Cache) -> None:
    opened.put("window", "f", FASTER)
    opened.put("window", "g", CRASHED)
    opened.put("window", "f", CRASHED)
    assert opened.get("window", "f") == CRASHED
    assert opened.get("window", "g") == CRASHED
    assert opened.get("another", "f") is None


def test_the_next_run_knows_what_this_one_measured(path: Path) -> None:
    with cache(path) as opened:
        check_that_it_works(opened)
    with cache(path) as opened:
        assert opened.get("window", "f") == CRASHED
        assert opened.problem == ""


@pytest.mark.parametrize("how", PROBLEMS)
def test_a_file_that_cannot_be_used_costs_one_line(path: Path, how: str) -> None:
    spoil(path, how)
    before = path.read_bytes() if path.is_file() else None
    with cache(path) as opened:
        assert opened.get("window", "a0") is None
        check_that_it_works(opened)
        assert PROBLEMS[how] in opened.problem
        assert "\n" not in opened.problem
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    with cache(path) as opened:
        check_that_it_works(opened)
        assert "unable to open database file" in opened.problem


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with cache(tmp_path / "file" / "decisions.sqlite") as opened:
        check_that_it_works(opened)
        assert "File exists" in opened.problem or "Not a directory" in opened.problem


def test_a_locked_file_is_still_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "_PATIENCE", 0.05)
    with cache(path) as opened:
        opened.put("window", "h", FASTER)
    with contextlib.closing(sqlite3.connect(path)) as other, cache(path) as opened:
        other.execute("BEGIN IMMEDIATE")
        check_that_it_works(opened)
        assert "database is locked" in opened.problem
        assert opened.get("window", "h") == FASTER


def test_no_file_when_the_cache_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVCONV_CACHE", "off")
    with cache(None) as opened:
        check_that_it_works(opened)
        assert opened.problem == ""
    with cache(None) as opened:
        assert opened.get("window", "f") is None

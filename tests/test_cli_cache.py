"""``advconv cache``: what a user sees of the decisions, and one line for whatever is wrong."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from advconv_onnx.cli import main
from advconv_onnx.optimizer.decisions import Decisions
from advconv_onnx.records import Decision, Figure, Ratio

FOUND = [
    Decision("cpu, 2 threads", "abcdef0123456789", "crashing", Figure(None, 4.0, "it crashed")),
    Decision("cpu, 2 threads", "abcdef0123456789", "fast", Figure(Ratio(1.25, 1.2, 1.3), 4.0)),
    Decision("cpu, 8 threads", "abcdef0123456789", "fast", Figure(Ratio(1.5, 1.4, 1.6), 1.0)),
]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache, with decisions in it; its folder is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ADVCONV_CACHE", "cache.sqlite")
    put(tmp_path / "cache.sqlite", FOUND)
    return tmp_path / "cache.sqlite"


def put(path: Path, found: list[Decision]) -> None:
    with contextlib.closing(Decisions(path)) as kept:
        for decision in found:
            kept.put(decision)


def entries(path: Path) -> list[Decision]:
    with contextlib.closing(Decisions(path)) as kept:
        return list(kept.entries())


def test_path(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "path"]) == 0
    monkeypatch.setenv("ADVCONV_CACHE", "off")
    assert main(["cache", "path"]) == 0
    assert capfd.readouterr() == ("cache.sqlite\noff\n", "")


def test_show(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "show"]) == 0
    lines = [line.split() for line in capfd.readouterr().out.splitlines()]
    assert lines[0] == ["cpu,", "2", "threads"]
    assert lines[2] == ["abcdef012345", "crashing", "4", "ms", "it", "crashed"]
    assert lines[3] == ["abcdef012345", "fast", "1.250", "1.200", "to", "1.300", "4", "ms"]
    assert ["cpu,", "8", "threads"] in lines
    assert lines[-1] == ["3", "decisions"]


def test_show_as_json(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "show", "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["schema"] == 1
    assert document["decisions"][1] == {
        "situation": "cpu, 2 threads",
        "window": "abcdef0123456789",
        "form": "fast",
        "figure": {"ratio": {"median": 1.25, "low": 1.2, "high": 1.3}, "ms": 4.0, "failure": ""},
    }
    assert document["decisions"][0]["figure"]["ratio"] is None


def test_export_and_merge(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "export", "copy.sqlite"]) == 0
    monkeypatch.setenv("ADVCONV_CACHE", "other.sqlite")
    put(Path("other.sqlite"), FOUND[:1])
    assert main(["cache", "merge", "copy.sqlite"]) == 0
    assert entries(Path("other.sqlite")) == FOUND
    assert capfd.readouterr().out.splitlines() == [
        "written to copy.sqlite",
        "2 decisions added to other.sqlite",
    ]


def test_clear(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "clear"]) == 0
    assert entries(file) == []
    assert capfd.readouterr().out == "3 decisions removed from cache.sqlite\n"


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        ("export cache.sqlite", "'cache.sqlite' is an input, which is never modified"),
        ("export no/such/folder.sqlite", "cannot write 'no/such/folder.sqlite'"),
        ("merge nowhere.sqlite", "unable to open database file"),
        ("merge text.sqlite", "file is not a database"),
        ("merge empty.sqlite", "it is empty"),
        ("merge", "Missing argument 'FILE'; see 'advconv cache merge --help'"),
        ("forget", "No such command 'forget'"),
    ],
)
def test_a_wrong_call_is_one_line(
    file: Path, call: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("text.sqlite").write_text("no database at all\n" * 100)
    Path("empty.sqlite").touch()
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    check_one_line(call, reason, capfd)
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before


@pytest.mark.parametrize("call", ["show", "export copy.sqlite", "merge cache.sqlite", "clear"])
@pytest.mark.parametrize(
    ("setting", "reason"), [("off", "the cache is off"), ("text.sqlite", "is not a database")]
)
def test_no_usable_cache_is_one_line(
    file: Path,
    call: str,
    setting: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    Path("text.sqlite").write_text("no database at all\n" * 100)
    monkeypatch.setenv("ADVCONV_CACHE", setting)
    check_one_line(call, reason, capfd)


def check_one_line(call: str, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", *call.split()]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("advconv: ")
    assert err.count("\n") == 1
    assert reason in err

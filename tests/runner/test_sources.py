"""Which files are found below paths, in which order, and under which names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from advconv_onnx.errors import InputError
from advconv_onnx.records import FileFailure
from advconv_onnx.runner.sources import Source, Sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ("b.png", "a.JPG", "a.png", "z/c.npz", "more/d.npy", "more/deep/e.tif")
    for name in (*names, "notes.txt", ".hidden.png", ".git/f.png", "more/g"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "in"


def names(paths: Sequence[Path], out: Path | None = None) -> list[str]:
    return [source.name for source in Sources(paths, out) if isinstance(source, Source)]


def test_a_folder(folder: Path) -> None:
    expected = ["a.JPG", "a.png", "b.png", "more/d.npy", "more/deep/e.tif", "z/c.npz"]
    found = Sources([folder])
    assert names([folder]) == expected
    assert [s.path for s in found if isinstance(s, Source)] == [folder / name for name in expected]
    assert list(found) == list(found)


def test_several_paths_keep_their_own_names(folder: Path) -> None:
    found = names([folder / "more", folder / "b.png", folder / "notes.txt"])
    assert found == ["more/d.npy", "more/deep/e.tif", "b.png", "notes.txt"]


def test_two_of_one_name_are_refused(folder: Path) -> None:
    (folder / "z/more").mkdir()
    with pytest.raises(InputError, match="are both called 'more'"):
        Sources([folder / "more", folder / "z/more"])


def test_the_folder_of_the_results_is_not_looked_into(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "more")
    assert names([folder], folder / "more") == ["a.JPG", "a.png", "b.png", "z/c.npz"]
    for inside in (folder, folder / "b.png", folder / "more"):
        with pytest.raises(InputError, match="is in the folder of the results"):
            Sources([inside], folder)


def test_links(folder: Path) -> None:
    (folder / "y.png").symlink_to("b.png")
    (folder / "loop").symlink_to(folder)
    assert names([folder])[3] == "y.png"
    assert len(names([folder])) == 7
    (folder.parent / "way").symlink_to(folder)
    assert names([folder.parent / "way"]) == names([folder])


def test_what_does_not_exist(folder: Path) -> None:
    with pytest.raises(InputError, match="'nowhere' does not exist"):
        Sources([folder, Path("nowhere")])


def test_what_cannot_be_looked_into_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(Sources([folder]))
    assert found[-1] == FileFailure(str(folder / "more"), "Permission denied")
    assert len(found) == 5


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"two\nlines.png", "no text on one line"),
        (b"latin\xe9.png", "no text on one line"),
        (b"x" * 245 + b".png", "too long"),
    ],
)
def test_names_that_cannot_be_kept(tmp_path: Path, name: bytes, reason: str) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    [failure] = Sources([tmp_path])
    assert isinstance(failure, FileFailure)
    assert reason in failure.reason
    assert failure.path.isprintable()
    failure.path.encode()

"""The workers of a Dask cluster do what one process does, even if one of them is killed."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advconv_onnx.errors import CheckError, InputError, MissingDependencyError
from advconv_onnx.runner import cluster as module
from advconv_onnx.runner.cluster import Cluster
from advconv_onnx.runner.job import Done, Job
from advconv_onnx.runner.run import run
from advconv_onnx.runner.session import Session
from advconv_onnx.runner.sources import Source

from .models import CLASSIFIER, results, write, write_pictures

distributed = pytest.importorskip("distributed")
_TASKS = module._Tasks


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """Two processes of a thread each; a process that dies is replaced."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
    ) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "m.onnx")
    write_pictures(tmp_path / "in", 150)
    (tmp_path / "in/bad.png").write_text("no picture")
    return tmp_path


def kill_one(workers: Any) -> int | None:
    """Kill a worker that has work to do, if there is one; return its process."""
    for nanny in workers.workers.values():
        state = workers.scheduler.workers.get(nanny.worker_address)
        if state is not None and state.processing:
            pid: int = nanny.pid
            os.kill(pid, signal.SIGKILL)
            return pid
    return None


@pytest.mark.parametrize("form", ["npz", "labels"])
def test_a_worker_is_killed_midway_and_nothing_is_lost_or_done_twice(
    workers: Any, folder: Path, form: str
) -> None:
    killed: list[int] = []
    before: dict[Path, int] = {}
    counts: list[int] = []

    def kill(done: int, total: int) -> None:
        counts.append(done)
        pid = None if killed else kill_one(workers)
        if pid is not None:
            killed.append(pid)
            time.sleep(0.5)  # what it wrote last is there, and it writes no more
            files = (folder / "out").rglob("*.npz")
            before.update({path: path.stat().st_mtime_ns for path in files})

    options: dict[str, Any] = {"form": form, "preprocessing": {"resize": (200, 200)}}
    alone = run(folder / "m.onnx", [folder / "in"], folder / "alone", threads=1, **options)
    found = run(
        folder / "m.onnx",
        [folder / "in"],
        folder / "out",
        cluster=Cluster(workers.scheduler_address),
        progress=kill,
        **options,
    )
    assert killed[0] not in {nanny.pid for nanny in workers.workers.values()}
    assert (found.written, found.kept, found.failures) == (150, 0, alone.failures)
    assert counts == sorted(counts)
    assert counts[-1] == 151
    if form == "labels":
        lines, expected = (
            (folder / name / "labels.csv").read_text().splitlines() for name in ("out", "alone")
        )
        assert sorted(lines) == sorted(expected)
        return
    assert 0 < len(before) < 150
    assert {path: path.stat().st_mtime_ns for path in before} == before
    one, many = results(folder / "alone"), results(folder / "out")
    assert one.keys() == many.keys()
    for name, outputs in one.items():
        np.testing.assert_array_equal(many[name]["y"], outputs["y"])


def _task_or_die(opening: Any, job: Job, chunk: Sequence[Source]) -> list[Done]:
    if any(source.name == "more/003.png" for source in chunk):
        os.kill(os.getpid(), signal.SIGKILL)
    return module._task(opening, job, chunk)


def test_one_that_kills_workers_is_left_out_alone(
    workers: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Client:
        """One whose workers die of a picture."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def submit(self, task: object, *arguments: Any, **options: Any) -> Any:
            return self._real.submit(_task_or_die, *arguments, **options)

    monkeypatch.setattr(module, "_Tasks", lambda client, *others: _TASKS(Client(client), *others))
    monkeypatch.setattr(workers.scheduler, "allowed_failures", 0)  # or it takes six more lives
    address = Cluster(workers.scheduler_address)
    found = run(folder / "m.onnx", [folder / "in"], folder / "out", cluster=address)
    assert found.written == 149
    lost = {failure.path: failure.reason for failure in found.failures}
    assert lost.keys() == {str(folder / "in/bad.png"), str(folder / "in/more/003.png")}
    assert "died" in lost[str(folder / "in/more/003.png")]


def test_a_task_does_not_repeat_what_one_before_it_has_written(folder: Path) -> None:
    session = Session(folder / "m.onnx")
    opening = module._Opening(str(folder / "m.onnx"), session.digest, (("threads", 1),))
    chunk = [Source(path, path.name) for path in sorted((folder / "in/more").iterdir())[:4]]
    (folder / "out").mkdir()
    job = Job(folder / "out")
    first = module._task(opening, job, chunk[:2])
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*.npz")}
    again = module._task(opening, job, chunk)
    assert [sum(done.written for done in task) for task in (first, again)] == [2, 4]
    assert sum(done.ms is not None for done in again) == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_interrupted_run_goes_on_elsewhere(workers: Any, folder: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    address = Cluster(workers.scheduler_address)
    with pytest.raises(KeyboardInterrupt):
        run(
            folder / "m.onnx", [folder / "in"], folder / "out", cluster=address,
            progress=interrupt,
        )  # fmt: skip
    found = run(folder / "m.onnx", [folder / "in"], folder / "out")
    assert found.kept > 0
    assert found.written + found.kept == 150
    assert len(results(folder / "out")) == 150


def test_errors_of_workers_are_those_of_one_process(
    workers: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = Cluster(workers.scheduler_address)
    (folder / "names").write_text("ant\n")
    with pytest.raises(InputError, match="there are 1 labels, the model has 5 classes"):
        run(
            folder / "m.onnx", [folder / "in"], folder / "out", form="labels",
            labels=folder / "names", cluster=address,
        )  # fmt: skip
    with pytest.raises(InputError, match="provider 'abacus' is unknown"):
        run(folder / "m.onnx", [folder / "in"], folder / "out", provider="abacus", cluster=address)
    submit = module._Tasks.submit

    def change_first(self: Any, chunk: Any) -> Any:
        write(folder / "new.onnx", CLASSIFIER.replace("[1, 1, 1, 1]", "[0, 0, 0, 0]"))
        return submit(self, chunk)

    monkeypatch.setattr(module._Tasks, "submit", change_first)
    write(folder / "new.onnx")
    with pytest.raises(InputError, match=r"new\.onnx' is another file where the worker is"):
        run(folder / "new.onnx", [folder / "in"], folder / "out", cluster=address)
    monkeypatch.setattr(module, "_task", lambda *arguments: 1 // 0)
    monkeypatch.setattr(module._Tasks, "submit", submit)
    with pytest.raises(CheckError, match=r"the workers cannot go on .*division"):
        run(folder / "m.onnx", [folder / "in"], folder / "out", cluster=address)
    assert not (folder / "out").exists()


def test_no_scheduler_answers(folder: Path) -> None:
    for address in ("tcp://127.0.0.1:9", "nonsense", "tcp://", "127.0.0.1:99999"):
        with pytest.raises(InputError, match="no scheduler with a worker answers there"):
            run(folder / "m.onnx", [folder / "in"], folder / "out", cluster=Cluster(address))


def test_without_dask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'advconv-onnx\[dask\]'"):
        run(folder / "m.onnx", [folder / "in"], folder / "out", cluster=Cluster())
    assert not (folder / "out").exists()

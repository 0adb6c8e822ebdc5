import contextlib
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from advconv_onnx.errors import CheckError
from advconv_onnx.runtime import worker as module
from advconv_onnx.runtime.worker import Worker

HANGING = """
{
  n = Constant <value = int64 {9000000000000000000}> ()
  go = Constant <value = bool {1}> ()
  y = Loop(n, go, x) <body = b (int64 i, bool c, float[2] a) => (bool d, float[2] e) {
    d = Identity(c)
    e = Neg(a)
  }>
}
"""
GREEDY = """
{
  shape = Constant <value = int64[1] {1000000000}> ()
  big = ConstantOfShape(shape)
  noise = RandomUniformLike(big)
  s = ReduceMax <keepdims = 0> (noise)
  y = Add(x, s)
}
"""


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a worker on a graph body, closed after the test."""
    arrays = tmp_path / "inputs.npz"
    np.savez(arrays, np.ones(2, np.float32))
    with contextlib.ExitStack() as stack:

        def start_on(body, *, inputs=("x",), timeout=60.0, memory_limit=None, worker=None):
            path = tmp_path / "model.onnx"
            header = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) '
            onnx.save(onnx.parser.parse_model(header + body), path)
            worker = stack.enter_context(contextlib.closing(worker or Worker()))
            worker.load(
                str(path),
                list(inputs),
                str(arrays),
                provider="cpu",
                threads=1,
                timeout=timeout,
                memory_limit=memory_limit,
            )
            return worker

        yield start_on


def test_times_as_often_as_asked(start):
    worker = start("{ y = Neg(x) }")
    worker.wait_until_loaded()
    assert all(worker.time_inference() > 0 for _ in range(3))


def test_every_turn_begins_with_an_unmeasured_inference(monkeypatch):
    """However long they take: else a slow model would be measured cold, its rival warm."""
    turns, answers = [], []

    class Session:
        def run(self, names, inputs):
            turns.append("measured")
            time.sleep(0.06)

    monkeypatch.setattr(module, "_load", lambda **request: (Session(), {}))
    monkeypatch.setattr(module, "run_session", lambda session, inputs: turns.append("unmeasured"))
    lines = queue.SimpleQueue()
    for line in ("{}", "run", "run", "run"):
        lines.put(line)

    def answer(**content):
        answers.append(content)
        if len(answers) == 4:
            raise EOFError

    with pytest.raises(EOFError):
        module._serve(lines, answer)
    assert turns == ["unmeasured", "measured"] * 3


def test_model_that_does_not_load_is_reported_in_its_words(start):
    with pytest.raises(CheckError, match="No Op registered for Foo"):
        start("{ y = Foo(x) }").wait_until_loaded()


def test_inputs_that_do_not_fit_are_reported(start):
    worker = start("{ y = Neg(x) }", inputs=["z"])
    worker.wait_until_loaded()
    with pytest.raises(CheckError, match="does not run"):
        worker.time_inference()


def test_hanging_inference_ends_after_the_timeout(start):
    worker = start(HANGING)
    worker.wait_until_loaded()
    worker._timeout = 0.2
    with pytest.raises(CheckError, match=r"no answer within 0\.2 s"):
        worker.time_inference()


def test_crash_is_told_from_a_timeout(start):
    worker = start("{ y = Neg(x) }")
    worker.wait_until_loaded()
    worker._process.kill()
    with pytest.raises(CheckError, match="ended unexpectedly"):
        worker.time_inference()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupts_are_left_to_the_parent(start, number):
    worker = start("{ y = Neg(x) }")
    worker.wait_until_loaded()
    worker._process.send_signal(number)
    assert worker.time_inference() > 0


def test_unforeseen_error_reports_its_last_words(start, tmp_path):
    (tmp_path / "inputs.npz").write_bytes(b"")
    with pytest.raises(CheckError, match=r"ended unexpectedly \(exit status 1\): EOFError"):
        start("{ y = Neg(x) }").wait_until_loaded()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux only")
def test_memory_limit_ends_only_the_worker(start):
    worker = start(GREEDY, memory_limit=1 << 30)
    worker.wait_until_loaded()
    with pytest.raises(CheckError, match=r"bad_alloc|[Mm]emory|allocate"):
        worker.time_inference()


def test_interrupt_while_the_alarm_starts_cancels_the_alarm(start, monkeypatch):
    def start_interrupted(timer, start=threading.Timer.start):
        start(timer)
        raise KeyboardInterrupt

    worker = start("{ y = Neg(x) }")
    monkeypatch.setattr(threading.Timer, "start", start_interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.wait_until_loaded()
    alarms = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert all(alarm.finished.is_set() for alarm in alarms)


def test_another_model_takes_the_place_of_the_first(start):
    worker = start("{ y = Neg(x) }")
    worker.wait_until_loaded()
    assert worker.unload()
    start("{ y = Foo(x) }", worker=worker)
    with pytest.raises(CheckError, match="No Op registered for Foo"):
        worker.wait_until_loaded()
    assert not worker.unload()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux only")
def test_each_model_has_its_own_memory_limit(start):
    worker = start("{ y = Neg(x) }", memory_limit=1 << 30)
    worker.wait_until_loaded()
    start(GREEDY, worker=worker, memory_limit=16 << 30).wait_until_loaded()
    assert limit(worker) == 16 << 30
    start("{ y = Neg(x) }", worker=worker).wait_until_loaded()
    assert limit(worker) == resource.getrlimit(resource.RLIMIT_DATA)[1]


def limit(worker):
    return resource.prlimit(worker._process.pid, resource.RLIMIT_DATA)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_unloaded_model_takes_no_memory(start):
    big = "big = RandomUniform <shape = [30000000]> ()"
    worker = start(f"{{ {big} s = ReduceMax <keepdims = 0> (big) y = Add(x, s) }}")
    worker.wait_until_loaded()
    worker.time_inference()
    loaded = resident(worker)
    assert worker.unload()
    deadline = time.monotonic() + 10  # it gives no answer
    while loaded - resident(worker) < 100e6 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert loaded - resident(worker) > 100e6


def resident(worker):
    pages = Path(f"/proc/{worker._process.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def test_closing_twice_is_harmless(start):
    worker = start("{ y = Neg(x) }")
    worker.close()
    worker.close()
    assert worker._process.returncode is not None


def test_file_in_the_current_directory_does_not_shadow_a_module(start, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')")
    monkeypatch.chdir(tmp_path)
    start("{ y = Neg(x) }").wait_until_loaded()


def test_starts_without_heavy_imports():
    code = f"import sys, {module.__name__}; print(*sys.modules)"
    root = Path(module.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert not {"torch", "rich", "onnx", "onnx_ir"} & set(done.stdout.split())

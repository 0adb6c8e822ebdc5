import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest

from advconv_onnx.errors import CheckError, InputError
from advconv_onnx.runtime import timing
from advconv_onnx.runtime.timing import measure, paired_ratio

INPUTS = {"x": np.ones((1, 4, 8, 8), np.float32)}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    text = (
        '<ir_version: 8, opset_import: ["" : 17]> '
        "g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) { a = Sin(x) y = Cos(a) }"
    )
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def children(pid):
    """Return the processes that process ``pid`` started, zombies included.

    That in which multiprocessing keeps its records stays once a test has used it.
    """
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    found = (int(child) for task in tasks for child in task.read_text().split())
    return [child for child in found if "resource_tracker" not in _command(child)]


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended meanwhile
        return ""


def is_running(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


needs_proc = pytest.mark.skipif(
    not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="no list of children here"
)


def run_fake(fake, names="abc", **options):
    fake.order.clear()
    measurement = measure({name: Path(name) for name in names}, INPUTS, **options)
    return measurement, list(fake.order)


# --- the statistics


def test_ratio_of_known_numbers():
    ratio = paired_ratio(np.array([20, 30, 80]), np.array([10, 10, 20]), seed=0)
    assert ratio.median == 3
    assert (ratio.low, ratio.high) == (2, 4)


def test_drift_that_hits_both_alike_cancels():
    drift = np.linspace(1e6, 2e6, 40)
    ratio = paired_ratio(drift, drift / 1.25, seed=0)
    assert (ratio.low, ratio.high) == pytest.approx((1.25, 1.25))


def test_interval_covers_the_true_ratio_about_95_times_in_100():
    rng = np.random.default_rng(7)
    covered = 0
    for seed in range(400):
        drift = np.exp(np.cumsum(rng.normal(0, 0.1, 25)))
        baseline = 1.3 * drift * rng.lognormal(0, 0.05, 25)
        ratio = paired_ratio(baseline, drift * rng.lognormal(0, 0.05, 25), seed)
        covered += ratio.low <= 1.3 <= ratio.high
    assert 0.91 <= covered / 400 <= 0.98


def test_interval_is_reproducible():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(1, 2, (2, 200))
    assert paired_ratio(a, b, seed=3) == paired_ratio(a, b, seed=3)
    assert paired_ratio(a, b, seed=3) != paired_ratio(a, b, seed=4)


# --- the rounds


def test_every_round_gives_everyone_a_turn_in_a_random_seeded_order(fake):
    _, order = run_fake(fake, rounds=6, seed=1)
    rounds = [order[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(turns) == ["a", "a", "b", "c"] for turns in rounds)
    assert len({tuple(turns) for turns in rounds}) > 1
    assert run_fake(fake, rounds=6, seed=1)[1] == order
    assert run_fake(fake, rounds=6, seed=2)[1] != order


def test_latencies_and_speedups_are_those_of_the_samples(fake, monkeypatch):
    ns = {"a": 4_000_000, "b": 2_000_000, "c": 8_000_000}
    monkeypatch.setattr(fake, "latency", ns.__getitem__)
    measurement, _ = run_fake(fake, rounds=5)
    assert [t.name for t in measurement.timings] == ["a", "b", "c"]
    assert [t.latency.median for t in measurement.timings] == [4, 2, 8]
    assert [t.latency.p90 for t in measurement.timings] == [4, 2, 8]
    assert [t.speedup.median for t in measurement.timings] == [1, 2, 0.5]
    assert measurement.noise.median == 1
    assert measurement.rounds == 5


def test_stops_when_the_intervals_are_narrow_or_the_time_is_over(fake, monkeypatch):
    assert run_fake(fake)[0].rounds == 15
    noise = np.random.default_rng(0)
    monkeypatch.setattr(fake, "latency", lambda model: int(1e6 * noise.uniform(1, 9)))
    assert run_fake(fake)[0].rounds == 200
    assert run_fake(fake, time_limit=0)[0].rounds == 5
    assert run_fake(fake, time_limit=0, rounds=3)[0].rounds == 3


def test_progress_ends_at_what_it_announces(fake):
    calls = []
    run_fake(fake, progress=lambda done, expected: calls.append((done, expected)))
    assert [done for done, _ in calls] == [*range(1, 16), 15]
    assert all(done <= expected for done, expected in calls)
    assert calls[-1] == (15, 15)


# --- real processes


def test_a_model_against_itself(model):
    measurement = measure({"original": model, "same": model}, INPUTS, rounds=5)
    assert [t.name for t in measurement.timings] == ["original", "same"]
    assert measurement.rounds == 5
    assert not measurement.failures
    for timed in measurement.timings:
        assert 0 < timed.latency.median <= timed.latency.p90
        assert timed.speedup.low <= timed.speedup.median <= timed.speedup.high
    assert measurement.timings[0].speedup.low == measurement.timings[0].speedup.high == 1
    assert 0 < measurement.noise.low <= measurement.noise.median <= measurement.noise.high


@needs_proc
def test_bad_candidate_ends_only_itself(model, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_text("not a model")
    measurement = measure({"original": model, "bad": bad, "same": model}, INPUTS, rounds=2)
    assert [t.name for t in measurement.timings] == ["original", "same"]
    assert list(measurement.failures) == ["bad"]
    assert "ONNX Runtime does not load it" in measurement.failures["bad"]
    assert not children(os.getpid())


@needs_proc
def test_candidate_that_crashes_ends_only_itself(model):
    def abort(done, expected):
        if done == 1:
            os.kill(sorted(children(os.getpid()))[1], signal.SIGABRT)

    candidates = {"original": model, "bad": model, "same": model}
    measurement = measure(candidates, INPUTS, rounds=3, progress=abort)
    assert [t.name for t in measurement.timings] == ["original", "same"]
    assert "ended unexpectedly (Aborted)" in measurement.failures["bad"]
    assert not children(os.getpid())


@needs_proc
def test_bad_baseline_is_an_error_that_names_it(model, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_text("not a model")
    with pytest.raises(CheckError, match=r"cannot time 'original': .*does not load"):
        measure({"original": bad, "other": model}, INPUTS)
    assert not children(os.getpid())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"threads": 0}, "threads=0"),
        ({"provider": "tpu"}, "'tpu' is unknown"),
    ],
)
def test_wrong_call(model, options, message):
    with pytest.raises(InputError, match=message):
        measure({"original": model}, INPUTS, **options)


def test_nothing_to_measure():
    with pytest.raises(InputError, match="no candidate"):
        measure({}, INPUTS)


@needs_proc
def test_keyboard_interrupt_leaves_no_process(model):
    seen = []

    def interrupt(done, expected):
        seen.extend(children(os.getpid()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure({"original": model}, INPUTS, progress=interrupt)
    assert len(seen) == 2
    assert not children(os.getpid())


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(model, number):
    """Ctrl-C reaches the whole process group; the other two only the parent.

    The parent turns Ctrl-C on because a background job, such as a test run, may have it off.
    """
    code = (
        "import signal, sys, numpy, pathlib\n"
        "from advconv_onnx.runtime.timing import measure\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "inputs = {'x': numpy.ones((1, 4, 8, 8), 'f')}\n"
        "measure({'m': pathlib.Path(sys.argv[1])}, inputs, rounds=10**9, time_limit=60,\n"
        "        progress=lambda done, expected: print(done, flush=True))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(model)],
        cwd=Path(timing.__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with parent:
        parent.stdout.readline()  # the workers are at work
        workers = children(parent.pid)
        if number == signal.SIGINT:
            os.killpg(parent.pid, number)
        else:
            parent.send_signal(number)
        parent.communicate()
    assert len(workers) == 2
    deadline = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))

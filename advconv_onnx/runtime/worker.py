"""A process of its own that holds one session: both ends of the pipe.

The child (``python -m advconv_onnx.runtime.worker``) obeys lines: it loads a model, or makes one
unmeasured and one measured inference, or lets go of its model. Between lines it sleeps. It ends
when its standard input does, even in the middle of an inference, so it never outlives its parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from advconv_onnx.errors import AdvconvError, CheckError
from advconv_onnx.runtime.engine import create_session, run_session

if sys.platform != "win32":
    import resource

_PACKAGE_ROOT = Path(__file__).parents[2]


class Worker:
    """The parent's end: a process that loads a model and times it on request, then another one.

    Whoever makes one must ``close`` it, for example with ``contextlib.closing``. After a
    ``CheckError`` it can do nothing else.
    """

    def __init__(self) -> None:
        """Start the process."""
        self._timeout = 0.0
        self._failed = self._timed_out = False
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            # -P: a file in the current directory must not shadow a module.
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, "PYTHONPATH": _python_path()},
        )

    def load(
        self,
        model: str,
        inputs: list[str],
        arrays: str,
        *,
        provider: str,
        threads: int,
        timeout: float,
        memory_limit: int | None,
    ) -> None:
        """Begin to load a model, in place of an earlier one.

        Args:
            model: path of the model file.
            inputs: names of the model's inputs, in the order of the arrays in ``arrays``.
            arrays: an .npz file with the input arrays ``arr_0``, ``arr_1`` ...
            provider: a name of ``providers.PROVIDERS``.
            threads: intra-op threads.
            timeout: seconds that loading, or one turn, may take.
            memory_limit: bytes the process may allocate; None for no limit. Not on Windows.
        """
        self._timeout = timeout
        request = {
            "model": model,
            "inputs": inputs,
            "arrays": arrays,
            "provider": provider,
            "threads": threads,
            "memory_limit": memory_limit,
        }
        self._send(json.dumps(request))

    def wait_until_loaded(self) -> None:
        """Return when the model is loaded.

        Raises:
            CheckError: it does not load, or the process crashed or hung.
        """
        self._receive()

    def time_inference(self) -> int:
        """Make one unmeasured and one measured inference; return the latter's nanoseconds.

        Raises:
            CheckError: the model does not run, or the process crashed or hung.
        """
        self._send("run")
        return int(self._receive()["ns"])

    def unload(self) -> bool:
        """Let go of the model and its memory; return whether another one may be loaded."""
        if self._failed or self._process.poll() is not None:
            return False
        self._send("unload")
        return True

    def close(self) -> None:
        """End the process, whatever it is doing, and wait until it is gone."""
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone: the next _receive says why
            print(line, file=self._process.stdin, flush=True)

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        self._failed = True  # unless the answer arrives, even if Ctrl-C interrupts
        alarm = threading.Timer(self._timeout, self._give_up)
        alarm.daemon = True
        try:
            alarm.start()  # in here, because Ctrl-C may interrupt this line too
            line = self._process.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            raise CheckError(self._obituary())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CheckError(answer["error"])
        self._failed = False
        return answer

    def _give_up(self) -> None:
        self._timed_out = True
        self._process.kill()

    def _obituary(self) -> str:
        status = self._process.wait()
        if self._timed_out:
            return f"no answer within {self._timeout:g} s; its process was ended"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        last_words = next((line for line in reversed(lines) if line.strip()), "no message")
        cause = signal.strsignal(-status) if status < 0 else f"exit status {status}"
        return f"its process ended unexpectedly ({cause}): {last_words}"


def _python_path() -> str:
    """Let the child find this very package, however the parent found it."""
    return os.pathsep.join(filter(None, [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH")]))


def main() -> None:
    """Obey standard input and answer on standard output until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to all, they are the parent's to handle
        signal.signal(number, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read_lines, args=[lines], daemon=True)
    reader.start()

    def answer(**content: object) -> None:
        print(json.dumps(content), file=answers, flush=True)

    try:
        _serve(lines, answer)
    except AdvconvError as error:
        answer(error=str(error))
    except MemoryError:
        answer(error="out of memory; raise the limit or use smaller inputs")
    reader.join()  # Python cannot shut down while a thread reads standard input


def _read_lines(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # at once: the parent is gone, or done with us


def _serve(lines: queue.SimpleQueue[str], answer: Callable[..., None]) -> None:
    session: ort.InferenceSession | None = None
    inputs: dict[str, np.ndarray] = {}
    while True:
        line = lines.get().strip()
        if line == "run":
            assert session is not None
            run_session(session, inputs)
            start = time.perf_counter_ns()
            session.run(None, inputs)
            answer(ns=time.perf_counter_ns() - start)
            continue
        session, inputs = None, {}  # frees them before the next ones need memory
        if line != "unload":
            session, inputs = _load(**json.loads(line))
            answer(loaded=True)


def _load(
    model: str,
    inputs: list[str],
    arrays: str,
    provider: str,
    threads: int,
    memory_limit: int | None,
) -> tuple[ort.InferenceSession, dict[str, np.ndarray]]:
    if sys.platform != "win32":
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (memory_limit or most, most))
    with np.load(arrays) as stored:
        values = [stored[f"arr_{i}"] for i in range(len(inputs))]
    session = create_session(model, model, provider=provider, threads=threads)
    return session, dict(zip(inputs, values, strict=True))


if __name__ == "__main__":
    main()

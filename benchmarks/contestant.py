"""The parent's end of ``peer_worker.py``: a process that computes in its turn, and only then.

Runtimes differ in how long their threads spin when they have nothing to do. Here none of them can:
outside its turn the process is stopped (SIGSTOP), so it slows no other. It has a process group of
its own, of which the kernel ends stopped members (SIGHUP) should this parent die.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_tools import Failed

_TIMEOUT = 300
"""Seconds for loading, or for one turn."""

_WORKER = Path(__file__).with_name("peer_worker.py")


class Contestant:
    """Whoever makes one must ``close`` it."""

    def __init__(
        self, python: str, request: Mapping[str, Any], variables: Mapping[str, str]
    ) -> None:
        """Load a model, run it once, and stop the process.

        Args:
            python: the interpreter that has the runtime.
            request: what ``peer_worker`` reads, without "results".
            variables: to add to the environment.

        Raises:
            Failed: the model does not load or run.
        """
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close)
        self._process = subprocess.Popen(
            # -P: no module of ours must shadow one of the runtime.
            [python, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            env={**os.environ, **variables},
            process_group=0,
        )
        try:
            with tempfile.TemporaryDirectory() as folder:
                results = Path(folder, "results.npz")
                self._ask(json.dumps({**request, "results": str(results)}))
                with np.load(results) as arrays:
                    self.outputs = [arrays[name] for name in arrays.files]
        except Failed:
            self.close()
            raise

    def time_inference(self) -> int:
        """Make one unmeasured and one measured inference; return the latter's nanoseconds.

        Raises:
            Failed: the process crashed or hung.
        """
        return int(self._ask("run")["ns"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._messages.close()

    def _ask(self, line: str) -> dict[str, Any]:
        """Give the process a turn."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        alarm = threading.Timer(_TIMEOUT, self._process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            self._process.send_signal(signal.SIGCONT)
            print(line, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
            if answer:  # else it is ending, and would never
                self._process.send_signal(signal.SIGSTOP)
        except BrokenPipeError:
            answer = ""
        finally:
            alarm.cancel()
        if not answer:
            raise Failed(self._obituary())
        content: dict[str, Any] = json.loads(answer)
        return content

    def _obituary(self) -> str:
        status = self._process.wait()
        self._messages.seek(0)
        lines = self._messages.read().decode(errors="replace").splitlines()
        last_words = next((line for line in reversed(lines) if line.strip()), "no message")
        cause = signal.strsignal(-status) if status < 0 else f"exit status {status}"
        return f"its process ended ({cause}): {last_words.strip()[:200]}"

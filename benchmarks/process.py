"""Run a command and say how long it took and how much memory all its processes held."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_INTERVAL = 0.03
"""Seconds between two looks at the memory."""


@dataclasses.dataclass(frozen=True)
class Usage:
    """What one command took.

    Attributes:
        seconds: from start to end.
        peak: bytes resident at once in the command's process and all below it. Pages that two of
            them share count twice, pages of mapped files count.
        anonymous: the part of it that is no page of a file, at its own peak.
        failure: why the command did not do its work; nothing when it did.
    """

    seconds: float
    peak: int
    anonymous: int
    failure: str = ""


def run(command: Sequence[str], timeout: float) -> Usage:
    """Run a command to its end, or kill it with all processes below it."""
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )
        watch = _Watch(process.pid)
        watch.start()
        late = threading.Timer(timeout, _kill, (process.pid,))
        late.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        watch.stop()
        late.cancel()
        output.seek(0)
        lines = output.read().split("\n")
    failure = ""
    if process.returncode == -signal.SIGKILL and seconds >= timeout:
        failure = f"no result within {timeout:g} s"
    elif process.returncode:
        last = next((line for line in reversed(lines) if line.strip()), "no message")
        failure = f"status {process.returncode}: {last.strip()[:200]}"
    return Usage(seconds, max(watch.peak, usage.ru_maxrss * 1024), watch.anonymous, failure)


def _kill(pid: int) -> None:
    for each in (*_descendants(pid), pid):
        try:
            os.kill(each, signal.SIGKILL)
        except ProcessLookupError:
            continue


class _Watch(threading.Thread):
    """Looks again and again at the memory of a process and of all below it."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._ended = threading.Event()
        self.peak = 0
        self.anonymous = 0

    def run(self) -> None:
        while not self._ended.wait(_INTERVAL):
            held = [_memory(pid) for pid in (self._pid, *_descendants(self._pid))]
            self.peak = max(self.peak, sum(resident for resident, _ in held))
            self.anonymous = max(self.anonymous, sum(anonymous for _, anonymous in held))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def _descendants(pid: int) -> list[int]:
    """Processes below one, found by their parents."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # The name, in parentheses, may hold anything; state and parent follow it.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, ())
    return found[1:]


def _memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, and how many of them belong to no file."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in status.splitlines() if line.startswith("Rss"))
    kib = {name: int(text.split()[0]) for name, text in fields.items()}
    return sum(kib.values()) * 1024, (sum(kib.values()) - kib.get("RssFile", 0)) * 1024

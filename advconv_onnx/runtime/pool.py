"""Worker processes that are used again: to start one takes longer than a short measurement."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Self

from advconv_onnx.runtime.worker import Worker


class Pool:
    """As many workers as are needed at once; as a context manager it ends them all.

    A worker whose model failed, crashed or hung is ended and not lent again.
    """

    def __init__(self) -> None:
        """Start no process yet."""
        self._idle: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._idle:
            self._idle.pop().close()

    @contextlib.contextmanager
    def lend(self) -> Iterator[Worker]:
        """A worker without a model, which it again is when it is given back."""
        worker = self._idle.pop() if self._idle else Worker()
        try:
            yield worker
        except BaseException:
            worker.close()
            raise
        if worker.unload():
            self._idle.append(worker)
        else:
            worker.close()

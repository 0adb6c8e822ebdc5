"""A function applied in threads while its results are used, a bounded number of times ahead."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def ahead(
    function: Callable[[A], B], items: Iterable[A], *, threads: int, most: int
) -> Iterator[B]:
    """Like ``map``, in threads.

    Args:
        function: what it raises is raised when its result is asked for.
        items: looked at in this thread, one when a result is asked for.
        threads: how many.
        most: how many results there are at a time, in the making or waiting.
    """
    pending: collections.deque[Future[B]] = collections.deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="advconv")
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= most:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

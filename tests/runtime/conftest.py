"""Workers that answer at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from advconv_onnx.runtime import pool


class FakeWorker:
    """Answers with the latencies a test prescribes, and records the order of the turns."""

    order: list[str]
    latency: Callable[[str], int]

    def load(self, model: str, inputs: list[str], arrays: str, **options: Any) -> None:
        self._model = model

    def wait_until_loaded(self) -> None:
        pass

    def time_inference(self) -> int:
        self.order.append(self._model)
        return type(self).latency(self._model)

    def unload(self) -> bool:
        return False

    def close(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorker]:
    """The class that stands in for ``Worker``."""
    monkeypatch.setattr(pool, "Worker", FakeWorker)
    monkeypatch.setattr(FakeWorker, "order", [], raising=False)
    monkeypatch.setattr(FakeWorker, "latency", lambda model: 1_000_000, raising=False)
    return FakeWorker

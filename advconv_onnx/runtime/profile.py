"""Where the time of an inference goes, by operator type."""

from __future__ import annotations

import collections
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from advconv_onnx.records import OperatorTime
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.session import open_session

# The time of these is that of the nodes in their bodies, which the profile lists too.
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def profile(
    model: ir.Model | os.PathLike[str],
    inputs: Mapping[str, np.ndarray],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    runs: int = 10,
) -> tuple[OperatorTime, ...]:
    """Return the time per operator type over ``runs`` >= 1 inferences, the longest first.

    Profiling itself costs time: compare shares, and take latencies from ``timing.measure``.

    Raises:
        InputError: no such provider, or fewer than one thread.
        MissingDependencyError: the provider does not work here.
        CheckError: the model does not load or run.
    """
    with tempfile.TemporaryDirectory(prefix="advconv-") as folder:
        session = open_session(
            model, provider=provider, threads=threads, profile_prefix=str(Path(folder, "profile"))
        )
        try:
            for _ in range(1 + runs):
                run_session(session, inputs)
        finally:
            file = Path(session.end_profiling())
        return operator_times(json.loads(file.read_text(encoding="utf-8")))


def operator_times(events: Sequence[Mapping[str, Any]]) -> tuple[OperatorTime, ...]:
    """Sum the events of ONNX Runtime's profile, without its first inference, by operator type.

    Args:
        events: the file's content; times are in microseconds.
    """
    inferences = [event for event in events if event["name"] == "model_run"]
    warm_from = inferences[0]["ts"] + inferences[0]["dur"]
    runs = len(inferences) - 1
    spent: collections.Counter[str] = collections.Counter()
    count: collections.Counter[str] = collections.Counter()
    for event in events:
        if event["ts"] < warm_from or not event["name"].endswith("_kernel_time"):
            continue
        op_type = event["args"]["op_name"]
        if op_type not in _CONTROL_FLOW:
            spent[op_type] += event["dur"]
            count[op_type] += 1
    total = sum(spent.values())
    return tuple(
        OperatorTime(op_type, round(count[op_type] / runs), us / runs / 1e3, us / max(total, 1))
        for op_type, us in spent.most_common()
    )

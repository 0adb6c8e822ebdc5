"""Whether a bundle is whole, and computes here what it computed where it was made."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advconv_onnx.errors import CheckError
from advconv_onnx.records import TensorCheck, Validation
from advconv_onnx.runner import bundle as bundles
from advconv_onnx.runner.manifest import MANIFEST, MODEL, SAMPLES
from advconv_onnx.runtime.difference import Difference
from advconv_onnx.runtime.engine import run_session
from advconv_onnx.runtime.inputs import spell_shapes
from advconv_onnx.runtime.session import open_session


def check(
    bundle: str | os.PathLike[str], *, provider: str = "cpu", threads: int | None = None
) -> Validation:
    """Tell whether a bundle is whole and computes here what it computed where it was made.

    Args:
        bundle: the folder or the zip.
        provider: a name of ``providers.PROVIDERS``.
        threads: intra-op threads; None for one per physical core.

    Raises:
        InputError: there is no bundle, or what is there is none.
        CheckError: a file was changed, added or lost, or the model does not load or run here.
        MissingDependencyError: the provider does not work here.
    """
    with bundles.opened(Path(bundle)) as (folder, manifest):
        session = open_session(folder / MODEL, provider=provider, threads=threads)
        names = [value["name"] for value in manifest["outputs"]]
        differences = {name: Difference(None) for name in names}
        shapes = []
        samples = sorted((folder / SAMPLES).glob("*.npz"))
        for sample in samples:
            given, want = _read_sample(sample, manifest)
            shapes.append(spell_shapes(given))
            got = run_session(session, given)
            if got.keys() != want.keys():
                raise CheckError(f"the model's outputs are not those that {MANIFEST} names")
            for name, expected in want.items():
                differences[name].add(expected, got[name], None, typed=False)
    limit = float(manifest["max_error"])
    checks = [TensorCheck(n, d.error(limit), d.range) for n, d in differences.items()]
    problems = [f"output '{n}' {d.problem}" for n, d in differences.items() if d.problem]
    passed = not problems and all(not d.differs(limit) for d in differences.values())
    return Validation(
        passed and bool(samples),
        limit,
        tuple(checks),
        len(samples),
        tuple(dict.fromkeys(shapes)),
        tuple(problems),
    )


def _read_sample(
    path: Path, manifest: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and expected outputs by name."""
    names = {kind: [v["name"] for v in manifest[f"{kind}s"]] for kind in ("input", "output")}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            given, want = (
                {name: arrays[f"{kind}_{index}"] for index, name in enumerate(names[kind])}
                for kind in ("input", "output")
            )
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise CheckError(f"'{SAMPLES}/{path.name}' does not fit {MANIFEST}") from error
    return given, want

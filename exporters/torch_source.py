"""Find the torch module that the command line names."""

from __future__ import annotations

import importlib
import operator
import os
import sys
from pathlib import Path
from typing import Any

import torch

from advconv_onnx.errors import InputError
from advconv_onnx.exporters.torch_output import blaming, silence

Source = torch.nn.Module | torch.export.ExportedProgram


def load_source(source: str, *, seed: int = 0) -> Source:
    """Find the module to export.

    Args:
        source: ``package.module:callable`` returning a module or a ``torch.export`` program (or
            naming one), found from the current directory too; or the file of a program, ``*.pt2``.
        seed: of torch's generator while the callable builds its module.

    Raises:
        InputError: nothing there, the callable fails, or what comes out is no module.
    """
    if source.endswith(".pt2"):
        return _load_program(Path(source))
    name, separator, attribute = source.partition(":")
    if not (name and separator and attribute):
        raise InputError(
            f"source '{source}' is neither 'package.module:callable' nor the path of a .pt2 file"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    with blaming(f"source '{source}': cannot import '{name}'"):
        found: Any = importlib.import_module(name)
    with blaming(f"source '{source}': no '{attribute}' in module '{name}'"):
        found = operator.attrgetter(attribute)(found)
    if not isinstance(found, Source) and callable(found):
        with blaming(f"source '{source}': calling it failed"), torch.random.fork_rng():
            torch.manual_seed(seed)
            found = found()
    if not isinstance(found, Source):
        raise InputError(
            f"source '{source}' gives a {type(found).__name__}; a torch.nn.Module is required"
        )
    return found


def _load_program(path: Path) -> torch.export.ExportedProgram:
    with blaming(f"cannot load '{path}' as a torch.export program"), silence():
        return torch.export.load(path)

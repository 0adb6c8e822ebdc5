"""The command line: parses arguments, calls one function, prints one report.

Exit status: 0 done, 1 a check failed, 2 the call or the input is wrong, 130 or 143 interrupted.
Commands import what they need when they run, so that ``advconv --help`` answers at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import logging
import math
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from advconv_onnx.errors import AdvconvError, InputError
from advconv_onnx.preprocessing import parse_fields

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from rich.console import Console, RenderableType

    from advconv_onnx.optimizer.decisions import Decisions
    from advconv_onnx.records import (
        Bench,
        Built,
        Comparison,
        FileFailure,
        Inspection,
        PackageStatus,
        Shape,
    )

_CTRL_C = 130
"""What typer makes of a KeyboardInterrupt."""

_TERMINATED = 128 + signal.SIGTERM

_TARGETS: Mapping[str, str] = {
    "fp16": "fp16",
    "int8": "int8",
    "ort": "ort_format",
    "onnx": "self_contained",
    "openvino": "openvino_ir",
    "triton": "triton",
    "bundle": "bundle",
}
"""What ``convert`` converts to, and the file of ``exporters`` with its ``Options``."""

_PACKAGES = (
    ("onnx", "reading and checking models", "pip install advconv-onnx"),
    ("onnx-ir", "graphs in memory", "pip install advconv-onnx"),
    ("onnxscript", "rewriting graphs", "pip install advconv-onnx"),
    ("safetensors", "trained weights", "pip install advconv-onnx"),
    ("torch", "advconv export", "pip install 'advconv-onnx[torch]'"),
    ("matplotlib", "advconv inspect --card", "pip install 'advconv-onnx[report]'"),
    ("pillow", "advconv run on pictures", "pip install 'advconv-onnx[images]'"),
    ("distributed", "advconv run --scheduler", "pip install 'advconv-onnx[dask]'"),
    ("openvino", "advconv convert --to openvino", "pip install 'advconv-onnx[openvino]'"),
)
"""Distributions, what they are for, and how to get them."""


class _Stopped(AdvconvError):
    """A run was interrupted, and what it has written stays."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.exit_status = status


class _Commands(TyperGroup):
    """The commands; a closed pipe is no error."""

    def invoke(self, ctx: Any) -> Any:
        try:
            status = super().invoke(ctx)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            # Whoever reads our output has seen enough. Python must not flush into the pipe later.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


def _check_positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter(f"{value:g} is not a number above 0")
    return value


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    help="Optimize convolutional ONNX networks: proved equal, and measured faster here.",
    epilog="Exit status: 0 done; 1 a check failed; 2 the call or the input is wrong; 130 Ctrl-C.",
)

cache = typer.Typer(
    no_args_is_help=True,
    help="Look after what --level search measured; ADVCONV_CACHE names another file, or is 'off'.",
)
app.add_typer(cache, name="cache")

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file; never modified.")]
Out = Annotated[Path, typer.Option("-o", "--out", help="Where the resulting ONNX file goes.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=SHAPE",
        help="Shape of a graph input, x=1x3x224x224; letters stay dynamic, x=Nx3xHxW; ? is "
        "unknown. Repeatable.",
    ),
]
Provider = Annotated[
    str, typer.Option(metavar="NAME", help="Where to run: cpu, cuda, tensorrt or openvino.")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=1024, metavar="N", help="Default: one per physical core."),
]
Data = Annotated[
    Path | None, typer.Option(metavar="FILE.npz", help="Arrays to run with, by input name.")
]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Of all random inputs.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the report as JSON here.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
MaxError = Annotated[
    float,
    typer.Option(
        metavar="E",
        help="Largest error allowed, relative to an output's range.",
        callback=_check_positive,
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(metavar="S|HxW", help="Pictures: the shorter side, or height and width."),
]
Crop = Annotated[
    str | None, typer.Option(metavar="HxW", help="Pictures: cut this out of the middle.")
]
Channels = Annotated[str | None, typer.Option(metavar="RGB|BGR|L", help="Pictures: RGB if unsaid.")]
Scale = Annotated[
    str | None, typer.Option(metavar="X", help="Pictures: factor of the pixels; 1/255 if unsaid.")
]
Mean = Annotated[
    str | None, typer.Option(metavar="R,G,B", help="Pictures: subtracted after scaling.")
]
Std = Annotated[str | None, typer.Option(metavar="R,G,B", help="Pictures: divided by then.")]
Layout = Annotated[
    str | None, typer.Option(metavar="NCHW|NHWC", help="Pictures: what the model takes.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: those of the process when None.

    Returns:
        The exit status.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments  # wherever it stands
    # ONNX Runtime keeps a record of its use in the user's cache otherwise.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        with _orderly_termination(), contextlib.nullcontext() if debug else _silence():
            wanted = [argument for argument in arguments if argument != "--debug"]
            status = app(args=wanted, prog_name="advconv", standalone_mode=False) or 0
            if status == _CTRL_C:
                raise KeyboardInterrupt
            return int(status)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if debug:
            traceback.print_exc()
        message, status = _explain(error)
        if message:
            print("advconv:", " ".join(message.split()), file=sys.stderr)
        return status


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, or went wrong while things were put in order after one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _explain(error: BaseException) -> tuple[str, int]:
    """Say in one line what went wrong; return it with the exit status."""
    if _is_interrupt(error):
        return "interrupted; nothing was written", _CTRL_C
    if isinstance(error, AdvconvError):
        return str(error), error.exit_status
    if isinstance(error, SystemExit):
        return "terminated; nothing was written", _TERMINATED
    if isinstance(error, MemoryError):
        return "out of memory; use smaller inputs or a machine with more", 2
    if isinstance(error, ImportError):
        return f"cannot import {error.name or 'a package'} ({error}); reinstall advconv-onnx", 2
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = f" while writing '{error.filename}'" if error.filename else ""
        return f"the disk is full{where}; free some space, or set TMPDIR to another disk", 2
    if isinstance(error, OSError):
        return f"{error}; check the path and its permissions", 2
    if hasattr(error, "format_message"):  # typer's own: the call is wrong
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "advconv"
        message = error.format_message()
        return f"{message.rstrip('.')}; see '{command} --help'" if message else "", 2
    what = f"{type(error).__name__}: {error}"
    return f"unexpected {what}; run again with --debug and report what it prints", 2


@contextlib.contextmanager
def _orderly_termination() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that processes are ended and temporary files removed."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals nowhere else
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep log lines and warnings of libraries, native ones included, off the terminal.

    Their native parts write to file descriptor 2, whatever ``sys.stderr`` is.
    """
    disabled = logging.root.manager.disable
    sys.stderr.flush()
    descriptor, python_stderr = os.dup(2), sys.stderr
    with (
        warnings.catch_warnings(action="ignore"),
        open(descriptor, "w", buffering=1, errors="backslashreplace") as kept,
        open(os.devnull, "w") as nowhere,
    ):
        logging.disable(logging.CRITICAL)
        os.dup2(nowhere.fileno(), 2)
        if sys.stderr is sys.__stderr__:
            sys.stderr = kept
        try:
            yield
        finally:
            sys.stderr = python_stderr
            os.dup2(descriptor, 2)
            logging.disable(disabled)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"advconv-onnx {version('advconv-onnx')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and log lines; may stand anywhere.")
    ] = False,
) -> None:
    """Optimize convolutional ONNX networks: proved equal, and measured faster here."""


@app.command()
def optimize(
    model: Model,
    out: Out,
    inputs: Inputs = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    level: Annotated[
        str,
        typer.Option(
            metavar="fuse|search", help="fuse times nothing; search never ships a slower model."
        ),
    ] = "search",
    max_error: MaxError = 1e-4,
    max_growth: Annotated[
        float, typer.Option(metavar="R", help="Largest ratio of file sizes allowed.")
    ] = 2.0,
    time_limit: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds after which nothing more is tried.")
    ] = None,
    memory_limit: Annotated[
        float | None, typer.Option(metavar="GIB", help="Of each process that runs a candidate.")
    ] = None,
    data: Data = None,
    json: JsonFile = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Write an equal and, on this machine, faster version of a model."""
    shapes = parse_inputs(inputs)
    _check_json(json, model, out)
    from advconv_onnx.optimizer.pipeline import optimize as run
    from advconv_onnx.report import schema, terminal
    from advconv_onnx.runtime.placement import placement

    with _progress(quiet) as announce:
        report = run(
            model,
            out,
            progress=announce,
            inputs=shapes,
            provider=provider,
            threads=threads,
            level=level,
            max_error=max_error,
            max_growth=max_growth,
            time_limit=time_limit,
            memory_limit=memory_limit,
            data=_read_arrays(data),
            seed=seed,
        )
    screens = [terminal.optimization(report)]
    if provider != "cpu":
        screens.append(terminal.elsewhere(placement(out, provider), provider, str(out)))
    _publish([] if quiet else screens, schema.optimization(report), json)


@app.command()
def inspect(
    model: Model,
    inputs: Inputs = None,
    json: JsonFlag = False,
    card: Annotated[
        str | None,
        typer.Option(metavar="NODE", help="Measure and draw this layer, or Resize, instead."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="The picture: .svg or .png."),
    ] = None,
) -> None:
    """List the convolution-like layers of a model with their costs, or draw one of them."""
    shapes = parse_inputs(inputs)
    if card is not None or out is not None:
        _draw_card(model, shapes, card, out, json)
        return
    from advconv_onnx import model as files
    from advconv_onnx.inspection import inspect as run
    from advconv_onnx.report import schema, terminal

    with _progress() as announce:
        announce("inspecting")
        loaded = files.load(model)
        files.override_inputs(loaded, shapes)
        found: Inspection = run(loaded)
    if json:
        print(schema.dumps(schema.inspection(found)), end="")
    else:
        _print(terminal.inspection(found), fold=False)


def _draw_card(
    model: Path, shapes: Mapping[str, Shape], node: str | None, out: Path | None, json: bool
) -> None:
    if node is None or out is None or json:
        raise InputError("a card needs --card NODE and -o FILE, and is no JSON; give both alone")
    if out.suffix not in (".svg", ".png"):
        raise InputError(f"-o '{out}': a card is drawn as .svg or .png; name the file so")
    from advconv_onnx import model as files
    from advconv_onnx.cards import card as measure_card
    from advconv_onnx.report.layer_card import draw

    files.check_writable(out)
    with _progress() as announce:
        announce("measuring")
        loaded = files.load(model)
        _keep_inputs([out], [model, *files.data_files(loaded)])
        files.override_inputs(loaded, shapes)
        found = measure_card(loaded, node)
        announce("drawing")
        files.write_bytes(out, draw(found, "svg" if out.suffix == ".svg" else "png"))
    print(f"ONNX Runtime does with '{found.layer.name}' what its attributes say; drawn in {out}")


@app.command()
def validate(
    model: Model,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER",
            help="The model to trust. Without it, MODEL is compared with itself in float64.",
        ),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Also find the first inner tensor that differs.")
    ] = False,
    provider: Provider = "cpu",
    inputs: Inputs = None,
    data: Data = None,
    threads: Threads = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            metavar="E",
            help="Largest error allowed, relative to an output's range; 1e-4 if unsaid, 5e-3 where "
            "weights are float16, 2e-2 where tensors are quantized.",
            callback=_check_positive,
        ),
    ] = None,
    seed: Seed = 0,
    json: JsonFile = None,
) -> int:
    """Tell whether a model, or a bundle, computes what it should; the exit status is 1 when not."""
    shapes = parse_inputs(inputs)
    _check_json(json, model, *filter(None, [against]))
    if model.is_dir() or model.suffix == ".zip":
        if against or layers or shapes or data or max_error:
            raise InputError(
                "a bundle has its own samples and limits; give nothing but --provider and --threads"
            )
        return _validate_bundle(model, provider, threads, json)
    from advconv_onnx import model as files
    from advconv_onnx.report import schema, terminal
    from advconv_onnx.runtime.placement import placement
    from advconv_onnx.runtime.validate import usual_error, validate_runtime
    from advconv_onnx.runtime.validate import validate as compare

    options: dict[str, Any] = {
        "seed": seed,
        "provider": provider,
        "threads": threads,
        "data": _read_arrays(data),
        "layers": layers,
    }
    with _progress() as announce:
        announce("validating")
        judged = files.load_runnable(model, shapes)
        options["max_error"] = max_error or usual_error(judged)
        if against is None:
            found = validate_runtime(judged, **options)
        else:
            trusted = files.load_runnable(against, shapes)
            _adopt_sizes(trusted, judged)
            found = compare(trusted, judged, **options)
    screens = [terminal.validation(found)]
    if provider != "cpu":
        screens.append(terminal.elsewhere(placement(judged, provider), provider, str(model)))
    _publish(screens, schema.validation(found), json)
    return 0 if found.passed else 1


def _validate_bundle(bundle: Path, provider: str, threads: int | None, json: Path | None) -> int:
    from advconv_onnx.exporters.bundle_check import check
    from advconv_onnx.report import schema, terminal

    with _progress() as announce:
        announce("validating")
        found = check(bundle, provider=provider, threads=threads)
    _publish([terminal.validation(found)], schema.validation(found), json)
    return 0 if found.passed else 1


def _adopt_sizes(trusted: ir.Model, judged: ir.Model) -> None:
    """Fix those input sizes of ``trusted`` that only ``judged`` fixes, as ``optimize`` may do."""
    import onnx_ir as ir

    shapes = {value.name: value.shape for value in judged.graph.inputs}
    for value in trusted.graph.inputs:
        ours, theirs = value.shape, shapes.get(value.name)
        if ours is not None and theirs is not None and len(ours) == len(theirs):
            pairs = zip(ours, theirs, strict=True)
            value.shape = ir.Shape(
                their if isinstance(their, int) and not isinstance(our, int) else our
                for our, their in pairs
            )


@app.command()
def bench(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="The first one is the baseline.")
    ],
    provider: Annotated[
        str, typer.Option(metavar="NAME[,NAME]", help="One table for each: cpu, cuda, ...")
    ] = "cpu",
    inputs: Inputs = None,
    data: Data = None,
    threads: Threads = None,
    seed: Seed = 0,
    json: JsonFile = None,
) -> int:
    """Time models against each other in paired rounds; the exit status is 1 when one fails."""
    shapes = parse_inputs(inputs)
    _check_json(json, *models)
    if len(set(models)) < len(models):
        raise InputError("a model is given twice; once is enough to measure the noise floor")
    from advconv_onnx import model as files
    from advconv_onnx.report import schema, terminal
    from advconv_onnx.runtime.providers import require

    providers = list(dict.fromkeys(provider.split(",")))
    for name in providers:
        require(name)
    with _progress() as announce, tempfile.TemporaryDirectory(prefix="advconv-") as folder:
        announce("reading")
        arrays = _read_arrays(data)
        for path in models:
            files.load_runnable(path, shapes)
        paths = {
            str(path): files.reshaped(path, shapes, Path(folder, f"{index}.onnx"))
            for index, path in enumerate(models)
        }
        runs = [_bench_on(name, paths, arrays, threads, seed, announce) for name in providers]
    _publish([terminal.bench(run) for run in runs], schema.bench(runs), json)
    return 1 if any(run.measurement.failures for run in runs) else 0


def _bench_on(
    provider: str,
    paths: Mapping[str, Path],
    data: Mapping[str, np.ndarray] | None,
    threads: int | None,
    seed: int,
    announce: Callable[[str], None],
) -> Bench:
    from advconv_onnx import model as files
    from advconv_onnx.records import Bench
    from advconv_onnx.runtime.engine import resolve_threads
    from advconv_onnx.runtime.inputs import largest_sample
    from advconv_onnx.runtime.placement import placement
    from advconv_onnx.runtime.providers import device
    from advconv_onnx.runtime.timing import measure

    baseline = files.load_runnable(next(iter(paths.values())), {})
    sample = largest_sample(baseline, seed=seed, threads=threads, data=data)
    measurement = measure(
        paths,
        sample.inputs,
        provider=provider,
        threads=threads,
        seed=seed,
        progress=lambda done, expected: announce(f"round {done} of {expected} on {provider}"),
    )
    # A failing model is known by its name, not by where its copy with other shapes was.
    failures = {
        name: why.removeprefix(f"{paths[name]}: ") for name, why in measurement.failures.items()
    }
    asked = {name: paths[name] for name in paths if provider != "cpu" and name not in failures}
    return Bench(
        device(provider, resolve_threads(threads)),
        dataclasses.replace(measurement, failures=failures),
        {name: placement(path, provider) for name, path in asked.items()},
    )


@app.command()
def export(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="package.module:callable, or a .pt2 file.")
    ],
    out: Out,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=SHAPE[:TYPE]",
            help="x=Nx3x224x224: letters stay dynamic; ids=1xT:int64 for what the weights are not. "
            "Repeatable; .pt2 files know theirs.",
        ),
    ] = None,
    opset: Annotated[int, typer.Option(metavar="N", help="Version of the operator set.")] = 20,
    max_error: Annotated[
        float | None,
        typer.Option(
            metavar="E",
            help="Largest error allowed, relative to an output's range; 1e-4 if unsaid, 5e-3 where "
            "weights are float16.",
            callback=_check_positive,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Of drawn weights and of all random inputs.")
    ] = 0,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Export a torch module to ONNX and prove that both compute the same."""
    shapes, types = _parse_typed_inputs(inputs)
    _check_json(json, out)
    with _progress(quiet) as announce:
        announce("importing torch")
        from advconv_onnx.exporters.torch_arguments import TensorSpec
        from advconv_onnx.exporters.torch_module import export as run
        from advconv_onnx.exporters.torch_source import load_source
        from advconv_onnx.report import schema, terminal

        announce("loading")
        module = load_source(source, seed=seed)
        announce("exporting")
        given = {name: TensorSpec(shape, types.get(name)) for name, shape in shapes.items()}
        found = run(module, given, out, opset=opset, seed=seed, max_error=max_error)
    screens = [] if quiet else [terminal.validation(found), f"written to {out}"]
    _publish(screens, schema.validation(found), json)


@app.command()
def convert(
    model: Model,
    target: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="|".join(_TARGETS),
            help="Mixed precision, 8 bits, a .ort file, ONNX that takes pictures, OpenVINO's .xml, "
            "a folder for Triton, or a bundle (folder or .zip).",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where the result goes.")],
    inputs: Inputs = None,
    float16_io: Annotated[
        bool, typer.Option("--float16-io", help="fp16: inputs and outputs in float16 too.")
    ] = False,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="minmax|entropy|percentile", help="int8: how ranges are taken from --data."
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="top1", help="int8: the best class must stay, not all values."),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(metavar="X", help="int8: of the metric; 0.01 if unsaid.")
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option(metavar="7|8", help="int8: if unsaid, 8 where they are exact, else 7."),
    ] = None,
    every_layer: Annotated[
        bool,
        typer.Option("--every-layer", help="int8: ConvTranspose too, for other runtimes."),
    ] = False,
    allow_slower: Annotated[
        bool, typer.Option("--allow-slower", help="int8: also write what is slower here.")
    ] = False,
    this_processor: Annotated[
        bool,
        typer.Option("--this-processor", help="ort: layouts that only processors like this have."),
    ] = False,
    float16_weights: Annotated[
        bool, typer.Option("--float16-weights", help="openvino: store weights in float16.")
    ] = False,
    postprocess: Annotated[
        str | None,
        typer.Option(metavar="argmax|softmax", help="onnx: what is made of the scores."),
    ] = None,
    scores_output: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="onnx: the output with the scores, of several."),
    ] = None,
    picture_input: Annotated[
        str | None, typer.Option(metavar="NAME", help="onnx: the input for pictures, of several.")
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(metavar="N", help="triton: samples that may be joined; 8 if unsaid.", min=1),
    ] = None,
    instances: Annotated[
        int | None, typer.Option(metavar="N", help="triton: copies of the model at work.", min=1)
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="bundle, triton: text, a line for each class."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="bundle: what optimize --json wrote.")
    ] = None,
    resize: Resize = None,
    crop: Crop = None,
    channels: Channels = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            metavar="E",
            help="Largest error allowed, relative to an output's range; 5e-3 if unsaid for fp16, "
            "5e-2 for int8, for others what rounding explains.",
            callback=_check_positive,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz|FOLDER", help="Arrays by input name; for int8 also a folder of files."
        ),
    ] = None,
    threads: Threads = None,
    seed: Seed = 0,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Convert a model for deployment, and prove that it still computes the same."""
    shapes = parse_inputs(inputs)
    prepared = parse_fields(
        resize=resize,
        crop=crop,
        channels=channels,
        scale=scale,
        mean=mean,
        std=std,
        layout=layout,
    )
    special = {
        "float16_io": float16_io,
        "calibration": calibration,
        "metric": metric,
        "max_drop": max_drop,
        "weight_bits": weight_bits,
        "every_layer": every_layer,
        "allow_slower": allow_slower,
        "this_processor": this_processor,
        "float16_weights": float16_weights,
        "max_batch": max_batch,
        "instances": instances,
        "postprocess": postprocess,
        "scores_output": scores_output,
        "picture_input": picture_input,
        "labels": labels,
        "report": report,
        "preprocessing": prepared or None,
    }
    given = {option: value for option, value in special.items() if value is not False}
    options: dict[str, Any] = {o: value for o, value in given.items() if value is not None}
    if target not in _TARGETS:
        raise InputError(f"--to '{target}' is unknown; use {', '.join(_TARGETS)}")
    _check_json(json, model, out)
    _keep_inputs([out, json], [labels, report])
    import importlib

    from advconv_onnx.report import schema, terminal

    exporter = importlib.import_module(f"advconv_onnx.exporters.{_TARGETS[target]}")
    known = {field.name for field in dataclasses.fields(exporter.Options)}
    for option in sorted(options.keys() - known):
        flag = "mean and the like" if option == "preprocessing" else option.replace("_", "-")
        raise InputError(f"--{flag}: not for --to {target}; leave it out")

    if max_error is not None:
        options["max_error"] = max_error
    with _progress(quiet) as announce:
        announce("reading")
        is_folder = target == "int8" and data is not None and data.is_dir()
        options["data"] = data if is_folder else _read_arrays(data)
        found = exporter.export(
            model, out, inputs=shapes, threads=threads, seed=seed, progress=announce, **options
        )
    _publish([] if quiet else [terminal.artifact(found)], schema.artifact(found), json)


@app.command()
def run(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="An .onnx or .ort file, or a bundle.")
    ],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Pictures, .npy, .npz, or folders of them."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder for the results; with --input an .npz file."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=FILE",
            help="Run once, on a picture, .npy or .npz for each input. Repeatable.",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--as", metavar="npz|labels|masks", help="What results are; npz if unsaid."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Files that go through the model together.")
    ] = None,
    resize: Resize = None,
    crop: Crop = None,
    channels: Channels = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Text, a line for each class.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="K", help="Classes named for each picture.")
    ] = None,
    provider: Provider = "cpu",
    threads: Threads = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|local", help="Let the workers of a Dask cluster do it."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="How many a local cluster starts; 2 if unsaid.")
    ] = None,
    json: JsonFile = None,
    quiet: Quiet = False,
) -> int:
    """Run a model on pictures and arrays; the exit status is 1 when a file was left out.

    A run that was interrupted goes on where it was when it is called again.
    """
    if bool(paths) == bool(inputs):
        raise InputError("give files or folders, or --input NAME=FILE; see 'advconv run --help'")
    files = _parse_files(inputs)
    _check_json(json, model, *(paths or ()), *files.values())
    _keep_inputs([out, json], [model, labels, *files.values()])
    options: dict[str, Any] = {
        "preprocessing": parse_fields(
            resize=resize,
            crop=crop,
            channels=channels,
            scale=scale,
            mean=mean,
            std=std,
            layout=layout,
        ),
        "labels": labels,
        "provider": provider,
        "threads": threads,
    }
    if top is not None:
        options["top"] = top
    given = {"as": form, "batch": batch, "scheduler": scheduler, "workers": workers}
    special = {name: value for name, value in given.items() if value is not None}
    if paths:
        if out is None:
            raise InputError("-o FOLDER is missing; name one for the results")
        return _run_files(model, paths, out, options | _parse_many(special), json, quiet)
    if special:
        raise InputError(f"--{min(special)}: not with --input, which runs the model once")
    _infer(model, files, out or Path("outputs.npz"), options, json, quiet)
    return 0


def _run_files(
    model: Path,
    paths: Sequence[Path],
    out: Path,
    options: Mapping[str, Any],
    json: Path | None,
    quiet: bool,
) -> int:
    from advconv_onnx.report import schema, terminal
    from advconv_onnx.runner.run import run as run_files

    status = 0
    with _counting(quiet) as (count, complain):
        try:
            found = run_files(model, paths, out, progress=count, failed=complain, **options)
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            status = _explain(error)[1]
            if status not in (_CTRL_C, _TERMINATED):
                raise
    if status:  # out here, where the interrupt is over
        raise _Stopped("interrupted; what is written stays, the same call goes on from it", status)
    _publish([] if quiet else [terminal.run(found)], schema.run(found), json)
    return 1 if found.failures else 0


def _infer(
    model: Path,
    inputs: Mapping[str, Path],
    out: Path,
    options: Mapping[str, Any],
    json: Path | None,
    quiet: bool,
) -> None:
    from advconv_onnx.report import schema, terminal
    from advconv_onnx.runner.inference import infer

    _keep_inputs([out], [model, *inputs.values()])
    with _progress(quiet) as announce:
        announce("running")
        found = infer(model, inputs, out, **options)
    _publish([] if quiet else [terminal.inference(found)], schema.inference(found), json)


def _parse_files(arguments: Sequence[str] | None) -> dict[str, Path]:
    """Read ``NAME=FILE`` arguments."""
    files: dict[str, Path] = {}
    for argument in arguments or ():
        name, _, path = argument.partition("=")
        if not (name and path):
            raise InputError(f"--input '{argument}' is not NAME=FILE, as in x=cat.jpg")
        if name in files:
            raise InputError(f"--input '{name}' is given twice; give each input one file")
        files[name] = Path(path)
    return files


def _parse_many(given: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options that are only for many files."""
    options = {"form" if name == "as" else name: value for name, value in given.items()}
    scheduler, workers = options.pop("scheduler", None), options.pop("workers", None)
    if workers is not None and (workers < 1 or scheduler not in (None, "local")):
        raise InputError(
            f"--workers {workers}: for --scheduler local, 1 or more; other clusters have theirs"
        )
    if scheduler is not None or workers is not None:
        from advconv_onnx.runner.cluster import Cluster

        address = None if scheduler in (None, "local") else scheduler
        options["cluster"] = Cluster(address, workers or 2)
    return options


@contextlib.contextmanager
def _counting(
    quiet: bool,
) -> Iterator[tuple[Callable[[int, int], None], Callable[[FileFailure], None]]]:
    """Show a bar on a terminal's standard error, and above it what goes wrong."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = _console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal
    ) as bar:
        task = bar.add_task("", total=None)

        def complain(failure: FileFailure) -> None:
            where = "" if failure.path in failure.reason else f"'{failure.path}': "
            console.print(f"advconv: left out: {where}{failure.reason}", soft_wrap=True)

        yield lambda done, total: bar.update(task, completed=done, total=total), complain


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def build(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A layer or network; --list shows them.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where the ONNX file goes.")
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Show layers and networks (or NAME) with their options.")
    ] = False,
    comparing: Annotated[
        bool,
        typer.Option("--compare", help="Compare kinds of convolution: costs, and latencies here."),
    ] = False,
    inputs: Inputs = None,
    state_dict: Annotated[
        Path | None,
        typer.Option("--state-dict", metavar="FILE", help="Trained weights, a safetensors file."),
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="float32 or float16.")] = "float32",
    opset: Annotated[int, typer.Option(metavar="N", help="Version of the operator set.")] = 20,
    threads: Threads = None,
    seed: Seed = 0,
    json: JsonFile = None,
) -> None:
    """Build a layer or a network of this package, or compare kinds of convolution.

    What NAME itself needs follows as --option VALUE, one number per axis as in --kernel-shape 3,5.
    """
    shapes = parse_inputs(inputs)
    options = [argument for argument in (name, *context.args) if argument is not None]
    name = None if not options or options[0].startswith("-") else options.pop(0)
    if listing + comparing + (out is not None) != 1 or bool(name or listing) == comparing:
        raise InputError(
            "give NAME -o OUT, NAME first, or --list, or --compare; see 'advconv build --help'"
        )
    if listing:
        _list_catalog(name)
        return
    if comparing and (dtype, opset, state_dict) != ("float32", 20, None):
        raise InputError(
            "--compare measures drawn float32 layers of opset 20; leave out --dtype, --opset and "
            "--state-dict"
        )
    _keep_inputs([json, out], [state_dict])
    _check_json(json, *filter(None, [out]))
    from advconv_onnx.report import schema, terminal

    with _progress() as announce:
        if name is None or out is None:
            compared = _compare(shapes, options, threads, seed, announce)
            screen, document = terminal.comparison(compared), schema.comparison(compared)
        else:
            announce("building")
            arguments = {"dtype": dtype, "opset": opset}
            if state_dict is None:
                arguments["seed"] = seed
            made = _build(name, out, shapes, state_dict, options, arguments)
            screen, document = terminal.built(made), schema.built(made)
    _publish([screen], document, json)


def _list_catalog(name: str | None) -> None:
    from advconv_onnx import catalog
    from advconv_onnx.arguments import spell_options
    from advconv_onnx.report import terminal

    chosen = catalog.entries().values() if name is None else [catalog.find(name)]
    rows = [(e.name, e.kind, e.summary, spell_options(e.options)) for e in chosen]
    _print(terminal.catalog(rows))


def _compare(
    shapes: Mapping[str, Shape],
    arguments: Sequence[str],
    threads: int | None,
    seed: int,
    announce: Callable[[str], None],
) -> Comparison:
    from advconv_onnx.arguments import parse_options
    from advconv_onnx.comparison import OPTIONS, USUAL_SHAPE, compare

    return compare(
        _only_shape(shapes) or USUAL_SHAPE,
        threads=threads,
        seed=seed,
        progress=lambda done, expected: announce(f"round {done} of {expected}"),
        **parse_options(arguments, OPTIONS, "--compare"),
    )


def _build(
    name: str,
    out: Path,
    shapes: Mapping[str, Shape],
    state_dict: Path | None,
    text: Sequence[str],
    arguments: Mapping[str, Any],
) -> Built:
    from advconv_onnx import catalog
    from advconv_onnx import model as files
    from advconv_onnx.arguments import parse_options
    from advconv_onnx.inspection import inspect as run
    from advconv_onnx.layers.values import plain
    from advconv_onnx.records import Built

    parameters = parse_options(text, catalog.find(name).options, name)
    files.check_writable(out)
    arguments = {**arguments, **parameters, "input_shape": _only_shape(shapes)}
    if state_dict is None:
        model = catalog.build(name, **arguments)
    else:
        model = catalog.from_state_dict(name, state_dict, **arguments)
    files.save(model, out)
    [x], [y] = model.graph.inputs, model.graph.outputs
    return Built(
        name,
        str(out),
        files.opset(model),
        plain(x.shape or ()),
        plain(y.shape or ()),
        catalog.count_parameters(model),
        out.stat().st_size,
        run(model),
    )


def _only_shape(shapes: Mapping[str, Shape]) -> Shape | None:
    """The shape of a built model's one input."""
    from advconv_onnx.catalog import INPUT

    others = [name for name in shapes if name != INPUT]
    if others:
        raise InputError(f"--input '{others[0]}': what is built has one input, called '{INPUT}'")
    return shapes.get(INPUT)


@app.command()
def doctor(json: JsonFlag = False) -> None:
    """Show which providers and packages work here, and what to do about the others."""
    from advconv_onnx.records import Doctor
    from advconv_onnx.report import schema, terminal
    from advconv_onnx.runtime.engine import resolve_threads
    from advconv_onnx.runtime.providers import device, statuses

    found = Doctor(
        device("cpu", resolve_threads(None)), statuses(), tuple(_package(*row) for row in _PACKAGES)
    )
    if json:
        print(schema.dumps(schema.doctor(found)), end="")
    else:
        _print(terminal.doctor(found))


def _package(name: str, purpose: str, install: str) -> PackageStatus:
    from importlib.metadata import PackageNotFoundError, version

    from advconv_onnx.records import PackageStatus

    try:
        return PackageStatus(name, version(name), purpose, install)
    except PackageNotFoundError:
        return PackageStatus(name, None, purpose, install)


@cache.command("path")
def cache_path() -> None:
    """Print where the cache is, or "off"."""
    from advconv_onnx.optimizer.decisions import default_path

    print(default_path() or "off")


@cache.command("show")
def cache_show(json: JsonFlag = False) -> None:
    """List what was measured, by the situation it was measured in."""
    from advconv_onnx.report import schema, terminal

    with _decisions() as kept:
        found = list(kept.entries())
    if json:
        print(schema.dumps(schema.decisions(found)), end="")
    else:
        _print(terminal.decisions(found), fold=False)


@cache.command("export")
def cache_export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes.")],
) -> None:
    """Write a copy of the cache, for another machine like this one."""
    with _decisions() as kept:
        _keep_inputs([file], [kept.path])
        kept.export(file)
    print(f"written to {file}")


@cache.command("merge")
def cache_merge(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A cache that was exported.")],
) -> None:
    """Add what another cache knows and this one does not."""
    from advconv_onnx.optimizer.decisions import Decisions

    with _decisions() as kept, contextlib.closing(Decisions(file, writable=False)) as other:
        print(f"{kept.merge(other)} decisions added to {kept.path}")


@cache.command("clear")
def cache_clear() -> None:
    """Forget everything, so that it is measured again."""
    with _decisions() as kept:
        print(f"{kept.clear()} decisions removed from {kept.path}")


@contextlib.contextmanager
def _decisions() -> Iterator[Decisions]:
    from advconv_onnx.optimizer.decisions import Decisions, default_path

    path = default_path()
    if path is None:
        raise InputError("the cache is off; unset ADVCONV_CACHE, or name a file in it")
    with contextlib.closing(Decisions(path)) as kept:
        yield kept


def parse_inputs(arguments: Sequence[str] | None) -> dict[str, Shape]:
    """Read ``NAME=SHAPE`` arguments: sizes are fixed, names stay dynamic, ``?`` is unknown.

    >>> parse_inputs(["x=Nx3x?x640", "serving_default:0=1x43844"])
    {'x': ('N', 3, None, 640), 'serving_default:0': (1, 43844)}

    Raises:
        InputError: no ``=``, a dimension that is neither, or a name given twice.
    """
    shapes: dict[str, Shape] = {}
    for argument in arguments or ():
        name, separator, shape = argument.rpartition("=")
        dims = shape.split("x")
        if not (separator and name and all(map(_is_dim, dims))):
            raise InputError(
                f"--input '{argument}' is not NAME=SHAPE; write sizes, names or ? with x between "
                "them, as in x=1x3x224x224 or x=Nx3xHxW"
            )
        if name in shapes:
            raise InputError(f"--input '{name}' is given twice; give each input one shape")
        shapes[name] = tuple(
            int(dim) if dim.isdigit() else None if dim == "?" else dim for dim in dims
        )
    return shapes


def _parse_typed_inputs(
    arguments: Sequence[str] | None,
) -> tuple[dict[str, Shape], dict[str, str]]:
    """Read ``NAME=SHAPE:TYPE`` arguments, where the type may be left out.

    >>> _parse_typed_inputs(["x=Nx3", "ids=1x16:int64"])
    ({'x': ('N', 3), 'ids': (1, 16)}, {'ids': 'int64'})
    """
    types: dict[str, str] = {}
    untyped = []
    for argument in arguments or ():
        described, _, dtype = argument.rpartition(":")
        name, separator, _ = described.rpartition("=")
        if separator:  # else the colon, if there is one, is part of the name
            types[name] = dtype
        untyped.append(described if separator else argument)
    return parse_inputs(untyped), types


def _is_dim(text: str) -> bool:
    return text == "?" or (text.isascii() and (text.isdigit() or text.isidentifier()))


def _read_arrays(path: Path | None) -> dict[str, np.ndarray] | None:
    if path is None:
        return None
    import zipfile
    import zlib

    import numpy as np

    try:
        with open(path, "rb") as file, np.load(file) as arrays:
            return dict(arrays)
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"--data '{path}' is no .npz file of arrays, or is damaged; write it with numpy.savez"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot read --data '{path}': {reason}; check the path") from error


def _check_json(json: Path | None, *others: Path) -> None:
    """Refuse a report that cannot be written, or would replace a model, before any work."""
    if json is None or str(json) == "-":
        return
    from advconv_onnx import model as files

    if any(files.is_same_file(json, other) for other in others):
        raise InputError(f"--json '{json}' would replace a model; name another file")
    files.check_writable(json)


def _keep_inputs(outputs: Sequence[Path | None], inputs: Sequence[Path | None]) -> None:
    """Refuse an output that is an input, whatever it is called there."""
    from advconv_onnx import model as files

    for output, given in itertools.product(filter(None, outputs), filter(None, inputs)):
        if files.is_same_file(output, given):
            raise InputError(f"'{output}' is an input, which is never modified; name another file")


def _publish(
    screens: Sequence[RenderableType], document: dict[str, Any], json: Path | None
) -> None:
    """Print the screens and write the JSON document; with ``--json -`` only that is printed."""
    from advconv_onnx import model as files
    from advconv_onnx.report import schema

    if json is not None and str(json) == "-":
        print(schema.dumps(document), end="")
        return
    if json is not None:
        files.write_text(json, schema.dumps(document))
    for screen in screens:
        _print(screen)


def _print(screen: RenderableType, *, fold: bool = True) -> None:
    """Print to standard output; into a pipe without colours, and unless ``fold`` unwrapped."""
    width = None if fold or sys.stdout.isatty() else 10_000
    _console(width=width).print(screen)


def _console(**options: Any) -> Console:
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError that rich is handling

    return Screen(markup=False, highlight=False, emoji=False, **options)


@contextlib.contextmanager
def _progress(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show on a terminal's standard error which stage a command is in, and for how long."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = _console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, disable=quiet or not console.is_terminal
    ) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda stage: progress.update(task, description=stage)

"""Records to print: filled by hand, so that every field shows."""

from __future__ import annotations

from advconv_onnx.records import (
    Bench,
    Costs,
    Device,
    Doctor,
    Inspection,
    Latency,
    Layer,
    Measurement,
    ModelSummary,
    PackageStatus,
    Placement,
    ProviderStatus,
    Ratio,
    Report,
    Rewrite,
    TensorCheck,
    Timing,
    Validation,
)

DEVICE = Device("cpu", 2, "Some Processor", "1.32.0")

MEASUREMENT = Measurement(
    timings=(
        Timing("original", Latency(80.0, 90.0), Ratio(1.0, 1.0, 1.0)),
        Timing("optimized", Latency(40.0, 44.0), Ratio(2.0, 1.9, 2.1)),
    ),
    noise=Ratio(1.001, 0.99, 1.01),
    rounds=25,
    shape="x=1x3x48x192",
)

VALIDATION = Validation(
    passed=True,
    max_error=1e-4,
    checks=(TensorCheck("y", 3e-7, 4.5), TensorCheck("inner[0]", 2e-6, 1.5, stands_for="z")),
    inputs=9,
    shapes=("x=1x3x33x47", "x=2x3x64x96"),
    notes=("output 'z' is (nearly) constant", "[bold]no markup[/bold]"),
)

REPORT = Report(
    model=ModelSummary("in.onnx", "aa", 330, 1_170_000, 2_200_000_000, 4_745_517, 11),
    optimized=ModelSummary("out.onnx", "bb", 162, 1_040_000, None, 4_222_998, 14),
    device=DEVICE,
    validation=VALIDATION,
    rewrites=(
        Rewrite("onnxsim", (), "applied", "330 -> 300 nodes", "within 0e+00"),
        Rewrite("fold_affine", ("Add.1",), "applied", "", "integer probe exact on 5 shapes"),
        Rewrite("fold_affine", ("Add.2",), "refused", "'a' is also read by 'b'"),
        Rewrite("fold_affine", ("Add.3",), "refused", "'c.7' is also read by 'd'"),
        Rewrite("fold_affine", ("Add.4",), "refused", "the shift is per pixel"),
        Rewrite("spell_gelu", ("Erf.1",), "slower", "measured slower", speedup=0.9),
        Rewrite("fold_pad", ("Pad.1",), "inaccurate", "'y' differs"),
    ),
    measurement=MEASUREMENT,
)

INSPECTION = Inspection(
    layers=(
        Layer(
            "dw", ("dw",), "", "dilated depthwise", (3, 3), (5, 5), (2, 1), (2, 2), 32,
            (1, 32, 64, 80), (1, 32, 30, 76), Costs(320, 656_640, 1_000_000), (11, 9),
        ),
        Layer(
            "pw[bold]", ("pw",), "", "pointwise", (1, 1), (1, 1), (1, 1), (1, 1), 1,
            (1, 32, 30, 76), (1, 16, 30, 76), Costs(512, 1_167_360, 1_000_000), (11, 9),
        ),
        Layer(
            "up", ("r", "up"), "if_1/then_branch", "upsample+convolution", None, None, (), (), 1,
            ("N", 8, None, None), None, Costs(None, None, None), None,
        ),
    ),
    separable=((0, 1),),
    parameters=None,
    macs=None,
)  # fmt: skip

BENCH = Bench(
    Device("cuda", 2, "Some Processor", "1.32.0"),
    Measurement(
        MEASUREMENT.timings,
        MEASUREMENT.noise,
        25,
        "x=1x3x48x192",
        {"broken.onnx": "no answer within 120 s"},
    ),
    {"original": Placement({"CUDAExecutionProvider": 9}, ()),
     "optimized": Placement(
         {"CUDAExecutionProvider": 2, "CPUExecutionProvider": 7},
         ("n1", "n2", "n3", "n4", "n5", "n6", "n7"),
     )},
)  # fmt: skip

DOCTOR = Doctor(
    DEVICE,
    (
        ProviderStatus("cpu", True, ""),
        ProviderStatus("cuda", False, "run `pip install onnxruntime-gpu`"),
    ),
    (
        PackageStatus("onnx", "1.23.2", "reading models", "pip install advconv-onnx"),
        PackageStatus("torch", None, "advconv export", "pip install 'advconv-onnx[torch]'"),
    ),
)

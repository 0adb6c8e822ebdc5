"""What a reader must find on each screen, whatever its width."""

from __future__ import annotations

import dataclasses

import pytest
from rich.console import Console, RenderableType

from advconv_onnx.records import Placement, Ratio, Report, Rewrite, Timing
from advconv_onnx.report import terminal

from .records import BENCH, DOCTOR, INSPECTION, MEASUREMENT, REPORT, VALIDATION

SCREENS = {
    "optimization": terminal.optimization(REPORT),
    "inspection": terminal.inspection(INSPECTION),
    "validation": terminal.validation(VALIDATION),
    "bench": terminal.bench(BENCH),
    "doctor": terminal.doctor(DOCTOR),
}


def render(screen: RenderableType, width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(screen)
    return capture.get()


def rows(text: str) -> dict[str, str]:
    """The words of each line after the first one, by that one."""
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return {first: " ".join(rest) for first, *rest in lines}


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("name", SCREENS)
def test_nothing_is_cut_off(name: str, width: int) -> None:
    narrow, wide = render(SCREENS[name], width), render(SCREENS[name], 1000)
    assert max(map(len, narrow.splitlines())) <= width
    assert "…" not in narrow
    assert sorted("".join(narrow.split())) == sorted("".join(wide.split()))


def test_optimization_tells_what_was_gained_and_on_what_evidence() -> None:
    found = rows(render(terminal.optimization(REPORT)))
    assert found["nodes"] == "330 162 -50.9 %"
    assert found["file"] == "4.75 MB 4.22 MB -11.0 %"
    assert found["MACs"] == "2.2 G ?"
    assert found["latency"] == "80 ms 40 ms -50.0 %"
    assert found["speed"].startswith("2.00x faster: ")
    assert found["speed"].endswith("2.000, 95 % interval 1.900 to 2.100")
    assert found["noise"].endswith("1.001, 95 % interval 0.990 to 1.010; 25 rounds")
    assert "2.0e-06" in found["error"]
    assert "9 inputs: x=1x3x33x47; x=2x3x64x96" in found["error"]
    assert found["written"] == "out.onnx"


def test_rewrites_are_grouped_with_the_most_frequent_kind_of_reason() -> None:
    found = rows(render(terminal.optimization(REPORT)))
    assert found["onnxsim"] == "1 applied 330 -> 300 nodes"
    assert found["fold_affine"] == (
        "1 applied, 3 refused 'a' is also read by 'b' (2 of 3 like this)"
    )
    assert found["spell_gelu"] == "1 slower measured slower"
    assert found["fold_pad"] == "1 inaccurate 'y' differs"


@pytest.mark.parametrize(
    ("speedup", "noise", "verdict"),
    [
        (Ratio(1.5, 1.4, 1.6), Ratio(1.0, 0.99, 1.01), "1.50x faster"),
        (Ratio(0.5, 0.4, 0.6), Ratio(1.0, 0.99, 1.01), "2.00x slower"),
        (Ratio(1.0, 0.9, 1.1), Ratio(1.0, 0.99, 1.01), "no difference beyond the noise"),
        (Ratio(1.04, 1.02, 1.06), Ratio(1.0, 0.9, 1.1), "no difference beyond the noise"),
    ],
)
def test_a_speedup_counts_only_beyond_the_noise(speedup: Ratio, noise: Ratio, verdict: str) -> None:
    first, second = MEASUREMENT.timings
    timings = (first, Timing("optimized", second.latency, speedup))
    measurement = dataclasses.replace(MEASUREMENT, timings=timings, noise=noise)
    report: Report = dataclasses.replace(REPORT, measurement=measurement)
    assert verdict in render(terminal.optimization(report))


def test_without_a_measurement_no_latency_is_shown() -> None:
    found = rows(render(terminal.optimization(dataclasses.replace(REPORT, measurement=None))))
    assert "latency" not in found
    assert found["speed"].startswith("not measured")


def test_an_inspection_has_a_row_per_layer_marks_pairs_and_sums_up() -> None:
    found = rows(render(terminal.inspection(INSPECTION), width=200))
    assert found["dw"] == (
        "dilated depthwise 1 3x3 5x5 2x1 2x2 32 1x32x64x80 -> 1x32x30x76 320 657 k 11x9"
    )
    assert found["pw[bold]"].startswith("pointwise 1 1x1")
    assert found["if_1/then_branch:"] == "up upsample+convolution ? ? ? ? 1 Nx8x?x? -> ? ? ? ?"
    assert found["total"].startswith("3 convolution-like layers, ? parameters")
    assert found["pair"].startswith("1 separable")


def test_a_model_without_convolutions_has_a_total_of_none() -> None:
    nothing = dataclasses.replace(INSPECTION, layers=(), separable=(), parameters=0, macs=0)
    found = rows(render(terminal.inspection(nothing)))
    assert found == {"total": "0 convolution-like layers, 0 parameters, 0 MACs"}


def test_a_failed_validation_says_which_output_differs() -> None:
    failed = dataclasses.replace(VALIDATION, passed=False, max_error=1e-6)
    found = rows(render(terminal.validation(failed)))
    assert found["y"] == "3.0e-07 4.5 equal"
    assert found["inner[0]"].endswith("differs")
    assert found["result"] == "FAILED"


def test_a_bench_names_failures_and_nodes_that_are_elsewhere() -> None:
    text = render(terminal.bench(BENCH))
    assert "2.000  1.900 to 2.100" in text
    assert "broken.onnx: no answer within 120 s" in text
    assert "original: all 9 nodes on cuda" in text
    assert "optimized: 7 of 9 nodes not on cuda: n1, n2, n3, n4, n5 and 2 more" in text


def test_few_nodes_that_are_elsewhere_are_all_named() -> None:
    placement = Placement({"CUDAExecutionProvider": 1, "CPUExecutionProvider": 1}, ("n1",))
    text = render(terminal.elsewhere(placement, "cuda", "m.onnx"))
    assert text == "m.onnx: 1 of 2 nodes not on cuda: n1\n"


def test_doctor_says_how_to_get_what_is_missing_and_only_that() -> None:
    text = render(terminal.doctor(DOCTOR))
    assert rows(text)["cuda"].startswith("no run `pip install")
    assert "pip install 'advconv-onnx[torch]'" in text
    assert "pip install advconv-onnx" not in text


def test_of_rules_that_were_applied_nowhere_only_the_most_frequent_are_listed() -> None:
    declined = [
        Rewrite(f"form_{n}", (str(i),), "refused", "why") for n in range(9) for i in range(9 - n)
    ]
    gained = [Rewrite("gained", (str(i),), "applied", speedup=1.2 + i) for i in range(2)]
    report = dataclasses.replace(REPORT, rewrites=(*declined, *gained))
    found = rows(render(terminal.optimization(report)))
    assert found["gained"].startswith("2 applied 1.20x - 2.20x")
    assert [name for name in found if name.startswith("form_")] == [f"form_{n}" for n in range(6)]
    assert found["3"] == "others 6 refused see --json"

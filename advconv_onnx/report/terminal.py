"""Records as tables for a terminal: each function returns something for ``rich`` to print."""

from __future__ import annotations

import collections
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from advconv_onnx.records import (
    Artifact,
    Bench,
    Built,
    Comparison,
    Decision,
    Device,
    Doctor,
    Inference,
    Inspection,
    Layer,
    LayerPrecision,
    Measurement,
    ModelSummary,
    Placement,
    Ratio,
    Report,
    Rewrite,
    Run,
    Status,
    Validation,
)
from advconv_onnx.report.numbers import si, sizes

_MOST_NAMES = 5
"""Nodes that are named one by one before the rest is only counted."""

_SHORT = 0.1
"""Milliseconds below which a latency says little about a layer."""

_DECLINED = 6
"""Rows for rules that were not applied anywhere."""

_WORST = 8
"""Layers that are listed by their error; those that stay in float32 are all listed."""

_SIGNATURE = 12
"""Digits that tell windows apart in a table."""

_STATUSES: tuple[Status, ...] = ("applied", "refused", "inaccurate", "slower")


def optimization(report: Report) -> RenderableType:
    """Show what ``optimize`` gained, on what evidence, and what it did to the graph."""
    measured, checked = report.measurement, report.validation
    facts = [
        ("speed", _speed(measured)),
        (
            "error",
            f"at most {checked.max_relative:.1e} of an output's range, "
            f"{checked.max_error:.0e} allowed; {_evidence(checked)}",
        ),
        *(("note", note) for note in checked.notes),
        ("written", report.optimized.path),
    ]
    if measured is not None:
        facts[1:1] = [
            ("noise", _noise(measured)),
            ("inputs", measured.shape),
            ("device", _device(report.device)),
        ]
    return Group(
        _gains(report.model, report.optimized, measured),
        Text(),
        _facts(facts),
        Text(),
        _rewrites(report.rewrites),
    )


def _gains(model: ModelSummary, optimized: ModelSummary, measured: Measurement | None) -> Table:
    table = _table("", ">original", ">optimized", ">change")
    for name, before, after, unit in (
        ("nodes", model.nodes, optimized.nodes, ""),
        ("file", model.bytes, optimized.bytes, "B"),
        ("parameters", model.parameters, optimized.parameters, ""),
        ("MACs", model.macs, optimized.macs, ""),
    ):
        _add_row(table, name, si(before, unit), si(after, unit), _change(before, after))
    if measured is not None:
        old, new = (timing.latency.median for timing in measured.timings)
        _add_row(table, "latency", _ms(old), _ms(new), _change(old, new), style="bold")
    return table


def _speed(measured: Measurement | None) -> str:
    if measured is None:
        return "not measured, as --level fuse asks"
    speedup, noise = measured.timings[1].speedup, measured.noise
    if speedup.low > max(1, noise.high):
        verdict = f"{speedup.median:.2f}x faster"
    elif speedup.high < min(1, noise.low):
        verdict = f"{1 / speedup.median:.2f}x slower"
    else:
        verdict = "no difference beyond the noise"
    return f"{verdict}: original / optimized is {_ratio(speedup)}"


def _noise(measured: Measurement) -> str:
    return f"the first model against itself is {_ratio(measured.noise)}; {measured.rounds} rounds"


def _evidence(validation: Validation) -> str:
    return f"{validation.inputs} inputs: {'; '.join(validation.shapes) or 'none'}"


def _rewrites(rewrites: Sequence[Rewrite]) -> Table:
    """One row per rule, those that were applied first; of the others only the most frequent."""
    table = _table("rewrite", "sites", "gain", "why not (or what for), mostly")
    by_rule: dict[str, list[Rewrite]] = {}
    for rewrite in rewrites:
        by_rule.setdefault(rewrite.rule, []).append(rewrite)
    applied = {r.rule for r in rewrites if r.status == "applied"}
    others = sorted(by_rule.keys() - applied, key=lambda rule: (-len(by_rule[rule]), rule))
    for rule in [*(r for r in by_rule if r in applied), *others[:_DECLINED]]:
        group = by_rule[rule]
        declined = [r.reason for r in group if r.status != "applied"]
        reason = _most_frequent(declined or [r.reason for r in group])
        style = "" if rule in applied else "dim"
        _add_row(table, rule, _sites(group), _gain(group), reason, style=style)
    if rest := others[_DECLINED:]:
        sites = _sites([r for rule in rest for r in by_rule[rule]])
        _add_row(table, f"{len(rest)} others", sites, "", "see --json", style="dim")
    return table


def _sites(group: Sequence[Rewrite]) -> str:
    counts = collections.Counter(rewrite.status for rewrite in group)
    return ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status])


def _gain(group: Sequence[Rewrite]) -> str:
    """Measured speedups of the sites that were rewritten, each in its surroundings."""
    gains = sorted(r.speedup for r in group if r.status == "applied" and r.speedup is not None)
    ends = list(dict.fromkeys(f"{gain:.2f}x" for gain in (*gains[:1], *gains[-1:])))
    return " - ".join(ends)


def _most_frequent(reasons: Sequence[str]) -> str:
    """Give an example of the most frequent reason; those that differ in names count as one."""
    kinds = [re.sub(r"'[^']*'|[\d.]+", "", reason) for reason in reasons]
    [(kind, count)] = collections.Counter(kinds).most_common(1)
    example = reasons[kinds.index(kind)]
    if count == len(reasons):
        return example
    return f"{example} ({count} of {len(reasons)} like this)"


def inspection(found: Inspection) -> RenderableType:
    """Show a row per convolution-like layer, the totals and the separable pairs."""
    pairs = {row: str(i) for i, pair in enumerate(found.separable, 1) for row in pair}
    table = _table(
        "layer", "kind", *(["pair"] if pairs else []), "kernel", "effective", "stride", "dilation",
        ">groups", "input -> output", ">params", ">MACs", "field", gap=1,
    )  # fmt: skip
    for row, layer in enumerate(found.layers):
        name = f"{layer.graph}: {layer.name}" if layer.graph else layer.name
        pair = [pairs.get(row, "")] if pairs else []
        _add_row(table, name, layer.kind, *pair, *_geometry(layer))
    facts = [("total", f"{len(found.layers)} convolution-like layers, {si(found.parameters)} "
              f"parameters, {si(found.macs)} MACs")]  # fmt: skip
    if pairs:
        facts.append(("pair", f"{len(found.separable)} separable, numbered under 'pair'"))
    if found.macs is None:
        facts.append(("note", "MACs are unknown where sizes are; give sizes with --input"))
    return _below(table, facts)


def _geometry(layer: Layer) -> Iterator[str]:
    yield sizes(layer.kernel_shape)
    yield sizes(layer.effective_kernel)
    yield sizes(layer.strides)
    yield sizes(layer.dilations)
    yield str(layer.group)
    yield f"{sizes(layer.input_shape)} -> {sizes(layer.output_shape)}"
    yield si(layer.costs.parameters)
    yield si(layer.costs.macs)
    yield sizes(layer.receptive_field)


def validation(found: Validation) -> RenderableType:
    """Show the compared tensors, what the reader must know, and the verdict."""
    table = _table("output", ">error", ">range", "verdict")
    for check in found.checks:
        name = check.tensor + (f" (inside, for {check.stands_for})" if check.stands_for else "")
        agrees = check.max_relative <= found.max_error
        _add_row(
            table, name, f"{check.max_relative:.1e}", f"{check.range:.3g}",
            "equal" if agrees else "differs", style="" if agrees else "red",
        )  # fmt: skip
    facts = [
        ("result", "passed" if found.passed else "FAILED"),
        ("allowed", f"{found.max_error:.0e} of an output's range"),
        ("tried", _evidence(found)),
        *(("note", note) for note in found.notes),
    ]
    return _below(table, facts)


def artifact(found: Artifact) -> RenderableType:
    """Show what a model was converted to, its worst layers, and the evidence."""
    checked = found.validation
    facts = [
        *_converted(found.layers),
        (
            "error",
            f"at most {checked.max_relative:.1e} of an output's range, "
            f"{checked.max_error:.0e} allowed; {_evidence(checked)}",
        ),
        *_beside(found.measurement),
        *(("note", note) for note in (*checked.notes, *found.notes)),
        ("written", f"{', '.join(found.files)} ({si(found.bytes, 'B')})"),
    ]
    if not found.layers:
        return _facts(facts)
    table = _table("layer", "operator", ">error alone", "stays in float32 because")
    for index, layer in enumerate(sorted(found.layers, key=lambda layer: -layer.error)):
        if index < _WORST or layer.kept:
            error = f"{layer.error:.1e}" if math.isfinite(layer.error) else "overflow"
            _add_row(table, layer.node, layer.op_type, error, layer.kept)
    return _below(table, facts)


def _beside(measured: Measurement | None) -> Iterator[tuple[str, str]]:
    """What was converted, timed beside what it was."""
    if measured is not None:
        before, after = measured.timings
        yield (
            "latency",
            f"{_ms(after.latency.median)}, in {before.name} {_ms(before.latency.median)}: "
            f"{_ratio(after.speedup)}",
        )
        yield "noise", _noise(measured)


def _converted(layers: Sequence[LayerPrecision]) -> Iterator[tuple[str, str]]:
    if layers:
        kept = sum(bool(layer.kept) for layer in layers)
        yield "layers", f"{len(layers) - kept} of {len(layers)} converted"


def run(found: Run) -> RenderableType:
    """Show what became of the files that a model was run on, and how fast."""
    parts = [
        (found.written, "written"),
        (found.kept, "were there"),
        (len(found.failures), "left out"),
    ]
    workers = "" if found.workers == 1 else f", {found.workers} workers"
    facts = [
        ("results", ", ".join(f"{count} {what}" for count, what in parts if count)),
        ("speed", f"{found.per_second:.4g} files per second, reading and writing included"),
    ]
    if found.latency:
        files = "1 file" if found.batch == 1 else f"up to {found.batch} files"
        median, p90 = _ms(found.latency.median), _ms(found.latency.p90)
        facts.append(("latency", f"{median} for {files}; 90 % take at most {p90}"))
    facts.append(("device", _device(found.device) + workers))
    return _facts([*facts, *(("note", note) for note in found.notes), ("in", found.out)])


def inference(found: Inference) -> RenderableType:
    """Show the outputs of one inference in figures, and the likeliest classes."""
    table = _table("output", "type", "shape", ">smallest", ">largest", ">mean")
    for output in found.outputs:
        figures = (output.smallest, output.largest, output.mean)
        numbers = ("" if figure is None else f"{figure:.6g}" for figure in figures)
        shape = sizes(output.shape) if output.shape else "scalar"
        _add_row(table, output.name, output.type, shape, *numbers)
    facts = [
        *((f"{rank}.", _class(*named)) for rank, named in enumerate(found.labels, 1)),
        ("latency", f"{_ms(found.ms)}, of the first inference"),
        *(("note", note) for note in found.notes),
        ("written", found.out),
    ]
    return _below(table, facts)


def _class(label: str, probability: float | None) -> str:
    return label if probability is None else f"{label}, {100 * probability:.1f} %"


def bench(run: Bench) -> RenderableType:
    """Show the models timed in one run, against the first of them."""
    measured = run.measurement
    table = _table("model", ">median", ">p90", ">speed-up", ">95 % interval")
    for timing in measured.timings:
        speedup = timing.speedup
        versus = (
            ("1", "") if timing is measured.timings[0]
            else (f"{speedup.median:.3f}", f"{speedup.low:.3f} to {speedup.high:.3f}")
        )  # fmt: skip
        _add_row(table, timing.name, _ms(timing.latency.median), _ms(timing.latency.p90), *versus)
    facts = [
        ("noise", _noise(measured)),
        ("inputs", measured.shape),
        ("device", _device(run.device)),
        *(("failed", f"{name}: {why}") for name, why in measured.failures.items()),
    ]
    placements = (elsewhere(p, run.device.provider, name) for name, p in run.placements.items())
    return Group(_below(table, facts), *placements)


def comparison(found: Comparison) -> RenderableType:
    """Show kinds of convolution, their costs and their latencies as parts of the dense one's."""
    table = _table(
        "layer", "covers", ">params", ">MACs", ">part", ">bytes", ">median", ">part",
        ">95 % interval", gap=1,
    )  # fmt: skip
    dense = found.alternatives[0].costs.costs
    timings = {timing.name: timing for timing in found.measurement.timings}
    for alternative in found.alternatives:
        costs, timing = alternative.costs.costs, timings.get(alternative.name)
        took = (
            ("failed", "", "") if timing is None
            else (_ms(timing.latency.median), _part(1, timing.speedup.median),
                  f"{_part(1, timing.speedup.high)} to {_part(1, timing.speedup.low)}")
        )  # fmt: skip
        _add_row(
            table, alternative.name, sizes(alternative.costs.receptive_field),
            si(costs.parameters), si(costs.macs), _part(costs.macs, dense.macs),
            si(costs.bytes), *took,
        )  # fmt: skip
    facts = [
        ("input", f"{found.measurement.shape}; all outputs are as large as the input"),
        ("part", "of the dense layer's MACs, and of its latency, in paired rounds"),
        ("noise", _noise(found.measurement)),
        ("device", _device(found.device)),
        *(("failed", f"{name}: {why}") for name, why in found.measurement.failures.items()),
    ]
    if timings[found.alternatives[0].name].latency.median < _SHORT:
        facts.append(("note", f"below {_SHORT} ms calling ONNX Runtime is most of it; give a "
                      "larger --input"))  # fmt: skip
    return _below(table, facts)


def catalog(entries: Iterable[tuple[str, str, str, str]]) -> RenderableType:
    """Show layers and networks: name, kind, what it is, options."""
    table = _table("name", "kind", "what it is, and its options")
    for name, kind, summary, options in entries:
        _add_row(table, name, kind, summary)
        _add_row(table, "", "", options, style="dim")
    return table


def built(found: Built) -> RenderableType:
    """Show what was built."""
    inspection = found.inspection
    return _facts([
        ("built", f"{found.name}, opset {found.opset}"),
        ("from", f"{sizes(found.input_shape)} to {sizes(found.output_shape)}"),
        ("weights", f"{si(found.parameters)} parameters, a file of {si(found.bytes, 'B')}"),
        ("layers", f"{len(inspection.layers)} convolution-like, {si(inspection.parameters)} "
         f"parameters, {si(inspection.macs)} MACs"),
        *([] if inspection.macs is not None else
          [("note", "MACs are unknown where sizes are; fix them with --input")]),
        ("written", found.path),
    ])  # fmt: skip


def elsewhere(placement: Placement, provider: str, model: str) -> RenderableType:
    """Count and name the nodes of a model that are not on the provider that was asked for."""
    names, total = placement.elsewhere, sum(placement.counts.values())
    if not names:
        return Text(f"{model}: all {total} nodes on {provider}")
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    line = f"{model}: {len(names)} of {total} nodes not on {provider}: "
    return Text(line + ", ".join(names[:_MOST_NAMES]) + more, style="yellow", overflow="fold")


def decisions(found: Sequence[Decision]) -> RenderableType:
    """Show what is in the cache, a table for each situation."""
    parts: list[RenderableType] = []
    for situation, group in itertools.groupby(found, lambda decision: decision.situation):
        table = _table("window", "form", ">speedup", ">95 % interval", ">of", "why not")
        for decision in group:
            figure = decision.figure
            ratio = figure.ratio
            speedup = (
                ("", "") if ratio is None
                else (f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}")
            )  # fmt: skip
            window = decision.window[:_SIGNATURE]
            _add_row(table, window, decision.form, *speedup, _ms(figure.ms), figure.failure)
        parts += [Text(situation, style="bold"), table, Text()]
    return Group(*parts, Text(f"{len(found)} decisions"))


def doctor(found: Doctor) -> RenderableType:
    """Show providers and packages, and for a missing one why and what to install."""
    providers = _table("provider", "here", "why not, and what to do")
    for provider in found.providers:
        here = "yes" if provider.available else "no"
        _add_row(providers, provider.name, here, provider.reason)
    packages = _table("package", "version", "for", "install with")
    for package in found.packages:
        install = "" if package.version else package.install
        _add_row(packages, package.name, package.version or "missing", package.purpose, install)
    return Group(_facts([("device", _device(found.device))]), Text(), providers, Text(), packages)


def _table(*headers: str, gap: int = 2) -> Table:
    """A table that folds what is too long and drops nothing; ``>`` aligns a column right."""
    columns = (
        Column(header.lstrip(">"), justify="right" if header[:1] == ">" else "left",
               overflow="fold")
        for header in headers
    )  # fmt: skip
    return Table(*columns, box=None, padding=(0, gap, 0, 0), header_style="bold underline")


def _add_row(table: Table, *cells: str, style: str = "") -> None:
    # Text, because names of nodes may hold what rich takes for markup.
    table.add_row(*map(Text, cells), style=style)


def _below(table: Table, facts: Sequence[tuple[str, str]]) -> Group:
    """A table, unless it is empty, and what there is to say about it."""
    return Group(table, Text(), _facts(facts)) if table.row_count else Group(_facts(facts))


def _facts(facts: Sequence[tuple[str, str]]) -> Table:
    """Labelled lines, what is too long continued beside the label."""
    grid = Table.grid(Column(style="bold"), Column(overflow="fold"), padding=(0, 2, 0, 0))
    for label, text in facts:
        _add_row(grid, label, text)
    return grid


def _device(device: Device) -> str:
    threads = "thread" if device.threads == 1 else "threads"
    return (
        f"{device.provider} with {device.threads} {threads} ({device.processor}, "
        f"ONNX Runtime {device.onnxruntime})"
    )


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.median:.3f}, 95 % interval {ratio.low:.3f} to {ratio.high:.3f}"


def _change(before: float | None, after: float | None) -> str:
    if not before or after is None or before == after:
        return "" if before != after else "same"
    return f"{100 * (after / before - 1):+.1f} %"


def _part(some: float | None, whole: float | None) -> str:
    return "?" if some is None or not whole else f"{some / whole:.3f}"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.4g} ms"

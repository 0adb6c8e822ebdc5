"""The search for faster forms: find sites, list forms, certify, time in context, choose, check."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from advconv_onnx import model as files
from advconv_onnx.errors import CheckError
from advconv_onnx.optimizer.cache import Cache
from advconv_onnx.optimizer.choose import Win, choose
from advconv_onnx.optimizer.contest import (
    Choice,
    Contest,
    Next,
    apply,
    find_choices,
    site_contests,
    timing_twin,
)
from advconv_onnx.optimizer.options import Options
from advconv_onnx.optimizer.prove import Prover
from advconv_onnx.optimizer.roofline import least_ms
from advconv_onnx.optimizer.stand_in import write_stand_in
from advconv_onnx.optimizer.window import surroundings
from advconv_onnx.records import Figure, Rewrite, Status
from advconv_onnx.rewriter.cut import cut
from advconv_onnx.rewriter.forms import all_forms
from advconv_onnx.rewriter.proposal import Proposal
from advconv_onnx.rewriter.simplify import clean
from advconv_onnx.runtime.estimate import estimate_ms
from advconv_onnx.runtime.peak import peak
from advconv_onnx.runtime.pool import Pool
from advconv_onnx.runtime.race import race
from advconv_onnx.runtime.validate import validate

_SECONDS = 3.0
"""Time for the rounds of one contest."""

_LEAST_GAIN = 1.02
"""A form wins only if its whole interval lies beyond this ratio."""

_CAUTION = 0.8
"""Part of the least time by the roofline that is trusted: its rates are estimates."""

_LEAST_SHARE = 0.003
"""Part of the model's time below which a kind of site is not worth a contest."""

_INACCURATE = "too far from float64"

_NEARLY = 0.8
"""A variant this close to the site as it is may win with forms for what it makes."""

_CONTENDERS = 2
"""How many variants of a site are tried with forms for what they make."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        model: with the forms that were chosen.
        rewrites: what was decided about every form of every site.
        promised: milliseconds that the windows say an inference saves.
    """

    model: ir.Model
    rewrites: tuple[Rewrite, ...]
    promised: float


class Search:
    """The search for forms of one model under one set of options."""

    def __init__(
        self,
        model: ir.Model,
        inputs: Mapping[str, np.ndarray],
        options: Options,
        deadline: float,
        room: int,
        cache: Cache,
        announce: Callable[[str], None],
    ) -> None:
        """Find the sites and certify the forms of each.

        Args:
            model: fused, its shapes inferred; stays as it is.
            inputs: one inference's arrays, which tell the sizes to time at.
            options: of the run.
            deadline: on ``time.monotonic``'s clock, after which nothing further is timed.
            room: bytes by which the weights may grow.
            cache: of what was measured before.
            announce: called with the name of each stage as it begins.
        """
        self._model = model
        self._options = options
        self._deadline = deadline
        self._room = room
        self._cache = cache
        self._announce = announce
        self._prover = Prover(dict(model.opset_imports), options.seed)
        announce("looking for forms")
        self._forms = all_forms(options.provider)
        self._choices, self._records = find_choices(model, self._forms, self._prover)
        self._inputs = inputs
        self._twin = timing_twin(model, inputs)
        self._pool = Pool()
        self._wins: list[Win] = []
        self._interactions: dict[tuple[Choice, Choice], float] = {}
        self._problems: dict[Choice, str] = {}
        self._checked: dict[tuple[Choice, str, tuple[str, ...]], str | None] = {}

    def run(self) -> None:
        """Time the forms of all sites, then those of neighbouring sites together."""
        with self._pool, tempfile.TemporaryDirectory(prefix="advconv-") as folder:
            self._folder = Path(folder)
            self._run()

    def _run(self) -> None:
        contests = site_contests(self._twin, self._choices)
        for index, contest in enumerate(contests):
            self._announce(f"timing forms, {index + 1} of {len(contests)}")
            self._judge(self._deepened(contest))
        order = {choice.nodes: index for index, choice in enumerate(self._choices)}
        self._wins.sort(key=lambda win: order[win.choice.nodes])
        for one, other in self._neighbours():
            self._announce("timing forms of neighbours together")
            self._judge_together(one, other)

    def result(self, without: Collection[str] = ()) -> Found:
        """The model with the forms that save most together.

        Args:
            without: names of forms to leave out.
        """
        wins = [win for win in self._wins if win.choice.name not in without]
        while True:
            accurate = [win for win in wins if win.choice not in self._problems]
            model, problems, applied = self._apply(choose(accurate, self._interactions))
            self._problems |= problems
            if not problems:
                break
        clean(model)
        files.infer_shapes(model)
        return Found(
            model,
            (*self._records, *self._decided(applied)),
            sum(win.saved for win in applied),
        )

    def _deepened(self, contest: Contest) -> Contest:
        """The contest with further variants: what a contender makes gets forms of its own.

        A convolution that is split off a Concat may be worth a form that the whole was not.
        """
        figures, _ = self._figures(contest)
        ratios = {n: f.ratio.median for n, f in figures.items() if f.ratio is not None}
        contenders = (name for name, ratio in ratios.items() if ratio > _NEARLY)
        deepened = 0
        for name in sorted(contenders, key=lambda name: -ratios[name]):
            then = self._forms_within(contest.model(name), contest.window)
            if then:
                contest = contest.with_forms_after(name, then)
                deepened += 1
            if deepened == _CONTENDERS:
                break
        return contest

    def _forms_within(self, variant: ir.Model, window: ir.Model) -> tuple[Next, ...]:
        """The best forms of the nodes that a variant of a window adds."""
        known = {node.name for node in window.graph}
        made = [node.name for node in variant.graph if node.name not in known]
        choices, _ = find_choices(variant, self._forms, self._prover, among=made)
        wins: list[Win] = []
        for contest in site_contests(variant, choices):
            wins += _winners(contest, self._figures(contest)[0])
        chosen = [win.choice for win in choose(wins, {})]
        return tuple(Next(made.index(c.root), c.form, c.certificate) for c in chosen)

    def _judge(self, contest: Contest) -> None:
        """Record who won a contest and who lost."""
        figures, missing = self._figures(contest)
        self._wins += _winners(contest, figures)
        for site in contest.sites:
            for name, (choice,) in site.items():
                figure = figures.get(name)
                if figure is None:
                    self._records.append(_rewrite(choice, "refused", missing))
                elif figure.ratio is None:
                    self._records.append(_rewrite(choice, "refused", figure.failure))
                elif figure.ratio.low <= _LEAST_GAIN:
                    reason = "not faster than the site as it is on this machine"
                    slower = _rewrite(choice, "slower", reason, figure.ratio.median)
                    self._records.append(slower)

    def _figures(self, contest: Contest) -> tuple[dict[str, Figure], str]:
        """Look up or time each variant of a contest.

        Returns:
            The figures by name of the variant, and why those that are missing were not timed.
        """
        known = {name: self._cache.get(contest.signature, name) for name in contest.variants}
        figures = {name: figure for name, figure in known.items() if figure is not None}
        names = [name for name in contest.variants if name not in figures]
        if not names:
            return figures, ""
        if time.monotonic() + _SECONDS > self._deadline:
            # A figure taken in a hurry would be kept for later runs.
            return figures, "there was no time left to time it"
        inputs = contest.inputs(self._options.seed)
        window = write_stand_in(contest.window, self._folder / "window.onnx")
        try:
            baseline = self._estimate_ms(window, inputs)
            share = baseline * len(contest.sites) / self._whole_ms
            if share < _LEAST_SHARE:
                return (
                    figures,
                    f"sites of its kind take {share:.1%} of the time, too little to gain",
                )
            paths, hopeless = self._write(contest, names, baseline)
            timed = self._time({"": window, **paths}, inputs) if paths else {}
        except CheckError as error:
            return figures, f"its surroundings do not run alone: {error}"
        for name, figure in timed.items():
            self._cache.put(contest.signature, name, figure)
        return figures | hopeless | timed, ""

    @functools.cached_property
    def _whole_ms(self) -> float:
        twin = write_stand_in(self._twin, self._folder / "twin.onnx")
        return self._estimate_ms(twin, self._inputs)

    def _estimate_ms(self, model: Path, inputs: Mapping[str, np.ndarray]) -> float:
        return estimate_ms(model, inputs, pool=self._pool, **self._options.timing)

    def _time(
        self, paths: Mapping[str, Path], inputs: Mapping[str, np.ndarray]
    ) -> dict[str, Figure]:
        """Time variants of a window, and the window as it is (""), in one run."""
        return race(
            paths,
            inputs,
            bar=_LEAST_GAIN,
            time_limit=_SECONDS,
            seed=self._options.seed,
            pool=self._pool,
            **self._options.timing,
        )

    def _write(
        self, contest: Contest, names: list[str], baseline: float
    ) -> tuple[dict[str, Path], dict[str, Figure]]:
        """Write variants of a window for processes to load.

        Returns:
            The files, and a figure for each variant that is not worth one.
        """
        paths: dict[str, Path] = {}
        hopeless: dict[str, Figure] = {}
        best = peak(self._options.provider, self._options.threads)
        # Where the window beats the roofline, the rates were taken in a bad moment.
        spent = max(baseline, least_ms(contest.window, best))
        for index, name in enumerate(names):
            try:
                model = contest.model(name)
            except CheckError as problem:
                hopeless[name] = Figure(None, baseline, str(problem))
                continue
            least = least_ms(model, best)
            if least * _CAUTION > spent:
                reason = f"takes at least {least:.2f} ms, the site as it is {spent:.2f} ms"
                hopeless[name] = Figure(None, baseline, reason)
                continue
            paths[name] = write_stand_in(model, self._folder / f"variant_{index}.onnx")
        return paths, hopeless

    def _neighbours(self) -> Iterator[tuple[Win, Win]]:
        """The best forms of two sites of which one is in the other's window."""
        best: dict[tuple[str, ...], Win] = {}
        for win in self._wins:
            rival = best.get(win.choice.nodes)
            if rival is None or rival.saved < win.saved:
                best[win.choice.nodes] = win
        nodes = {node.name: node for node in self._twin.graph}
        near = {
            site: {node.name for node in surroundings([nodes[name] for name in site])}
            for site in best
        }
        for one, other in itertools.combinations(best, 2):
            if near[one].intersection(other) and not set(one).intersection(other):
                yield best[one], best[other]

    def _judge_together(self, one: Win, other: Win) -> None:
        """Time two forms of neighbouring sites in one window: what both save beside each other."""
        name = f"{one.choice.name}, {other.choice.name}"
        contest = Contest.of(self._twin, {name: (one.choice, other.choice)})
        figure = self._figures(contest)[0].get(name)
        if figure is not None and figure.ratio is not None:
            more = figure.saved_ms - one.saved - other.saved
            certain = max(0.0, abs(more) - figure.uncertain_ms)
            self._interactions[one.choice, other.choice] = math.copysign(certain, more)

    def _apply(self, wins: tuple[Win, ...]) -> tuple[ir.Model, dict[Choice, str], tuple[Win, ...]]:
        """Apply forms to a copy of the model, each checked with its real weights."""
        model = self._model.clone()
        problems: dict[Choice, str] = {}
        applied = []
        room = self._room

        def check(proposal: Proposal, choice: Choice) -> str | None:
            nonlocal room
            if proposal.growth > room:
                return f"the weights would grow by {proposal.growth} bytes, beyond --max-growth"
            problem = self._check(choice, proposal)
            room -= 0 if problem else proposal.growth
            return problem

        for win in sorted(wins, key=lambda win: -win.saved):
            problem = apply(model, win.choice, functools.partial(check, choice=win.choice))
            if problem:
                problems[win.choice] = problem
            else:
                applied.append(win)
        return model, problems, tuple(applied)

    def _check(self, choice: Choice, proposal: Proposal) -> str | None:
        """Compare a site with its form in ONNX Runtime, float64 as the judge."""
        # A choice may hold several forms, and each may come small.
        key = choice, proposal.rule.name, proposal.names
        if key not in self._checked:
            options = self._options
            before, after = cut(proposal, dict(self._model.opset_imports))
            found = validate(
                before,
                after,
                max_error=options.max_error,
                seed=options.seed,
                provider=options.provider,
                threads=options.threads,
            )
            worst = f"{found.max_relative:.1e} of the range" if found.checks else "nothing compared"
            self._checked[key] = None if found.passed else f"{_INACCURATE}: {worst}"
        return self._checked[key]

    def _decided(self, applied: Collection[Win]) -> Iterator[Rewrite]:
        """What became of the winners."""
        for win in self._wins:
            choice = win.choice
            status: Status = "applied"
            reason = ""
            if win not in applied:
                status = "slower"
                reason = "another form of this site or its neighbours saves more"
            if problem := self._problems.get(choice):
                status = "inaccurate" if problem.startswith(_INACCURATE) else "refused"
                reason = problem
            yield _rewrite(choice, status, reason, win.speedup)


def _winners(contest: Contest, figures: Mapping[str, Figure]) -> Iterator[Win]:
    for site in contest.sites:
        for name, (choice,) in site.items():
            figure = figures.get(name)
            if figure and figure.ratio is not None and figure.ratio.low > _LEAST_GAIN:
                yield Win(choice, figure.ratio.median, figure.saved_ms)


def _rewrite(choice: Choice, status: Status, reason: str, speedup: float | None = None) -> Rewrite:
    return Rewrite(choice.name, choice.nodes, status, reason, choice.proof, speedup)

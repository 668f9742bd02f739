"""Distribution function, quantiles and mode of a density in one dimension."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.density.known import integrand_of
from torch_mlcalc.density.normalizer import find_other_plan
from torch_mlcalc.density.panels import blocks_of
from torch_mlcalc.density.peaks import Peaks, seen
from torch_mlcalc.density.plan_nodes import Columns, columns_of
from torch_mlcalc.density.rule_nodes import columns_of_rule, polynomial
from torch_mlcalc.density.series import Cumulated, Plates, plates_of
from torch_mlcalc.density.support import extent_of
from torch_mlcalc.quadrature.cumulative import MAX_EVALS, Settings, find_mesh
from torch_mlcalc.quadrature.domains import Extent
from torch_mlcalc.quadrature.estimate import Tolerance, report
from torch_mlcalc.quadrature.evaluator import Evaluator
from torch_mlcalc.quadrature.host import frozen, read
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.line_plan import LinePlan
from torch_mlcalc.quadrature.mode import expand
from torch_mlcalc.quadrature.pieces import Index, Pieces, make_pieces
from torch_mlcalc.quadrature.primitive import Mesh, Primitive
from torch_mlcalc.quadrature.problem import as_breakpoints, full, per_element
from torch_mlcalc.quadrature.rules import Array, FixedRule, Rule

if TYPE_CHECKING:
    from torch_mlcalc.density.normalized import NormalizedDensity

#: Tolerance of the cdf in units of the default one: two more digits of the quantiles,
#: for 386 instead of 282 panels over the 22 densities of the tests.
SHARPER = 1e-2

#: Power of epsilon that a distribution function may be off, 2e-12 in double precision:
#: the nodes of the normalisers of the 30 densities of tests/density/test_cdf.py and a
#: quarter more do that.
EXACT = 0.75

_MAPPED = (
    "a density has no cdf, quantiles, samples or mode inside of vmap; pass the mapped "
    "tensors to it as a batch, by args= and batch_shape=."
)

_OFF = (
    " The distribution function does not end at 1, but at another integral of the "
    "density: something is too narrow for the nodes of one of the two; pass "
    "breakpoints= at it."
)


@dataclass
class Quantiles:
    """The panels on which the distribution function of each density is known."""

    panels: Plates | Mesh

    @staticmethod
    def of(density: NormalizedDensity) -> Quantiles:
        """Find the panels: on the nodes of the normaliser, or on nodes of their own."""
        with frozen():
            panels: Plates | Mesh | None = _on_plan(density, density._plan)
            if panels is None and density.rule is not None:
                panels = _on_plan(density, find_other_plan(density))
            panels = panels or _on_mesh(density)
            total = Quantiles(panels)._primitive(density).total
        eps = torch.finfo(density.dtype).eps
        # Where the normaliser failed there is a report on that.
        off = read(((total - 1).abs() > eps**0.4) & _normalised(density)) > 0
        report(off * 1, _OFF, density._search["on_failure"], stacklevel=5)
        return Quantiles(panels)

    def cdf(self, density: NormalizedDensity, points: Tensor) -> Tensor:
        """Probabilities of points ``(m, *batch)``."""
        primitive = self._primitive(density)
        return (primitive(points) / primitive.total).clamp(0, 1).to(density.dtype)

    def icdf(self, density: NormalizedDensity, probability: Tensor) -> Tensor:
        """Points of probabilities ``(m, *batch)``."""
        primitive = self._primitive(density)
        x = primitive.invert(probability * primitive.total)
        lower, upper = (
            torch.as_tensor(t, dtype=density.dtype, device=density.device)
            for t in extent_of(density.domain)[:2]
        )
        x = torch.where(probability <= 0, lower, x)
        x = torch.where(probability >= 1, upper, x)
        valid = (probability >= 0) & (probability <= 1) & _normalised(density)
        return torch.where(valid, x, torch.nan).to(density.dtype)

    def mode(self, density: NormalizedDensity) -> Tensor:
        """The highest point: from the highest node, by golden section and Newton."""
        integrand = integrand_of(density)
        with torch.no_grad():
            low, high = self._bracket(density)
            left = high - GOLDEN * (high - low)
            right = low + GOLDEN * (high - low)
            values = integrand(torch.cat([left, right]))
            one, other = values[:1], values[1:]
            for _ in range(GOLDEN_STEPS):
                better = one >= other
                low = torch.where(better, low, left)
                high = torch.where(better, right, high)
                step = GOLDEN * (high - low)
                new = torch.where(better, high - step, low + step)
                value = integrand(new)
                left, right, one, other = (
                    torch.where(better, a, b)
                    for a, b in (
                        (new, right),
                        (left, new),
                        (value, other),
                        (one, value),
                    )
                )
            at = (low + high) / 2
        for _ in range(2):
            here = expand(integrand, at)
            width = torch.where(here.curvature < 0, -here.curvature, 1)
            step = here.slope / width
            # At an end of the support the slope is not 0, and the mode stands still.
            flat = (here.curvature < 0) & (step.abs() < 1e-3 * width.rsqrt())
            at = at + torch.where(flat, step, 0)
        return torch.where(_normalised(density), at[0], torch.nan)

    def _bracket(self, density: NormalizedDensity) -> tuple[Tensor, Tensor]:
        """Nodes on both sides of the highest one, ``(1, *batch)``."""
        primitive = self._primitive(density)
        x = primitive.nodes()
        order = x.argsort(0)
        x = x.gather(0, order)
        value = density._known.at(x.to(density.dtype))
        best = value.argmax(0, keepdim=True)
        low = x.gather(0, (best - 1).clamp(min=0))
        high = x.gather(0, (best + 1).clamp(max=len(x) - 1))
        lower, upper = (
            torch.as_tensor(t, dtype=x.dtype, device=x.device).expand_as(low)
            for t in extent_of(density.domain)[:2]
        )
        low = torch.where((best == 0) & lower.isfinite(), lower, low)
        high = torch.where((best == len(x) - 1) & upper.isfinite(), upper, high)
        return low.to(density.dtype), high.to(density.dtype)

    def _primitive(self, density: NormalizedDensity) -> Primitive | Cumulated:
        return density._memory.recall("primitive", partial(self._add_up, density))

    def _add_up(self, density: NormalizedDensity) -> Primitive | Cumulated:
        probability = _probability(density)
        if isinstance(self.panels, Mesh):
            return Primitive(probability, self.panels)
        return Cumulated(probability, _log_probability(density), self.panels)


def _on_plan(density: NormalizedDensity, plan: Rule) -> Plates | None:
    """Panels on the nodes of a plan; None if these are no panels."""
    integrand = _log_probability(density)
    if read(density.log_normalizer).size != density.batch_shape.numel():
        raise NotImplementedError(_MAPPED)
    columns = _columns(density, plan, integrand)
    if not columns:
        return None
    home = read(density._home.expand(density.batch_shape)).ravel()
    evaluate = Evaluator(integrand, (), None, home, density._block, grad=False)

    def logs(element: Index, points: Array) -> Array:
        return evaluate(element, points)[..., 0].real

    tolerance = torch.finfo(density.dtype).eps ** EXACT
    budget = density._search["max_evals"] or MAX_EVALS
    with np.errstate(all="ignore"):
        blocks, good = blocks_of(logs, columns, tolerance, budget)
        if plan.fixed and not isinstance(plan, LinePlan) and not good:
            # Who chose the nodes did not choose them for a singular end.
            return None
        return plates_of(blocks, integrand, home)


def _columns(
    density: NormalizedDensity, plan: Rule, integrand: Integrand
) -> list[Columns] | None:
    """The nodes of the normaliser in their order, if they make panels."""
    pieces = _pieces(density, integrand)
    eps = torch.finfo(density.dtype).eps
    wanted = read(_normalised(density)).astype(bool).ravel()
    if (pieces.sign < 0).any() or not wanted.any():
        return None
    if isinstance(plan, LinePlan):
        return columns_of(plan, pieces, eps, wanted)
    if not isinstance(plan, FixedRule) or polynomial(plan) is None:
        return None
    x = seen(density).point.reshape(plan.n, wanted.size)
    return columns_of_rule(plan, pieces, x, eps, wanted)


def _pieces(density: NormalizedDensity, integrand: Integrand) -> Pieces:
    """Pieces between the limits and breakpoints, as those of the plan."""
    rows = [full(limit, integrand) for limit in extent_of(density.domain)]
    if density.breakpoints is not None:
        inner = as_breakpoints(density.breakpoints).to(integrand.device)
        rows[1:1] = list(per_element(inner, integrand))
    table = read(torch.stack(rows)).reshape(len(rows), density.batch_shape.numel())
    return make_pieces(table[:-2], table[-2], table[-1])


def _on_mesh(density: NormalizedDensity) -> Mesh:
    """Panels of their own, starting from the peaks that the normaliser has seen."""
    at, width, peaks = density._memory.recall(
        "peaks", partial(Peaks.of, density), value=False
    )
    lower, upper = extent_of(density.domain)[:2]
    budget = density._search["max_evals"] or MAX_EVALS
    # Judged by the total.
    rtol = SHARPER * torch.finfo(density.dtype).eps ** 0.5
    settings = Settings(Tolerance(rtol, 0.0), budget, "ignore")
    extent = Extent(lower, upper, at, width)
    if density.breakpoints is not None:
        given = as_breakpoints(density.breakpoints).to(peaks)
        own = (1,) * (peaks.ndim - given.ndim)
        given = given.reshape(given.shape[:1] + own + given.shape[1:])
        peaks = torch.cat([peaks, given.expand(-1, *peaks.shape[1:])])
    # A peak far from the highest is narrow in the variable of the panels.
    peaks = torch.cat([peaks, *(peaks[1:] + k * width for k in (-4, 4))])
    return find_mesh(_probability(density), extent, peaks, settings)


#: Inverse golden ratio, and steps that shrink a bracket to 1e-8 of its length, where
#: values cannot tell points apart any more; Newton steps do the rest.
GOLDEN, GOLDEN_STEPS = (5**0.5 - 1) / 2, 38


def _normalised(density: NormalizedDensity) -> Tensor:
    """Which densities there are: without a normaliser nothing is known of one."""
    return density.log_normalizer.detach().isfinite()


def _log_probability(density: NormalizedDensity) -> Integrand:
    """The log density, with the normaliser as a constant: it cancels in the cdf."""
    log_z, known = density.log_normalizer.detach(), density._known

    def log_probability(points: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        offset, *own = args if known.by_row else (log_z, *args)
        return known(points, *own) - offset

    return integrand_of(density)._replace(
        function=log_probability,
        args=(log_z, *known.args) if known.by_row else known.args,
    )


def _probability(density: NormalizedDensity) -> Integrand:
    """The density itself."""
    log = _log_probability(density)
    return log._replace(function=lambda *args: torch.exp(log.function(*args)))

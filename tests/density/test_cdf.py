"""Distribution functions on the nodes of the normaliser: how exact, how many nodes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import torch_mlcalc as mlc
from torch_mlcalc.density import known, panels

DOUBLE = torch.float64
LINE = mlc.RealLine(torch.tensor(0.0, dtype=DOUBLE))
HALF = mlc.HalfLine(torch.tensor(0.0, dtype=DOUBLE))
UNIT = mlc.Interval(torch.tensor(0.0, dtype=DOUBLE), 1.0)
CIRCLE = mlc.Interval(torch.tensor(-math.pi, dtype=DOUBLE), math.pi)


def mixture_cdf(x: np.ndarray) -> np.ndarray:
    normal = scipy.stats.norm.cdf
    share = 1 / math.sqrt(8)
    return (normal(x, -2, math.sqrt(0.5)) + share * normal(x, 3, 0.25)) / (1 + share)


class Case(NamedTuple):
    """A density, its distribution function, its quantiles' error, and evaluations.

    ``nodes`` are the evaluations beyond those of the normaliser, as parts of these.
    """

    name: str
    log_density: Callable[[Tensor], Tensor]
    domain: mlc.Domain
    cdf: Callable[[np.ndarray], np.ndarray]
    nodes: float = 1.0
    atol: float = 1e-12


CASES = [
    Case("normal", lambda x: -((x - 1) ** 2) / 8, LINE,
         scipy.stats.norm(1, 2).cdf),
    # Rounding of points near 1e4 is 1e-10 of the width.
    Case("narrow and far", lambda x: -((x - 1e4) ** 2) * 5e3 + 700, LINE,
         scipy.stats.norm(1e4, 0.01).cdf, 0.3, 5e-9),
    Case("student 3", lambda x: -2 * torch.log1p(x * x / 3), LINE,
         scipy.stats.t(3).cdf),
    Case("student 1.5", lambda x: -1.25 * torch.log1p(x * x / 1.5), LINE,
         scipy.stats.t(1.5).cdf),
    Case("cauchy", lambda x: -torch.log1p(x * x), LINE, scipy.stats.cauchy.cdf, 0.0),
    Case("laplace", lambda x: -x.abs(), LINE, scipy.stats.laplace.cdf, 0.0),
    Case("logistic", lambda x: -x - 2 * nn.functional.softplus(-x), LINE,
         scipy.stats.logistic.cdf),
    Case("gumbel", lambda x: -x - torch.exp(-x), LINE, scipy.stats.gumbel_r.cdf),
    Case("below", lambda x: x, mlc.Interval(-math.inf, torch.tensor(1.0, dtype=DOUBLE)),
         lambda x: np.exp(x - 1)),
    Case("gamma 2.5", lambda x: 1.5 * x.log() - 2 * x, HALF,
         scipy.stats.gamma(2.5, scale=0.5).cdf),
    Case("gamma 0.4", lambda x: -0.6 * x.log() - x, HALF, scipy.stats.gamma(0.4).cdf),
    # The points next to 1 are as far apart as that.
    Case("beta 1/2", lambda x: -(x.log() + torch.log1p(-x)) / 2, UNIT,
         scipy.stats.beta(0.5, 0.5).cdf, 0.0, 1e-8),
    Case("beta 0.9 0.4", lambda x: -0.1 * x.log() - 0.6 * torch.log1p(-x), UNIT,
         scipy.stats.beta(0.9, 0.4).cdf, 0.0, 1e-6),
    Case("beta 0.6 20", lambda x: -0.4 * x.log() + 19 * torch.log1p(-x), UNIT,
         scipy.stats.beta(0.6, 20).cdf, 0.5),
    Case("beta 3 2", lambda x: 2 * x.log() + torch.log1p(-x), UNIT,
         scipy.stats.beta(3, 2).cdf, 0.0),
    Case("uniform", lambda x: 0 * x + 5, UNIT, lambda x: x, 0.0),
    Case("von mises", lambda x: 4 * x.cos(), CIRCLE, scipy.stats.vonmises(4).cdf),
    Case("mixture", lambda x: torch.logaddexp(-((x + 2) ** 2), -((x - 3) ** 2) * 8),
         LINE, mixture_cdf, 0.5),
]  # fmt: skip


class Counted:
    """A log density of one element that counts its evaluations."""

    def __init__(self, log_density: Callable[[Tensor], Tensor]) -> None:
        self.log_density = log_density
        self.points: list[float] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.points += x.detach().flatten().tolist()
        return self.log_density(x)


@pytest.fixture(params=CASES, ids=lambda c: c.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_closed_forms_from_the_nodes_of_the_normaliser(case: Case) -> None:
    counted = Counted(case.log_density)
    p = mlc.NormalizedDensity(counted, case.domain)
    _ = p.log_normalizer
    first = len(counted.points)
    inner = torch.linspace(0.01, 0.99, 99, dtype=DOUBLE)
    tail = torch.logspace(-10, -3, 8, dtype=DOUBLE)
    u = torch.cat([tail, inner, 1 - tail.flip(0)])
    _ = p._quantiles
    more = len(counted.points) - first
    # Nothing twice, and no more than the error of the panels asks for.
    old, new = set(counted.points[:first]), set(counted.points[first:])
    assert len(new) == more and not old & new
    assert more <= case.nodes * first
    x = p.icdf(u)
    torch.testing.assert_close(p.cdf(x), u, rtol=0, atol=case.atol)
    exact = torch.from_numpy(np.asarray(case.cdf(x.numpy())))
    torch.testing.assert_close(u, exact, rtol=1e-4, atol=case.atol)
    torch.testing.assert_close(u[7:-8], exact[7:-8], rtol=0, atol=case.atol)


def test_a_cdf_is_monotone_from_0_to_1(case: Case) -> None:
    p = mlc.NormalizedDensity(case.log_density, case.domain, validate_args=False)
    ends = p.icdf(torch.tensor([1e-14, 1 - 1e-14], dtype=DOUBLE)).tolist()
    low, high = (float(limit) for limit in case.domain.extent[:2])
    grid = [torch.linspace(*ends, 4001, dtype=DOUBLE)]
    at = p.mode if case.name not in ("uniform", "beta 1/2") else torch.tensor(0.5)
    grid += [at + s * torch.logspace(-12, 6, 400, dtype=DOUBLE) for s in (-1, 1)]
    x = torch.cat(grid).sort().values.clamp(low, high)
    every = p.cdf(x)
    assert every.diff().min() >= -1e-14 and every.min() >= 0 and every.max() <= 1
    assert p.cdf(torch.tensor([low, high], dtype=DOUBLE)).tolist() == [0, 1]


@pytest.mark.parametrize(
    "rule", [None, mlc.GaussKronrod(15), mlc.DoubleExponential(), mlc.GaussLegendre(48)]
)
def test_rules_that_place_the_nodes(rule: mlc.Rule | None) -> None:
    p = mlc.NormalizedDensity(CASES[9].log_density, HALF, rule)
    x = torch.tensor([0.1, 1.0, 3.0], dtype=DOUBLE)
    exact = torch.from_numpy(CASES[9].cdf(x.numpy()))
    atol = 1e-5 if rule == mlc.GaussLegendre(48) else 1e-11
    torch.testing.assert_close(p.cdf(x), exact, rtol=0, atol=atol)
    hermite = mlc.NormalizedDensity(
        CASES[0].log_density, LINE, mlc.AdaptiveGaussHermite()
    )
    exact = torch.from_numpy(CASES[0].cdf(x.numpy()))
    torch.testing.assert_close(hermite.cdf(x), exact, rtol=0, atol=1e-10)


def test_a_batch_whose_elements_have_nodes_of_every_kind() -> None:
    lower = torch.tensor([0.0, 0.0, -math.inf, -math.inf, 0.0], dtype=DOUBLE)
    upper = torch.tensor([1.0, math.inf, 0.0, math.inf, 1.0], dtype=DOUBLE)
    a = torch.tensor([1.0, 0.0, 0.0, 0.0, 0.5], dtype=DOUBLE)
    b = torch.tensor([0.0, 2.0, -2.0, 0.0, 0.0], dtype=DOUBLE)
    c = torch.tensor([0.0, 0.0, 0.0, 8.0, 0.0], dtype=DOUBLE)

    def log_density(x: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        small = torch.where(a == 0.5, x.abs(), 1.0)
        return -0.5 * small.log() - b * x - c * x * x / 2 + 0 * a

    p = mlc.NormalizedDensity(log_density, mlc.Interval(lower, upper), args=(a, b, c))
    u = torch.tensor([0.001, 0.3, 0.5, 0.99], dtype=DOUBLE)[:, None].expand(4, 5)
    exact = torch.stack(
        [
            u[:, 0],
            -torch.log1p(-u[:, 1]) / 2,
            u[:, 2].log() / 2,
            torch.special.ndtri(u[:, 3]) / math.sqrt(8),
            u[:, 4] ** 2,
        ],
        1,
    )
    torch.testing.assert_close(p.icdf(u), exact, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(p.cdf(exact), u, rtol=0, atol=1e-11)


def test_only_elements_that_need_it_get_more_nodes() -> None:
    width = torch.tensor([1.0, 12.0], dtype=DOUBLE)
    spare = torch.zeros(known.LEAST)
    rows: list[float] = []

    def log_density(x: Tensor, name: Tensor, k: Tensor) -> Tensor:
        rows.extend((name + 0 * x).flatten().tolist())
        return torch.sin(k * x) + 0 * spare.sum()

    p = mlc.NormalizedDensity(
        log_density, UNIT, args=(torch.tensor([0.0, 1.0], dtype=DOUBLE), width)
    )
    _ = p.log_normalizer
    rows.clear()
    _ = p._quantiles
    assert rows.count(0.0) == 0 < rows.count(1.0)


def test_gradients_of_singular_ends_in_their_power() -> None:
    # What is beyond the outermost nodes has a gradient as well.
    a = torch.tensor([0.4, 0.9], dtype=DOUBLE, requires_grad=True)
    p = mlc.NormalizedDensity(lambda x, a: (a - 1) * torch.log1p(-x), UNIT, args=(a,))
    x = torch.tensor([[0.3], [0.999]], dtype=DOUBLE).expand(2, 2)
    x = x.clone().requires_grad_()
    exact = 1 - (1 - x) ** a
    ours = p.cdf(x)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-11)
    for value, other in ((ours, exact), (p.icdf(exact.detach()), None)):
        if other is None:
            other = 1 - (1 - exact.detach()) ** (1 / a)
        first, wanted = (
            torch.autograd.grad(v.sum(), a, create_graph=True)[0]
            for v in (value, other)
        )
        torch.testing.assert_close(first, wanted, rtol=1e-7, atol=1e-8)
        second, wanted = (
            torch.autograd.grad(v.sum(), a, retain_graph=True)[0]
            for v in (first, wanted)
        )
        torch.testing.assert_close(second, wanted, rtol=1e-5, atol=1e-6)
    (slope,) = torch.autograd.grad(p.cdf(x).sum(), x)
    torch.testing.assert_close(slope, p.log_prob(x).exp())


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_functional_transforms() -> None:
    def cdf(k: Tensor) -> Tensor:
        return mlc.NormalizedDensity(lambda x: -k * x * x, LINE).cdf(x[0])

    x, k = torch.tensor([0.1, 0.3], dtype=DOUBLE), torch.tensor(1.0, dtype=DOUBLE)
    slope = x[0] * torch.exp(-(x[0] ** 2)) / math.sqrt(math.pi) / 2
    torch.testing.assert_close(torch.func.grad(cdf)(k), slope)
    torch.testing.assert_close(torch.func.jvp(cdf, (k,), (k,))[1], slope)
    p = mlc.NormalizedDensity(lambda x: -x * x, LINE)
    torch.testing.assert_close(torch.func.vmap(p.cdf)(x), p.cdf(x))
    with pytest.raises(NotImplementedError, match="inside of vmap"):
        torch.func.vmap(cdf)(x)


def test_breakpoints_and_single_precision() -> None:
    p = mlc.NormalizedDensity(
        lambda x: torch.where(x < 0.3, 0.0, 1.0) - x, mlc.Interval(0.0, 1.0),
        breakpoints=[0.3],
    )  # fmt: skip
    x = torch.tensor([0.1, 0.3, 0.8])
    low, high = 1 - torch.exp(-x.clamp(max=0.3)), torch.exp(-x.clamp(min=0.3))
    total = 1 - math.exp(-0.3) + math.e * (math.exp(-0.3) - math.exp(-1))
    exact = (low + math.e * (math.exp(-0.3) - high)) / total
    assert p.cdf(x).dtype == torch.float32
    torch.testing.assert_close(p.cdf(x), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float32, None), (torch.float64, 1e-3)]
)
@pytest.mark.parametrize("lower", [0.0, 0.3])
def test_few_nodes_end_where_the_density_does(
    lower: float, dtype: torch.dtype, rtol: float | None
) -> None:
    # Of few nodes the first is no longer next to nothing, and the run goes on beyond
    # it, at that end alone. Continued to infinity as well, quantiles were 1e18.
    rate = torch.ones((), dtype=dtype)
    p = mlc.NormalizedDensity(
        lambda x, rate: -rate * x, mlc.HalfLine(lower), args=(rate,), rtol=rtol
    )
    q = torch.linspace(0.125, 0.875, 7, dtype=dtype)
    x = lower - torch.log1p(-q)
    tolerance = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(p.icdf(q), x, **tolerance)
    torch.testing.assert_close(p.cdf(x), q, **tolerance)


def test_refinement_ends_at_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(CASES[2].log_density)
    p = mlc.NormalizedDensity(counted, LINE)
    _ = p.log_normalizer
    first = len(counted.points)
    monkeypatch.setattr(panels, "MOST", 0)
    _ = p._quantiles
    assert len(counted.points) == first
    # Half as many nodes have the square root of the accuracy.
    x = torch.tensor([1.0], dtype=DOUBLE)
    off = abs(p.cdf(x).item() - CASES[2].cdf(1.0))
    assert 1e-11 < off < 1e-7

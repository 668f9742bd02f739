"""Points: as many as are said, no more than are allowed, and all that a rule needs."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchquad
from torch import Tensor

import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature import evaluator
from torch_mlcalc.quadrature.cubature import genz_malik

D = torch.float64
INF = math.inf


def _box(low: float, high: float, dimension: int) -> q.Box:
    return q.Box(*(torch.full((dimension,), x, dtype=D) for x in (low, high)))


DOMAINS = {
    "square": _box(0.0, 1.0, 2),
    "plane": _box(-INF, INF, 2),
    "quarter": _box(0.0, INF, 2),
    "space": _box(-INF, INF, 3),
    "five": _box(-INF, INF, 5),
    "cube": _box(0.0, 1.0, 3),
    "four": q.Box(0.0, torch.ones(4, dtype=D)),
    "triangle": q.Box(
        torch.zeros(2, dtype=D), [torch.ones((), dtype=D), lambda x: 1 - x]
    ),
    "simplex": q.Simplex(3),
}

LOGS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda x: -x.square().sum(-1),
    "bimodal": lambda x: torch.logaddexp(
        -(x - 1.5).square().sum(-1), -(x + 2).square().sum(-1)
    ),
    "kinked": lambda x: -(x - 0.3).abs().sum(-1),
    "heavy": lambda x: -4 * torch.log1p(x.square().sum(-1)),
}

RULES = {
    "default": None,
    "degree_7": q.GenzMalik(7),
    "degree_9": q.GenzMalik(9),
    "lattice": q.Lattice(16, 4),
    "sobol": q.Sobol(16, 4),
    "monte_carlo": q.MonteCarlo(100),
    "vegas": q.Vegas(50, 2, 2),
    "torchquad": q.Torchquad(torchquad.VEGAS(), n=250),
}


class Counted:
    """A log integrand, or its exponential, that counts its points."""

    def __init__(self, function: Callable[[Tensor], Tensor], *, log: bool) -> None:
        self.function, self.log, self.points = function, log, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.points += math.prod(x.shape[:-1])
        value = self.function(x)
        return value if self.log else value.exp()


@pytest.mark.parametrize("log", [False, True], ids=["plain", "log"])
@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
@pytest.mark.parametrize("name", RULES)
def test_all_points_are_counted_and_none_is_too_many(
    name: str, domain: q.Domain, log: bool
) -> None:
    solve = q.log_integrate_with_error if log else q.integrate_with_error
    deep = RULES[name] is None
    for function in LOGS.values() if deep else (LOGS["kinked"],):
        for most in (300, 3_000, 20_000) if deep else (600,):
            counted = Counted(function, log=log)
            with torch.no_grad(), warnings.catch_warnings():
                # Of torch.jit, below the derivatives by which modes are found.
                warnings.simplefilter("ignore", DeprecationWarning)
                found = solve(
                    counted,
                    domain,
                    RULES[name],
                    rtol=1e-5,
                    max_evals=most,
                    on_failure="ignore",
                )
            assert found.n_evals == counted.points
            assert found.n_evals <= most


def test_a_grid_around_a_mode_fits_or_is_refused() -> None:
    rule, space = q.AdaptiveGaussHermite(3), DOMAINS["five"]
    normal = Counted(LOGS["normal"], log=True)
    grids = 3**5 + 7**5
    with pytest.raises(ValueError, match=rf"needs up to {grids + 63} .* is {grids}; "):
        q.log_integrate(normal, space, rule, max_evals=grids)
    assert not normal.points
    found = q.log_integrate_with_error(normal, space, rule, max_evals=grids + 63)
    assert grids < found.n_evals <= grids + 63


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_cannot_fit_is_refused_or_used_once(name: str) -> None:
    counted, cube = Counted(LOGS["normal"], log=False), _box(0.0, 1.0, 5)

    def solve() -> q.Estimate:
        return q.integrate_with_error(
            counted, cube, RULES[name], max_evals=20, on_failure="ignore"
        )

    once = {"default": 263, "degree_7": 93, "degree_9": 263}
    if name not in once:
        with pytest.raises(
            ValueError, match=r"needs \d+ evaluations, max_evals is 20;"
        ):
            solve()
        return
    assert solve().n_evals == counted.points == once[name]


def test_between_kinks_there_is_no_more_than_can_be_paid_for() -> None:
    # Of 6 axes there are 64 parts, of which one use of the last rule needs 34,000.
    counted = Counted(lambda x: -4 * (x - 0.3).abs().sum(-1), log=False)
    found = q.integrate_with_error(
        counted, _box(0.0, 1.0, 6), rtol=1e-7, max_evals=50_000, on_failure="ignore"
    )
    assert found.n_evals == counted.points <= 50_000


@pytest.mark.parametrize("rule", [q.GenzMalik(7), q.GenzMalik(9)], ids=str)
def test_a_level_is_one_call_and_one_wait_for_the_device(
    rule: q.GenzMalik, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all integrals together, of which those that have converged drop out."""
    counts = {"levels": 0, "calls": 0, "reads": 0, "points": 0}
    measure, read = genz_malik._measure, evaluator.read

    def level(*args: Any) -> Any:  # noqa: ANN401
        counts["levels"] += 1
        return measure(*args)

    def wait(*args: Any) -> Any:  # noqa: ANN401
        counts["reads"] += 1
        return read(*args)

    monkeypatch.setattr(genz_malik, "_measure", level)
    monkeypatch.setattr(evaluator, "read", wait)

    def peaks(x: Tensor, rate: Tensor) -> Tensor:
        counts["calls"] += 1
        counts["points"] += math.prod(x.shape[:-1])
        return torch.exp(-rate * (x - 0.3).square().sum(-1))

    rate = torch.tensor([1.0, 10.0, 100.0, 300.0, 0.0, 50.0], dtype=D)
    with torch.no_grad():
        found = q.integrate_with_error(
            peaks, q.Box(0.0, 1.0, dimension=2), rule, args=(rate,), rtol=1e-4
        )
    assert counts["levels"] == counts["calls"] == counts["reads"] > 3
    # A row more where there are as many as integrals, so that none is mistaken.
    spare = counts["levels"] * found.n_evals.min()
    assert found.n_evals.sum() <= counts["points"] <= found.n_evals.sum() + spare
    assert found.n_evals.max() > 3 * found.n_evals.min()


@pytest.mark.parametrize("name", ["lattice", "sobol", "monte_carlo"])
def test_doubling_evaluates_no_point_twice(name: str) -> None:
    seen: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return torch.exp(x.sum(-1))

    rtol = 0.02 if name == "monte_carlo" else 1e-3
    found = q.integrate_with_error(function, _box(0.0, 1.0, 3), RULES[name], rtol=rtol)
    points = torch.cat(seen)
    assert len(torch.unique(points, dim=0)) == len(points) == found.n_evals > 200
    assert found.error <= rtol * found.value

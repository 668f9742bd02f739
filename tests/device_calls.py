"""Calls whose inputs are on a device, by name: what they return belongs there too.

``FIXED`` must not read a number from the device, which would make the host wait for it;
``SEARCHED`` may, as an adaptive rule decides on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

import torch_mlcalc as mlc

Call = Callable[[torch.device], Tensor]

DOUBLE = torch.float64


@cache
def on(device: torch.device, *values: float) -> Tensor:
    """Numbers on a device, always the same tensor: making one is a copy that waits."""
    return torch.tensor(values, dtype=DOUBLE, device=device).requires_grad_()


def wave(x: Tensor, rate: Tensor) -> Tensor:
    return torch.exp(-rate * x) * torch.cos(x)


def log_well(x: Tensor, rate: Tensor) -> Tensor:
    return -rate * x.square()


def bump(x: Tensor) -> Tensor:
    return torch.exp(-x.square().sum(-1))


def log_bump(x: Tensor) -> Tensor:
    return -x.square().sum(-1)


def upper(device: torch.device) -> Tensor:
    return on(device, 1.0, 2.0, 0.5)


def rate(device: torch.device) -> Tensor:
    return on(device, 0.5, 1.0, 3.0)


def moving(device: torch.device) -> mlc.Interval:
    return mlc.Interval(0, upper(device))


def box(device: torch.device) -> mlc.Box:
    return mlc.Box(0.0, upper(device)[:, None].expand(3, 2))


def line(rule: mlc.Rule, device: torch.device, **options: object) -> Tensor:
    return mlc.integrate(wave, moving(device), rule, args=(rate(device),), **options)


def numbers(rule: mlc.Rule, device: torch.device, **options: object) -> Tensor:
    unit = mlc.Interval(0, 1)
    return mlc.integrate(wave, unit, rule, args=(rate(device),), **options)


def log_line(domain: mlc.Domain, rule: mlc.Rule, device: torch.device) -> Tensor:
    return mlc.log_integrate(log_well, domain, rule, args=(rate(device),))


def solid(rule: mlc.Rule | None, device: torch.device, **options: object) -> Tensor:
    return mlc.integrate(bump, box(device), rule, **options)


def on_simplex(device: torch.device) -> Tensor:
    rule = mlc.Product(mlc.GaussLegendre(5))
    return mlc.integrate(
        lambda x, r: r * x.prod(-1), mlc.Simplex(2), rule, args=(rate(device),)
    )


CPU = torch.device("cpu")
#: Made where there are numbers, and replayed elsewhere.
LINE_PLANS = {
    "args": partial(mlc.adapt, wave, moving(CPU), args=(rate(CPU),)),
    "breakpoints": partial(
        mlc.adapt, wave, moving(CPU), args=(rate(CPU),), breakpoints=[0.3]
    ),
    "closure": partial(mlc.adapt, lambda x: wave(x, rate(CPU)), moving(CPU)),
}


def replay_line(name: str, device: torch.device) -> Tensor:
    plan = LINE_PLANS[name]().to(device)
    if name == "closure":
        return mlc.integrate(lambda x: wave(x, rate(device)), moving(device), plan)
    inner = [0.3] if name == "breakpoints" else None
    return line(plan, device, breakpoints=inner)


def replay_solid(
    rule: mlc.Rule | None, breakpoints: list | None, device: torch.device
) -> Tensor:
    plan = mlc.adapt(bump, box(CPU), rule, breakpoints=breakpoints).to(device)
    return solid(plan, device, breakpoints=breakpoints)


def cumulative(device: torch.device) -> Tensor:
    x = torch.stack([upper(device), 2 * upper(device)])
    rule = mlc.GaussLegendre(9)
    return mlc.cumulative_integrate(wave, 0.0, x, rule, args=(rate(device),))


def samples(device: torch.device) -> Tensor:
    y = upper(device)[:, None] * torch.ones(3, 9, dtype=DOUBLE, device=device)
    return mlc.simpson(y, dx=0.1) + mlc.cumulative_simpson(y, dx=0.1)[..., -1]


def mean(device: torch.device) -> Tensor:
    normal = torch.distributions.Normal(
        rate(device), upper(device), validate_args=False
    )
    return mlc.expectation(torch.sin, normal, mlc.GaussHermite(9))


def density(device: torch.device) -> Tensor:
    made = mlc.NormalizedDensity(
        wave,
        moving(device),
        mlc.GaussLegendre(9),
        args=(rate(device),),
        validate_args=False,
    )
    assert made.status.device == made.device
    return made.log_prob(upper(device) / 2)


PRODUCT = mlc.Product(mlc.GaussLegendre(5))

FIXED: dict[str, Call] = {
    "Gauss-Legendre": partial(line, mlc.GaussLegendre(8)),
    "Clenshaw-Curtis": partial(line, mlc.ClenshawCurtis(9)),
    "Gauss-Jacobi": partial(line, mlc.GaussJacobi(9, 0.5, 0.5)),
    "tabulated": partial(line, mlc.TabulatedRule([-0.5, 0.5], [1.0, 1.0])),
    "between numbers": partial(numbers, mlc.Simpson(9)),
    "long": partial(line, mlc.Trapezoid(200_001)),
    "breakpoints": partial(line, mlc.GaussLegendre(8), breakpoints=[0.3, 0.7]),
    "numbers, breakpoints": partial(numbers, mlc.GaussLegendre(8), breakpoints=[0.3]),
    "half line": partial(log_line, mlc.HalfLine(), mlc.GaussLaguerre(9)),
    "real line": partial(log_line, mlc.RealLine(), mlc.GaussHermite(9)),
    "placed line": lambda device: log_line(
        mlc.RealLine(rate(device), upper(device)), mlc.GaussHermite(9), device
    ),
    "product": partial(solid, PRODUCT),
    "product, log": lambda device: mlc.log_integrate(log_bump, box(device), PRODUCT),
    "product, breakpoints": partial(solid, PRODUCT, breakpoints=[[0.3, 0.4], None]),
    "sparse grid": partial(solid, mlc.SparseGrid(3)),
    "simplex": on_simplex,
    "cumulative": cumulative,
    "samples": samples,
    "expectation": mean,
    "density": density,
    "layer": lambda device: mlc.LogNormalizer(
        wave, moving(device), mlc.GaussLegendre(9)
    )(rate(device)),
}

#: Plans, whose application reads nothing either.
PLANS: dict[str, Call] = {
    **{f"plan, {name}": partial(replay_line, name) for name in LINE_PLANS},
    "plan, tensor rule": partial(replay_solid, None, None),
    "plan, Genz-Malik": partial(replay_solid, mlc.GenzMalik(), None),
    "plan, splits": partial(replay_solid, None, [None, [0.3]]),
    "plan, lattice": partial(replay_solid, mlc.Lattice(256), None),
    "plan, Sobol": partial(replay_solid, mlc.Sobol(256), None),
    "plan, Monte Carlo": partial(replay_solid, mlc.MonteCarlo(256), None),
    "plan, VEGAS": partial(replay_solid, mlc.Vegas(256, warmup=2), None),
}


def searched(device: torch.device, log: bool) -> Tensor:
    solve = mlc.log_integrate_with_error if log else mlc.integrate_with_error
    function = log_well if log else wave
    found = solve(function, moving(device), args=(rate(device),))
    assert "Plan(n=" in repr(found.plan)
    return found.value + 0 * found.error


SEARCHED: dict[str, Call] = {
    "search": partial(searched, log=False),
    "search, log": partial(searched, log=True),
    "search, breakpoints": partial(line, None, breakpoints=[0.3]),
    "search, single": lambda device: mlc.integrate(
        lambda x: torch.sqrt(x), mlc.Interval(0, upper(device)[0])
    ),
    "search, mode": lambda device: mlc.log_integrate(
        lambda x, r: -r * x.square() - x**4,
        mlc.RealLine(),
        mlc.AdaptiveGaussHermite(),
        args=(rate(device),),
    ),
    "search, grad_rtol": partial(line, None, grad_rtol=1e-3),
    "box": partial(solid, None),
    "box, breakpoints": partial(solid, None, breakpoints=[None, [0.3]]),
    "Genz-Malik": partial(solid, mlc.GenzMalik()),
    "Genz-Malik, log": lambda device: mlc.log_integrate(
        log_bump, box(device), mlc.GenzMalik()
    ),
    "lattice": partial(solid, mlc.Lattice(256)),
    "Sobol": partial(solid, mlc.Sobol(256)),
    "Monte Carlo": partial(solid, mlc.MonteCarlo(256)),
    "VEGAS": partial(solid, mlc.Vegas(256, warmup=2)),
    "cumulative, panels": lambda device: mlc.cumulative_integrate(
        wave, 0.0, upper(device)[None], args=(rate(device),), breakpoints=[0.3]
    ),
    "expectation, checked": lambda device: mlc.expectation(
        torch.sin, torch.distributions.Normal(rate(device), upper(device))
    ),
    "density, sampled": lambda device: mlc.NormalizedDensity(
        log_well, mlc.RealLine(), args=(rate(device),)
    ).cdf(upper(device)),
}


# ---- and what is trained -------------------------------------------------------------


def trained(device: torch.device, **options: bool) -> Tensor:
    """A parameter after five steps of SGD."""
    param = torch.linspace(-1, 1, 7, device=device).requires_grad_()
    optimizer = mlc.SGD([param], 0.1, momentum=0.9, nesterov=True, **options)
    for _ in range(5):
        optimizer.zero_grad(set_to_none=not options.get("flat"))
        param.cosh().sum().backward()
        optimizer.step()
    return param

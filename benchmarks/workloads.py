"""What is timed: many integrals at once, one short one, and long ones.

Each function prepares a call of a method; what is made before is not part of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import integrate as scipy_integrate
from torch import Tensor, nn

import torch_mlcalc as mlc

Call = Callable[[], object]
PEAK_RTOL = 1e-6

# At import, so that it holds in the fresh process that measures memory too.
torch.set_default_dtype(torch.float64)


# --- peaks of different place and width ------------------------------------------


def peak_parameters(count: int, narrowest: float) -> tuple[Tensor, Tensor]:
    """Centres in (0.2, 0.8), widths up to 1, their logs uniform; independent."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(count, generator=generator) * 0.6 + 0.2
    width = narrowest ** torch.rand(count, generator=generator)
    return centre, width


def peak(x: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    """A bell of height 1."""
    return torch.exp(-0.5 * ((x - centre) / width) ** 2)


def exact_peaks(centre: Tensor, width: Tensor) -> Tensor:
    """The integral of a peak over (0, 1); its autograd derivative is exact too."""
    root = math.sqrt(2) * width
    return (
        math.sqrt(math.pi / 2)
        * width
        * (torch.erf((1 - centre) / root) + torch.erf(centre / root))
    )


def _mlc_peaks(centre: Tensor, width: Tensor) -> Tensor:
    return mlc.integrate(
        peak, mlc.Interval(0.0, 1.0), args=(centre, width), rtol=PEAK_RTOL
    )


def _torchquad_peaks(centre: Tensor, width: Tensor, n: int) -> Tensor:
    from torchquad import Boole

    return Boole().integrate(
        lambda x: peak(x, centre, width),
        dim=1,
        N=n,
        integration_domain=torch.tensor([[0.0, 1.0]]),
        backend="torch",
    )


def peaks(
    method: str, count: int, narrowest: float, gradient: bool, n: int = 0
) -> Call:
    """All integrals in one call, for "torchquad" with n points each."""
    centre, width = peak_parameters(count, narrowest)
    if gradient:
        centre.requires_grad_()
        width.requires_grad_()

    def call() -> tuple[Tensor, ...]:
        if method == "mlc":
            values = _mlc_peaks(centre, width)
        else:
            values = _torchquad_peaks(centre, width, n)
        if not gradient:
            return (values,)
        return (values.detach(), *torch.autograd.grad(values.sum(), (centre, width)))

    return call


def scipy_peaks(centre: Tensor, width: Tensor, gradient: bool) -> Call:
    """A loop of ``scipy.integrate.quad``, and one for each derivative."""
    pairs = list(zip(centre.tolist(), width.tolist(), strict=True))

    def value(x: float, c: float, w: float) -> float:
        return math.exp(-0.5 * ((x - c) / w) ** 2)

    def by_centre(x: float, c: float, w: float) -> float:
        return value(x, c, w) * (x - c) / w**2

    def by_width(x: float, c: float, w: float) -> float:
        return value(x, c, w) * (x - c) ** 2 / w**3

    def integral(f: Callable[..., float], pair: tuple[float, float]) -> float:
        return scipy_integrate.quad(f, 0, 1, pair, epsabs=0.0, epsrel=PEAK_RTOL)[0]

    integrands = (value, by_centre, by_width) if gradient else (value,)

    def call() -> tuple[Tensor, ...]:
        return tuple(torch.tensor([integral(f, p) for p in pairs]) for f in integrands)

    return call


# --- one short fixed rule -----------------------------------------------------------


#: The integral of _bell over (0, 1).
BELL = math.sqrt(math.pi) / 2 * math.erf(1)


def _bell(x: Tensor) -> Tensor:
    return torch.exp(-x * x)


def short(method: str) -> Call:
    """exp(-x^2) over (0, 1) with 32 Gauss-Legendre nodes."""
    if method == "mlc":
        return lambda: mlc.integrate(
            _bell, mlc.Interval(0.0, 1.0), mlc.GaussLegendre(32)
        )
    if method == "mlc, rule and domain made before":
        domain, rule = mlc.Interval(0.0, 1.0), mlc.GaussLegendre(32)
        return lambda: mlc.integrate(_bell, domain, rule)
    if method == "bare":
        nodes, weights = np.polynomial.legendre.leggauss(32)
        x, w = torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)
        return lambda: (w * _bell(x)).sum()
    from torchquad import GaussLegendre

    integrator = GaussLegendre()
    limits = torch.tensor([[0.0, 1.0]])
    return lambda: integrator.integrate(
        _bell, dim=1, N=32, integration_domain=limits, backend="torch"
    )


# --- a plan that is replayed --------------------------------------------------------


def replay(method: str, count: int) -> tuple[Call, Tensor]:
    """Bells of different rates over (0, 1) by a plan, or "bare"; the exact values.

    Both have the 21 nodes that the plan has found; ``count=0`` is one without a batch.
    """
    rate = torch.linspace(0.5, 2, count) if count else torch.tensor(1.0)
    exact = math.sqrt(math.pi) / 2 * torch.erf(rate.sqrt()) / rate.sqrt()

    def bells(x: Tensor, rate: Tensor = rate) -> Tensor:
        return torch.exp(-rate * x * x)

    domain, args = mlc.Interval(0.0, 1.0), (rate,) if count else ()
    plan = mlc.adapt(bells, domain, args=args, rtol=1e-8)
    if method == "mlc":
        return lambda: mlc.integrate(bells, domain, plan, args=args), exact
    nodes = []
    mlc.integrate(
        lambda x, *a: nodes.append(x) or bells(x, *a), domain, plan, args=args
    )
    # What their weights are does not matter to the time, but they have to be right.
    flat = nodes[0].reshape(plan.n, -1)
    powers = flat[:, 0] ** torch.arange(plan.n)[:, None]
    moments = 1 / torch.arange(1.0, plan.n + 1)
    w = torch.linalg.solve(powers, moments).reshape(-1, *(1,) * bool(count))
    x, w = nodes[0].clone(), w.expand(nodes[0].shape).clone()
    return lambda: (w * bells(x)).sum(0), exact


# --- one long fixed rule ------------------------------------------------------------


def _waves(x: Tensor) -> Tensor:
    return torch.exp(-x * x) * torch.cos(3 * x) + torch.sin(x) ** 2


#: Nodes of a block of the integrand alone; the fastest of 16 to 128 k, though not much.
BLOCK = 65536

#: The integral of _waves over (0, 10), but for exp(-100).
WAVES = math.sqrt(math.pi) / 2 * math.exp(-9 / 4) + 5 - math.sin(20) / 4


def long(method: str, n: int) -> Call:
    """The trapezoidal rule with n nodes over (0, 10)."""
    if method == "mlc":
        rule = mlc.Trapezoid(n)
        return lambda: mlc.integrate(_waves, mlc.Interval(0.0, 10.0), rule)
    if method in ("single sweep", "integrand alone, in blocks"):
        x = torch.linspace(0, 10, n)
        w = torch.full_like(x, 10 / (n - 1))
        w[[0, -1]] /= 2
        if method == "single sweep":
            return lambda: (w * _waves(x)).sum()
        blocks = list(zip(x.split(BLOCK), w.split(BLOCK), strict=True))
        return lambda: sum(wi @ _waves(xi) for xi, wi in blocks)
    from torchquad import Trapezoid

    integrator = Trapezoid()
    limits = torch.tensor([[0.0, 10.0]])
    return lambda: integrator.integrate(
        _waves, dim=1, N=n, integration_domain=limits, backend="torch"
    )


# --- a network as integrand -----------------------------------------------------------


def network(method: str, n: int) -> Call:
    """The trapezoidal rule over (-1, 1) for a 2x64 network, with gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
    )
    parameters = list(model.parameters())
    integral = _network_integral(method, n, lambda x: model(x.reshape(-1, 1))[:, 0])

    def call() -> tuple[Tensor, ...]:
        value = integral()
        return (value.detach(), *torch.autograd.grad(value, parameters))

    return call


def _network_integral(
    method: str, n: int, integrand: Callable[[Tensor], Tensor]
) -> Callable[[], Tensor]:
    limits = torch.tensor([-1.0, 1.0])
    if method == "mlc":
        rule, domain = mlc.Trapezoid(n), mlc.Interval(*limits)
        return lambda: mlc.integrate(integrand, domain, rule)
    if method == "plain autograd":
        x = torch.linspace(-1, 1, n)
        w = torch.full_like(x, 2 / (n - 1))
        w[[0, -1]] /= 2
        return lambda: (w * integrand(x)).sum()
    from torchquad import Trapezoid

    integrator = Trapezoid()
    return lambda: integrator.integrate(
        integrand, dim=1, N=n, integration_domain=limits[None], backend="torch"
    )

"""Variables by their logs: closed forms, gradients, and what numbers do not reach."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Chi2,
    Dirichlet,
    Distribution,
    FisherSnedecor,
    Gamma,
    InverseGamma,
    StudentT,
)

import torch_mlcalc as mlc
from torch_mlcalc.density.logs import has_logs

DOUBLE = torch.float64


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=DOUBLE, requires_grad=True)


#: The mean of a function under two parameters, and its closed form.
MEANS: dict[str, tuple[Callable[..., Distribution], Callable[[Tensor], Tensor],
                       Callable[[Tensor, Tensor], Tensor]]] = {
    "gamma, one": (Gamma, torch.ones_like, lambda a, r: 1 + 0 * a * r),
    "gamma, x": (Gamma, lambda x: x, lambda a, r: a / r),
    "gamma, log": (Gamma, torch.log, lambda a, r: torch.digamma(a) - r.log()),
    "gamma, root": (Gamma, torch.sqrt, lambda a, r: torch.exp(
        torch.lgamma(a + 0.5) - torch.lgamma(a)) / r.sqrt()),
    "inverse gamma, 1/x": (InverseGamma, lambda x: 1 / x, lambda a, r: a / r),
    "inverse gamma, log": (InverseGamma, torch.log,
                           lambda a, r: r.log() - torch.digamma(a)),
    "fisher, log": (FisherSnedecor, torch.log, lambda a, b: torch.digamma(a / 2)
                    - torch.digamma(b / 2) + b.log() - a.log()),
    "fisher, share": (FisherSnedecor, lambda x: 1 / (1 + x), lambda a, b: None),
    "beta, log": (Beta, torch.log,
                  lambda a, b: torch.digamma(a) - torch.digamma(a + b)),
    "beta, x": (Beta, lambda x: x, lambda a, b: a / (a + b)),
}  # fmt: skip


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize("a", [0.1, 1.0, 15.9, 16.1, 300.0])
def test_means_and_their_gradients(name: str, a: float) -> None:
    make, f, closed = MEANS[name]
    one, other = number(a), number(2.5)
    mean, exact = mlc.expectation(f, make(one, other)), closed(one, other)
    if exact is None:
        # By symmetry: 1 / x has the parameters exchanged.
        exact = 1 - mlc.expectation(f, make(other, one))
    torch.testing.assert_close(mean, exact, rtol=1e-8, atol=1e-9)
    ours, theirs = (torch.autograd.grad(v, (one, other)) for v in (mean, exact))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("df", [0.7, 3.0, 40.0, 1e5, 1e9, 1e13])
def test_a_student_density_of_any_degrees_of_freedom(df: float) -> None:
    nu = number(df)
    total = mlc.expectation(torch.ones_like, StudentT(nu, 1.0, 2.0))
    assert total.item() == pytest.approx(1, abs=1e-8)
    share = mlc.log_expectation(lambda x: -x * x / 2, StudentT(nu))
    if df > 1e4:
        assert share.item() == pytest.approx(-math.log(2) / 2, abs=2 / df + 1e-8)
    (slope,) = torch.autograd.grad(total, nu)
    assert abs(slope.item()) < 1e-6


#: Means that are infinite: those of a power at an end that is not integrable there.
INFINITE: dict[str, tuple[Callable[[], Distribution], Callable[[Tensor], Tensor]]] = {
    "gamma": (lambda: Gamma(number(0.3), 1.0), lambda x: 1 / x),
    "chi2": (lambda: Chi2(number(1.0)), lambda x: 1 / x),
    "inverse gamma": (lambda: InverseGamma(number(0.5), 1.0), lambda x: x),
    "inverse gamma, just": (lambda: InverseGamma(number(1.0), 5.0), lambda x: x),
    "fisher": (lambda: FisherSnedecor(number(3.0), number(2.0)), lambda x: x),
    "fisher, below": (lambda: FisherSnedecor(number(2.0), number(9.0)),
                      lambda x: 1 / x),
    "beta": (lambda: Beta(number(0.3), number(2.0)), lambda x: 1 / x),
    "beta, above": (lambda: Beta(number(2.0), number(0.4)), lambda x: 1 / (1 - x)),
    "dirichlet": (lambda: Dirichlet(torch.tensor([2.0, 1.5, 0.7]).double()),
                  lambda x: 1 / x[..., 2]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*tolerance not reached")
@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("name", INFINITE)
def test_infinite_means_are_reported(name: str) -> None:
    make, f = INFINITE[name]
    with pytest.warns(mlc.IntegrationWarning, match="or it is infinite") as seen:
        mlc.expectation(f, make())
    assert seen[-1].filename == __file__
    with pytest.warns(mlc.IntegrationWarning, match="suspected divergent"):
        mlc.log_expectation(lambda x: f(x).log(), make())
    with pytest.raises(mlc.IntegrationError):
        mlc.expectation(f, make(), on_failure="raise")
    mlc.expectation(f, make(), on_failure="ignore")


@pytest.mark.parametrize(
    "f", [lambda x: x.log(), lambda x: x**-0.2], ids=["log", "-.2"]
)
@pytest.mark.parametrize("make", [
    lambda: Gamma(number(0.5), 1.0), lambda: Beta(number(0.5), number(0.5)),
    lambda: FisherSnedecor(number(0.8), number(5.0)),
])  # fmt: skip
def test_finite_means_of_what_is_infinite_at_an_end_are_not(
    make: Callable[[], Distribution], f: Callable[[Tensor], Tensor]
) -> None:
    assert mlc.expectation(f, make()).isfinite()


@pytest.mark.filterwarnings("ignore:.*tolerance not reached")
@pytest.mark.parametrize("b", [0.1, 0.2, 0.3, 0.4])
def test_what_is_nearer_to_1_than_numbers_is_told(b: float) -> None:
    exact = torch.digamma(number(b)) - torch.digamma(number(2 + b))
    with pytest.warns(mlc.IntegrationWarning, match="or it is infinite") as seen:
        mean = mlc.expectation(lambda x: torch.log1p(-x), Beta(number(2.0), number(b)))
    told = float(re.findall(r"about (\S+) of", str(seen[-1].message))[0])
    # Rounding of what is just below 1 makes up for a part of it.
    assert told / 4 < (mean - exact).item() < 1.2 * told
    # The other way round nothing is missing.
    other = mlc.expectation(torch.log, Beta(number(b), number(2.0)))
    torch.testing.assert_close(other, exact, rtol=1e-10, atol=0)


def test_a_subclass_with_a_density_of_its_own_is_not_taken_for_its_parent() -> None:
    class Flat(Beta):
        def log_prob(self, value: Tensor) -> Tensor:
            return torch.zeros_like(value)

    flat = Flat(number(3.0), number(2.0))
    assert not has_logs(flat)
    assert mlc.expectation(lambda x: x, flat).item() == pytest.approx(0.5, abs=1e-9)

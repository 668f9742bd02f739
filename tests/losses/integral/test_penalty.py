"""How far densities are from integrating to 1, in closed form."""

import math

import pytest
import torch
from integral_checks import (
    DOUBLE,
    assert_module,
    assert_reductions,
    assert_settings,
    number,
    t,
)
from torch import Tensor, nn

import torch_mlcalc as mlc
from torch_mlcalc.testing import check_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def bell(x: Tensor, height: Tensor) -> Tensor:
    return height * torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def log_bell(x: Tensor, height: Tensor) -> Tensor:
    return height.log() - x**2 / 2 - math.log(2 * math.pi) / 2


class Bell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.height = nn.Parameter(torch.tensor(1.3, dtype=DOUBLE))

    def forward(self, x: Tensor, factor: Tensor) -> Tensor:
        return bell(x, self.height * factor)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("log", [True, False], ids=["log", "plain"])
def test_penalty_is_that_of_the_mass(log: bool, squared: bool) -> None:
    height = t(0.5, 1.7, 3.0)
    loss = mlc.normalization_penalty(
        log_bell if log else bell, mlc.RealLine(), "none",
        args=(height,), log=log, squared=squared, rtol=1e-12,
    )  # fmt: skip
    excess = height - 1
    expected = excess.square() if squared else excess.abs()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    (slope,) = torch.autograd.grad(loss.sum(), height)
    exact = 2 * excess if squared else excess.sign()
    torch.testing.assert_close(slope, exact.detach(), rtol=1e-10, atol=0)


def test_masses_near_1_keep_their_digits() -> None:
    # In float32 1 + 1e-7 is no number; its log is.
    log_mass = torch.tensor(1e-7)
    loss = mlc.normalization_penalty(
        lambda x: log_mass + 0 * x,
        mlc.Interval(0, 1),
        log=True,
        squared=False,
        rule=mlc.GaussLegendre(1),
    )
    assert loss.item() == pytest.approx(1e-7, rel=1e-3)


def test_on_a_box_and_with_features() -> None:
    features = torch.tensor([[1.0, 2.0], [0.5, 0.0]], dtype=DOUBLE)
    loss = mlc.normalization_penalty(
        lambda x, f: f.sum(-1) * x.prod(-1),
        mlc.Box(torch.zeros(2, dtype=DOUBLE), 1.0),
        "none",
        args=(features,),
        batch_shape=(2,),
    )
    torch.testing.assert_close(loss, (features.sum(-1) / 4 - 1).square())


@pytest.mark.parametrize("rule", [mlc.GaussLegendre(24), None], ids=str)
def test_gradients(rule: mlc.Rule | None) -> None:
    module = mlc.NormalizationPenalty(
        Bell(), mlc.Interval(-2, 3), rule, reduction="none"
    )
    check_gradients(module, t(1.4), compile=False)


def test_reductions() -> None:
    height = t(0.5, 1.7, 3.0)
    assert_reductions(
        lambda reduction, weight: mlc.normalization_penalty(
            bell, mlc.RealLine(), reduction, weight, args=(height,)
        ),
        height,
    )


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_a_small_mass_has_its_gradient(dtype: torch.dtype) -> None:
    # Of (e^h - 1)^2. It was 0 from h = -17 in single and -37 in double precision on.
    height = torch.tensor([-45.0, -20.0], dtype=dtype, requires_grad=True)
    loss = mlc.normalization_penalty(
        lambda x, h: h + 0 * x, mlc.Interval(0, 1), "sum", args=(height,), log=True
    )
    (found,) = torch.autograd.grad(loss, height)
    expected = [2 * math.expm1(h) * math.exp(h) for h in height.tolist()]
    assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=0)


def test_module() -> None:
    rule, domain = mlc.GaussLegendre(1), mlc.Interval(-2, 2)
    factor, weight = t(0.7, 1.4), t(1.0, 2.0)
    module = mlc.NormalizationPenalty(
        Bell(), domain, rule, reduction="sum", squared=False
    )
    expected = mlc.normalization_penalty(
        module.density, domain, "sum", weight, args=(factor,), rule=rule, squared=False
    )
    assert_module(module, lambda m: m(factor, weight=weight), expected)
    other = mlc.NormalizationPenalty(Bell(), domain, reduction="sum", squared=False)
    assert abs(other(factor, weight=weight).item() - expected.item()) > 1e-3
    assert "domain=Interval(lower=-2, upper=2), log=False, squared=False" in repr(
        module
    )
    assert_settings(
        lambda rule, **s: mlc.NormalizationPenalty(Bell(), domain, rule, **s)
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"density": 1}, TypeError, "density must be a function or a module, got int"),
        ({"domain": (0, 1)}, TypeError, "domain is a tuple; a domain is wanted"),
        (
            {"weight": t(1.0)},
            ValueError,
            r"weight must have the shape \(\) of the dens",
        ),
        ({"reduction": "all"}, ValueError, "reduction must be"),
    ],
)
def test_what_cannot_be_is_refused(change: dict, error: type, message: str) -> None:
    call = {"density": bell, "domain": mlc.Interval(0, 1), "args": (number(1.0),)}
    mlc.normalization_penalty(**call)
    with pytest.raises(error, match=message):
        mlc.normalization_penalty(**(call | change))
    if "density" in change:
        with pytest.raises(error, match=message):
            mlc.NormalizationPenalty(change["density"], mlc.Interval(0, 1))


def test_a_batch_may_be_that_of_the_density_alone() -> None:
    height = t(0.5, 3.0)
    module = mlc.NormalizationPenalty(
        lambda x: height + 0 * x, mlc.Interval(0, 1), reduction="none"
    )
    found = module(batch_shape=(2,))
    torch.testing.assert_close(found, (height - 1).square())


def test_a_module_takes_logs_where_it_says_so() -> None:
    for log, expected in ((False, 1.0), (True, 0.0)):
        module = mlc.NormalizationPenalty(lambda x: 0 * x, mlc.Interval(0, 1), log=log)
        assert module().item() == pytest.approx(expected, abs=1e-12)

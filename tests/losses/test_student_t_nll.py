"""Student-t likelihood, against mpmath, scipy, and its two ends."""

import math

import mpmath as mp
import pytest
import scipy.stats
import torch
from likelihood_case import (
    DTYPES,
    Case,
    assert_conventions,
    assert_exact,
    assert_gradients,
    grid,
)

from torch_mlcalc.losses import (
    StudentTNLLLoss,
    gaussian_nll_loss,
    student_t_nll_loss,
)
from torch_mlcalc.testing import check_gradients

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def exact(x: mp.mpf, y: mp.mpf, scale: mp.mpf, df: mp.mpf) -> mp.mpf:
    z = (x - y) / scale
    gammas = mp.loggamma(df / 2) - mp.loggamma((df + 1) / 2)
    norm = gammas + mp.log(df * mp.pi) / 2 + mp.log(scale)
    return norm + (df + 1) / 2 * mp.log1p(z * z / df)


def size(x: float, y: float, scale: float, df: float) -> mp.mpf:
    return 2 + abs(mp.log(scale)) + abs(mp.log(df)) / 4


CASE = Case(
    student_t_nll_loss,
    StudentTNLLLoss,
    {},
    exact,
    [
        *grid([0.0, 0.8], [0.3], [0.7], [1e-2, 0.7, 3.0, 1e8]),
        *grid([5.0], [0.3], [0.7], [0.7, 3.0, 1e8]),
        *[(2.0, 0.0, 1.0, df) for df in (1.0, 8.0, 40.0, 1e4, 1e10)],
        # On both sides of where the series ends.
        *[(x, 0.0, 1.0, 4.0) for x in (1.37, 1.42)],
        *[(1e-15, 0.0, 1e-12, 5.0), (3e4, 0.0, 1.0, 1e8)],
    ],
    grid([-0.4, 0.8, 5.0], [0.3], [0.7], [0.6, 40.0]),
    (0, 1, 2, 3),
    (16, 128, 256),
    size,
    [(2.0, 0.0, 1.0, 1e15)],
    [
        *[(1e15, 0.0, 1.0, 3.0), (1e30, 0.0, 1.0, 3.0)],
        # Slopes in the scale of the size of df.
        *grid([0.3, 0.8, 5.0], [0.3], [0.7], [1e-5, 1e-12]),
        # Scales of which float32 does not hold the inverse of the square, or at all.
        *[(1e10, 0.0, 1e-25, 3.0), (1.0, 0.0, 1e-38, 3.0), (1.0, 0.0, 1e-40, 3.0)],
    ],
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_derivatives_are_exact(dtype: torch.dtype) -> None:
    assert_exact(CASE, dtype)


def test_gradients_hold_in_every_mode() -> None:
    assert_gradients(CASE._replace(ordinary=CASE.ordinary[2:4]), max_elements=2)


def test_conventions_are_those_of_the_house() -> None:
    assert_conventions(CASE)


def test_values_are_those_of_scipy() -> None:
    x, y = torch.randn(2, 100, dtype=torch.float64)
    scale, df = torch.rand(2, 100, dtype=torch.float64) * 5 + 0.1
    expected = -scipy.stats.t.logpdf(y, df, x, scale)
    actual = student_t_nll_loss(x, y, scale, df, reduction="none")
    torch.testing.assert_close(actual, torch.from_numpy(expected))


def test_infinite_degrees_are_the_gaussian() -> None:
    x = torch.tensor([0.0, 0.5, -3.0, 1e10], requires_grad=True)
    df = torch.full((4,), math.inf, requires_grad=True)
    y, scale = torch.ones(4), torch.full((4,), 0.7)
    loss = student_t_nll_loss(x, y, scale, df, reduction="none")
    expected = gaussian_nll_loss(x, y, scale**2, True, reduction="none")
    torch.testing.assert_close(loss, expected)
    slopes = torch.autograd.grad(loss.sum(), (x, df))
    torch.testing.assert_close(slopes[0], (x - y).detach() / scale**2)
    assert slopes[1].tolist() == [0.0] * 4


def test_numbers_are_parameters_of_all_elements() -> None:
    x, y = torch.randn(2, 5)
    full = torch.full((5,), 2.5)
    expected = student_t_nll_loss(x, y, full, full)
    for scale, df in ((2.5, full), (full, 2.5), (2.5, 2.5)):
        assert torch.equal(student_t_nll_loss(x, y, scale, df), expected)
        assert torch.equal(StudentTNLLLoss()(x, y, scale, df), expected)


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["scale", "df"])
def test_numbers_must_be_positive(name: str, value: float) -> None:
    numbers = {"scale": 1.0, "df": 1.0, name: value}
    with pytest.raises(ValueError, match=f"{name} must be positive and finite"):
        student_t_nll_loss(torch.ones(2), torch.ones(2), **numbers)
    with pytest.raises(
        TypeError, match=f"{name} must be a number or a tensor, got str"
    ):
        student_t_nll_loss(torch.ones(2), torch.ones(2), **{**numbers, name: "one"})


def test_values_are_checked_where_asked_for() -> None:
    x, bad = torch.ones(2), torch.tensor([1.0, -1.0])
    with pytest.raises(ValueError, match=r"scale must be positive .* -1.0 at \[1\]"):
        student_t_nll_loss(x, x, bad, x, validate=True)
    with pytest.raises(ValueError, match=r"df must be positive, got -1.0 at \[1\]"):
        student_t_nll_loss(x, x, x, bad, validate=True)
    with pytest.raises(ValueError, match="df must be positive"):
        StudentTNLLLoss(validate=True)(x, x, x, bad)


def test_degrees_of_freedom_are_learned_from_data() -> None:
    """The gradient in df brings a bad start to the maximum that scipy finds."""
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(1500, dtype=torch.float64, generator=generator)
    chi2 = torch.randn(5, 1500, dtype=torch.float64, generator=generator) ** 2
    sample = normal / (chi2.sum(0) / 5).sqrt()
    raw = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([raw], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        loc, log_scale, log_df = (each.expand(1500) for each in raw)
        value = student_t_nll_loss(loc, sample, log_scale.exp(), log_df.exp())
        value.backward()
        return value

    optimizer.step(loss)
    df, loc, scale = scipy.stats.t.fit(sample.numpy())
    found = [raw[2].exp().item(), raw[0].item(), raw[1].exp().item()]
    assert found == pytest.approx([df, loc, scale], rel=2e-3, abs=1e-3)


def test_third_derivatives_hold() -> None:
    def curvature(df: torch.Tensor) -> torch.Tensor:
        x = torch.full_like(df, 1.3)
        value = student_t_nll_loss(x, 0 * x, 1.0, df, reduction="sum")
        (slope,) = torch.autograd.grad(value, df, create_graph=True)
        return torch.autograd.grad(slope.sum(), df, create_graph=True)[0]

    df = torch.tensor([0.8, 2.0, 30.0], dtype=torch.float64, requires_grad=True)
    check_gradients(
        curvature,
        df,
        gradgradcheck=False,
        vmap=False,
        compile=False,
        float32=False,
        forward_mode=False,
        forward_over_reverse=False,
    )

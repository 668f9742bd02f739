"""Wasserstein and Cramer distances against SciPy, closed forms and quadrature."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from integral_checks import DOUBLE, assert_module, assert_reductions, number, t
from scipy import integrate, special, stats
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Beta,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    Laplace,
    MixtureSameFamily,
    Normal,
    RelaxedBernoulli,
    StudentT,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli

import torch_mlcalc as mlc
from torch_mlcalc.testing import check_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def draws(n: int, seed: int, weighted: bool) -> tuple[Tensor, Tensor | None]:
    rng = np.random.default_rng(seed)
    values = torch.tensor(rng.normal(size=n).round(1))  # with ties
    return values, torch.tensor(rng.uniform(0.0, 2.0, n)) if weighted else None


SIZES = [(1, 1), (1, 7), (30, 30), (30, 47), (200, 3)]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_samples_are_those_of_scipy(sizes: tuple[int, int], weighted: bool) -> None:
    (x, wx), (y, wy) = (draws(n, i, weighted) for i, n in enumerate(sizes))
    weights = {"input_weight": wx, "target_weight": wy}
    expected = stats.wasserstein_distance(x, y, wx, wy)
    found = mlc.wasserstein_1d_loss(x, y, **weights)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    energy = stats.energy_distance(x, y, wx, wy)
    found = mlc.cramer_loss(x, y, **weights)
    assert found.item() == pytest.approx(energy**2 / 2, rel=1e-10)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_higher_powers_are_means_over_levels(p: float) -> None:
    x, y = t(0.0, 1.0, 5.0), t(2.0, -1.0)
    # Levels 0, 1/3, 1/2, 2/3, 1.
    pairs = [(0, -1, 1 / 3), (1, -1, 1 / 6), (1, 2, 1 / 6), (5, 2, 1 / 3)]
    expected = sum(share * abs(a - b) ** p for a, b, share in pairs)
    assert mlc.wasserstein_1d_loss(x, y, p=p).item() == pytest.approx(expected)
    doubled = mlc.wasserstein_1d_loss(torch.cat([x, x]), torch.cat([y, y, y]), p=p)
    assert doubled.item() == pytest.approx(expected)


def test_weights_of_0_leave_samples_out() -> None:
    x, y = t(0.0, 99.0, 1.0), t(2.0, 3.0)
    weight = t(1.0, 0.0, 1.0)
    for loss in (mlc.wasserstein_1d_loss, mlc.cramer_loss):
        without = loss(x[[0, 2]], y)
        assert loss(x, y, input_weight=weight).item() == pytest.approx(without.item())


def test_a_single_observation_gives_the_ranked_probability_score() -> None:
    x, y = torch.randn(50, dtype=DOUBLE), 0.3
    pairs = (x[:, None] - x).abs().mean()
    expected = (x - y).abs().mean() - pairs / 2
    assert mlc.cramer_loss(x, t(y)).item() == pytest.approx(expected.item(), rel=1e-12)


def test_derivative_by_a_sample_is_its_share_and_sign() -> None:
    x = t(0.0, 1.0, 5.0)
    loss = mlc.wasserstein_1d_loss(x, t(2.0, -1.0))
    (slope,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(slope, t(1 / 3, 0.0, 1 / 3), atol=1e-15, rtol=1e-12)


@pytest.mark.parametrize("p", [1, 2, 2.5])
def test_gradients_of_samples_and_weights(p: float) -> None:
    def loss(x: Tensor, y: Tensor, wx: Tensor, wy: Tensor) -> Tensor:
        weights = {"input_weight": wx, "target_weight": wy}
        cramer = mlc.cramer_loss(x, y, **weights)
        return mlc.wasserstein_1d_loss(x, y, p=p, **weights) + cramer

    inputs = (t(0.0, 1.3, 5.0), t(2.0, -1.0), t(1.0, 0.7, 0.4), t(0.5, 0.9))
    check_gradients(loss, inputs, compile=False)


def w1(q: object, p: object) -> float:
    def gap(x: float) -> float:
        return abs(q.cdf(x) - p.cdf(x))

    points = np.concatenate([d.ppf(np.linspace(1e-9, 1 - 1e-9, 60)) for d in (q, p)])
    points.sort()
    return sum(
        integrate.quad(gap, a, b, epsabs=1e-13)[0]
        for a, b in zip(points[:-1], points[1:], strict=True)
    )


def cramer(q: object, p: object) -> float:
    points = np.concatenate([d.ppf(np.linspace(1e-9, 1 - 1e-9, 30)) for d in (q, p)])
    points.sort()
    return sum(
        integrate.quad(lambda x: (q.cdf(x) - p.cdf(x)) ** 2, a, b, epsabs=1e-13)[0]
        for a, b in zip(points[:-1], points[1:], strict=True)
    )


PAIRS: dict[str, tuple] = {
    "normal": (
        Normal(t(0.0), t(1.0)), Normal(t(1.0), t(2.0)),
        stats.norm(0, 1), stats.norm(1, 2),
    ),
    "gamma": (
        Gamma(t(2.0), t(1.0)), Gamma(t(3.0), t(2.0)),
        stats.gamma(2), stats.gamma(3, scale=0.5),
    ),
    "beta": (
        Beta(t(2.0), t(1.0)), Uniform(t(0.0), t(1.0)),
        stats.beta(2, 1), stats.uniform(),
    ),
    "exponential": (
        Exponential(t(1.0)), Exponential(t(2.0)),
        stats.expon(), stats.expon(scale=0.5),
    ),
    "laplace": (
        Laplace(t(0.0), t(1.0)), Normal(t(0.5), t(1.0)),
        stats.laplace(), stats.norm(0.5, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_distributions_are_those_of_quadrature(pair: tuple) -> None:
    input, target, q, p = pair
    found = mlc.wasserstein_1d_loss(input, target)
    assert found.item() == pytest.approx(w1(q, p), rel=1e-6)
    found = mlc.cramer_loss(input, target)
    assert found.item() == pytest.approx(cramer(q, p), rel=1e-6)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 4])
def test_both_forms_of_normals(p: float) -> None:
    # The quantiles differ by 1 + z for a unit normal z.
    loss = mlc.wasserstein_1d_loss(
        Normal(t(0.0), t(1.0)), Normal(t(1.0), t(2.0)), p=p, rtol=1e-10
    )
    expected = sum(
        integrate.quad(
            lambda z: abs(1 + z) ** p * stats.norm.pdf(z), a, b, epsabs=1e-14
        )[0]
        for a, b in ((-12, -1), (-1, 2), (2, 12))
    )
    assert loss.item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("p", [1.1, 1.5, 3])
def test_second_derivative_sees_where_the_quantiles_cross(p: float) -> None:
    # By the location of a difference m + z of quantiles it is p (p - 1) E |m + z|^q,
    # q = p - 2. Without a split at its zero it was off by 26 %, 2e-3 and 1e-6.
    loc, q = t(0.5), p - 2
    loss = mlc.wasserstein_1d_loss(Normal(loc, t(2.0)), Normal(t(0.0), t(1.0)), p=p)
    (slope,) = torch.autograd.grad(loss, loc, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, loc)
    moment = special.hyp1f1(-q / 2, 0.5, -(0.5**2) / 2) * 2 ** (q / 2)
    expected = p * (p - 1) * moment * special.gamma((1 + q) / 2) / math.sqrt(math.pi)
    assert curvature.item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_a_distribution_without_mean_or_place(batch: tuple[int, ...]) -> None:
    # As torch's LogitRelaxedBernoulli, which is a logistic distribution.
    own = LogitRelaxedBernoulli(number(0.5), logits=number(0.3).expand(batch))
    moved = TransformedDistribution(own, [AffineTransform(number(1.0), number(0.5))])
    q = Normal(torch.zeros(batch, dtype=DOUBLE), 1.0)
    for p, known in ((own, stats.logistic(0.6, 2)), (moved, stats.logistic(1.3, 1))):
        for loss, oracle in ((mlc.wasserstein_1d_loss, w1), (mlc.cramer_loss, cramer)):
            value, expected = loss(p, q, "none"), oracle(known, stats.norm(0, 1))
            assert value.shape == batch
            assert value.tolist() == pytest.approx(np.full(batch, expected), rel=1e-6)


def test_a_transformed_distribution_function_is_as_exact_as_any() -> None:
    # It was integrated to half the digits, so that this was off by 1e-6.
    relaxed = RelaxedBernoulli(number(1.0), logits=number(0.3))
    found = mlc.wasserstein_1d_loss(relaxed, Uniform(number(0.0), number(1.0)))
    a = math.exp(0.3)  # the mean is the integral of (1 - x) a / (a + x - a x)
    expected = 0.5 - 1 / (1 - a) - 0.3 * a / (1 - a) ** 2
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_shift_and_scale_of_anything() -> None:
    for make in (
        lambda loc: StudentT(t(5.0), loc, t(1.0)),
        lambda loc: MixtureSameFamily(
            Categorical(torch.ones(1, 2, dtype=DOUBLE)),
            Normal(loc[:, None] + t(-3.0, 4.0), t(0.1, 1.0)),
        ),
    ):
        for p in (1, 2):
            loss = mlc.wasserstein_1d_loss(make(t(0.0)), make(t(0.7)), p=p)
            assert loss.item() == pytest.approx(0.7**p, rel=1e-6)


def test_equal_distributions_have_no_distance() -> None:
    p = Normal(t(0.0), t(1.0))
    assert mlc.wasserstein_1d_loss(p, p).item() == 0
    assert mlc.wasserstein_1d_loss(p, p, p=2).item() == 0
    assert mlc.cramer_loss(p, p).item() == 0


@pytest.mark.parametrize("p", [1, 2, "cramer"])
def test_gradients_of_distributions(p: object) -> None:
    def loss(loc: Tensor, scale: Tensor) -> Tensor:
        pair = (
            Normal(loc, scale, validate_args=False),
            Normal(torch.zeros_like(loc), 1.0, validate_args=False),
        )
        if p == "cramer":
            return mlc.cramer_loss(*pair, "none")
        return mlc.wasserstein_1d_loss(*pair, "none", p=p)

    check_gradients(loss, (t(0.3), t(1.4)), compile=False, float32=p != "cramer")


def test_gradient_by_the_shape_of_a_gamma() -> None:
    shape = t(2.0)
    loss = mlc.wasserstein_1d_loss(Gamma(shape, t(1.0)), Gamma(t(3.0), t(1.0)))
    # One stochastically dominates the other: the distance is that of the means.
    assert loss.item() == pytest.approx(1, rel=1e-6)
    assert torch.autograd.grad(loss, shape)[0].item() == pytest.approx(-1, rel=1e-5)


def test_reductions() -> None:
    x, y = torch.randn(3, 4, dtype=DOUBLE), torch.randn(3, 5, dtype=DOUBLE)
    p, q = Normal(t(0.0, 1.0), 1.0), Normal(t(0.5, 3.0), 1.0)
    for loss in (mlc.wasserstein_1d_loss, mlc.cramer_loss):
        for pair, like in (((x, y), x[:, 0]), ((p, q), p.loc)):
            assert_reductions(
                lambda reduction, weight, loss=loss, pair=pair: loss(
                    *pair, reduction, weight
                ),
                like,
            )


def test_many_samples_in_single_precision() -> None:
    # The sums of 1e5 shares were off by 1e-5, and so were the distances.
    rng = np.random.default_rng(0)
    x, y = (torch.tensor(rng.normal(size=n)).float() for n in (100_000, 70_001))
    for loss in (mlc.wasserstein_1d_loss, mlc.cramer_loss):
        single, double = loss(x, y), loss(x.double(), y.double())
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(double.item(), rel=2e-7)


def test_samples_that_all_weigh_nothing_have_no_distance() -> None:
    x, y = t(0.0, 1.0), t(0.5)
    for loss in (mlc.wasserstein_1d_loss, mlc.cramer_loss):
        for name, like in (("input_weight", x), ("target_weight", y)):
            assert loss(x, y, **{name: torch.zeros_like(like)}).isnan()


def test_dtypes() -> None:
    x, y = torch.tensor([0.0, 1.0]).half(), torch.tensor([0.5, 2.0, 3.0]).half()
    for loss in (mlc.wasserstein_1d_loss, mlc.cramer_loss):
        half, wide = loss(x, y), loss(x.float(), y.float())
        assert (half.dtype, wide.dtype) == (torch.float16, torch.float32)
        assert torch.equal(half, wide.half())
        assert loss(x, y.double()).dtype == DOUBLE
        assert loss(x, y, weight=torch.tensor(1.0)).dtype == torch.float32
        counts = torch.tensor([0, 1])
        assert torch.equal(loss(counts, y), half)
        assert torch.equal(loss(y, counts), half)


@pytest.mark.parametrize("cls", [mlc.Wasserstein1DLoss, mlc.CramerLoss])
def test_modules(cls: type) -> None:
    x, y = torch.randn(3, 4, dtype=DOUBLE), torch.randn(3, 5, dtype=DOUBLE)
    wx, wy, weight = torch.rand(3, 4), torch.rand(3, 5), torch.rand(3)
    options = {"p": 3} if cls is mlc.Wasserstein1DLoss else {}
    function = mlc.wasserstein_1d_loss if options else mlc.cramer_loss
    weights = {"input_weight": wx, "target_weight": wy}
    expected = function(x, y, "sum", weight, **options, **weights)
    module = cls(reduction="sum", **options)
    assert_module(module, lambda m: m(x, y, weight, **weights), expected)
    assert all(f"{k}={v}" in repr(module) for k, v in options.items())
    pair: tuple[Distribution, ...] = (Normal(t(0.0), 1.0), Normal(t(1.0), 1.5))
    rule = mlc.GaussLegendre(40)
    module = cls(rule, **options)
    assert_module(module, lambda m: m(*pair), function(*pair, rule=rule, **options))
    with pytest.raises(ValueError, match="rule has no effect for samples"):
        module(x, y)


def wrong(**change: object) -> dict[str, object]:
    return {"input": t(0.0, 1.0), "target": t(0.5), **change}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (wrong(target=Normal(0.0, 1.0)), TypeError, "must both be tensors or both"),
        (wrong(target=[1.0]), TypeError, "must both be tensors or both distributions"),
        (
            wrong(input=[1.0], target=[1.0]),
            TypeError,
            "input must be one of torch.dist",
        ),
        (wrong(rtol=1e-3), ValueError, "rtol has no effect for samples"),
        (wrong(on_failure="raise"), ValueError, "on_failure has no effect for samples"),
        (wrong(input=torch.tensor(1.0)), ValueError, "input must have samples in its"),
        (wrong(target=torch.zeros(0)), ValueError, "target must have samples in its"),
        (wrong(input_weight=t(1.0)), ValueError, "input_weight must have the shape of"),
        (
            wrong(target=torch.zeros(2, 1)),
            ValueError,
            r"target must have the shape \(\)",
        ),
        (wrong(weight=t(1.0)), ValueError, r"weight must have the shape \(\) before"),
        (
            {"input": torch.tensor([1, 2]), "target": torch.tensor([1])},
            TypeError,
            "input must be floating-point, got input torch.int64",
        ),
        (
            {
                "input": Normal(0.0, 1.0),
                "target": Normal(0.0, 1.0),
                "input_weight": t(1.0),
            },
            ValueError,
            "input_weight and target_weight have no effect for distributions",
        ),
    ],
)
def test_what_cannot_be_is_refused(call: dict, error: type, message: str) -> None:
    for loss in (mlc.wasserstein_1d_loss, mlc.cramer_loss):
        with pytest.raises(error, match=message):
            loss(**call)


@pytest.mark.parametrize(
    ("p", "error"),
    [("2", TypeError), (True, TypeError), (0.5, ValueError), (math.inf, ValueError)],
)
def test_power_is_at_least_1(p: object, error: type) -> None:
    make: list[Callable] = [
        lambda: mlc.Wasserstein1DLoss(p=p),
        lambda: mlc.wasserstein_1d_loss(t(1.0), t(2.0), p=p),
    ]
    for call in make:
        with pytest.raises(error, match="p must be"):
            call()


def test_infinite_tails_are_reported() -> None:
    with pytest.raises(mlc.IntegrationError):
        mlc.wasserstein_1d_loss(
            StudentT(t(1.0), t(0.0), t(1.0)),
            Normal(number(0.0).reshape(1), 1.0),
            p=2,
            on_failure="raise",
        )


def test_a_cdf_that_torch_lacks_has_the_precision_of_the_parameters() -> None:
    # The integral of (x^2 - x)^2. In single precision the cdf had steps of 6e-8, on
    # which the search spent 80 000 points without an end.
    found = mlc.cramer_loss(Beta(t(2.0), t(1.0)), Uniform(t(0.0), t(1.0)))
    assert found.item() == pytest.approx(1 / 30, rel=1e-13)

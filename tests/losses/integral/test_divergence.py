"""Divergences against closed forms and mpmath, near equality and far from it."""

import math
from collections.abc import Callable

import mpmath as mp
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
from torch import Tensor
from torch.distributions import (
    Beta,
    Cauchy,
    Distribution,
    Exponential,
    Gamma,
    Gumbel,
    HalfNormal,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    Uniform,
    Weibull,
    constraints,
    kl_divergence,
)
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli

import torch_mlcalc as mlc
from torch_mlcalc.losses.crps.crossings import crossings
from torch_mlcalc.testing import check_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def alpha_loss(alpha: float) -> Callable[..., Tensor]:
    def loss(*pair: Distribution, **options: object) -> Tensor:
        return mlc.alpha_divergence_loss(*pair, alpha=alpha, **options)

    return loss


#: A loss, and its integrand in mpmath for the densities of target and input.
LOSSES: dict[str, tuple[Callable[..., Tensor], Callable]] = {
    "kl": (mlc.kl_divergence_loss, lambda p, q: p * mp.log(p / q) - p + q),
    "reverse kl": (
        lambda *pair, **o: mlc.kl_divergence_loss(*pair, reverse=True, **o),
        lambda p, q: q * mp.log(q / p) - q + p,
    ),
    "alpha 0.3": (
        alpha_loss(0.3),
        lambda p, q: (
            (p ** mp.mpf("0.3") * q ** mp.mpf("0.7") - 0.3 * p - 0.7 * q)
            / (-0.3 * mp.mpf("0.7"))
        ),
    ),
    "alpha 1.2": (
        alpha_loss(1.2),
        lambda p, q: (
            (p ** mp.mpf("1.2") / q ** mp.mpf("0.2") - 1.2 * p + 0.2 * q)
            / mp.mpf("0.24")
        ),
    ),
    "chi2": (mlc.chi2_loss, lambda p, q: (p - q) ** 2 / q),
    "hellinger": (
        mlc.hellinger_loss,
        lambda p, q: (mp.sqrt(p) - mp.sqrt(q)) ** 2 / 2,
    ),
    "jensen-shannon": (
        mlc.jensen_shannon_loss,
        lambda p, q: (p * mp.log(2 * p / (p + q)) + q * mp.log(2 * q / (p + q))) / 2,
    ),
    "variation": (mlc.total_variation_loss, lambda p, q: abs(p - q) / 2),
}

#: Input, target, their densities in mpmath, where to split.
PAIRS: dict[str, tuple] = {
    "normal": (
        Normal(number(0.0), number(1.5)),
        Normal(number(1.0), number(1.0)),
        lambda x: mp.npdf(x, 0, 1.5),
        lambda x: mp.npdf(x, 1, 1),
        [-mp.inf, -9, -3, 0, 1, 3, 5, 9, mp.inf],
    ),
    "gamma": (
        Gamma(number(2.0), number(1.0)),
        Gamma(number(3.0), number(2.0)),
        lambda x: x * mp.exp(-x),
        lambda x: 4 * x * x * mp.exp(-2 * x),
        [0, 0.5, 1, 2, 4, 10, 40, mp.inf],
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_divergence_is_that_of_the_integral(pair: tuple, loss: str) -> None:
    input, target, q, p, breaks = pair
    function, integrand = LOSSES[loss]
    value = function(input, target, rtol=1e-11)
    inner = sorted({*breaks, *_roots(lambda x: p(x) - q(x), pair)})
    with mp.workdps(20):
        expected = float(mp.quad(lambda x: integrand(p(x), q(x)), inner))
    assert value.item() == pytest.approx(expected, rel=1e-9)


def _roots(difference: Callable, pair: tuple) -> list:
    starts = (0.1, 3.5) if isinstance(pair[0], Normal) else (0.2, 2.0, 4.0)
    found = []
    for start in starts:
        try:
            found.append(mp.findroot(difference, start))
        except ValueError:
            continue
    return found


CLOSED = {
    "normal": (Normal(t(0.0, 5.0), t(1.0, 0.1)), Normal(t(1.0, -5.0), t(2.0, 0.3))),
    "far": (Normal(t(0.0), t(1.0)), Normal(t(1e6), t(1.0))),
    "narrow": (Normal(t(0.0), t(1.0)), Normal(t(0.3), t(1e-6))),
    "gamma": (Gamma(t(0.5, 20.0), t(1.0, 3.0)), Gamma(t(0.7, 10.0), t(2.0, 1.0))),
    "beta": (Beta(t(0.5, 9.0), t(2.0, 3.0)), Beta(t(0.6, 2.0), t(2.0, 5.0))),
    "laplace": (Laplace(t(0.0, 1.0), t(1.0, 3.0)), Laplace(t(2.0, 1.0), t(0.5, 3.0))),
    "exponential": (Exponential(t(1.0, 1e4)), Exponential(t(3.0, 2e4))),
    "gumbel": (Gumbel(t(0.0), t(1.0)), Gumbel(t(1.0), t(1.5))),
    "cover": (Normal(t(0.0), t(1.0)), Uniform(t(-1.0), t(3.0))),
    "half": (Gamma(t(2.0), t(1.0)), Exponential(t(1.0))),
    "lognormal": (LogNormal(t(0.0), t(1.0)), LogNormal(t(1.0), t(0.5))),
}


@pytest.mark.parametrize("pair", CLOSED.values(), ids=CLOSED)
def test_kl_is_that_of_torch(pair: tuple[Distribution, Distribution]) -> None:
    input, target = pair
    loss = mlc.kl_divergence_loss(input, target, "none")
    torch.testing.assert_close(loss, kl_divergence(target, input), rtol=1e-7, atol=0)


@pytest.mark.parametrize("scale", [1e-3, 1e-7])
@pytest.mark.parametrize("name", [n for n in LOSSES if n != "variation"])
def test_nearly_equal_distributions_keep_their_digits(name: str, scale: float) -> None:
    # f''(1) eps^2 / 2 for a shift by eps of a unit normal; all but two have f''(1) = 1.
    input, target = Normal(number(scale), 1.0), Normal(number(0.0), 1.0)
    value = LOSSES[name][0](input, target).item()
    bend = {"hellinger": 0.25, "jensen-shannon": 0.25, "chi2": 2.0}.get(name, 1.0)
    assert value == pytest.approx(bend * scale**2 / 2, rel=1e-4, abs=0)


def test_jensen_shannon_of_close_densities_has_its_digits_in_single_precision() -> None:
    # Densities of the caller's are not asked in double precision. The form for those
    # that are far apart is off by 1e-4 here.
    p, q = (
        mlc.NormalizedDensity(
            lambda x, at: -((x - at) ** 2) / 2, mlc.RealLine(), args=(torch.tensor(at),)
        )
        for at in (0.0, 0.03)
    )
    exact = Normal(number(0.0), 1.0), Normal(number(0.03), 1.0)
    expected = mlc.jensen_shannon_loss(*exact, rtol=1e-12).item()
    assert mlc.jensen_shannon_loss(p, q).item() == pytest.approx(expected, rel=2e-5)


def test_curvature_where_both_are_equal_is_the_information() -> None:
    for name, (loss, _) in LOSSES.items():
        if name == "variation":
            continue
        loc = number(0.3)
        value = loss(Normal(loc, 2.0), Normal(number(0.3), 2.0))
        (slope,) = torch.autograd.grad(value, loc, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, loc)
        bend = {"hellinger": 0.25, "jensen-shannon": 0.25, "chi2": 2.0}.get(name, 1.0)
        assert value.item() == slope.item() == 0
        assert curvature.item() == pytest.approx(bend / 4, rel=1e-8)


def test_alpha_is_continuous_in_its_limits() -> None:
    pair = Normal(number(0.0), 1.0), Normal(number(0.5), 0.8)
    for limit, reverse in ((1.0, False), (0.0, True)):
        exact = mlc.kl_divergence_loss(*pair, reverse=reverse, rtol=1e-12).item()
        at = alpha_loss(limit)(*pair, rtol=1e-12).item()
        assert at == pytest.approx(exact, rel=1e-12)
        for step in (1e-9, -1e-9):
            near = alpha_loss(limit + step)(*pair, rtol=1e-12).item()
            assert near == pytest.approx(exact, rel=1e-7)


def test_mass_that_cannot_be_covered() -> None:
    narrow, wide = Uniform(t(0.0), t(1.0)), Uniform(t(-1.0), t(3.0))
    assert mlc.kl_divergence_loss(narrow, wide).item() == math.inf
    assert mlc.kl_divergence_loss(wide, narrow).item() == pytest.approx(math.log(4))
    assert mlc.kl_divergence_loss(wide, narrow, reverse=True).item() == math.inf
    assert mlc.chi2_loss(narrow, wide).item() == math.inf
    assert mlc.chi2_loss(wide, narrow).item() == pytest.approx(3)
    assert mlc.hellinger_loss(narrow, wide).item() == pytest.approx(0.5)
    assert mlc.total_variation_loss(narrow, wide).item() == pytest.approx(0.75)
    apart = Uniform(t(5.0), t(6.0))
    assert mlc.jensen_shannon_loss(narrow, apart).item() == pytest.approx(math.log(2))
    assert mlc.hellinger_loss(narrow, apart).item() == pytest.approx(1)
    assert mlc.total_variation_loss(narrow, apart).item() == pytest.approx(1)
    assert alpha_loss(0.7)(narrow, apart).item() == pytest.approx(1 / 0.21)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_far_apart_normals_have_the_bounds(dtype: torch.dtype) -> None:
    input = Normal(torch.zeros((), dtype=dtype), 1.0)
    target = Normal(torch.full((), 1000.0, dtype=dtype), 2.0)
    for loss, bound in (
        (mlc.jensen_shannon_loss, math.log(2)),
        (mlc.hellinger_loss, 1),
        (mlc.total_variation_loss, 1),
    ):
        value = loss(input, target)
        assert value.dtype == dtype
        assert value.item() == pytest.approx(bound, rel=1e-5)


def test_total_variation_of_normals_of_one_scale() -> None:
    unit = Normal(number(0.0), number(1.0))
    for shift in (1e-6, 0.5, 3.0, 20.0):
        value = mlc.total_variation_loss(unit, Normal(number(shift), 1.0)).item()
        assert value == pytest.approx(math.erf(shift / 2 / math.sqrt(2)), rel=1e-8)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.2, 2.0)])
def test_total_variation_knows_that_an_end_moves(low: float, high: float) -> None:
    # The difference jumps over 0 at an end, where a crossing is found besides.
    ends = [number(low), number(high)]
    value = mlc.total_variation_loss(Uniform(*ends), Laplace(number(0.5), 1.0))
    slopes = torch.autograd.grad(value, ends)

    def truth(low: mp.mpf, high: mp.mpf) -> mp.mpf:
        def gap(x: mp.mpf) -> mp.mpf:
            laplace = mp.exp(-abs(x - 0.5)) / 2
            return abs((1 / (high - low) if low <= x <= high else 0) - laplace) / 2

        meet = mp.log((high - low) / 2)
        inner = (low, high, 0.5, 0.5 + meet, 0.5 - meet)
        return mp.quad(gap, sorted({-60, *inner, 60}))

    for i, slope in enumerate(slopes):
        exact = mp.diff(truth, (low, high), tuple(int(k == i) for k in (0, 1)))
        assert slope.item() == pytest.approx(float(exact), rel=1e-7)


def test_second_derivative_of_total_variation_sees_the_crossing_move() -> None:
    shift = number(1.0)
    value = mlc.total_variation_loss(
        Normal(number(0.0), 1.0), Normal(shift, 1.0), rtol=1e-12
    )
    (slope,) = torch.autograd.grad(value, shift, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, shift)
    density = math.exp(-(0.5**2) / 2) / math.sqrt(2 * math.pi)
    assert slope.item() == pytest.approx(density, rel=1e-9)
    assert curvature.item() == pytest.approx(-0.25 * density, rel=1e-7)


@pytest.mark.parametrize("elements", [1, 40, 500])
def test_crossings_of_a_jump_are_neighbours_of_it(elements: int) -> None:
    # However many parts a bracket is cut into; nothing but the sign says where.
    jump = torch.linspace(0.11, 1.9, elements, dtype=DOUBLE)
    grid = torch.linspace(0, 2, 9, dtype=DOUBLE)[:, None].expand(-1, elements)
    for sign in (1, -1):
        found = crossings(lambda x, s=sign: torch.where(x < jump, -s, s) * 1.0, grid)
        assert (found[0] - jump).abs().max() <= 4e-16
        assert (found[1:] == 0).all()


def test_crossings_are_found_and_carry_a_gradient() -> None:
    a = number(2.0)
    grid = torch.linspace(-2.2, 2.3, 40, dtype=DOUBLE)
    found = crossings(lambda x: x**2 - a, grid)
    at, rest = found[:2], found[2:]
    assert at.tolist() == pytest.approx([-math.sqrt(2), math.sqrt(2)], rel=1e-15)
    assert (rest == grid[0]).all()
    (slope,) = torch.autograd.grad(at[1], a)
    assert slope.item() == pytest.approx(0.5 / math.sqrt(2))


def test_densities_of_functions() -> None:
    def quartic(k: Tensor) -> mlc.NormalizedDensity:
        return mlc.NormalizedDensity(
            lambda x, k: -k * x**4, mlc.RealLine(), args=(k,), batch_shape=k.shape
        )

    one, other = t(1.0, 1.0), t(2.0, 0.5)
    loss = mlc.kl_divergence_loss(quartic(other), quartic(one), "none")
    # E x^4 = 1 / (4 k), log Z = const - log(k) / 4.
    expected = (other - 1) / 4 - other.log() / 4
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-9)
    loss.sum().backward()
    torch.testing.assert_close(other.grad, 0.25 - 0.25 / other.detach())


@pytest.mark.parametrize(
    "p",
    [
        Cauchy(number(0.0), number(1.0)),
        StudentT(number(3.0), number(0.0), number(1.0)),
        HalfNormal(number(1.0)),
        Weibull(number(1.0), number(1.5)),
        LogNormal(number(0.0), number(1.0)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_distances_to_oneself_are_0(p: Distribution) -> None:
    for name, (loss, _) in LOSSES.items():
        assert loss(p, p).item() == 0, name


@pytest.mark.parametrize("name", ["kl", "jensen-shannon", "variation"])
def test_gradients(name: str) -> None:
    loss = LOSSES[name][0]

    def divergence(loc: Tensor, scale: Tensor, other: Tensor) -> Tensor:
        return loss(
            Normal(loc, scale, validate_args=False),
            Normal(other, 1.0, validate_args=False),
            "none",
            rule=mlc.GaussKronrod(),
        )

    inputs = (t(0.3), t(1.1), t(0.5))
    check_gradients(divergence, inputs, compile=False)


def test_reductions() -> None:
    input, target = Normal(t(0.0, 1.0), 1.0), Normal(t(0.5, -1.0), 1.0)
    for loss, _ in LOSSES.values():
        assert_reductions(
            lambda reduction, weight, loss=loss: loss(
                input, target, reduction=reduction, weight=weight
            ),
            input.loc,
        )


MODULES: list[tuple] = [
    (mlc.KLDivergenceLoss, mlc.kl_divergence_loss, {"reverse": True}),
    (mlc.AlphaDivergenceLoss, mlc.alpha_divergence_loss, {"alpha": 0.7}),
    (mlc.Chi2Loss, mlc.chi2_loss, {}),
    (mlc.HellingerLoss, mlc.hellinger_loss, {"squared": False}),
    (mlc.JensenShannonLoss, mlc.jensen_shannon_loss, {}),
    (mlc.TotalVariationLoss, mlc.total_variation_loss, {}),
]


@pytest.mark.parametrize(("cls", "function", "options"), MODULES)
def test_modules(cls: type, function: Callable, options: dict) -> None:
    input, target = Normal(t(0.0, 1.0), 1.0), Normal(t(0.5, -1.0), 1.2)
    weight, rule = t(1.0, 2.0), mlc.GaussLegendre(20)
    module = cls(rule, "sum", **options)
    expected = function(input, target, "sum", weight, rule=rule, **options)
    assert_module(module, lambda m: m(input, target, weight), expected)
    for name, value in options.items():
        assert f"{name}={value}" in repr(module)
    assert_settings(lambda rule, **s: cls(rule, **options, **s))


def test_the_root_of_hellinger() -> None:
    pair = Normal(t(0.0), 1.0), Normal(t(0.5), 1.2)
    square, root = (mlc.hellinger_loss(*pair, squared=s) for s in (True, False))
    assert root.item() == pytest.approx(math.sqrt(square.item()))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": 1.0}, TypeError, "input must be one of torch.distributions, got fl"),
        ({"target": None}, TypeError, "target must be one of torch.distributions"),
        ({"target": Poisson(t(1.0))}, ValueError, "target must be a continuous distri"),
        (
            {"input": MultivariateNormal(torch.zeros(1, 2), torch.eye(2))},
            ValueError,
            "input must be a continuous distribution of one number",
        ),
        (
            {"target": Normal(t(0.0, 1.0), 1.0)},
            ValueError,
            r"target must have the batch",
        ),
        (
            {"weight": t(1.0, 2.0)},
            ValueError,
            r"weight must have the batch_shape \(1,\)",
        ),
        ({"reduction": "all"}, ValueError, "reduction must be"),
        ({"rule": "gauss"}, TypeError, "rule is a str"),
    ],
)
def test_what_cannot_be_is_refused(change: dict, error: type, message: str) -> None:
    call = {"input": Normal(t(0.0), 1.0), "target": Normal(t(1.0), 1.0)}
    for loss, _ in LOSSES.values():
        options = {k: v for k, v in {**call, **change}.items() if k not in call}
        pair = [{**call, **change}[name] for name in call]
        with pytest.raises(error, match=message):
            loss(*pair, **options)


@pytest.mark.parametrize(
    ("alpha", "error"), [("x", TypeError), (True, TypeError), (math.nan, ValueError)]
)
def test_alpha_is_a_finite_number(alpha: object, error: type) -> None:
    with pytest.raises(error, match="alpha must be"):
        mlc.alpha_divergence_loss(Normal(0.0, 1.0), Normal(0.0, 1.0), alpha=alpha)
    with pytest.raises(error, match="alpha must be"):
        mlc.AlphaDivergenceLoss(alpha=alpha)


FAR = {
    "laplace": lambda at: Laplace(at, t(1.0)),
    "gumbel": lambda at: Gumbel(at, t(1.0)),
    "student": lambda at: StudentT(t(5.0), at, t(1.0)),
    "relaxed": lambda at: LogitRelaxedBernoulli(t(0.5), logits=at / 2),
}


@pytest.mark.parametrize("name", FAR)
def test_far_apart_all_of_both_is_found(name: str) -> None:
    # It was not, at 5e4: of the relaxed variable all, of Gumbel's the side to the left,
    # of Laplace's 3e-6 in the tail.
    for at in (5e3, 5e4, -5e6):
        pair = FAR[name](t(at)), Normal(t(0.0), t(1.0))
        for p, q in (pair, pair[::-1]):
            assert mlc.total_variation_loss(p, q).item() == pytest.approx(1, abs=1e-7)
            shannon = mlc.jensen_shannon_loss(p, q).item()
            assert shannon == pytest.approx(math.log(2), abs=1e-7)


class Placeless(Distribution):
    """One that does not tell where it is, and has as much mass as wanted."""

    arg_constraints = {"at": constraints.real}  # noqa: RUF012
    support = constraints.real

    def __init__(self, at: float, mass: float = 1.0) -> None:
        self.at, self.mass = t(at), mass
        super().__init__(self.at.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return Normal(self.at, 1.0).log_prob(value) + math.log(self.mass)


BOUNDED = (mlc.total_variation_loss, mlc.jensen_shannon_loss, mlc.hellinger_loss)


@pytest.mark.parametrize("loss", BOUNDED)
def test_mass_that_is_not_found_is_reported(loss: Callable[..., Tensor]) -> None:
    near = Normal(t(0.0), 1.0)
    for p in (Placeless(5e4), Placeless(0.5, 0.95), Placeless(0.5, 1.05)):
        for pair in ((p, near), (near, p)):
            with pytest.warns(mlc.IntegrationWarning, match="The mass of both distrib"):
                loss(*pair)
            with pytest.raises(mlc.IntegrationError, match="log_prob is not normaliz"):
                loss(*pair, on_failure="raise")
            loss(*pair, on_failure="ignore")
            loss(*pair, rule=mlc.GaussLegendre(9))  # promises nothing
    # What is as near as rounding goes, or as asked for, is no failure.
    loss(Placeless(0.5, 0.995), near)
    loss(Placeless(0.5, 0.95), near, rtol=0.1)


def test_mass_where_the_loss_is_infinite_is_not_missed() -> None:
    loss = mlc.kl_divergence_loss(Uniform(t(0.0), t(1.0)), Normal(t(0.0), 1.0))
    assert loss.item() == math.inf

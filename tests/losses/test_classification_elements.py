"""Losses of two classes and of single probabilities, against mpmath and at the ends."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath as mp
import pytest
import torch
import torch.nn.functional as F
from classes_common import REDUCTIONS, assert_module, assert_reductions
from torch import Tensor
from torch.autograd import forward_ad

import torch_mlcalc as mlc
from torch_mlcalc.testing import check_gradients

INF, NAN = math.inf, math.nan
DTYPES = (torch.float32, torch.float64)
Exact = Callable[[mp.mpf], mp.mpf]

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Case(NamedTuple):
    """A loss with settings, in exact arithmetic, and where to look at it."""

    function: Callable[..., Tensor]
    module: type[torch.nn.Module]
    settings: dict[str, Any]
    exact: Callable[[mp.mpf, mp.mpf], mp.mpf]
    inputs: tuple[float, ...]
    targets: tuple[float, ...]
    # Input, target: value, slope and curvature.
    ends: dict[tuple[float, float], tuple[float, float, float]]

    def __call__(
        self, input: Tensor, target: Tensor, *args: object, **more: object
    ) -> Tensor:
        return self.function(input, target, *args, **more, **self.settings)


def f32(x: float) -> float:
    return torch.tensor(x).item()


def softplus(x: mp.mpf) -> mp.mpf:
    return mp.log1p(mp.exp(x))


def sigma(x: mp.mpf) -> mp.mpf:
    return 1 / (1 + mp.exp(-x))


def xlog(t: mp.mpf, p: mp.mpf) -> mp.mpf:
    return t * mp.log(p) if t else mp.mpf(0)


def mixed(f: Exact, g: Exact) -> Callable[[mp.mpf, mp.mpf], mp.mpf]:
    return lambda x, t: (t * f(x) if t else 0) + ((1 - t) * g(x) if t != 1 else 0)


def focal(gamma: float) -> Callable[[mp.mpf], mp.mpf]:
    return lambda z: sigma(-z) ** gamma * softplus(-z)


def shifted(gamma: float, margin: float) -> Callable[[mp.mpf], mp.mpf]:
    m = mp.mpf(margin)

    def loss(x: mp.mpf) -> mp.mpf:
        u = max(mp.mpf(0), sigma(x) - m)
        return -(u**gamma) * mp.log(1 - u) if u else mp.mpf(0)

    return loss


LOGITS = (
    *(-85.0, -44.5, -39.5, -20.0, -3.0, -0.7, -1e-3),
    *(0.0, 1e-3, 0.4, 2.5, 20.0, 39.5, 44.5, 85.0),
)
SHARES = (0.0, 1.0, 0.25, f32(0.9), f32(1e-6))
CERTAIN = {
    (INF, 1.0): (0.0, 0.0, 0.0),
    (-INF, 0.0): (0.0, 0.0, 0.0),
    (INF, 0.0): (INF, 1.0, 0.0),
    (-INF, 1.0): (INF, -1.0, 0.0),
}
EPSILON = (1.0, -0.5)

CASES = {
    "bce": Case(
        mlc.binary_cross_entropy,
        mlc.BCELoss,
        {},
        lambda p, t: -xlog(t, p) - xlog(1 - t, 1 - p),
        (
            *(1e-30, 1e-20, 5e-13, 2e-11, 1e-7, 0.1, 0.5, 0.9),
            *(1 - 2**-20, 1 - 2e-11, 1 - 5e-13),
        ),
        SHARES,
        {
            (0.0, 0.0): (0.0, 1.0, 1.0),
            (1.0, 1.0): (0.0, -1.0, 1.0),
            (0.0, 1.0): (INF, -INF, INF),
            (1.0, 0.0): (INF, INF, INF),
        },
    ),
    "bce_logits": Case(
        mlc.binary_cross_entropy_with_logits,
        mlc.BCEWithLogitsLoss,
        {},
        mixed(lambda x: softplus(-x), softplus),
        LOGITS,
        SHARES,
        CERTAIN,
    ),
    "bce_logits(3)": Case(
        mlc.binary_cross_entropy_with_logits,
        mlc.BCEWithLogitsLoss,
        {"pos_weight": torch.tensor(3.0)},
        mixed(lambda x: 3 * softplus(-x), softplus),
        LOGITS,
        SHARES,
        {**CERTAIN, (-INF, 1.0): (INF, -3.0, 0.0)},
    ),
    "soft_margin": Case(
        mlc.soft_margin_loss,
        mlc.SoftMarginLoss,
        {},
        lambda x, t: softplus(-t * x),
        (*LOGITS, -1e4, 1e4, -1e30),
        (-1.0, 1.0),
        {
            (INF, 1.0): (0.0, 0.0, 0.0),
            (-INF, 1.0): (INF, -1.0, 0.0),
            (INF, -1.0): (INF, 1.0, 0.0),
        },
    ),
    "kl": Case(
        mlc.kl_div,
        mlc.KLDivLoss,
        {},
        lambda x, t: xlog(t, t) - t * x,
        (-100.0, -3.0, -0.5, 0.0),
        (0.0, 1e-30, 0.25, 1.0),
        {(-INF, 0.0): (0.0, 0.0, 0.0), (-INF, 0.5): (INF, -0.5, 0.0)},
    ),
    "kl_log": Case(
        mlc.kl_div,
        mlc.KLDivLoss,
        {"log_target": True},
        lambda x, u: mp.exp(u) * (u - x),
        (-100.0, -3.0, -0.5, 0.0),
        (-80.0, -1.0, 0.0),
        {(-INF, -INF): (0.0, 0.0, 0.0), (-1.0, -INF): (0.0, 0.0, 0.0)},
    ),
    **{
        f"focal({gamma})": Case(
            mlc.binary_focal_loss,
            mlc.BinaryFocalLoss,
            {"gamma": gamma},
            mixed(focal(gamma), lambda x, gamma=gamma: focal(gamma)(-x)),
            (*LOGITS, -1e4, 1e30),
            SHARES,
            CERTAIN,
        )
        for gamma in (0.0, 0.5, 2.0)
    },
    "focal(1, 0.25)": Case(
        mlc.binary_focal_loss,
        mlc.BinaryFocalLoss,
        {"gamma": 1.0, "alpha": 0.25},
        mixed(lambda x: focal(1)(x) / 4, lambda x: focal(1)(-x) * 3 / 4),
        LOGITS,
        SHARES,
        {},
    ),
    "asymmetric": Case(
        mlc.asymmetric_loss,
        mlc.AsymmetricLoss,
        {"margin": 0.0625},
        mixed(focal(1), shifted(4, 0.0625)),
        (-85.0, -20.0, -2.5, -0.7, 0.0, 0.4, 2.5, 20.0),
        SHARES,
        {
            (-INF, 0.0): (0.0, 0.0, 0.0),
            (INF, 0.0): (-(0.9375**4) * math.log(0.0625), 0.0, 0.0),
            (-INF, 1.0): (INF, -1.0, 0.0),
        },
    ),
    "asymmetric(0.5)": Case(
        mlc.asymmetric_loss,
        mlc.AsymmetricLoss,
        {"margin": 0.25, "gamma_negative": 0.5, "gamma_positive": 0.0},
        mixed(focal(0), shifted(0.5, 0.25)),
        (-85.0, -1.5, -0.7, 0.0, 2.5, 20.0),
        SHARES,
        {},
    ),
    "asymmetric(margin 0)": Case(
        mlc.asymmetric_loss,
        mlc.AsymmetricLoss,
        {"margin": 0.0, "gamma_negative": 0.5},
        mixed(focal(1), lambda x: focal(0.5)(-x)),
        LOGITS,
        SHARES,
        CERTAIN,
    ),
    "poly": Case(
        mlc.binary_poly_loss,
        mlc.BinaryPolyLoss,
        {"epsilon": EPSILON},
        mixed(
            lambda x: softplus(-x) + sigma(-x) - sigma(-x) ** 2 / 2,
            lambda x: softplus(x) + sigma(x) - sigma(x) ** 2 / 2,
        ),
        LOGITS,
        SHARES,
        CERTAIN,
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def derivatives(case: Callable[..., Tensor], x: Tensor, t: Tensor) -> list[Tensor]:
    """Value, slope, and with a graph, which a kernel has no part in, and curvature."""
    x = x.clone().requires_grad_()
    loss = case(x, t, "none")
    (plain,) = torch.autograd.grad(loss.sum(), x, retain_graph=True)
    (slope,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
    curvature = torch.zeros_like(x)
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope.sum(), x)
    return [loss.detach(), plain, slope.detach(), curvature]


def of_each_alone(case: Case, x: Tensor, t: Tensor) -> list[Tensor]:
    """Reduced, which few elements are by other operations than many."""

    def each(x: Tensor, t: Tensor, reduction: str) -> Tensor:
        return torch.stack([case(*pair, "sum") for pair in zip(x, t, strict=True)])

    return derivatives(each, x, t)


def watched(case: Case, x: Tensor, t: Tensor) -> list[Tensor]:
    """Where no value can be read to see whether less is enough."""
    with forward_ad.dual_level():
        return derivatives(case, x, t)


WAYS = (derivatives, of_each_alone, watched)


def grid(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = torch.tensor(case.inputs, dtype=dtype)
    t = torch.tensor(case.targets, dtype=torch.float32).to(dtype)
    x, t = torch.meshgrid(x, t, indexing="ij")
    return x.flatten(), t.flatten()


def truth(case: Case, x: Tensor, t: Tensor) -> list[Tensor]:
    rows = []
    with mp.workdps(160):
        for one, target in zip(x.tolist(), t.tolist(), strict=True):
            share = mp.mpf(target)
            step = mp.mpf(10) ** -40 * max(abs(mp.mpf(one)), mp.mpf(10) ** -12)
            around = [case.exact(mp.mpf(one) + k * step, share) for k in (-1, 0, 1)]
            low, value, high = around
            curvature = (high - 2 * value + low) / step**2
            rows.append(
                [float(n) for n in (value, (high - low) / (2 * step), curvature)]
            )
    value, slope, curvature = torch.tensor(rows, dtype=torch.float64).T
    return [value, slope, slope, curvature]


@cases
@dtypes
def test_value_and_derivatives_are_exact(case: Case, dtype: torch.dtype) -> None:
    x, t = grid(case, dtype)
    if case.function is mlc.binary_cross_entropy:
        # What is nearer to 1 is not in float32.
        x = x.clamp(max=1 - 2 ** (-20 if dtype == torch.float32 else -50))
    finfo = torch.finfo(dtype)
    # Between the classes the terms of both may cancel in a slope.
    certain = (t == 0) | (t.abs() == 1)
    exact = [wanted.to(dtype) for wanted in truth(case, x, t)]
    ways = [found for way in WAYS for found in way(case, x, t)]
    for found, wanted in zip(ways, exact * len(WAYS), strict=True):
        # The differences taken for the truth leave 1e-57 of what is 0.
        tiny = max(finfo.tiny, 1e-50)
        for chosen, atol in ((certain, tiny), (~certain, 4 * finfo.eps)):
            torch.testing.assert_close(
                found[chosen], wanted[chosen], rtol=40 * finfo.eps, atol=atol
            )


@cases
@dtypes
def test_certainty_gives_the_limits(case: Case, dtype: torch.dtype) -> None:
    if not case.ends:
        pytest.skip("has the limits of the case before")
    x, t = torch.tensor(list(case.ends), dtype=dtype).T
    value, slope, curvature = torch.tensor(list(case.ends.values()), dtype=dtype).T
    for way in WAYS:
        wanted = (value, slope, slope, curvature)
        for found, limit in zip(way(case, x, t), wanted, strict=True):
            torch.testing.assert_close(found, limit)


@cases
def test_nan_is_never_forgotten(case: Case) -> None:
    good = torch.tensor([case.inputs[1], case.inputs[1], NAN])
    target = torch.tensor([case.targets[0], NAN, case.targets[0]])
    assert case(good, target, "none").isnan().tolist() == [False, True, True]
    assert case(good, target).isnan()


def points(case: Case) -> tuple[Tensor, Tensor]:
    x = torch.tensor([[-1.7, -0.6, 0.3], [0.8, 1.4, 3.0]])
    t = torch.tensor([[0.2, 0.9, 0.5], [0.35, 0.7, 0.1]])
    if case.function is mlc.binary_cross_entropy:
        x = x.sigmoid()
    if case.function is mlc.kl_div:
        x = x.log_softmax(1)
        t = t.log() if case.settings else t
    return x.requires_grad_(), t.requires_grad_()


# One of each function, and where it branches.
GRADIENTS = (
    *("bce", "bce_logits", "bce_logits(3)", "soft_margin", "kl", "kl_log"),
    *("focal(0.5)", "asymmetric", "asymmetric(margin 0)", "poly"),
)


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_hold_in_every_mode(name: str) -> None:
    x, t = (tensor[0].detach().requires_grad_() for tensor in points(CASES[name]))
    weight = torch.tensor([0.5, 1.5, 2.0])
    # All of them are compiled in the same way.
    compiled = name in ("bce", "kl_log", "asymmetric")
    check_gradients(
        lambda x, t: CASES[name](x, t, "mean", weight=weight), (x, t), compile=compiled
    )


@cases
def test_reductions_are_those_of_the_elements(case: Case) -> None:
    x, t = (tensor.detach() for tensor in points(case))
    weight = torch.rand_like(x)
    assert_reductions(lambda: case(x, t, "none"), lambda r: case(x, t, r))
    assert_reductions(
        lambda: case(x, t, "none") * weight,
        lambda r: case(x, t, r, weight=weight),
        weight,
    )


@cases
@pytest.mark.parametrize("copies", [1, 1000], ids=["few", "many"])
def test_mean_has_the_derivatives_of_the_mean(case: Case, copies: int) -> None:
    """Few elements and many are reduced by different operations."""
    x, t = (tensor.detach().repeat(copies, 1) for tensor in points(case))
    x, t = x.double().requires_grad_(), t.double().requires_grad_()
    found = []
    for loss in (case(x, t), case(x, t, "none").mean()):
        slopes = torch.autograd.grad(loss, (x, t), create_graph=True)
        curvatures = torch.autograd.grad(slopes[0].sum(), (x, t), allow_unused=True)
        found.append([loss, *slopes, *(c for c in curvatures if c is not None)])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12 / copies)


@cases
@pytest.mark.parametrize("certain", [False, True])
def test_gradients_of_a_mean_go_through_what_follows(case: Case, certain: bool) -> None:
    """As the hook of a kernel has to let them."""

    def found() -> list[Tensor]:
        x, t = (tensor.detach().double() for tensor in points(case))
        x, t = x.requires_grad_(), t.round() if certain else t
        loss = case(x, t)
        (plain,) = torch.autograd.grad(loss.square(), x, retain_graph=True)
        (slope,) = torch.autograd.grad(loss.square(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), x)
        return [loss, plain, slope, curvature]

    with forward_ad.dual_level():
        wanted = found()
    for one, exact in zip(found(), wanted, strict=True):
        torch.testing.assert_close(one, exact, rtol=1e-12, atol=1e-12)


@cases
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_several_gradients_are_found_at_once(case: Case, reduction: str) -> None:
    x, t = (tensor.detach() for tensor in points(case))

    def loss(x: Tensor) -> Tensor:
        return case(x, t, reduction)

    for find, of in (
        (torch.autograd.functional.jacobian, loss),
        (torch.autograd.functional.hessian, lambda x: loss(x).sum()),
    ):
        torch.testing.assert_close(find(of, x, vectorize=True), find(of, x))


@cases
def test_no_batch_and_empty_inputs_work(case: Case) -> None:
    x, t = (tensor.detach() for tensor in points(case))
    torch.testing.assert_close(case(x[0, 0], t[0, 0]), case(x, t, "none")[0, 0])
    empty = torch.empty(0, 3)
    assert case(empty, empty, "none").shape == (0, 3)
    assert case(empty, empty, "sum").item() == 0
    assert case(empty, empty).isnan()


@cases
def test_large_and_strided_tensors_are_those_of_their_parts(case: Case) -> None:
    """From 64 k elements on the value is computed in blocks."""
    x, t = points(case)
    x, t = (tensor.detach().repeat(30_000, 1) for tensor in (x, t))
    whole = derivatives(case, x, t)
    for found, part in zip(whole, derivatives(case, x[:2], t[:2]), strict=True):
        torch.testing.assert_close(found[-2:], part)
    for found, strided in zip(whole, derivatives(case, x.mT, t.mT), strict=True):
        torch.testing.assert_close(found, strided.mT)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_logits_of_zero_have_the_slope_of_either_side(zero: float) -> None:
    x = torch.full((4,), zero, requires_grad=True)
    t = torch.tensor([0.0, 0.25, 0.5, 1.0])
    loss = mlc.binary_cross_entropy_with_logits(x, t, "sum")
    (slope,) = torch.autograd.grad(loss, x)
    assert loss.item() == pytest.approx(4 * math.log(2))
    assert torch.equal(slope, 0.5 - t)


@pytest.mark.parametrize("n", [100, 140_000])
def test_a_class_that_cannot_be_is_mended_in_sums_too(n: int) -> None:
    """Where 0 times infinity is in a sum of few, or of blocks, the value is read."""
    p, t = torch.full((n,), 0.5), torch.zeros(n)
    p[-1], t[0] = 0.0, 1.0
    half = math.log(2) * (n - 1)
    x = p.logit().requires_grad_()
    found = [
        mlc.binary_cross_entropy(p, t, "sum"),
        mlc.binary_cross_entropy_with_logits(x, t * 0.75, "sum"),
        mlc.kl_div(p.log(), t, "sum"),
        mlc.kl_div(p.log(), t.log(), "sum", log_target=True),
    ]
    wanted = [half, half, math.log(2), math.log(2)]
    assert [loss.item() for loss in found] == pytest.approx(wanted, rel=1e-5)


@cases
def test_half_precision_is_computed_in_float32(case: Case) -> None:
    x, t = (tensor.detach().bfloat16() for tensor in points(case))
    loss = case(x, t, "none")
    assert loss.dtype == (torch.float32 if "pos_weight" in case.settings else x.dtype)
    wanted = case(x.float(), t.float(), "none")
    torch.testing.assert_close(loss, wanted.to(loss.dtype))


@cases
def test_values_are_never_looked_at(case: Case) -> None:
    if "pos_weight" in case.settings:
        pytest.skip("holds a tensor of another device")
    x, t = (torch.ones(4, 3, device="meta") for _ in range(2))
    case(x.requires_grad_(), t).backward()


@cases
def test_module_is_the_function_with_its_settings(case: Case) -> None:
    x, t = (tensor.detach() for tensor in points(case))
    weight = torch.rand_like(x)
    module = case.module(**case.settings)
    assert_module(module, x, t, expected=case(x, t))
    assert torch.equal(module(x, t, weight), case(x, t, weight=weight))
    for reduction in REDUCTIONS:
        module = case.module(reduction, **case.settings)
        assert torch.equal(module(x, t), case(x, t, reduction))


def test_repr_shows_the_settings() -> None:
    shown = {
        "BCELoss(reduction='sum')": mlc.BCELoss("sum"),
        "BCELoss(reduction='mean', validate=True)": mlc.BCELoss(validate=True),
        "BCEWithLogitsLoss(reduction='mean')": mlc.BCEWithLogitsLoss(),
        "SoftMarginLoss(reduction='mean')": mlc.SoftMarginLoss(),
        "KLDivLoss(reduction='batchmean', log_target=True)": mlc.KLDivLoss(
            "batchmean", True
        ),
        "BinaryFocalLoss(reduction='mean', gamma=2.0, alpha=0.25)": mlc.BinaryFocalLoss(
            alpha=0.25
        ),
        "AsymmetricLoss(reduction='mean', gamma_negative=4.0, gamma_positive=1.0, "
        "margin=0.05)": mlc.AsymmetricLoss(),
        "BinaryPolyLoss(reduction='mean', epsilon=(1.0, -0.5))": mlc.BinaryPolyLoss(
            epsilon=EPSILON
        ),
    }
    for text, module in shown.items():
        assert repr(module) == text


def test_divergence_is_the_mean_over_the_batch() -> None:
    x, t = (tensor.detach() for tensor in points(CASES["kl"]))
    batchmean = mlc.kl_div(x, t, "batchmean")
    torch.testing.assert_close(batchmean, mlc.kl_div(x, t, "sum") / 2)
    weight = torch.rand_like(x)
    weighted = mlc.kl_div(x, t, "batchmean", weight=weight)
    torch.testing.assert_close(weighted, mlc.kl_div(x, t, "sum", weight=weight) / 2)
    scalar = mlc.kl_div(x[0, 0], t[0, 0], "batchmean")
    torch.testing.assert_close(scalar, mlc.kl_div(x[0, 0], t[0, 0]))


def test_pos_weight_is_that_of_a_class() -> None:
    x, t = torch.randn(4, 3), torch.rand(4, 3)
    pos_weight = torch.tensor([0.5, 1.0, 4.0])
    ours = mlc.binary_cross_entropy_with_logits(x, t, pos_weight=pos_weight)
    theirs = F.binary_cross_entropy_with_logits(x, t, pos_weight=pos_weight)
    torch.testing.assert_close(ours, theirs)
    module = mlc.BCEWithLogitsLoss(pos_weight=pos_weight)
    assert_module(module, x, t, expected=ours)


def test_pos_weight_can_be_learned() -> None:
    x, t = (tensor[0].detach() for tensor in points(CASES["bce_logits"]))
    pos_weight = torch.rand(3).requires_grad_()
    check_gradients(
        lambda w: mlc.binary_cross_entropy_with_logits(x, t, pos_weight=w),
        pos_weight,
        compile=False,
    )


def test_focal_is_what_it_is_called() -> None:
    x, t = torch.randn(2, 100, dtype=torch.float64) * 3
    t = t.sign().clamp(min=0)
    p = torch.where(t == 1, x.sigmoid(), 1 - x.sigmoid())
    torch.testing.assert_close(
        mlc.binary_focal_loss(x, t, "none", gamma=1.5), -((1 - p) ** 1.5) * p.log()
    )


ones = torch.ones(2)
INVALID: dict[str, tuple[Callable[..., Tensor], Tensor, Tensor, str]] = {
    "bce input": (
        mlc.binary_cross_entropy,
        ones + 1,
        ones,
        "input must be from 0 to 1",
    ),
    "bce": (
        mlc.binary_cross_entropy,
        ones,
        -ones,
        "target must be from 0 to 1, got -1",
    ),
    "logits": (
        mlc.binary_cross_entropy_with_logits,
        ones,
        ones + 1,
        "target must be from 0 to 1, got 2",
    ),
    "soft margin": (
        mlc.soft_margin_loss,
        ones,
        ones * 0,
        "target must be 1 or -1, got 0",
    ),
    "kl input": (mlc.kl_div, ones, ones, "input must be log-probabilities, at most 0"),
    "kl": (mlc.kl_div, -ones, ones + 1, "target must be from 0 to 1, got 2"),
    "focal": (
        mlc.binary_focal_loss,
        ones,
        ones * NAN,
        "target must be from 0 to 1, got n",
    ),
    "asymmetric": (mlc.asymmetric_loss, ones, ones + 1, "target must be from 0 to 1"),
    "poly": (mlc.binary_poly_loss, ones, ones + 1, "target must be from 0 to 1"),
}


@pytest.mark.parametrize("name", INVALID)
def test_values_out_of_range_are_refused_on_demand(name: str) -> None:
    function, input, target, message = INVALID[name]
    function(input, target)
    with pytest.raises(ValueError, match=message):
        function(input, target, validate=True)


def test_negative_pos_weight_and_log_target_are_refused_on_demand() -> None:
    with pytest.raises(ValueError, match="pos_weight must not be negative, got -1"):
        mlc.binary_cross_entropy_with_logits(
            ones, ones, pos_weight=-ones[0], validate=True
        )
    with pytest.raises(ValueError, match="target must be from -inf to 0, got 1"):
        mlc.kl_div(-ones, ones, log_target=True, validate=True)
    with pytest.raises(ValueError, match="target must be from 0 to 1"):
        mlc.BinaryFocalLoss(validate=True)(ones, ones + 1)


REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "gamma": (
        lambda: mlc.BinaryFocalLoss(gamma=-1),
        ValueError,
        "gamma must be finite, at least 0, got -1",
    ),
    "gamma tensor": (
        lambda: mlc.binary_focal_loss(ones, ones, gamma=ones),
        TypeError,
        "gamma must be a number, got Tensor",
    ),
    "alpha": (
        lambda: mlc.binary_focal_loss(ones, ones, alpha=2),
        ValueError,
        "alpha must be finite, at least 0 and at most 1, got 2",
    ),
    "margin": (
        lambda: mlc.AsymmetricLoss(margin=1),
        ValueError,
        "margin must be below 1, got 1",
    ),
    "gamma_negative": (
        lambda: mlc.asymmetric_loss(ones, ones, gamma_negative=INF),
        ValueError,
        "gamma_negative must be finite, at least 0, got inf",
    ),
    "gamma_positive": (
        lambda: mlc.asymmetric_loss(ones, ones, gamma_positive=-0.5),
        ValueError,
        "gamma_positive must be finite, at least 0, got -0.5",
    ),
    "epsilon": (
        lambda: mlc.BinaryPolyLoss(epsilon="1"),
        TypeError,
        "epsilon must be a number, or a tuple or list of them, got str",
    ),
    "epsilon nan": (
        lambda: mlc.binary_poly_loss(ones, ones, epsilon=(1.0, NAN)),
        ValueError,
        r"epsilon\[1\] must be finite, got nan",
    ),
    "no epsilon": (
        lambda: mlc.BinaryPolyLoss(epsilon=()),
        ValueError,
        "epsilon must hold one number at least, got none",
    ),
    "log_target": (
        lambda: mlc.KLDivLoss(log_target=1),
        TypeError,
        "log_target must be a bool, got int",
    ),
    "reduction": (
        lambda: mlc.KLDivLoss("batch"),
        ValueError,
        "reduction must be 'none', 'mean' or 'sum', got 'batch'",
    ),
    "batchmean elsewhere": (
        lambda: mlc.BCELoss("batchmean"),
        ValueError,
        "reduction must be 'none', 'mean' or 'sum', got 'batchmean'",
    ),
    "pos_weight": (
        lambda: mlc.BCEWithLogitsLoss(pos_weight=2.0),
        TypeError,
        "pos_weight must be a torch.Tensor or None, got float; convert with",
    ),
    "complex pos_weight": (
        lambda: mlc.BCEWithLogitsLoss(pos_weight=ones * 1j),
        TypeError,
        "pos_weight must hold real numbers, got torch.complex64",
    ),
    "pos_weight shape": (
        lambda: mlc.binary_cross_entropy_with_logits(
            torch.ones(4, 3), torch.ones(4, 3), pos_weight=torch.ones(4)
        ),
        ValueError,
        r"pos_weight must be expandable to the shape of input, \(4, 3\), got \(4,\)",
    ),
    "pos_weight of no batch": (
        lambda: mlc.binary_cross_entropy_with_logits(ones[0], ones[0], pos_weight=ones),
        ValueError,
        r"pos_weight must be expandable to the shape of input, \(\), got \(2,\)",
    ),
    "validate": (
        lambda: mlc.SoftMarginLoss(validate=1),
        TypeError,
        "validate must be True, False or None, got int",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_settings_are_refused(name: str) -> None:
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()

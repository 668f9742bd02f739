"""Losses of many classes, against mpmath and each other, and what they refuse."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath as mp
import pytest
import torch
import torch.nn.functional as F
from classes_common import REDUCTIONS, assert_module
from torch import Tensor
from torch.autograd import forward_ad

import torch_mlcalc as mlc
from torch_mlcalc.losses.classification import linear_logsumexp as blocks
from torch_mlcalc.testing import check_gradients

INF, NAN = math.inf, math.nan
DTYPES = (torch.float32, torch.float64)

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Case(NamedTuple):
    """A loss with settings, and the loss of an element in exact arithmetic."""

    function: Callable[..., Tensor]
    module: type[torch.nn.Module]
    settings: dict[str, Any]
    exact: Callable[[list[mp.mpf], int], mp.mpf]
    # As torch does: what "mean" divides by where classes have weights.
    by_weight: bool = True

    def __call__(self, input: Tensor, target: Tensor, **more: object) -> Tensor:
        return self.function(input, target, **self.settings, **more)


def log_p(x: list[mp.mpf], c: int) -> mp.mpf:
    return x[c] - mp.log(mp.fsum(mp.exp(z) for z in x))


def missed(x: list[mp.mpf], c: int) -> mp.mpf:
    rest = mp.fsum(mp.exp(z) for k, z in enumerate(x) if k != c)
    return rest / (rest + mp.exp(x[c]))


def margin(power: int, wide: float) -> Callable[[list[mp.mpf], int], mp.mpf]:
    def loss(x: list[mp.mpf], t: int) -> mp.mpf:
        excess = [wide - x[t] + z for k, z in enumerate(x) if k != t]
        return mp.fsum(max(mp.mpf(0), z) ** power for z in excess) / len(x)

    return loss


def smoothed(x: list[mp.mpf], t: int) -> mp.mpf:
    spread = mp.fsum(log_p(x, c) for c in range(len(x))) / len(x)
    return -mp.mpf(0.75) * log_p(x, t) - mp.mpf(0.25) * spread


def tempered_p(x: list[mp.mpf], t2: mp.mpf) -> list[mp.mpf]:
    if t2 == 1:
        return [mp.exp(log_p(x, c)) for c in range(len(x))]
    top, s = max(x), t2 - 1

    def powers(z: mp.mpf) -> list[mp.mpf]:
        return [(1 + s * (z + top - one)) ** (-1 / s) for one in x]

    high = (len(x) ** s - 1) / s
    z = mp.findroot(lambda z: mp.fsum(powers(z)) - 1, (0, high), solver="anderson")
    return powers(z)


def bi_tempered(t1: float, t2: float) -> Callable[[list[mp.mpf], int], mp.mpf]:
    a = 1 - mp.mpf(t1)

    def loss(x: list[mp.mpf], t: int) -> mp.mpf:
        p = tempered_p(x, mp.mpf(t2))
        log_t = (p[t] ** a - 1) / a if a else mp.log(p[t])
        return -log_t - (1 - mp.fsum(one ** (1 + a) for one in p)) / (1 + a)

    return loss


CASES = {
    "cross_entropy": Case(
        mlc.cross_entropy, mlc.CrossEntropyLoss, {}, lambda x, t: -log_p(x, t)
    ),
    "smoothed": Case(
        mlc.cross_entropy, mlc.CrossEntropyLoss, {"label_smoothing": 0.25}, smoothed
    ),
    "nll": Case(mlc.nll_loss, mlc.NLLLoss, {}, lambda x, t: -x[t]),
    "margin": Case(mlc.multi_margin_loss, mlc.MultiMarginLoss, {}, margin(1, 1), False),
    "margin(2)": Case(
        mlc.multi_margin_loss,
        mlc.MultiMarginLoss,
        {"p": 2, "margin": 0.5},
        margin(2, 0.5),
        False,
    ),
    **{
        f"focal({gamma})": Case(
            mlc.focal_loss,
            mlc.FocalLoss,
            {"gamma": gamma},
            lambda x, t, gamma=gamma: (
                -(missed(x, t) ** gamma) * mp.log1p(-missed(x, t))
            ),
        )
        for gamma in (0.5, 2.0)
    },
    "poly": Case(
        mlc.poly_loss,
        mlc.PolyLoss,
        {"epsilon": (1.0, -0.5)},
        lambda x, t: -mp.log1p(-missed(x, t)) + missed(x, t) - missed(x, t) ** 2 / 2,
    ),
    **{
        f"bi_tempered({t1}, {t2})": Case(
            mlc.bi_tempered_loss,
            mlc.BiTemperedLoss,
            {"t1": t1, "t2": t2},
            bi_tempered(t1, t2),
        )
        for t1, t2 in ((1.0, 1.0), (0.5, 1.0), (1.0, 1.5), (0.25, 4.0), (0.0, 1.0625))
    },
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
LOGITS = ((0.3, -1.7, 2.5, 0.9), (-40.0, 3.0, -2.0, 0.25), (20.0, -0.5, 0.5, 1.0))
TARGETS = (1, 0, 0)


def derivatives(case: Case, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, gradients and Hessians of elements that do not depend on each other."""
    x = x.clone().requires_grad_()
    loss = case(x, t, reduction="none")
    (slope,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
    if not slope.requires_grad:
        return loss, slope, slope.new_zeros(*slope.shape, slope.shape[1])
    columns = [
        torch.autograd.grad(slope[:, c].sum(), x, retain_graph=True)[0]
        for c in range(x.shape[1])
    ]
    return loss.detach(), slope.detach(), torch.stack(columns, 1)


@cases
@dtypes
def test_value_and_derivatives_are_exact(case: Case, dtype: torch.dtype) -> None:
    x = torch.tensor(LOGITS, dtype=dtype)
    found = derivatives(case, x, torch.tensor(TARGETS))
    eps = torch.finfo(dtype).eps
    # The size of what is added up and cancels.
    size = x.abs().amax(1)
    for row, t in enumerate(TARGETS):
        with mp.workdps(100):
            point = [mp.mpf(z) for z in x[row].tolist()]
            step = mp.mpf(10) ** -15

            def moved(
                *by: tuple[int, int], point: list[mp.mpf] = point, t: int = t
            ) -> mp.mpf:
                z = list(point)
                for place, sign in by:
                    z[place] += sign * mp.mpf(10) ** -15
                return case.exact(z, t)

            value = float(moved())
            slopes = [
                float((moved((c, 1)) - moved((c, -1))) / (2 * step)) for c in range(4)
            ]
            curvatures = [
                float(
                    sum(i * k * moved((c, i), (d, k)) for i in (-1, 1) for k in (-1, 1))
                    / (4 * step**2)
                )
                for c in range(4)
                for d in range(4)
            ]
        atol = 4 * eps * max(1.0, size[row].item())
        wanted = {"rel": 64 * eps, "abs": atol}
        assert found[0][row].item() == pytest.approx(value, **wanted)
        assert found[1][row].tolist() == pytest.approx(slopes, **wanted)
        flat = found[2][row].flatten().tolist()
        assert flat == pytest.approx(curvatures, rel=64 * eps, abs=max(atol, 1e-10))


SMALL = ("focal(0.5)", "focal(2.0)", "poly")
SMALL += ("bi_tempered(1.0, 1.0)", "bi_tempered(0.5, 1.0)", "bi_tempered(0.0, 1.0625)")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("sure", [1.5, 3.0, 30.0])
@dtypes
def test_small_losses_keep_their_digits(
    name: str, sure: float, dtype: torch.dtype
) -> None:
    x = torch.tensor([[sure, 0.0, -1.0]], dtype=dtype, requires_grad=True)
    target = torch.tensor([0])
    loss = CASES[name](x, target)
    (slope,) = torch.autograd.grad(loss, x)
    with mp.workdps(60):
        point = [mp.mpf(sure), mp.mpf(0), mp.mpf(-1)]
        wanted = float(CASES[name].exact(point, 0))
        by_target = mp.diff(lambda z: CASES[name].exact([z, *point[1:]], 0), sure)
    rel = 64 * torch.finfo(dtype).eps
    assert loss.item() == pytest.approx(wanted, rel=rel, abs=0)
    assert slope[0, 0].item() == pytest.approx(float(by_target), rel=rel, abs=0)


@pytest.mark.parametrize("name", ["bi_tempered(0.5, 1.0)", "bi_tempered(0.25, 4.0)"])
@dtypes
def test_an_outlier_has_its_small_slope(name: str, dtype: torch.dtype) -> None:
    """Of the power of a small probability less 1, autograd saw the last digit only."""
    point = [-30.0, 3.0, 0.5] if "1.0)" in name else [-1e6, 3.0, 0.5]
    x = torch.tensor(point, dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(CASES[name](x, torch.tensor(0)), x)
    with mp.workdps(40):
        wanted = mp.diff(
            lambda z: CASES[name].exact([z, *map(mp.mpf, point[1:])], 0), point[0]
        )
    wanted = float(wanted)
    rel = 300 * torch.finfo(dtype).eps
    assert slope[0].item() == pytest.approx(wanted, rel=rel, abs=0)


@pytest.mark.parametrize(
    "name",
    ["smoothed", "nll", "margin(2)", "focal(0.5)", "poly", "bi_tempered(0.25, 4.0)"],
)
def test_gradients_hold_in_every_mode(name: str) -> None:
    x = torch.tensor([[0.3, -1.7, 2.5], [-0.4, 3.0, -2.0]], requires_grad=True)
    settings = {"weight": torch.tensor([0.5, 2.0, 1.0])}
    if CASES[name].by_weight:
        settings["ignore_index"] = 1
    check_gradients(lambda x: CASES[name](x, torch.tensor([2, 0]), **settings), (x,))


@pytest.mark.parametrize(
    "name", ["cross_entropy", "smoothed", "bi_tempered(0.25, 4.0)"]
)
def test_gradients_of_probabilities_hold_in_every_mode(name: str) -> None:
    x = torch.tensor([[0.3, -1.7, 2.5]], requires_grad=True)
    target = torch.tensor([[0.2, 0.5, 0.3]], requires_grad=True)
    weight = torch.tensor([0.5, 2.0, 1.0])
    check_gradients(lambda x, t: CASES[name](x, t, weight=weight), (x, target))


@cases
def test_classes_are_dimension_1_and_a_batch_may_be_missing(case: Case) -> None:
    x, target = torch.randn(2, 4, 3, 5), torch.randint(0, 4, (2, 3, 5))
    weight = torch.rand(4)
    found = case(x, target, weight=weight, reduction="none")
    assert found.shape == (2, 3, 5)
    for n, i, j in ((0, 0, 0), (1, 2, 4)):
        alone = case(x[n, :, i, j], target[n, i, j], weight=weight, reduction="none")
        assert alone.shape == ()
        torch.testing.assert_close(found[n, i, j], alone)


@cases
def test_reductions_are_those_of_the_elements(case: Case) -> None:
    x, target = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 0])
    weight = torch.rand(4)
    elements = case(x, target, weight=weight, reduction="none")
    plain = case(x, target, reduction="none")
    torch.testing.assert_close(case(x, target), plain.mean())
    if "label_smoothing" not in case.settings:
        torch.testing.assert_close(elements, plain * weight[target])
    total = case(x, target, weight=weight, reduction="sum")
    torch.testing.assert_close(total, elements.sum())
    by = weight[target].sum() if case.by_weight else 6
    torch.testing.assert_close(case(x, target, weight=weight), elements.sum() / by)


weighable = pytest.mark.parametrize(
    "case",
    [case for case in CASES.values() if case.by_weight],
    ids=[name for name, case in CASES.items() if case.by_weight],
)


@weighable
@pytest.mark.parametrize("ignored", [-100, 7, 1])
def test_ignored_elements_do_not_count(case: Case, ignored: int) -> None:
    x, weight = torch.randn(5, 4), torch.rand(4)
    target = torch.tensor([0, ignored, 3, ignored, 2])
    kept = [0, 2, 4]
    for reduction in ("mean", "sum"):
        settings = {"weight": weight, "reduction": reduction}
        torch.testing.assert_close(
            case(x, target, ignore_index=ignored, **settings),
            case(x[kept], target[kept], **settings),
        )
    elements = case(x, target, ignore_index=ignored, reduction="none")
    assert elements[[1, 3]].tolist() == [0, 0]


@weighable
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_a_batch_without_any_that_counts_is_0(case: Case, weighted: bool) -> None:
    weight = torch.rand(4) if weighted else None
    x = torch.randn(3, 4, requires_grad=True)
    loss = case(x, torch.full((3,), -100), weight=weight)
    assert loss.item() == 0
    loss.backward()
    assert not x.grad.any()


@cases
def test_empty_batches_have_the_sum_0_and_the_mean_nan(case: Case) -> None:
    x, target = torch.empty(0, 4), torch.empty(0, dtype=torch.long)
    assert case(x, target, reduction="none").shape == (0,)
    assert case(x, target, reduction="sum").item() == 0
    assert case(x, target).isnan()


@cases
def test_impossible_classes_have_no_part(case: Case) -> None:
    if case.function is mlc.nll_loss or "label_smoothing" in case.settings:
        pytest.skip("is not finite then")
    x = torch.tensor([[0.5, -INF, 2.0, -INF]], requires_grad=True)
    loss = case(x, torch.tensor([0]))
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    assert slope[0, [1, 3]].tolist() == [0, 0]
    scale = 2 if case.function is mlc.multi_margin_loss else 1
    alone = case(x[:, [0, 2]], torch.tensor([0]))
    torch.testing.assert_close(loss, alone / scale)
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope[0, 0], x)
        assert curvature.isfinite().all()


@pytest.mark.parametrize("name", ["focal(0.5)", "poly"])
def test_certain_predictions_have_finite_derivatives(name: str) -> None:
    for x, value, slope in (((0.0, -INF), 0.0, 0.0), ((-INF, 0.0), INF, -1.0)):
        input = torch.tensor([x], requires_grad=True)
        loss = CASES[name](input, torch.tensor([0]))
        (found,) = torch.autograd.grad(loss, input)
        assert loss.item() == value
        assert found.tolist() == [[slope, -slope]]


@cases
def test_nan_is_never_forgotten(case: Case) -> None:
    x = torch.tensor([[0.5, NAN, 2.0], [1.0, 2.0, 3.0]])
    loss = case(x, torch.tensor([1, 0]), reduction="none")
    assert loss.isnan().tolist() == [True, False]


@pytest.mark.parametrize("name", ["cross_entropy", "bi_tempered(0.25, 4.0)"])
def test_nan_in_probabilities_is_never_forgotten(name: str) -> None:
    x, target = torch.zeros(3, 2), torch.full((3, 2), 0.5)
    x[0, 1] = target[1, 1] = NAN
    loss = CASES[name](x, target, reduction="none")
    assert loss.isnan().tolist() == [True, True, False]


@cases
def test_half_precision_is_computed_in_float32(case: Case) -> None:
    x, target = torch.randn(6, 4).bfloat16(), torch.randint(0, 4, (6,))
    loss = case(x, target, reduction="none")
    assert loss.dtype == torch.bfloat16
    wanted = case(x.float(), target, reduction="none")
    torch.testing.assert_close(loss, wanted.bfloat16())
    weight = torch.rand(4, dtype=torch.float64)
    assert case(x, target, weight=weight).dtype == torch.float64


@cases
def test_module_is_the_function_with_its_settings(case: Case) -> None:
    x, target, weight = (
        torch.randn(6, 4),
        torch.tensor([0, 1, 2, 3, 3, 0]),
        torch.rand(4),
    )
    module = case.module(weight=weight, **case.settings)
    expected = case(x, target, weight=weight)
    assert_module(module, x, target, expected=expected)
    for reduction in REDUCTIONS:
        module = case.module(reduction=reduction, **case.settings)
        assert torch.equal(module(x, target), case(x, target, reduction=reduction))
    if case.by_weight:
        ignored = case.module(ignore_index=3, **case.settings)(x, target)
        assert torch.equal(ignored, case(x, target, ignore_index=3))
        assert not torch.equal(ignored, case(x, target))


def test_weights_of_the_hinge_can_be_learned() -> None:
    module = mlc.MultiMarginLoss()
    module.weight = torch.nn.Parameter(torch.rand(4))
    module(torch.randn(5, 4), torch.arange(5) % 4).backward()
    assert module.weight.grad.any()


def test_probabilities_of_one_class_are_its_index() -> None:
    x, target = torch.randn(6, 4, 2), torch.randint(0, 4, (6, 2))
    one_hot = F.one_hot(target, 4).movedim(-1, 1).float()
    for name in ("cross_entropy", "smoothed", "bi_tempered(0.25, 4.0)"):
        torch.testing.assert_close(CASES[name](x, target), CASES[name](x, one_hot))


def test_bi_tempered_of_probabilities_is_a_divergence() -> None:
    """It is 0 where prediction and target agree, and only there."""
    for t1, t2 in ((0.5, 1.5), (1.0, 1.0), (0.0, 3.0)):
        x = torch.randn(5, 4, dtype=torch.float64)
        p = torch.tensor(
            [[float(n) for n in tempered_p(r, mp.mpf(t2))] for r in x.tolist()]
        )
        target = p.double()
        loss = mlc.bi_tempered_loss(x, target, t1=t1, t2=t2, reduction="none")
        assert loss.abs().max() < 1e-12
        assert (mlc.bi_tempered_loss(x, target.roll(1, 1), t1=t1, t2=t2)) > 1e-4


def test_bi_tempered_weight_of_probabilities_is_their_mean() -> None:
    x, target, weight = torch.randn(5, 4), torch.randn(5, 4).softmax(1), torch.rand(4)
    elements = mlc.bi_tempered_loss(x, target, reduction="none", t1=0.5, t2=1.5)
    of_element = target @ weight
    found = mlc.bi_tempered_loss(x, target, weight, t1=0.5, t2=1.5)
    torch.testing.assert_close(found, (elements * of_element).sum() / of_element.sum())


def test_focal_with_gamma_0_is_cross_entropy() -> None:
    x, target, weight = torch.randn(6, 4), torch.randint(0, 4, (6,)), torch.rand(4)
    torch.testing.assert_close(
        mlc.focal_loss(x, target, weight, gamma=0), mlc.cross_entropy(x, target, weight)
    )


# The linear layer.


@pytest.fixture(params=[(2048, 1 << 21), (3, 6)], ids=["one block", "blocks"])
def block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_ROWS", request.param[0])
    monkeypatch.setattr(blocks, "_LOGITS", request.param[1])


def layer() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, matrix, bias = torch.randn(5, 4), torch.randn(7, 4), torch.randn(7)
    target = torch.tensor([0, 6, 2, -100, 3])
    return tuple(z.requires_grad_() for z in (x, matrix, bias)) + (target,)


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_linear_is_the_cross_entropy_of_the_layer(
    smoothing: float, weighted: bool
) -> None:
    x, matrix, bias, target = layer()
    settings = {
        "weight": torch.rand(7) if weighted else None,
        "label_smoothing": smoothing,
    }
    for reduction in REDUCTIONS:
        both = [
            mlc.linear_cross_entropy(
                x, matrix, target, linear_bias=bias, reduction=reduction, **settings
            ),
            mlc.cross_entropy(
                F.linear(x, matrix, bias), target, reduction=reduction, **settings
            ),
        ]
        torch.testing.assert_close(*both)
        slopes = [torch.autograd.grad(one.sum(), (x, matrix, bias)) for one in both]
        torch.testing.assert_close(*slopes)


@pytest.mark.usefixtures("block_size")
def test_linear_gradients_hold_in_every_mode() -> None:
    x, matrix, bias, target = layer()
    x, matrix, bias = (z.detach()[:3].requires_grad_() for z in (x, matrix, bias))
    target = torch.tensor([0, 2, -100])
    check_gradients(
        lambda x, w, b: mlc.linear_cross_entropy(x, w, target, linear_bias=b),
        (x, matrix, bias),
    )


@pytest.mark.usefixtures("block_size")
def test_linear_hessian_is_that_of_the_layer() -> None:
    x, matrix, _, target = layer()
    both = [
        torch.autograd.functional.hessian(loss, matrix)
        for loss in (
            lambda w: mlc.linear_cross_entropy(x, w, target),
            lambda w: mlc.cross_entropy(F.linear(x, w), target),
        )
    ]
    torch.testing.assert_close(*both)


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_linear_finds_several_gradients_at_once(reduction: str) -> None:
    *arguments, target = layer()

    def loss(x: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
        return mlc.linear_cross_entropy(
            x, matrix, target, linear_bias=bias, reduction=reduction
        )

    for find, of in (
        (torch.autograd.functional.jacobian, loss),
        (torch.autograd.functional.hessian, lambda *a: loss(*a).square().sum()),
    ):
        found, wanted = (find(of, tuple(arguments), vectorize=v) for v in (True, False))
        torch.testing.assert_close(found, wanted)


@pytest.mark.usefixtures("block_size")
def test_linear_with_impossible_classes_and_no_rows() -> None:
    x, matrix, bias, target = layer()
    bias = torch.full((7,), -INF)
    bias[[0, 2, 3, 6]] = 0.5
    loss = mlc.linear_cross_entropy(x, matrix, target, linear_bias=bias)
    wanted = mlc.cross_entropy(F.linear(x, matrix, bias), target)
    torch.testing.assert_close(loss, wanted)
    found = torch.autograd.grad(loss, matrix)[0]
    torch.testing.assert_close(found, torch.autograd.grad(wanted, matrix)[0])
    empty = mlc.linear_cross_entropy(x[:0], matrix, target[:0], reduction="sum")
    assert empty.item() == 0
    empty.backward()


def test_linear_without_a_batch_and_in_half_precision() -> None:
    x, matrix, bias, target = layer()
    alone = mlc.linear_cross_entropy(x[1], matrix, target[1], linear_bias=bias)
    wanted = mlc.cross_entropy(F.linear(x[1], matrix, bias), target[1])
    torch.testing.assert_close(alone, wanted)
    half = mlc.linear_cross_entropy(x[1].bfloat16(), matrix.bfloat16(), target[1])
    assert half.dtype == torch.bfloat16
    mixed = mlc.linear_cross_entropy(x[1].bfloat16(), matrix, target[1])
    assert mixed.dtype == torch.float32


def test_linear_module_shares_its_state_with_that_of_torch() -> None:
    weight = torch.rand(7)
    ours = mlc.LinearCrossEntropyLoss(
        4, 7, bias=True, weight=weight, label_smoothing=0.1
    )
    theirs = torch.nn.LinearCrossEntropyLoss(
        4, 7, bias=True, weight=weight, label_smoothing=0.1
    )
    theirs.load_state_dict(ours.state_dict())
    x, *_, target = layer()
    torch.testing.assert_close(ours(x, target), theirs(x, target))
    assert_module(ours, x, target, expected=theirs(x, target))
    assert ours.double().linear.weight.dtype == torch.float64


def test_linear_module_ignores_and_refuses_what_it_is_told_to() -> None:
    module = mlc.LinearCrossEntropyLoss(4, 7, ignore_index=3, validate=True)
    x, target = torch.randn(3, 4), torch.tensor([0, 3, 6])
    torch.testing.assert_close(module(x, target), module(x[[0, 2]], target[[0, 2]]))
    with pytest.raises(ValueError, match="from 0 to 6, or ignore_index = 3, got 7"):
        module(x, target + 1)


def test_torch_chunked_linear_has_no_second_derivative() -> None:
    x, matrix, _, target = layer()
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2)
    theirs = F.linear_cross_entropy(x, matrix, target, options=options)
    with pytest.raises((RuntimeError, NotImplementedError)):
        (slope,) = torch.autograd.grad(theirs, x, create_graph=True)
        slope.sum().backward()


# What is refused.

x4, t4 = torch.zeros(2, 4), torch.tensor([0, 3])
REFUSED: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "target shape": (
        lambda: mlc.cross_entropy(x4, torch.zeros(3, dtype=torch.long)),
        ValueError,
        r"target must have the shape of input without the classes, \(2,\), got \(3,\); "
        r"input has shape \(2, 4\), of which dimension 1 are the classes",
    ),
    "probabilities shape": (
        lambda: mlc.cross_entropy(x4, torch.zeros(2)),
        ValueError,
        r"target must have the shape of input, \(2, 4\), got \(2,\)",
    ),
    "probabilities of nll": (
        lambda: mlc.nll_loss(x4, x4),
        TypeError,
        r"target must be class indices, got torch.float32; convert with \.long\(\)",
    ),
    "boolean target": (
        lambda: mlc.cross_entropy(x4, torch.ones(2, dtype=torch.bool)),
        TypeError,
        "target must hold real numbers, got torch.bool",
    ),
    "no target": (
        lambda: mlc.cross_entropy(x4, None),
        TypeError,
        "target must be a torch.Tensor, got NoneType",
    ),
    "list": (
        lambda: mlc.focal_loss(x4, [0, 3]),
        TypeError,
        "target must be a torch.Tensor, got list",
    ),
    "no classes": (
        lambda: mlc.cross_entropy(torch.zeros(2, 0), t4),
        ValueError,
        r"input must have the classes in dimension 1.*got shape \(2, 0\)",
    ),
    "scalar": (
        lambda: mlc.poly_loss(torch.zeros(()), t4),
        ValueError,
        r"input must have the classes in dimension 1.*got shape \(\)",
    ),
    "integer input": (
        lambda: mlc.cross_entropy(x4.long(), t4),
        TypeError,
        "input or target must be floating-point",
    ),
    "weight shape": (
        lambda: mlc.multi_margin_loss(x4, t4, weight=torch.ones(2)),
        ValueError,
        r"weight must have a number for each class, shape \(4,\), got \(2,\); for",
    ),
    "weight": (
        lambda: mlc.CrossEntropyLoss(weight=[1.0]),
        TypeError,
        "weight must be a torch.Tensor or None, got list",
    ),
    "ignore_index": (
        lambda: mlc.NLLLoss(ignore_index=1.0),
        TypeError,
        "ignore_index must be an integer, got float",
    ),
    "label_smoothing": (
        lambda: mlc.CrossEntropyLoss(label_smoothing=1.5),
        ValueError,
        "label_smoothing must be finite, at least 0 and at most 1, got 1.5",
    ),
    "label_smoothing bool": (
        lambda: mlc.cross_entropy(x4, t4, label_smoothing=True),
        TypeError,
        "label_smoothing must be a number, got bool",
    ),
    "ignore_index bool": (
        lambda: mlc.NLLLoss(ignore_index=True),
        TypeError,
        "ignore_index must be an integer, got bool",
    ),
    "p": (lambda: mlc.MultiMarginLoss(p=3), ValueError, "p must be 1 or 2, got 3"),
    "margin": (
        lambda: mlc.multi_margin_loss(x4, t4, margin=INF),
        ValueError,
        "margin must be finite, got inf",
    ),
    "gamma": (
        lambda: mlc.FocalLoss(gamma=-1),
        ValueError,
        "gamma must be finite, at least 0, got -1",
    ),
    "epsilon": (
        lambda: mlc.PolyLoss(epsilon=[]),
        ValueError,
        "epsilon must hold one number at least",
    ),
    "t1": (
        lambda: mlc.BiTemperedLoss(t1=1.5),
        ValueError,
        "t1 must be finite, at least 0 and at most 1, got 1.5",
    ),
    "t2": (
        lambda: mlc.bi_tempered_loss(x4, t4, t2=0.5),
        ValueError,
        "t2 must be finite, at least 1, got 0.5",
    ),
    "reduction": (
        lambda: mlc.FocalLoss(reduction="avg"),
        ValueError,
        "reduction must be 'none', 'mean' or 'sum', got 'avg'",
    ),
    "linear features": (
        lambda: mlc.linear_cross_entropy(x4, torch.zeros(7, 3), t4),
        ValueError,
        r"the same last dimension, the features, got \(2, 4\) and \(7, 3\)",
    ),
    "linear dimensions": (
        lambda: mlc.linear_cross_entropy(torch.zeros(2, 3, 4), torch.zeros(7, 4), t4),
        ValueError,
        r"input must have the shape \(N, F\) or \(F,\) and linear_weight \(C, F\), got",
    ),
    "linear dimension": (
        lambda: mlc.linear_cross_entropy(x4, torch.zeros(4), t4),
        ValueError,
        r"and linear_weight \(C, F\), got \(2, 4\) and \(4,\)",
    ),
    "linear bias": (
        lambda: mlc.linear_cross_entropy(
            x4, torch.zeros(7, 4), t4, linear_bias=t4 * 1.0
        ),
        ValueError,
        r"linear_bias must have a number for each class, \(7,\), got \(2,\)",
    ),
    "linear list": (
        lambda: mlc.linear_cross_entropy(x4, [[1.0]], t4),
        TypeError,
        "linear_weight must be a torch.Tensor, got list",
    ),
    "linear integers": (
        lambda: mlc.linear_cross_entropy(x4, torch.zeros(7, 4).long(), t4),
        TypeError,
        "linear_weight must be floating-point, got torch.int64",
    ),
    "linear target": (
        lambda: mlc.linear_cross_entropy(x4, torch.zeros(7, 4), t4[:1]),
        ValueError,
        r"target must have the shape of input without the classes, \(2,\), got \(1,\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_arguments_are_refused(name: str) -> None:
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()


@cases
def test_indices_out_of_range_are_refused(case: Case) -> None:
    for index in (4, -1):
        target = torch.tensor([0, index])
        ignored = ", or ignore_index = -100" if case.by_weight else ""
        message = f"target must be from 0 to 3{ignored}, got {index} at .1. .1 of 2."
        with pytest.raises(ValueError, match=message):
            case(x4, target, validate=True)
        # The kernel notices as well.
        with pytest.raises((IndexError, RuntimeError), match="out of (bounds|range)"):
            case(x4, target)
    case(x4, t4, validate=True)
    with pytest.raises(ValueError, match="target must be from 0 to 3"):
        case.module(validate=True, **case.settings)(x4, torch.tensor([0, 4]))


def test_linear_indices_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="target must be from 0 to 6"):
        mlc.linear_cross_entropy(x4, torch.zeros(7, 4), t4 + 5, validate=True)
    for target in (t4 + 5, torch.full_like(t4, -1)):
        with pytest.raises(IndexError, match="out of range"):
            mlc.linear_cross_entropy(x4, torch.zeros(7, 4), target)


def test_what_are_no_probabilities_is_refused_on_demand() -> None:
    for target, message in (
        (torch.tensor([[0.5, 0.6, -0.1, 0.0]]), "target must be from 0 to 1, got -0.1"),
        (torch.full((1, 4), 0.3), "sum of target over the classes must be 1, got 1.2"),
    ):
        for function in (mlc.cross_entropy, mlc.bi_tempered_loss):
            with pytest.raises(ValueError, match=message):
                function(x4[:1], target, validate=True)
    mlc.cross_entropy(x4, torch.randn(2, 4).softmax(1), validate=True)


def test_repr_shows_the_settings() -> None:
    shared = "reduction='mean', ignore_index=-100"
    shown = {
        f"CrossEntropyLoss({shared}, label_smoothing=0.1)": mlc.CrossEntropyLoss(
            label_smoothing=0.1
        ),
        "NLLLoss(reduction='mean', validate=False, ignore_index=-100)": mlc.NLLLoss(
            validate=False
        ),
        "MultiMarginLoss(reduction='mean', p=2, margin=0.5)": mlc.MultiMarginLoss(
            2, 0.5
        ),
        f"FocalLoss({shared}, gamma=2.0)": mlc.FocalLoss(),
        f"PolyLoss({shared}, epsilon=1.0)": mlc.PolyLoss(),
        f"BiTemperedLoss({shared}, t1=0.5, t2=2.0)": mlc.BiTemperedLoss(t1=0.5, t2=2.0),
    }
    for text, module in shown.items():
        assert repr(module) == text
    assert f"{shared}, label_smoothing=0.0" in repr(mlc.LinearCrossEntropyLoss(4, 7))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 2.0, 1.0, 3.0])])
@pytest.mark.parametrize("shape", [(4,), (5, 4)])
def test_hinge_in_the_kernel_is_that_of_operations(
    shape: tuple[int, ...], weight: Tensor | None, p: int, reduction: str
) -> None:
    """Which take its place in forward mode, and give it its second derivative."""

    def derivatives() -> list[Tensor]:
        x = torch.linspace(-1.2, 1.5, math.prod(shape)).sin().view(shape)
        x.requires_grad_()
        target = torch.arange(math.prod(shape[:-1])).view(shape[:-1]) % 4
        loss = mlc.multi_margin_loss(x, target, p, 0.7, weight, reduction)
        (plain,) = torch.autograd.grad(loss.square().sum(), x, retain_graph=True)
        (slope,) = torch.autograd.grad(loss.square().sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.square().sum(), x)
        return [loss, plain, slope, curvature]

    with forward_ad.dual_level():
        wanted = derivatives()
    for found, exact in zip(derivatives(), wanted, strict=True):
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("bad", [(NAN, 0.0, 1.0), (INF, INF, 1.0), (-INF, -INF, -INF)])
def test_hinge_does_not_forget_what_the_kernel_does(bad: tuple[float, ...]) -> None:
    x, target = torch.tensor([bad, (0.0, 0.0, 1.0)]), torch.tensor([0, 1])
    assert F.multi_margin_loss(x, target).isfinite()
    assert mlc.multi_margin_loss(x, target).isnan()

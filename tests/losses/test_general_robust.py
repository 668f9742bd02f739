"""The general robust loss and its likelihood: every shape, and derivatives in it."""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from torch import Tensor, nn

from torch_mlcalc.losses import (
    GeneralRobustLoss,
    GeneralRobustNLLLoss,
    blocks,
    cauchy_loss,
    charbonnier_loss,
    geman_mcclure_loss,
    general_robust_loss,
    general_robust_nll_loss,
    mse_loss,
    set_default_validate,
    welsch_loss,
)
from torch_mlcalc.losses.robust.normalizer import log_normalizer, log_normalizer_of
from torch_mlcalc.testing import check_gradients

INF = math.inf
DOUBLE = torch.float64

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

ALPHAS = (
    *(-1e4, -30.0, -8.0, -2.0, -1.0, -0.01, -1e-6, -1e-12, 0.0, 1e-12, 1e-6, 0.01),
    *(0.3, 0.8, 1.0, 1.2, 1.7, 1.99, 1.9999, 1.999999, 2.000001, 2.01, 2.5, 3.0, 3.5),
    *(5.0, 20.0),
)
RESIDUALS = (1e-6, 0.1, 0.5, 1.1, 5.0, 30.0, 1e3, 1e8)


def exact(x: float, alpha: float) -> list[float]:
    """Return value and derivatives by differences in 400 digits."""
    x, alpha = mp.mpf(x), mp.mpf(alpha)

    def loss(x: mp.mpf, a: mp.mpf) -> mp.mpf:
        a = a if a else mp.mpf(10) ** -90
        b = abs(a - 2)
        return b / a * ((x * x / b + 1) ** (a / 2) - 1)

    def at(i: int, j: int) -> mp.mpf:
        return loss(x * (1 + i * h), alpha + j * k)

    h = mp.mpf(10) ** -30
    k = h * min(abs(alpha - 2), 1)
    value, d = at(0, 0), x * h
    return [
        value,
        (at(1, 0) - at(-1, 0)) / (2 * d),
        (at(0, 1) - at(0, -1)) / (2 * k),
        (at(1, 0) - 2 * value + at(-1, 0)) / d**2,
        (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / (4 * d * k),
        (at(0, 1) - 2 * value + at(0, -1)) / k**2,
    ]


def ours(x: Tensor, alpha: Tensor) -> tuple[Tensor, ...]:
    """Return value and derivatives of each residual with each shape."""
    x, alpha = (t.detach().clone().requires_grad_() for t in (x, alpha))
    value = general_robust_loss(x, torch.zeros_like(x), "none", alpha)
    first = torch.autograd.grad(value.sum(), (x, alpha), create_graph=True)
    xx, xa = torch.autograd.grad(first[0].sum(), (x, alpha), retain_graph=True)
    (aa,) = torch.autograd.grad(first[1].sum(), alpha)
    return value, *first, xx, xa, aa


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_value_and_derivatives_are_exact_for_every_shape(dtype: torch.dtype) -> None:
    alphas, xs = torch.tensor(ALPHAS, dtype=dtype), torch.tensor(RESIDUALS, dtype=dtype)
    alpha, x = (t.flatten() for t in torch.meshgrid(alphas, xs, indexing="ij"))
    keep = alpha * x.log10() < 25  # beyond, second derivatives overflow in float32
    alpha, x = alpha[keep], x[keep]
    with mp.workdps(400):
        rows = [exact(*pair) for pair in zip(x.tolist(), alpha.tolist(), strict=True)]
    table = torch.tensor([[float(v) for v in row] for row in rows], dtype=DOUBLE)
    found = torch.stack([t.detach().double() for t in ours(x, alpha)], -1)
    value, size, b = table[:, 0], x.double(), (alpha.double() - 2).abs()
    # What an error is compared with: the number, and what it is a difference of.
    unit = table.abs()
    unit[:, 2] += value
    unit[:, 3] += unit[:, 1] / size
    unit[:, 4] += unit[:, 1]
    unit[:, 5] += unit[:, 2] + value / b.clamp(max=1)
    finfo = torch.finfo(dtype)
    exponent = alpha.double() / 2 * (size.square() / b).log1p()
    # exp(z) has the error |z| eps.
    ulps = 60 + 2 * exponent.abs()[:, None]
    wrong = (found - table).abs() > ulps * finfo.eps * unit + 1e3 * finfo.tiny
    assert not wrong.any(), (alpha[wrong.any(1)], x[wrong.any(1)], wrong.nonzero())


def test_derivative_in_the_shape_is_that_of_the_docstring() -> None:
    x, alpha = torch.tensor([0.7, 3.0, 9.0]).double(), torch.tensor([0.4, 3.0, -2.5])
    alpha = alpha.double()
    b = (alpha - 2).abs()
    log = (x * x / b).log1p()
    value, _, slope, *_ = ours(x, alpha)
    expected = 2 * value / (alpha * (alpha - 2)) + b / alpha * (
        (alpha * log / 2).exp()
        * (log / 2 - alpha * x * x / (2 * (alpha - 2) * (b + x * x)))
    )
    torch.testing.assert_close(slope, expected)


LIMITS = {
    -INF: welsch_loss,
    -2.0: geman_mcclure_loss,
    0.0: cauchy_loss,
    1.0: charbonnier_loss,
    2.0: lambda x, y, reduction: mse_loss(x, y, reduction) / 2,
    INF: lambda x, y, reduction: torch.expm1((x - y) ** 2 / 2),
}


@pytest.mark.parametrize("alpha", LIMITS)
@pytest.mark.parametrize("as_tensor", [False, True], ids=["number", "tensor"])
def test_named_shapes_are_the_losses_of_that_name(
    alpha: float, as_tensor: bool
) -> None:
    x = torch.tensor([0.0, 1e-3, 0.4, -0.9, 1.5, -4.0, 8.0], dtype=DOUBLE)
    numbers = []
    for loss in (LIMITS[alpha], general_robust_loss):
        input = x.clone().requires_grad_()
        shape = torch.tensor(alpha, dtype=DOUBLE, requires_grad=True)
        settings = {"alpha": shape if as_tensor else alpha}
        options = settings if loss is general_robust_loss else {}
        value = loss(input, torch.zeros_like(x), reduction="none", **options)
        (slope,) = torch.autograd.grad(value.sum(), input, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), input)
        numbers.append((value, slope, curvature))
    torch.testing.assert_close(*numbers, rtol=1e-13, atol=1e-16)
    if as_tensor and math.isinf(alpha):
        general_robust_loss(x, torch.zeros_like(x), alpha=shape).backward()
        assert shape.grad.item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_derivative_at_two_is_that_of_the_next_number(dtype: torch.dtype) -> None:
    two = torch.tensor(2.0, dtype=dtype)
    next_to_two = torch.nextafter(two, torch.zeros_like(two))
    x = torch.tensor([0.5, 1.0, 7.0], dtype=dtype)
    at, beside = ours(x, two), ours(x, next_to_two)
    torch.testing.assert_close(at[2], beside[2], rtol=1e-1, atol=0)
    assert torch.equal(at[0], x * x / 2)
    assert at[2].isfinite()


@pytest.mark.parametrize(
    ("alpha", "value", "slope"),
    [(-INF, 1, 0), (-2.0, 2, 0), (0.0, INF, 0), (0.5, INF, 0), (1.0, INF, 1),
     (2.0, INF, INF), (5.0, INF, INF)],
)  # fmt: skip
def test_infinite_residuals_give_the_limits(
    alpha: float, value: float, slope: float
) -> None:
    x = torch.tensor([INF, -INF, 0.5], requires_grad=True)
    loss = general_robust_loss(x, torch.zeros(3), "none", alpha)
    assert loss.tolist()[:2] == [value] * 2
    (found,) = torch.autograd.grad(loss.sum(), x)
    assert found.tolist()[:2] == [slope, -slope]
    assert found[2].isfinite()
    nan = torch.tensor([math.nan])
    assert general_robust_loss(nan, torch.zeros(1), alpha=alpha).isnan()


def test_gradients_hold_in_every_mode_in_shape_and_scale() -> None:
    # By the form near 0, near 2, and the direct one.
    x = torch.tensor([0.3, -0.7, 4.0], dtype=DOUBLE, requires_grad=True)
    alpha = torch.tensor([0.5, 1.8, 3.0], dtype=DOUBLE, requires_grad=True)
    scale = torch.tensor(1.2, dtype=DOUBLE, requires_grad=True)

    def loss(x: Tensor, alpha: Tensor, scale: Tensor) -> Tensor:
        return general_robust_loss(x, torch.zeros_like(x), "sum", alpha, scale)

    check_gradients(loss, (x, alpha, scale))


@pytest.mark.parametrize("size", [1 << 20, 50], ids=["one block", "many blocks"])
def test_gradients_of_the_normalizer_hold_in_every_mode(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK", size)
    alpha = torch.tensor([1.8], dtype=DOUBLE, requires_grad=True)
    check_gradients(log_normalizer, alpha, compile=False)


def test_likelihood_compiles() -> None:
    x, zero, alpha = torch.randn(3), torch.zeros(3), torch.tensor(1.3)
    compiled = torch.compile(
        general_robust_nll_loss, backend="aot_eager", fullgraph=True
    )
    expected = general_robust_nll_loss(x, zero, alpha=alpha)
    torch.testing.assert_close(compiled(x, zero, alpha=alpha), expected)


# The likelihood.


def log_z(alpha: mp.mpf) -> mp.mpf:
    """Sum in 30 digits, with steps 5 to 10 times as fine as those of the package."""
    b, h = abs(alpha - 2), mp.mpf("0.03") / mp.sqrt(max(1, alpha / 4))
    total, k = mp.mpf(0), 0
    while True:
        c = mp.cosh(k * h)
        log = mp.log(c)
        loss = b * log if alpha == 0 else b / alpha * mp.expm1(alpha * log)
        total += c * mp.exp(-loss) / (1 if k else 2)
        if loss - log > 75:
            return mp.log(2 * h * mp.sqrt(b) * total)
        k += 1


NORMALIZED = (
    *(
        0.0,
        1e-12,
        1e-3,
        0.1,
        0.5,
        1.0,
        1.7,
        1.999,
        2 - 1e-6,
        2 - 2**-52,
        2 + 1e-8,
        2.05,
    ),
    *(3.0, 7.0, 1e5),
)


def test_normalizer_is_exact_for_every_shape() -> None:
    with mp.workdps(30):
        expected = [float(log_z(mp.mpf(a))) for a in NORMALIZED]
        closed = {
            0.0: mp.log(mp.pi * mp.sqrt(2)),
            1.0: mp.log(2 * mp.e * mp.besselk(1, 1)),
            2.0: mp.log(2 * mp.pi) / 2,
            INF: mp.log(2 * mp.quad(lambda x: mp.exp(-mp.expm1(x * x / 2)), [0, 2, 4])),
        }
    shapes = torch.tensor([*NORMALIZED, *closed], dtype=DOUBLE)
    expected += [float(v) for v in closed.values()]
    found = log_normalizer(shapes)
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=DOUBLE), rtol=0, atol=3e-15
    )
    single = log_normalizer(shapes.float())
    assert single.dtype == torch.float32
    near_two = (shapes - 2).abs() < 1e-7  # rounded to 2
    torch.testing.assert_close(single[~near_two], found[~near_two].float())


@pytest.mark.parametrize("alpha", [0.0, 1e-7, 0.5, 1.99, 2 - 1e-6, 2 + 1e-6, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_derivative_of_the_normalizer_is_exact(
    alpha: float, dtype: torch.dtype
) -> None:
    shape = torch.tensor(alpha, dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(log_normalizer(shape), shape, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, shape)
    a = mp.mpf(shape.item())
    with mp.workdps(40):
        if alpha == 0:
            first = mp.log(2) - mp.log(2) ** 2 - mp.pi**2 / 12 - mp.mpf(1) / 4
        else:
            h = mp.mpf("1e-8") * min(abs(a - 2), 1, a)
            below, at, above = (log_z(a + i * h) for i in (-1, 0, 1))
            first = (above - below) / (2 * h)
            second = (above - 2 * at + below) / h**2
    bound = 3 * torch.finfo(dtype).eps + 1e-13
    assert slope.item() == pytest.approx(float(first), rel=bound)
    if alpha > 1e-3:
        assert curvature.item() == pytest.approx(float(second), rel=2e-6)
    assert curvature.isfinite()


def test_textbook_form_has_no_digits_of_the_derivative_near_zero_and_two() -> None:
    """In float32, at a residual of 1.5: what plain autograd makes of the formula."""
    for alpha, digits in ((1e-6, 1e3), (1.9999998, 1e-3)):
        a = torch.tensor(alpha, requires_grad=True)
        b = (a - 2).abs()
        textbook = b / a * ((2.25 / b + 1) ** (a / 2) - 1)
        (theirs,) = torch.autograd.grad(textbook, a)
        mine = ours(torch.tensor(1.5), a)[2].item()
        with mp.workdps(400):
            truth = float(exact(1.5, a.item())[2])
        assert mine == pytest.approx(truth, rel=1e-5)
        assert abs(theirs.item() / truth - 1) > digits


def test_densities_integrate_to_one() -> None:
    grid = torch.linspace(-60, 60, 60_001, dtype=DOUBLE)
    for alpha in (0.5, 1.0, 1.9, 3.0, INF):
        nll = general_robust_nll_loss(
            grid, torch.zeros_like(grid), "none", alpha, torch.tensor(1.7)
        )
        total = torch.trapezoid((-nll).exp(), grid).item()
        assert total == pytest.approx(1, abs=1e-6 if alpha > 0.5 else 1e-3)


def test_shape_and_scale_are_found_by_maximum_likelihood() -> None:
    """Normal errors have the shape 2, those of the Cauchy distribution the shape 0."""
    generator = torch.Generator().manual_seed(0)
    normal = 3 * torch.randn(4000, generator=generator, dtype=DOUBLE)
    other = torch.randn(4000, generator=generator, dtype=DOUBLE)
    cauchy = normal / other
    for sample, shape, width in ((normal, 2, 3), (cauchy, 0, 3 * math.sqrt(0.5))):
        raw = torch.zeros(2, dtype=DOUBLE, requires_grad=True)
        optimizer = torch.optim.LBFGS([raw], line_search_fn="strong_wolfe")

        def closure(
            raw: Tensor = raw,
            sample: Tensor = sample,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> Tensor:
            optimizer.zero_grad()
            alpha, scale = 3 * raw[0].sigmoid(), raw[1].exp()
            zero = torch.zeros_like(sample)
            loss = general_robust_nll_loss(sample, zero, "mean", alpha, scale)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert 3 * raw[0].sigmoid().item() == pytest.approx(shape, abs=0.25)
        assert raw[1].exp().item() == pytest.approx(width, rel=0.1)


def test_shapes_may_differ_by_channel() -> None:
    x, y = torch.randn(2, 5, 3, dtype=DOUBLE)
    alpha = torch.tensor([0.0, 1.5, 2.0], dtype=DOUBLE)
    scale = torch.tensor([1.0, 2.0, 0.5], dtype=DOUBLE)
    for loss in (general_robust_loss, general_robust_nll_loss):
        together = loss(x, y, "none", alpha, scale)
        for i in range(3):
            alone = loss(x[:, i], y[:, i], "none", alpha[i].item(), scale[i].item())
            torch.testing.assert_close(together[:, i], alone)


@pytest.mark.parametrize("module", [GeneralRobustLoss, GeneralRobustNLLLoss])
def test_settings_are_numbers_buffers_or_parameters(module: type) -> None:
    assert module(alpha=1.5).state_dict() == {}
    held = module(alpha=torch.tensor(1.5), scale=torch.ones(3))
    assert set(held.state_dict()) == {"alpha", "scale"}
    trained = module(alpha=nn.Parameter(torch.tensor(1.5)), scale=2.0)
    x, y = torch.randn(2, 4)
    trained(x, y).backward()
    assert trained.alpha.grad.isfinite()
    assert repr(trained) == (
        f"{module.__name__}(reduction='mean', scale=2.0, alpha=Parameter())"
    )


def test_bad_shapes_are_refused() -> None:
    x, y = torch.randn(2, 3, 4)
    for call in (
        GeneralRobustLoss,
        GeneralRobustNLLLoss,
        lambda **s: general_robust_loss(x, y, **s),
        lambda **s: general_robust_nll_loss(x, y, **s),
    ):
        with pytest.raises(TypeError, match="alpha must be a number or a tensor"):
            call(alpha="1")
        with pytest.raises(TypeError, match="alpha must be floating-point"):
            call(alpha=torch.tensor(1))
        with pytest.raises(ValueError, match="alpha must be a number or infinite"):
            call(alpha=math.nan)
    with pytest.raises(ValueError, match="alpha must broadcast to the shape of input"):
        general_robust_loss(x, y, alpha=torch.ones(3))
    for call in (
        GeneralRobustNLLLoss,
        lambda **s: general_robust_nll_loss(x, y, **s),
    ):
        with pytest.raises(ValueError, match="alpha must not be negative, got -0.5"):
            call(alpha=-0.5)
    with pytest.raises(TypeError, match="validate must be True, False or None"):
        GeneralRobustNLLLoss(validate=1)


def test_values_in_tensors_are_checked_on_request() -> None:
    x, y = torch.randn(2, 3)
    bad = torch.tensor([1.0, -1.0, 1.0])
    assert general_robust_nll_loss(x, y, "none", bad)[1].item() == INF
    with pytest.raises(ValueError, match=r"alpha must not be negative, got -1.0 at"):
        GeneralRobustNLLLoss(alpha=bad, validate=True)(x, y)
    set_default_validate(True)
    try:
        with pytest.raises(ValueError, match="scale must be positive and finite, got"):
            general_robust_nll_loss(x, y, scale=bad)
    finally:
        set_default_validate(False)


def test_normalizer_of_a_number_belongs_to_no_transform() -> None:
    def loss(x: Tensor, alpha: float | Tensor = 1.2345) -> Tensor:
        return general_robust_nll_loss(x, torch.zeros_like(x), alpha=alpha)

    x = torch.tensor([0.3, -2.0], dtype=torch.float64)
    slope = torch.func.grad(loss)(x)
    kept = log_normalizer_of(1.2345, DOUBLE, x.device)
    assert not torch._C._functorch.is_functorch_wrapped_tensor(kept)
    with torch.inference_mode():
        loss(x)
    leaf = x.clone().requires_grad_()
    value = loss(leaf)
    assert torch.autograd.grad(value, leaf)[0].tolist() == slope.tolist()
    assert value.item() == loss(x, torch.tensor(1.2345, dtype=torch.float64)).item()
    assert loss(x, 1.3).item() != value.item()

"""Gaussian mixture likelihood, against torch.distributions, mpmath and far targets."""

import mpmath as mp
import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
)

from torch_mlcalc.losses import (
    GaussianMixtureNLLLoss,
    gaussian_mixture_nll_loss,
    gaussian_nll_loss,
)
from torch_mlcalc.testing import check_gradients

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

kinds = pytest.mark.parametrize("multivariate", [False, True], ids=["1-D", "n-D"])


def batch(multivariate: bool, *shape: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    vector = (2,) if multivariate else ()
    dtype = torch.float64
    means = torch.randn(*shape, 3, *vector, dtype=dtype)
    log_scale = torch.randn(*shape, 3, *vector, dtype=dtype) / 2
    target = torch.randn((*shape, *vector), dtype=dtype)
    return means, target, log_scale, torch.randn(*shape, 3, dtype=dtype)


@kinds
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)], ids=str)
def test_values_are_those_of_torch_distributions(
    multivariate: bool, shape: tuple[int, ...]
) -> None:
    means, target, log_scale, logits = batch(multivariate, *shape)
    parts = Normal(means, log_scale.exp())
    if multivariate:
        parts = Independent(parts, 1)
    mixture = MixtureSameFamily(Categorical(logits=logits), parts)
    elements = -mixture.log_prob(target)
    weight = torch.rand(shape, dtype=torch.float64) + 0.5
    close = torch.testing.assert_close
    for reduction, plain, weighted in (
        ("none", elements, elements * weight),
        ("sum", elements.sum(), (elements * weight).sum()),
        ("mean", elements.mean(), (elements * weight).sum() / weight.sum()),
    ):
        settings = {"multivariate": multivariate, "reduction": reduction}
        inputs = (means, target, log_scale, logits)
        module = GaussianMixtureNLLLoss(**settings)
        assert f"multivariate={multivariate}, reduction={reduction!r}" in repr(module)
        for given, expected in ((None, plain), (weight, weighted)):
            actual = gaussian_mixture_nll_loss(*inputs, **settings, weight=given)
            close(actual, expected)
            assert torch.equal(module(*inputs, given), actual)


@kinds
def test_gradients_hold_in_every_mode(multivariate: bool) -> None:
    inputs = [x.requires_grad_() for x in batch(multivariate, 2)]
    weight = (torch.rand(2, dtype=torch.float64) + 0.5).requires_grad_()

    def loss(*inputs: Tensor) -> Tensor:
        return gaussian_mixture_nll_loss(
            *inputs[:-1], multivariate=multivariate, weight=inputs[-1]
        )

    check_gradients(loss, (*inputs, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("y", [0.3, -40.0, 1e4, 1e15])
def test_far_targets_are_exact_in_value_and_slopes(
    y: float, dtype: torch.dtype
) -> None:
    means, log_scale = torch.tensor([[[-1.0, 2.0], [-1.0, 0.5]]], dtype=dtype)[0]
    logits = torch.tensor([0.5, -1.0], dtype=dtype)
    inputs = [x[None].clone().requires_grad_() for x in (means, log_scale, logits)]
    target = torch.tensor([y], dtype=dtype)
    loss = gaussian_mixture_nll_loss(inputs[0], target, *inputs[1:])
    slopes = torch.autograd.grad(loss, inputs)
    with mp.workdps(60):
        numbers = [[mp.mpf(v) for v in x[0].tolist()] for x in inputs]
        at = mp.mpf(target.item())
        z = [(m - at) * mp.exp(-s) for m, s in zip(*numbers[:2], strict=True)]
        total = mp.fsum(mp.exp(a) for a in numbers[2])
        pi = [mp.exp(a) / total for a in numbers[2]]
        logs = [
            mp.log(p) - v * v / 2 - s - mp.log(2 * mp.pi) / 2
            for p, v, s in zip(pi, z, numbers[1], strict=True)
        ]
        top = max(logs)
        shares = [mp.exp(a - top) for a in logs]
        gamma = [a / mp.fsum(shares) for a in shares]
        value = -top - mp.log(mp.fsum(shares))
        exact = [
            [g * v * mp.exp(-s) for g, v, s in zip(gamma, z, numbers[1], strict=True)],
            [g * (1 - v * v) for g, v in zip(gamma, z, strict=True)],
            [p - g for p, g in zip(pi, gamma, strict=True)],
        ]
    # The responsibilities have the relative error of the exponent, 40^2 eps here.
    bound = 3000 * torch.finfo(dtype).eps
    assert loss.item() == pytest.approx(float(value), rel=bound)
    for slope, expected in zip(slopes, exact, strict=True):
        numbers = [float(x) for x in expected]
        assert slope[0].tolist() == pytest.approx(numbers, rel=bound, abs=bound)


def test_one_component_is_the_gaussian() -> None:
    x, y, s = torch.randn(3, 6)
    one = gaussian_mixture_nll_loss(
        x[:, None], y, s[:, None], torch.randn(6, 1), reduction="none"
    )
    expected = gaussian_nll_loss(x, y, (2 * s).exp(), True, reduction="none")
    torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)


def test_a_component_is_switched_off_by_its_logit() -> None:
    means, target, log_scale, logits = batch(False, 4)
    logits[:, 1] = -torch.inf
    leaves = [x.requires_grad_() for x in (means, log_scale)]
    loss = gaussian_mixture_nll_loss(means, target, log_scale, logits)
    kept = [x[:, [0, 2]] for x in (means, log_scale, logits)]
    torch.testing.assert_close(
        loss, gaussian_mixture_nll_loss(kept[0], target, *kept[1:])
    )
    for slope in torch.autograd.grad(loss, leaves):
        assert slope[:, 1].tolist() == [0.0] * 4


def test_narrow_component_at_its_target_is_finite() -> None:
    zero = torch.zeros(1, 1, requires_grad=True)
    log_scale = torch.full((1, 1), -200.0)
    loss = gaussian_mixture_nll_loss(zero, torch.zeros(1), log_scale, torch.zeros(1, 1))
    assert loss.item() == pytest.approx(-200 + 0.9189385)
    assert torch.autograd.grad(loss, zero)[0].item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_is_computed_in_float32(dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in batch(False, 50)]
    exact = gaussian_mixture_nll_loss(*(x.double() for x in inputs), reduction="none")
    actual = gaussian_mixture_nll_loss(*inputs, reduction="none")
    assert actual.dtype == dtype
    error = (actual - exact).abs()
    assert (error <= 0.51 * torch.finfo(dtype).eps * exact.abs() + 1e-5).all()
    weight = torch.ones(50, dtype=torch.float64)
    assert gaussian_mixture_nll_loss(*inputs, weight=weight).dtype == torch.float64


def test_bad_shapes_and_types_are_refused() -> None:
    means, target, log_scale, logits = batch(False, 4)
    loss = gaussian_mixture_nll_loss
    with pytest.raises(ValueError, match=r"target must be \(4,\) where input is"):
        loss(means, target[:, None], log_scale, logits)
    with pytest.raises(ValueError, match=r"logits must be \(4, 3\) where input is"):
        loss(means, target, log_scale, logits[0])
    with pytest.raises(ValueError, match="log_scale must have the shape of input"):
        loss(means, target, log_scale[0], logits)
    with pytest.raises(ValueError, match="weight must have the shape of target"):
        loss(means, target, log_scale, logits, weight=logits)
    with pytest.raises(ValueError, match=r"input must be \(\*, K\), with a component"):
        loss(means[:, :0], target, log_scale[:, :0], logits[:, :0])
    with pytest.raises(ValueError, match=r"input must be \(\*, K, D\)"):
        loss(logits[0], target, logits[0], logits[0], multivariate=True)
    with pytest.raises(TypeError, match="logits must be a torch.Tensor, got float"):
        loss(means, target, log_scale, 1.0)
    with pytest.raises(TypeError, match="must be floating-point"):
        loss(*(x.long() for x in (means, target, log_scale, logits)))
    for call in (
        lambda: loss(means, target, log_scale, logits, multivariate=1),
        lambda: GaussianMixtureNLLLoss(multivariate=1),
    ):
        with pytest.raises(TypeError, match="multivariate must be True or False"):
            call()


def test_values_are_checked_where_asked_for() -> None:
    means, target, log_scale, logits = batch(False, 4)
    with pytest.raises(ValueError, match="log_scale must be finite"):
        gaussian_mixture_nll_loss(means, target, log_scale / 0, logits, validate=True)
    logits[2] = -torch.inf
    with pytest.raises(ValueError, match=r"largest of logits must be .* at \[2\]"):
        GaussianMixtureNLLLoss(validate=True)(means, target, log_scale, logits)


def test_no_value_is_looked_at_otherwise() -> None:
    inputs = [x.to("meta") for x in batch(True, 4)]
    assert gaussian_mixture_nll_loss(*inputs, multivariate=True).shape == ()
    empty = [x[:0] for x in batch(False, 4)]
    assert gaussian_mixture_nll_loss(*empty, reduction="sum").item() == 0
    assert gaussian_mixture_nll_loss(*empty).isnan()

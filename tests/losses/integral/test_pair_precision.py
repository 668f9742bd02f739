"""Two distributions in single and half precision, and what cannot be in double."""

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from integral_checks import DOUBLE
from torch import Tensor
from torch.distributions import (
    Beta,
    Categorical,
    Distribution,
    Gamma,
    Gumbel,
    InverseGamma,
    MixtureSameFamily,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import (
    AffineTransform,
    ExpTransform,
    SigmoidTransform,
    Transform,
)

import torch_mlcalc as mlc
from torch_mlcalc.density.wide import in_double, is_torchs

LOSSES: dict[str, Callable[..., Tensor]] = {
    "kl": mlc.kl_divergence_loss,
    "reverse kl": partial(mlc.kl_divergence_loss, reverse=True),
    "chi2": mlc.chi2_loss,
    "hellinger": mlc.hellinger_loss,
    "jensen-shannon": mlc.jensen_shannon_loss,
    "variation": mlc.total_variation_loss,
    "cramer": mlc.cramer_loss,
    "wasserstein": mlc.wasserstein_1d_loss,
}


def mixture(a: Tensor) -> Distribution:
    parts = Gamma(torch.stack([a, a + 4096], -1), 1.0)
    return MixtureSameFamily(
        Categorical(torch.ones_like(a)[..., None].repeat(1, 2)), parts
    )


#: Of a large parameter, and one not too far from it.
LARGE: dict[str, Callable[[Tensor], Distribution]] = {
    "gamma": lambda a: Gamma(a, 1.0),
    "beta": lambda a: Beta(a, torch.full_like(a, 3e6)),
    "student": lambda a: StudentT(a, a / 1000, 1.5),
    "inverse gamma": lambda a: InverseGamma(a, torch.full_like(a, 1e6)),
    "normal": lambda a: Normal(a / 1000, 2.0),
    "gumbel": lambda a: Gumbel(a / 1000, 2.0),
    "mixture": mixture,
}


#: The distance of Wasserstein integrates the cdfs that the one of Cramer does, with
#: splits where they cross; one cdf of each kind will do for these.
PAIRS = [
    *((family, loss) for family in LARGE for loss in ("kl", "variation", "cramer")),
    ("gamma", "reverse kl"),
    *((family, "wasserstein") for family in ("gamma", "normal", "gumbel")),
]


@pytest.mark.parametrize(
    ("family", "loss"), PAIRS, ids=["-".join(names) for names in PAIRS]
)
def test_single_precision_is_that_of_its_arguments(family: str, loss: str) -> None:
    # The divergence of two Gamma(1e7) was 22104 instead of 0.45, with a warning.
    make, found = LARGE[family], []
    for dtype in (torch.float32, DOUBLE):
        a = torch.tensor([4e6], dtype=dtype, requires_grad=True)
        pair = make(a), make(torch.tensor([4.001e6], dtype=dtype))
        value = LOSSES[loss](*pair)
        found.append((value, torch.autograd.grad(value, a)[0]))
    (single, slope), (double, exact) = found
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=0)
    torch.testing.assert_close(slope.double(), exact, rtol=2e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_rounded_once(loss: str, dtype: torch.dtype) -> None:
    # Half the divergences warned that a tolerance was not reached, being right.
    pair = [
        Normal(torch.tensor([m, -m], dtype=dtype), torch.tensor(s, dtype=dtype))
        for m, s in ((0.5, 1.5), (0.25, 1.0))
    ]
    wide = [Normal(p.loc.double(), p.scale.double()) for p in pair]
    found, exact = LOSSES[loss](*pair), LOSSES[loss](*wide)
    assert found.dtype == dtype
    torch.testing.assert_close(found, exact.to(dtype), rtol=1e-6, atol=0)
    weight = torch.ones(2)
    assert LOSSES[loss](*pair, weight=weight).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        found = LOSSES[loss](*pair)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)


class Networked(Normal):
    """A density of the caller's that only takes points of its own dtype."""

    net = torch.nn.Linear(1, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 0 * self.net(value[..., None])[..., 0]


class Shift(Transform):
    domain = codomain = torch.distributions.constraints.real
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x + 1


def test_a_density_of_the_callers_is_asked_in_its_own_dtype() -> None:
    plain = Normal(torch.zeros(1), torch.ones(1))
    own = Networked(torch.ones(1), torch.ones(1))
    for pair in ((own, plain), (plain, own)):
        assert mlc.kl_divergence_loss(*pair).item() == pytest.approx(0.5, rel=1e-4)
    density = mlc.NormalizedDensity(
        lambda x: -(own.net(x[..., None])[..., 0] * 0 + x * x / 2), mlc.RealLine()
    )
    found = mlc.kl_divergence_loss(density, Normal(torch.tensor(1.0), 1.0))
    assert found.item() == pytest.approx(0.5, rel=1e-4)


def test_transformed_distributions_without_a_mean() -> None:
    # Of which torch says that it is not implemented, and so the divergence did.
    def logistic(loc: float, scale: float) -> Distribution:
        base = Uniform(torch.zeros(1), torch.ones(1))
        steps = [SigmoidTransform().inv, AffineTransform(loc, scale)]
        return TransformedDistribution(base, steps)

    # E log p / q for a shift by d scales is d coth(d / 2) - 2.
    expected = 1 / math.tanh(0.5) - 2
    for loc, scale in ((0.0, 1.0), (1000.0, 1e-2)):
        pair = logistic(loc, scale), logistic(loc + scale, scale)
        found = mlc.kl_divergence_loss(*pair)
        assert found.item() == pytest.approx(expected, rel=1e-3)
        assert mlc.wasserstein_1d_loss(*pair).item() == pytest.approx(scale, rel=1e-3)


@pytest.mark.skipif(
    not hasattr(torch.distributions, "GeneralizedPareto"), reason="newer than torch"
)
def test_a_distribution_that_torch_has_in_single_precision_alone() -> None:
    make = torch.distributions.GeneralizedPareto
    p, q = (make(torch.zeros(1), torch.tensor([s]), 0.2) for s in (1.0, 2.0))
    assert not is_torchs(p)
    assert mlc.wasserstein_1d_loss(p, q).item() == pytest.approx(1.25, rel=1e-3)
    assert mlc.kl_divergence_loss(p, q).item() > 0


def test_what_is_torchs_own_is_so_with_all_its_parts() -> None:
    zero, one = torch.zeros(2), torch.ones(2)
    own = Networked(zero, one)
    shares = Categorical(one)
    for p in (Normal(zero, one), MixtureSameFamily(shares, Normal(zero, one))):
        assert is_torchs(p)
    assert is_torchs(TransformedDistribution(Normal(zero, one), [ExpTransform()]))
    for p in (
        own,
        MixtureSameFamily(shares, own),
        TransformedDistribution(own, [ExpTransform()]),
        TransformedDistribution(Normal(zero, one), [Shift()]),
    ):
        assert not is_torchs(p)
    p = MixtureSameFamily(shares, Normal(zero, one))
    before = copy.copy(vars(p))
    assert in_double(p).mean.dtype == DOUBLE
    assert vars(p) == before
    assert p.component_distribution.loc is before["_component_distribution"].loc

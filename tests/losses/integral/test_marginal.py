"""Evidences against closed forms, and their derivatives."""

import math

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
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Distribution,
    Gamma,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
)

import torch_mlcalc as mlc
from torch_mlcalc.testing import check_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

DATA = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def normal_rows(z: Tensor, rows: Tensor) -> Tensor:
    return Normal(z[..., None], 0.5, validate_args=False).log_prob(rows).sum(-1)


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.2, dtype=DOUBLE))

    def forward(self, z: Tensor, rows: Tensor) -> Tensor:
        return normal_rows(z + self.shift, rows)


RULES = [
    None,
    mlc.AdaptiveGaussHermite(1),
    mlc.GaussHermite(60),
    mlc.DoubleExponential(),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_normal_rows_with_a_normal_prior(rule: mlc.Rule) -> None:
    loss = mlc.marginal_nll_loss(
        normal_rows,
        Normal(number(0.3), number(0.5)),
        "none",
        args=(DATA,),
        batch_shape=(4,),
        rule=rule,
    )
    covariance = 0.25 * torch.eye(3, dtype=DOUBLE) + 0.25
    exact = MultivariateNormal(torch.full((3,), 0.3, dtype=DOUBLE), covariance)
    torch.testing.assert_close(loss, -exact.log_prob(DATA), rtol=1e-7, atol=0)


def test_few_nodes_are_those_of_the_rule() -> None:
    """On the prior, and around the mode: one there is Laplace's approximation."""
    count, prior = number(7.0), Normal(number(0.0), number(1.0))

    def evidence(rule: mlc.Rule | None) -> float:
        return mlc.marginal_nll_loss(
            lambda z, k: Poisson(z.exp()).log_prob(k), prior, args=(count,), rule=rule
        ).item()

    def joint(z: mp.mpf) -> mp.mpf:
        return 7 * z - mp.exp(z) - mp.loggamma(8) - z * z / 2

    mode = mp.findroot(lambda z: 7 - mp.exp(z) - z, 1.5)
    laplace = mp.log(1 + mp.exp(mode)) / 2 - joint(mode)
    assert evidence(mlc.AdaptiveGaussHermite(1)) == pytest.approx(float(laplace))
    # 0 and +- sqrt(3), with the weights 2/3 and 1/6.
    root = mp.sqrt(3)
    three = sum(
        w * mp.exp(joint(z) + z * z / 2) for z, w in ((0, 4), (root, 1), (-root, 1))
    )
    assert evidence(mlc.GaussHermite(3)) == pytest.approx(-float(mp.log(three / 6)))
    exact = mp.quad(lambda z: mp.exp(joint(z)) / mp.sqrt(2 * mp.pi), [-8, 0, 2, 8])
    assert evidence(None) == pytest.approx(-float(mp.log(exact)))


def test_conjugate_pairs_on_other_supports() -> None:
    k = t(2.0, 9.0, grad=False)
    loss = mlc.marginal_nll_loss(
        lambda p, k: Binomial(10, probs=p).log_prob(k),
        Beta(number(1.5), number(0.5)),
        "none",
        args=(k,),
    )
    expected = [
        -mp.log(mp.binomial(10, x) * mp.beta(x + 1.5, 10 - x + 0.5) / mp.beta(1.5, 0.5))
        for x in k.tolist()
    ]
    torch.testing.assert_close(loss, t(*map(float, expected)), rtol=1e-6, atol=0)
    loss = mlc.marginal_nll_loss(
        lambda rate, k: Poisson(rate).log_prob(k),
        Gamma(number(3.0), number(2.0)),
        "none",
        args=(k,),
    )
    expected = [
        -mp.log(mp.gamma(x + 3) / mp.gamma(3) / mp.gamma(x + 1) * mp.mpf(2) ** 3)
        + (x + 3) * mp.log(3)
        for x in k.tolist()
    ]
    torch.testing.assert_close(loss, t(*map(float, expected)), rtol=1e-6, atol=0)


def test_latent_classes_are_summed() -> None:
    shares, rates = t(0.2, 0.5, 0.3), t(0.1, 0.4, 0.9)
    k = t(2.0, 9.0, grad=False)
    loss = mlc.marginal_nll_loss(
        lambda z, k: Binomial(10, probs=rates[z]).log_prob(k),
        Categorical(shares),
        "none",
        args=(k,),
    )
    each = Binomial(10, probs=rates).log_prob(k[:, None])
    expected = -(each + shares.log()).logsumexp(-1)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_latent_variables_of_several_dimensions() -> None:
    prior = MultivariateNormal(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE))
    y = t(0.5, -1.0)
    loss = mlc.marginal_nll_loss(
        lambda z, y: Normal(z.sum(-1), 1.0).log_prob(y), prior, "none", args=(y,)
    )
    expected = -Normal(0.0, math.sqrt(3)).log_prob(y)
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)


def test_groups_of_any_size_stay_in_log_form() -> None:
    rows = torch.full((1, 40_000), 1.0)
    loss = mlc.marginal_nll_loss(
        lambda z, rows: (
            Bernoulli(logits=z[..., None]).log_prob(rows[..., :1])[..., 0]
            * rows.shape[-1]
        ),
        Normal(0.0, 1.0),
        args=(rows,),
        batch_shape=(1,),
    )
    assert loss.dtype == torch.float32
    with mp.workdps(40):
        # Mode where 40000 / (1 + exp(z)) = z.
        log_joint = lambda z: -40_000 * mp.log1p(mp.exp(-z)) - z * z / 2  # noqa: E731
        mode = mp.findroot(lambda z: 40_000 / (1 + mp.exp(z)) - z, 8)
        top = log_joint(mode)
        area = mp.quad(
            lambda z: mp.exp(log_joint(z) - top), mp.linspace(mode - 4, mode + 6, 11)
        )
        expected = -float(top + mp.log(area) - mp.log(2 * mp.pi) / 2)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "rule", [None, mlc.AdaptiveGaussHermite(3), mlc.GaussHermite(20)], ids=str
)
def test_gradients(rule: mlc.Rule | None) -> None:
    module = mlc.MarginalNLLLoss(Rows(), rule, reduction="none")

    def loss(loc: Tensor, scale: Tensor, rows: Tensor) -> Tensor:
        prior = Normal(loc, scale, validate_args=False)
        return module(prior, rows, batch_shape=(2,))

    rows = DATA[:2, :1].clone()
    check_gradients(loss, (number(0.1), number(1.5), rows), compile=False)


def test_prior_of_each_group() -> None:
    prior = Normal(t(0.0, 1.0), 1.0)
    loss = mlc.marginal_nll_loss(
        lambda z, y: Normal(z, 1.0).log_prob(y), prior, "none", args=(t(0.5, 0.5),)
    )
    expected = -Normal(prior.loc, math.sqrt(2)).log_prob(t(0.5, 0.5))
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)


def test_a_prior_has_its_digits_in_single_precision() -> None:
    # torch's density of a Student variable with 1e6 degrees of freedom is 8 % too low.
    prior = StudentT(torch.tensor([1e6]), 0.0, 1.0)
    y = torch.tensor([1.3])
    loss = mlc.marginal_nll_loss(
        lambda z, y: Normal(z, 1.0).log_prob(y), prior, args=(y,)
    )
    expected = -Normal(0.0, math.sqrt(2)).log_prob(y)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_reductions() -> None:
    assert_reductions(
        lambda reduction, weight: mlc.marginal_nll_loss(
            normal_rows,
            Normal(number(0.0), number(1.0)),
            reduction,
            weight,
            args=(DATA,),
            batch_shape=(4,),
        ),
        DATA[:, 0],
    )


def test_module() -> None:
    prior, weight = Normal(number(0.0), number(1.0)), t(1.0, 2.0, 3.0, 4.0)
    rule = mlc.AdaptiveGaussHermite(5)
    module = mlc.MarginalNLLLoss(Rows(), rule, reduction="sum")
    options = {"batch_shape": (4,), "weight": weight}
    expected = mlc.marginal_nll_loss(
        module.log_likelihood, prior, "sum", args=(DATA,), rule=rule, **options
    )
    assert_module(module, lambda m: m(prior, DATA, **options), expected)
    assert_settings(lambda rule, **s: mlc.MarginalNLLLoss(Rows(), rule, **s))
    with pytest.raises(TypeError, match="log_likelihood must be a function or a"):
        mlc.MarginalNLLLoss(1)


UNIT: Distribution = Normal(number(0.0), number(1.0))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"log_likelihood": 1},
            TypeError,
            "log_likelihood must be a function or a mod",
        ),
        (
            {"prior": 1.0},
            TypeError,
            "prior must be one of torch.distributions, got flo",
        ),
        ({"batch_shape": (3,)}, ValueError, r"args\[0\] has shape \(4, 3\)"),
        ({"prior": Normal(t(0.0, 1.0), 1.0)}, ValueError, "which do not broadcast"),
        (
            {
                "prior": Normal(torch.zeros(4, 1, 1), 1.0),
                "args": (),
                "batch_shape": (4,),
            },
            ValueError,
            r"batch_shape is \(4,\), but prior has \(4, 1, 1\)",
        ),
        (
            {"weight": t(1.0)},
            ValueError,
            r"weight must have the shape \(4,\) of the gr",
        ),
        ({"reduction": "all"}, ValueError, "reduction must be"),
    ],
)
def test_what_cannot_be_is_refused(change: dict, error: type, message: str) -> None:
    call = {
        "log_likelihood": normal_rows,
        "prior": UNIT,
        "args": (DATA,),
        "batch_shape": (4,),
    }
    mlc.marginal_nll_loss(**call)
    with pytest.raises(error, match=message):
        mlc.marginal_nll_loss(**(call | change))

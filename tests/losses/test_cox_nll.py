"""Cox's partial likelihood, against a sum over all pairs and against published fits."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch import Tensor

from torch_mlcalc.losses import CoxNLLLoss, cox_nll_loss
from torch_mlcalc.testing import check_gradients

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

ties = pytest.mark.parametrize("efron", [True, False], ids=["Efron", "Breslow"])


def by_definition(
    eta: Tensor,
    time: Tensor,
    event: Tensor,
    *,
    entry: Tensor | None = None,
    strata: Tensor | None = None,
    efron: bool = True,
    weight: Tensor | None = None,
) -> Tensor:
    """Sum over all pairs, one event after the other, in order of the subjects."""
    n = len(eta)
    entry = torch.full((n,), -math.inf) if entry is None else entry
    strata = torch.zeros(n) if strata is None else strata
    weight = torch.ones_like(eta) if weight is None else weight
    losses, seen = [], {}
    for i in range(n):
        if not event[i]:
            losses.append(0 * eta[i])
            continue
        same = strata == strata[i]
        at_risk = same & (entry < time[i]) & (time >= time[i])
        tied = same & (time == time[i]) & (event != 0)
        logs = eta + weight.log()
        risk = torch.logsumexp(logs[at_risk], 0)
        w = weight[i]
        if efron:
            key = (strata[i].item(), time[i].item())
            number = seen.get(key, 0)
            seen[key] = number + 1
            share = number / tied.sum()
            gone = torch.logsumexp(logs[tied], 0) - risk
            risk = risk + torch.log1p(-share * gone.exp())
            w = weight[tied].mean()
        losses.append(w * risk - weight[i] * eta[i])
    return torch.stack(losses)


def subjects(n: int, seed: int = 0) -> dict[str, Tensor]:
    """Draw subjects with many ties, late entries and strata."""
    generator = torch.Generator().manual_seed(seed)

    def uniform() -> Tensor:
        return torch.rand(n, dtype=torch.float64, generator=generator)

    time = (uniform() * 8).ceil() + 1
    return {
        "input": torch.randn(n, dtype=torch.float64, generator=generator),
        "time": time,
        "event": uniform() < 0.6,
        "entry": (time * uniform()).floor() - 1,
        "strata": (uniform() * 3).floor(),
        "weight": uniform() + 0.5,
    }


OPTIONS = [
    names
    for k in range(4)
    for names in itertools.combinations(("entry", "strata", "weight"), k)
]


@ties
@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.parametrize("n", [1, 2, 3, 8, 33])
def test_losses_and_gradients_are_those_of_all_pairs(
    n: int, options: tuple[str, ...], efron: bool
) -> None:
    drawn = subjects(n, seed=n)
    more = {name: drawn[name] for name in options}
    inputs = []
    for _ in range(2):
        inputs.append(drawn["input"].clone().requires_grad_())
    expected = by_definition(
        inputs[0], drawn["time"], drawn["event"], efron=efron, **more
    )
    actual = cox_nll_loss(
        inputs[1], drawn["time"], drawn["event"], efron=efron, reduction="none", **more
    )
    close = torch.testing.assert_close
    if efron:
        # Which of the tied events has which share is a matter of their order.
        assert ((actual != 0) <= drawn["event"]).all()
        close(actual.sum(), expected.sum())
    else:
        close(actual, expected)
    factor = torch.ones(n, dtype=torch.float64)
    slopes = [
        torch.autograd.grad(loss, x, factor)[0]
        for loss, x in zip((expected, actual), inputs, strict=True)
    ]
    close(slopes[1], slopes[0])
    total = cox_nll_loss(
        drawn["input"], drawn["time"], drawn["event"], efron=efron, **more
    )
    events = torch.where(drawn["event"], more.get("weight", factor), 0).sum()
    close(total, expected.sum().detach() / events.clamp(min=1e-30))


def fitted(
    columns: dict[str, Tensor], x: Tensor, efron: bool
) -> tuple[float, float, float, float]:
    """Newton's method: coefficient, standard error, log-likelihoods at 0 and there."""
    beta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    first = None
    for _ in range(25):
        loss = cox_nll_loss(beta * x, **columns, efron=efron, reduction="sum")
        first = -loss.item() if first is None else first
        (slope,) = torch.autograd.grad(loss, beta, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, beta)
        with torch.no_grad():
            beta -= slope / curvature
    return beta.item(), curvature.item() ** -0.5, first, -loss.item()


def double(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


# Therneau and Grambsch, "Modeling Survival Data" (2000), appendix E: data sets of which
# every step of the fit is worked out by hand, to check programs with.
FIRST = {"time": double(1, 1, 6, 6, 8, 9), "event": double(1, 0, 1, 1, 0, 1)}
FIRST_X = double(1, 1, 1, 0, 0, 0)


def test_first_data_set_of_therneau_and_grambsch_breslow() -> None:
    beta, _, at_zero, at_beta = fitted(FIRST, FIRST_X, efron=False)
    assert beta == pytest.approx(math.log((3 + math.sqrt(33)) / 2), rel=1e-12)
    assert beta == pytest.approx(1.475285, abs=5e-7)
    assert at_zero == pytest.approx(-4.564348, abs=5e-7)
    assert at_beta == pytest.approx(-3.824750, abs=5e-7)


def test_first_data_set_of_therneau_and_grambsch_efron() -> None:
    beta, _, at_zero, at_beta = fitted(FIRST, FIRST_X, efron=True)
    phi = math.acos(45 / 23 * math.sqrt(3 / 23))
    r = 2 * math.sqrt(23 / 3) * math.cos(phi / 3)
    assert beta == pytest.approx(math.log(r), rel=1e-12)
    assert beta == pytest.approx(1.676857, abs=5e-7)
    value = 2 * beta - math.log((3 * r + 3) * (r + 5) / 2 * (r + 3))
    assert at_beta == pytest.approx(value, rel=1e-12)
    assert at_zero == pytest.approx(-math.log(6 * 3 * 4), rel=1e-12)


def test_second_data_set_of_therneau_and_grambsch_has_late_entry() -> None:
    """The estimate is where this quotient of powers of r = exp(beta) is largest."""
    columns = {
        "entry": double(1, 2, 5, 2, 1, 7, 3, 4, 8, 8),
        "time": double(2, 3, 6, 7, 8, 9, 9, 9, 14, 17),
        "event": double(1, 1, 1, 1, 1, 1, 1, 0, 0, 0),
    }
    x = double(1, 0, 0, 1, 0, 1, 1, 1, 0, 0)
    beta, _, at_zero, at_beta = fitted(columns, x, efron=False)

    def value(b: float) -> float:
        r = math.exp(b)
        sums = (r + 1) * (r + 2) * (3 * r + 2) ** 3 * (3 * r + 1) ** 2
        return 4 * b - math.log(sums)

    assert at_zero == pytest.approx(value(0), rel=1e-12)
    assert at_beta == pytest.approx(value(beta), rel=1e-12)
    # As printed in the book's appendix and in Agreg.3 of Therneau's test suite.
    assert beta == pytest.approx(-0.0845293, abs=5e-6)


# Freireich et al., "The effect of 6-mercaptopurine on the duration of steroid-induced
# remissions in acute leukemia" (1963): weeks in remission, negative where censored.
TREATED = (
    *(6, 6, 6, -6, 7, -9, 10, -10, -11, 13, 16),
    *(-17, -19, -20, 22, 23, -25, -32, -32, -34, -35),
)
PLACEBO = (1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23)


@pytest.mark.parametrize(
    ("efron", "coefficient", "error"),
    [(False, 1.509, 0.410), (True, 1.572, 0.412)],
    ids=["Breslow", "Efron"],
)
def test_leukaemia_remissions_have_the_published_fit(
    efron: bool, coefficient: float, error: float
) -> None:
    """Kleinbaum and Klein, "Survival Analysis" (2012), chapter 3, and R's coxph."""
    weeks = double(*TREATED, *PLACEBO)
    columns = {"time": weeks.abs(), "event": weeks > 0}
    group = double(*[0] * 21, *[1] * 21)
    beta, se, *_ = fitted(columns, group, efron)
    assert beta == pytest.approx(coefficient, abs=5e-4)
    assert se == pytest.approx(error, abs=5e-4)


# Numbers that programs lose.


@ties
@pytest.mark.parametrize("options", [(), ("entry", "strata")], ids=["plain", "entry"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_log_risks_are_exact(
    dtype: torch.dtype, options: tuple[str, ...], efron: bool
) -> None:
    drawn = subjects(60, seed=4)
    eta = torch.linspace(-1e4, 1e4, 60, dtype=torch.float64)
    eta = eta[torch.randperm(60)].to(dtype)
    more = {name: drawn[name] for name in options}
    reference, own = (x.requires_grad_() for x in (eta.double(), eta.clone()))
    expected = by_definition(
        reference, drawn["time"], drawn["event"], efron=efron, **more
    ).sum()
    actual = cox_nll_loss(
        own, drawn["time"], drawn["event"], efron=efron, reduction="sum", **more
    )
    # The reference subtracts logarithms of 1e4.
    eps = max(20 * torch.finfo(dtype).eps, 1e4 * torch.finfo(torch.float64).eps)
    bound = {"rtol": eps, "atol": eps}
    close = torch.testing.assert_close
    close(actual.double(), expected, **bound)
    slopes = [
        torch.autograd.grad(loss, x)[0]
        for loss, x in ((expected, reference), (actual, own))
    ]
    close(slopes[1].double(), slopes[0], **bound)


@ties
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_number_added_to_all_log_risks_changes_nothing(
    efron: bool, reduction: str
) -> None:
    """With weights it took digits away: 3 of 7 at a million."""
    eta = torch.tensor([0.25, -1.0, 2.0, 0.5, 1.5, -0.75])
    time, event = double(1, 2, 2, 2, 3, 3), double(1, 1, 1, 0, 1, 1)
    settings = {
        "weight": torch.tensor([0.5, 2.0, 1.0, 3.0, 1.0, 0.25]),
        "efron": efron,
        "reduction": reduction,
    }
    shifted = [cox_nll_loss(eta + c, time, event, **settings) for c in (0, 2**20)]
    assert shifted[0] == shifted[1]


def test_late_entry_of_a_huge_risk_leaves_earlier_events_alone() -> None:
    """Where sums of those who have not entered are subtracted, this is 0 or NaN."""
    eta = torch.tensor([0.3, -0.2, 1e4], dtype=torch.float64, requires_grad=True)
    time, event = double(1, 2, 3), double(1, 1, 1)
    loss = cox_nll_loss(eta, time, event, entry=double(0, 0, 2), reduction="none")
    pair = math.log1p(math.exp(-0.5))
    assert loss.tolist() == pytest.approx([pair, 0.0, 0.0], abs=1e-15)
    (slope,) = torch.autograd.grad(loss.sum(), eta)
    share = 1 / (1 + math.exp(0.5))
    assert slope.tolist() == pytest.approx([-share, share, 0.0], abs=1e-15)


def test_times_are_compared_without_rounding() -> None:
    """2^24 and 2^24 + 1 are one number in float32."""
    eta, event = torch.tensor([0.5, -0.5]), torch.tensor([1, 1])
    time = torch.tensor([2**24, 2**24 + 1])
    for dtype in (torch.int64, torch.float64):
        loss = cox_nll_loss(eta, time.to(dtype), event, reduction="none")
        assert loss.tolist() == pytest.approx([math.log1p(math.exp(-1)), 0], rel=1e-6)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_without_events_loss_and_gradient_are_zero(reduction: str) -> None:
    for n in (3, 1):
        eta = torch.randn(n, requires_grad=True)
        loss = cox_nll_loss(eta, torch.arange(n), torch.zeros(n), reduction=reduction)
        assert loss.sum().item() == 0
        assert torch.autograd.grad(loss.sum(), eta)[0].tolist() == [0.0] * n
    empty = torch.empty(0)
    loss = cox_nll_loss(empty, empty, empty, reduction=reduction)
    assert loss.shape == ((0,) if reduction == "none" else ())
    assert loss.sum().item() == 0


def test_an_event_without_weight_costs_nothing() -> None:
    eta = torch.randn(3, requires_grad=True)
    weight = torch.tensor([1.0, 1.0, 0.0])
    loss = cox_nll_loss(
        eta, torch.arange(3), torch.ones(3), weight=weight, reduction="sum"
    )
    alone = cox_nll_loss(eta[:2], torch.arange(2), torch.ones(2), reduction="sum")
    torch.testing.assert_close(loss, alone)
    assert torch.autograd.grad(loss, eta)[0].isfinite().all()


def test_weights_are_counts_with_the_ties_of_breslow() -> None:
    drawn = subjects(20, seed=2)
    counts = torch.randint(1, 4, (20,))
    names = ("input", "time", "event", "entry", "strata")
    columns = {name: drawn[name] for name in names}
    repeated = {k: v.repeat_interleave(counts) for k, v in columns.items()}
    for reduction in ("sum", "mean"):
        torch.testing.assert_close(
            cox_nll_loss(**columns, weight=counts, efron=False, reduction=reduction),
            cox_nll_loss(**repeated, efron=False, reduction=reduction),
        )


def test_strata_are_added_up() -> None:
    drawn = subjects(30, seed=5)
    names = ("input", "time", "event", "entry")
    parts = [
        cox_nll_loss(
            **{name: drawn[name][drawn["strata"] == s] for name in names},
            reduction="sum",
        )
        for s in drawn["strata"].unique()
    ]
    whole = cox_nll_loss(
        **{name: drawn[name] for name in names},
        strata=drawn["strata"],
        reduction="sum",
    )
    torch.testing.assert_close(whole, torch.stack(parts).sum())


@ties
def test_gradients_hold_in_every_mode(efron: bool) -> None:
    drawn = subjects(7, seed=8)
    inputs = tuple(drawn[name].requires_grad_() for name in ("input", "weight"))
    time, event = drawn["time"], drawn["event"]
    entry, strata = drawn["entry"], drawn["strata"] > 0

    def loss(eta: Tensor, weight: Tensor) -> Tensor:
        return cox_nll_loss(
            eta, time, event, entry=entry, strata=strata, efron=efron, weight=weight
        )

    check_gradients(loss, inputs, params=())


def test_module_is_the_function_with_its_settings() -> None:
    drawn = subjects(9, seed=3)
    order = ("input", "time", "event", "entry", "strata", "weight")
    for reduction in ("none", "mean", "sum"):
        module = CoxNLLLoss(efron=False, reduction=reduction)
        assert f"efron=False, reduction={reduction!r}" in repr(module)
        expected = cox_nll_loss(**drawn, efron=False, reduction=reduction)
        for each in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(each(*(drawn[name] for name in order)), expected)
    half = cox_nll_loss(drawn["input"].half(), drawn["time"], drawn["event"])
    assert half.dtype == torch.float16


def test_bad_input_is_refused() -> None:
    x = torch.arange(3.0)
    loss = cox_nll_loss
    with pytest.raises(ValueError, match="time must have the shape of input"):
        loss(x, x[:2], x)
    with pytest.raises(ValueError, match=r"event must have one dimension, .* got \(1,"):
        loss(x, x, x[None])
    with pytest.raises(ValueError, match="strata must have the shape of input"):
        loss(x, x, x, strata=x[:1])
    with pytest.raises(ValueError, match="weight must have the shape of input"):
        loss(x, x, x, weight=x[:1])
    with pytest.raises(TypeError, match="entry must be a torch.Tensor, got list"):
        loss(x, x, x, entry=[0, 0, 0])
    with pytest.raises(TypeError, match="time must be real"):
        loss(x, x * 1j, x)
    with pytest.raises(TypeError, match="input must be floating-point"):
        loss(x.long(), x, x)
    with pytest.raises(ValueError, match="reduction must be"):
        loss(x, x, x, reduction="average")
    for call in (lambda: loss(x, x, x, efron="breslow"), lambda: CoxNLLLoss(efron=1)):
        with pytest.raises(TypeError, match="efron must be True or False"):
            call()


def test_values_are_checked_where_asked_for() -> None:
    x, one = torch.arange(3.0), torch.ones(3)
    module = CoxNLLLoss(validate=True)
    for arguments, message in (
        ((x / 0, x, one), "input must be finite"),
        ((x, x / 0, one), "time must be finite"),
        ((x, x, x), r"event must be 0 or 1, got 2.0 at \[2\]"),
        ((x, x, one, x), r"entry must be before time, got 0.0 at \[0\]"),
    ):
        with pytest.raises(ValueError, match=message):
            module(*arguments)
    module(x, x.long(), one.bool(), x - 1)


def test_no_pairs_are_formed() -> None:
    """A hundred thousand subjects have 1e10 pairs, which no memory holds."""
    n = 100_000
    eta = torch.randn(n, requires_grad=True)
    time, entry = torch.rand(n) + 1, torch.rand(n)
    loss = cox_nll_loss(eta, time, torch.ones(n), entry=entry)
    loss.backward()
    assert eta.grad is not None
    assert abs(eta.grad.double().sum().item()) < 1e-4


@pytest.mark.parametrize("name", ["time", "event", "entry", "strata"])
def test_what_has_no_place_in_the_order_makes_the_loss_nan(name: str) -> None:
    n = 6
    columns = {
        "time": torch.arange(1.0, n + 1),
        "event": torch.ones(n),
        "entry": torch.zeros(n),
        "strata": torch.zeros(n),
    }
    input = torch.randn(n, requires_grad=True)
    assert cox_nll_loss(input, **columns).isfinite()
    columns[name][2] = torch.nan
    loss = cox_nll_loss(input, **columns)
    assert loss.isnan()
    (slope,) = torch.autograd.grad(loss, input)
    assert slope.isnan().all()

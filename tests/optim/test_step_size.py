"""Step sizes from the loss: Polyak's rule and Armijo's, against their formulas."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.optim import lr_scheduler

import torch_mlcalc as mlc
from torch_mlcalc import ArmijoStep, PolyakStep

Options = dict[str, Any]


class Problem:
    """A quadratic with closures that count and may clear gradients in both ways."""

    def __init__(self, *, set_to_none: bool = True, **options: object) -> None:
        self.params = [
            nn.Parameter(torch.tensor([3.0, -1.0], dtype=torch.float64)),
            nn.Parameter(torch.tensor(2.0, dtype=torch.float64)),
        ]
        self.calls = 0
        self.set_to_none = set_to_none
        self.optimizer = mlc.SGD(self.params, **options)

    def loss(self) -> Tensor:
        x, y = self.params
        return 2 * x.square().sum() + 5 * (y - 1).square() + 0.5

    def closure(self) -> Tensor:
        self.calls += 1
        self.optimizer.zero_grad(set_to_none=self.set_to_none)
        loss = self.loss()
        loss.backward()
        return loss

    def values(self) -> list[Tensor]:
        return [param.detach().clone() for param in self.params]

    def gradients(self) -> list[Tensor]:
        return list(torch.autograd.grad(self.loss(), self.params))


def squared_norm(gradients: list[Tensor]) -> float:
    return sum(grad.square().sum().item() for grad in gradients)


def assert_moved(problem: Problem, before: list[Tensor], by: list[Tensor]) -> None:
    expected = [value + step for value, step in zip(before, by, strict=True)]
    torch.testing.assert_close(problem.values(), expected, rtol=1e-14, atol=1e-15)


# Polyak


@pytest.mark.parametrize("c", [1.0, 0.5])
@pytest.mark.parametrize("optimum", [0.0, 0.5, -3.0])
def test_polyak_is_its_formula(c: float, optimum: float) -> None:
    problem = Problem(lr=1e6, step_size=PolyakStep(optimum, c))
    before, loss, grads = problem.values(), problem.loss().item(), problem.gradients()
    assert problem.optimizer.step(problem.closure).item() == loss
    step = (loss - optimum) / (c * squared_norm(grads))
    assert_moved(problem, before, [-step * grad for grad in grads])
    assert problem.calls == 1
    (group,) = problem.optimizer.param_groups
    assert group["last_factor"] == pytest.approx(step / 1e6, rel=1e-14)


def test_polyak_goes_no_further_than_lr() -> None:
    problem = Problem(lr=1e-3, step_size=PolyakStep())
    before, grads = problem.values(), problem.gradients()
    problem.optimizer.step(problem.closure)
    assert_moved(problem, before, [-1e-3 * grad for grad in grads])
    assert problem.optimizer.param_groups[0]["last_factor"] == 1


def test_polyak_shares_a_factor_among_groups_with_lr_as_their_metric() -> None:
    problem = Problem(lr=1e5, step_size=PolyakStep(optimum=0.5))
    x, y = problem.params
    problem.optimizer = mlc.SGD(
        [{"params": [x]}, {"params": [y], "lr": 3e5}],
        lr=1e5,
        step_size=PolyakStep(optimum=0.5),
    )
    before, grads = problem.values(), problem.gradients()
    gap = problem.loss().item() - 0.5
    problem.optimizer.step(problem.closure)
    slope = squared_norm(grads[:1]) + 3 * squared_norm(grads[1:])
    steps = [-gap / slope * grads[0], -3 * gap / slope * grads[1]]
    assert_moved(problem, before, steps)


def test_polyak_counts_the_penalty_as_part_of_the_objective() -> None:
    problem = Problem(lr=1e6, weight_decay=0.5, step_size=PolyakStep())
    before, grads = problem.values(), problem.gradients()
    pairs = list(zip(grads, before, strict=True))
    full = [grad + 0.5 * value for grad, value in pairs]
    objective = problem.loss().item() + 0.25 * squared_norm(before)
    problem.optimizer.step(problem.closure)
    step = objective / squared_norm(full)
    assert_moved(problem, before, [-step * grad for grad in full])


def test_polyak_leaves_decoupled_decay_out_of_the_objective() -> None:
    options = dict(weight_decay=0.5, decoupled_weight_decay=True)
    problem = Problem(lr=1e6, step_size=PolyakStep(), **options)
    before, grads = problem.values(), problem.gradients()
    step = problem.loss().item() / squared_norm(grads)
    problem.optimizer.step(problem.closure)
    moves = [
        -step * grad - step * 0.5 * value
        for grad, value in zip(grads, before, strict=True)
    ]
    assert_moved(problem, before, moves)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("rule", [ArmijoStep(), PolyakStep(optimum=-1.0)], ids=str)
def test_to_maximize_is_to_minimize_the_negative(
    rule: ArmijoStep | PolyakStep, weight_decay: float
) -> None:
    ends = []
    for sign in (1.0, -1.0):
        x = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        optimizer = mlc.SGD(
            [x],
            lr=0.3,
            maximize=sign < 0,
            weight_decay=weight_decay,
            step_size=rule,
        )

        def closure() -> Tensor:
            optimizer.zero_grad()  # noqa: B023
            loss = sign * (x * x.new_tensor([1.0, 3.0]) - 1).square().sum()  # noqa: B023
            loss.backward()
            return loss

        optimizer.step(closure)
        ends.append(x.detach())
    assert not torch.equal(ends[0], torch.tensor([1.0, -2.0]).double())
    assert torch.equal(*ends)


def test_polyak_maximizes() -> None:
    problem = Problem(lr=1e6, maximize=True, step_size=PolyakStep(optimum=0))
    problem.loss = lambda: -sum((p**2).sum() for p in problem.params)
    before, grads = problem.values(), problem.gradients()
    step = -problem.loss().item() / squared_norm(grads)
    problem.optimizer.step(problem.closure)
    assert_moved(problem, before, [step * grad for grad in grads])


def test_polyak_step_size_is_that_of_momentum_too() -> None:
    problem = Problem(lr=1e6, momentum=0.5, step_size=PolyakStep())
    problem.optimizer.step(problem.closure)
    buffers = problem.gradients()
    first = [problem.optimizer.state[p]["momentum_buffer"] for p in problem.params]
    first = [buffer.clone() for buffer in first]
    before, loss, grads = problem.values(), problem.loss().item(), problem.gradients()
    problem.optimizer.step(problem.closure)
    buffers = [0.5 * b + g for b, g in zip(first, grads, strict=True)]
    step = loss / squared_norm(grads)
    assert_moved(problem, before, [-step * buffer for buffer in buffers])


def test_polyak_stays_at_the_optimum() -> None:
    problem = Problem(lr=1.0, step_size=PolyakStep(optimum=0.5))
    with torch.no_grad():
        for param, value in zip(problem.params, (0.0, 1.0), strict=True):
            param.fill_(value)
    before = problem.values()
    problem.optimizer.step(problem.closure)
    assert_moved(problem, before, [torch.zeros(2), torch.tensor(0.0)])
    assert problem.optimizer.param_groups[0]["last_factor"] == 0


def test_polyak_refuses_an_objective_better_than_the_optimum() -> None:
    problem = Problem(lr=1.0, step_size=PolyakStep(optimum=1e3))
    before = problem.values()
    with pytest.raises(ValueError, match="optimum must be the best .* got 1000.0"):
        problem.optimizer.step(problem.closure)
    assert_moved(problem, before, [torch.zeros(2), torch.tensor(0.0)])


def test_polyak_takes_a_loss_rounded_below_the_optimum_for_it() -> None:
    x = nn.Parameter(torch.tensor(0.0))
    optimizer = mlc.SGD([x], lr=1.0, step_size=PolyakStep(optimum=0.7))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = x**2 + 0.7
        loss.backward()
        return loss

    assert optimizer.step(closure).item() < 0.7
    assert x.item() == 0


@pytest.mark.parametrize("dtype, grad", [(torch.bfloat16, 1.0), (torch.float16, 6e4)])
def test_polyak_rounds_no_norm_to_16_bits(dtype: torch.dtype, grad: float) -> None:
    # The root of 3 has 2e-3 less in bfloat16; that of 3 * 6e4^2 has no float16.
    x = nn.Parameter(torch.ones(3, dtype=dtype))
    optimizer = mlc.SGD([x], lr=1.0, step_size=PolyakStep())

    def closure() -> Tensor:
        x.grad = torch.full_like(x, grad)
        return x.sum().float()

    optimizer.step(closure)
    factor = optimizer.param_groups[0]["last_factor"]
    assert factor == pytest.approx(1 / x.grad[0].item() ** 2, rel=1e-6)


def test_polyak_fits_an_interpolating_model_with_batches_to_machine_precision() -> None:
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(64, 8, generator=generator, dtype=torch.float64)
    truth = torch.arange(1.0, 9.0, dtype=torch.float64)
    weight = nn.Parameter(torch.zeros(8, dtype=torch.float64))
    optimizer = mlc.SGD([weight], lr=100.0, step_size=PolyakStep(c=0.5))
    for _ in range(60):
        order = torch.randperm(64, generator=generator)
        for batch in order.split(4):

            def closure(batch: Tensor = batch) -> Tensor:
                optimizer.zero_grad()
                loss = (features[batch] @ (weight - truth)).square().mean()
                loss.backward()
                return loss

            optimizer.step(closure)
    torch.testing.assert_close(weight.detach(), truth, rtol=1e-10, atol=0)


# Armijo


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize(
    "options",
    [{}, dict(weight_decay=0.3), dict(momentum=0.9), dict(flat=True)],
    ids=["plain", "decay", "momentum", "flat"],
)
def test_armijo_takes_the_first_step_that_is_good_enough(
    options: Options, set_to_none: bool
) -> None:
    rule = ArmijoStep(c=0.3, shrink=0.5, growth=math.inf)
    problem = Problem(lr=4.0, step_size=rule, set_to_none=set_to_none, **options)
    decay = options.get("weight_decay", 0.0)

    def objective(values: list[Tensor]) -> float:
        x, y = values
        loss = 2 * x.square().sum() + 5 * (y - 1).square() + 0.5
        return loss.item() + decay / 2 * squared_norm(values)

    momentum = [torch.zeros_like(param) for param in problem.params]
    for _ in range(4):
        before = problem.values()
        pairs = zip(problem.gradients(), before, strict=True)
        grads = [grad + decay * value for grad, value in pairs]
        step, trials = 4.0, 1

        def at(
            step: float, before: list[Tensor] = before, grads: list[Tensor] = grads
        ) -> float:
            pairs = zip(before, grads, strict=True)
            return objective([value - step * grad for value, grad in pairs])

        while at(step) > objective(before) - 0.3 * step * squared_norm(grads):
            step, trials = step / 2, trials + 1
        problem.calls = 0
        problem.optimizer.step(problem.closure)
        mu = options.get("momentum", 0.0)
        momentum = [mu * b + g for b, g in zip(momentum, grads, strict=True)]
        assert_moved(problem, before, [-step * buffer for buffer in momentum])
        assert problem.calls == 1 + trials
        assert problem.optimizer.param_groups[0]["last_factor"] == step / 4


def test_armijo_starts_from_the_step_before_times_growth() -> None:
    problem = Problem(lr=64.0, step_size=ArmijoStep(growth=2.0))
    problem.optimizer.step(problem.closure)
    found = problem.optimizer.param_groups[0]["last_factor"]
    assert problem.calls == 2 + math.log2(1 / found)
    problem.calls = 0
    problem.optimizer.step(problem.closure)
    again = problem.optimizer.param_groups[0]["last_factor"]
    assert problem.calls == 2 + math.log2(2 * found / again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_armijo_minimises_the_rosenbrock_function(dtype: torch.dtype) -> None:
    x = nn.Parameter(torch.tensor([-1.2, 1.0], dtype=dtype))
    optimizer = mlc.SGD([x], lr=1.0, step_size=ArmijoStep(c=0.3))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(400)]
    # 1000 steps of 0.001, about the largest that is stable, end at 0.45.
    assert losses[-1] < 0.2


def test_armijo_does_not_fail_where_the_decrease_drowns_in_rounding() -> None:
    x = nn.Parameter(torch.tensor(1.0))
    optimizer = mlc.SGD([x], lr=0.3, step_size=ArmijoStep())
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = 1e6 + (x - 2) ** 2
        loss.backward()
        return loss

    for _ in range(40):
        optimizer.step(closure)
    # Each first trial will do; a search would end with steps too small to get there.
    assert calls == 80
    assert abs(x.item() - 2) < 1e-6


def test_armijo_puts_everything_back_if_no_step_is_good_enough() -> None:
    problem = Problem(lr=1.0, step_size=ArmijoStep(max_trials=3), momentum=0.9)
    calls = iter(range(100))
    loss_of = problem.loss
    before = problem.values()
    problem.loss = lambda: loss_of() + 100.0 * next(calls)
    with pytest.raises(RuntimeError, match=r"no factor down to 0.25 lowered"):
        problem.optimizer.step(problem.closure)
    assert all(map(torch.equal, problem.values(), before))
    assert not problem.optimizer.state


def test_armijo_puts_everything_back_if_the_closure_raises() -> None:
    problem = Problem(lr=1.0, step_size=ArmijoStep())
    before = problem.values()
    calls = iter([problem.closure])
    with pytest.raises(StopIteration):
        problem.optimizer.step(lambda: next(calls)())
    assert all(map(torch.equal, problem.values(), before))


# Both


@pytest.mark.parametrize("rule", [PolyakStep(), ArmijoStep()])
def test_a_scheduler_moves_the_largest_step(rule: mlc.StepSize) -> None:
    problem = Problem(lr=1e-3, step_size=rule)
    scheduler = lr_scheduler.ExponentialLR(problem.optimizer, 0.5)
    for lr in (1e-3, 5e-4):
        before, grads = problem.values(), problem.gradients()
        problem.optimizer.step(problem.closure)
        assert_moved(problem, before, [-lr * grad for grad in grads])
        scheduler.step()


@pytest.mark.parametrize("rule", [PolyakStep(c=0.5), ArmijoStep(growth=4.0)])
def test_a_rule_survives_copies_and_its_factor_checkpoints(rule: mlc.StepSize) -> None:
    problem = Problem(lr=1.0, step_size=rule)
    problem.optimizer.step(problem.closure)
    for twin in (
        copy.deepcopy(problem.optimizer),
        pickle.loads(pickle.dumps(problem.optimizer)),
    ):
        assert twin.step_size == rule
        assert repr(rule) in repr(twin)
    file = io.BytesIO()
    torch.save(problem.optimizer.state_dict(), file)
    file.seek(0)
    other = Problem(lr=5.0, step_size=rule).optimizer
    other.load_state_dict(torch.load(file))
    factor = problem.optimizer.param_groups[0]["last_factor"]
    assert other.param_groups[0]["last_factor"] == factor
    assert other.step_size == rule


@pytest.mark.parametrize("rule", [PolyakStep(), ArmijoStep()])
def test_sparse_and_low_precision_gradients_count(rule: mlc.StepSize) -> None:
    table = nn.Embedding(5, 3, sparse=True, dtype=torch.bfloat16)
    optimizer = mlc.SGD(table.parameters(), lr=1e3, step_size=rule)
    index = torch.tensor([0, 3, 3])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = table(index).float().square().sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(8)]
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("lr", [1.0, torch.tensor(1.0)], ids=["number", "tensor"])
@pytest.mark.parametrize("rule", [PolyakStep(c=0.5), ArmijoStep(growth=2.0)])
def test_checkpoints_of_torch_distributed(
    rule: mlc.StepSize, lr: float | Tensor
) -> None:
    def make() -> tuple[nn.Module, mlc.SGD, Callable[[], Tensor]]:
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = mlc.SGD(model.parameters(), lr, momentum=0.9, step_size=rule)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = model(torch.ones(4, 3)).square().sum()
            loss.backward()
            return loss

        return model, optimizer, closure

    model, optimizer, closure = make()
    other, twin, twin_closure = make()
    for _ in range(2):
        optimizer.step(closure)
    saved = copy.deepcopy(get_state_dict(model, optimizer))
    set_state_dict(other, twin, model_state_dict=saved[0], optim_state_dict=saved[1])
    for _ in range(2):
        optimizer.step(closure)
        twin.step(twin_closure)
    assert twin.param_groups[0]["last_factor"] < 1
    assert all(map(torch.equal, other.parameters(), model.parameters()))


@pytest.mark.parametrize("rule", [PolyakStep(), ArmijoStep()])
def test_needs_a_closure(rule: mlc.StepSize) -> None:
    problem = Problem(lr=1.0, step_size=rule)
    problem.optimizer.add_param_group({"params": [torch.ones(2)], "lr": 0.0})
    problem.closure()
    before = problem.values()
    with pytest.raises(RuntimeError, match=r"needs the loss: call step\(closure\)"):
        problem.optimizer.step()
    assert all(map(torch.equal, problem.values(), before))


@pytest.mark.parametrize("rule", [PolyakStep(), ArmijoStep()])
def test_refuses_a_loss_that_is_not_finite(rule: mlc.StepSize) -> None:
    problem = Problem(lr=1.0, step_size=rule)
    loss_of = problem.loss
    problem.loss = lambda: loss_of() * math.nan
    before = problem.values()
    with pytest.raises(ValueError, match="loss must be finite .* got nan"):
        problem.optimizer.step(problem.closure)
    assert all(map(torch.equal, problem.values(), before))


@pytest.mark.parametrize("rule", [PolyakStep(), ArmijoStep()])
def test_refuses_a_gradient_that_is_not_finite(rule: mlc.StepSize) -> None:
    problem = Problem(lr=1.0, step_size=rule)
    loss_of = problem.loss
    problem.loss = lambda: loss_of() + (problem.params[1] - 2).sqrt()
    before = problem.values()
    with pytest.raises(ValueError, match="gradient must be finite .* got inf"):
        problem.optimizer.step(problem.closure)
    assert all(map(torch.equal, problem.values(), before))


def test_refuses_groups_that_disagree_about_the_objective() -> None:
    problem = Problem(lr=1.0)
    x, y = problem.params
    problem.optimizer = mlc.SGD(
        [{"params": [x]}, {"params": [y], "maximize": True}], step_size=PolyakStep()
    )
    with pytest.raises(ValueError, match="maximize must be the same for all"):
        problem.optimizer.step(problem.closure)


@pytest.mark.parametrize("rule", [PolyakStep(), ArmijoStep()])
@pytest.mark.parametrize("returned", ["nothing", "no tensor", "a vector"])
def test_refuses_what_is_no_loss(rule: mlc.StepSize, returned: str) -> None:
    problem = Problem(lr=1.0, step_size=rule)
    results: Options = {"nothing": None, "no tensor": [1.0], "a vector": torch.ones(3)}
    got = {"nothing": "NoneType", "no tensor": "list", "a vector": r"of shape \(3,\)"}

    def closure() -> object:
        problem.closure()
        return results[returned]

    before = problem.values()
    with pytest.raises(TypeError, match=f"must return the loss.*got .*{got[returned]}"):
        problem.optimizer.step(closure)
    assert all(map(torch.equal, problem.values(), before))


@pytest.mark.parametrize("rule", [PolyakStep(), ArmijoStep()])
def test_refuses_a_loss_that_is_scaled(rule: mlc.StepSize) -> None:
    problem = Problem(lr=1.0, step_size=rule, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    loss_of = problem.loss
    problem.loss = lambda: scaler.scale(loss_of())
    problem.closure()
    before = problem.values()
    with pytest.raises(RuntimeError, match="does not go with torch.amp.GradScaler"):
        scaler.step(problem.optimizer, problem.closure)
    assert all(map(torch.equal, problem.values(), before))


@pytest.mark.parametrize("rule", [PolyakStep(), ArmijoStep(growth=math.inf)])
def test_only_the_closure_evaluates_and_nothing_else_is_touched(
    rule: mlc.StepSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(lr=4.0, momentum=0.5, step_size=rule)
    backward = Tensor.backward
    calls = []

    def counted(*args: object, **kwargs: object) -> None:
        calls.append(args)
        backward(*args, **kwargs)

    monkeypatch.setattr(Tensor, "backward", counted)
    monkeypatch.setattr(copy, "deepcopy", None)
    state = torch.get_rng_state()
    for _ in range(3):
        problem.optimizer.step(problem.closure)
    assert len(calls) == problem.calls
    assert torch.equal(torch.get_rng_state(), state)
    assert all(param.grad is not None for param in problem.params)


def test_armijo_takes_the_lr_of_each_group_as_the_metric() -> None:
    problem = Problem(lr=1.0)
    x, y = problem.params
    rule = ArmijoStep(c=0.3, growth=math.inf)
    groups = [{"params": [x], "lr": torch.tensor(2.0)}, {"params": [y], "lr": 0.5}]
    problem.optimizer = mlc.SGD(groups, step_size=rule)
    before, (g, h) = problem.values(), problem.gradients()
    start = problem.loss().item()
    problem.optimizer.step(problem.closure)
    factors = {group["last_factor"] for group in problem.optimizer.param_groups}
    (factor,) = factors
    slope = 2.0 * squared_norm([g]) + 0.5 * squared_norm([h])
    assert_moved(problem, before, [-2.0 * factor * g, -0.5 * factor * h])
    assert problem.loss().item() <= start - 0.3 * factor * slope
    with torch.no_grad():
        for param, value, move in zip(
            problem.params, before, (2.0 * g, 0.5 * h), strict=True
        ):
            param.copy_(value - 2 * factor * move)
    assert factor < 1
    assert problem.loss().item() > start - 0.3 * 2 * factor * slope


def test_takes_a_rule_of_ones_own() -> None:
    class Half(mlc.StepSize):
        def factor(self, along: object) -> float:
            return 0.5

    problem = Problem(lr=1.0, step_size=Half())
    before, grads = problem.values(), problem.gradients()
    problem.optimizer.step(problem.closure)
    assert_moved(problem, before, [-0.5 * grad for grad in grads])


class Fixed(mlc.StepSize):
    """A rule that does not care."""

    def __init__(self, value: float | Tensor | None) -> None:
        self.value = value

    def factor(self, along: object) -> Tensor | float | None:
        return self.value


@pytest.mark.parametrize("value", [math.nan, 1.5, -0.1, None, "0.5"])
def test_refuses_a_factor_out_of_range(value: float | None) -> None:
    problem = Problem(lr=0.1, step_size=Fixed(value))
    before = problem.values()
    with pytest.raises(ValueError, match="must return a factor between 0 and 1, got"):
        problem.optimizer.step(problem.closure)
    assert all(map(torch.equal, problem.values(), before))
    assert "last_factor" not in problem.optimizer.param_groups[0]


def test_takes_a_factor_in_a_tensor_and_keeps_a_number() -> None:
    problem = Problem(lr=0.1, step_size=Fixed(torch.tensor(0.5)))
    problem.optimizer.step(problem.closure)
    assert type(problem.optimizer.param_groups[0]["last_factor"]) is float


REFUSED: dict[str, tuple[Any, str]] = {
    "c": (lambda: PolyakStep(c=0), "c must be positive, got 0"),
    "c nan": (lambda: PolyakStep(c=math.nan), "c must be a finite number, got nan"),
    "optimum": (lambda: PolyakStep(-math.inf), "optimum must be a finite .* got -inf"),
    "armijo c": (lambda: ArmijoStep(c=1.0), "c must be between 0 and 1, got 1.0"),
    "shrink": (lambda: ArmijoStep(shrink=0.0), "shrink must be between 0 and 1"),
    "shrink nan": (lambda: ArmijoStep(shrink=math.nan), "shrink must be between"),
    "growth": (lambda: ArmijoStep(growth=0.9), "growth must be at least 1, got 0.9"),
    "growth nan": (lambda: ArmijoStep(growth=math.nan), "growth must be at least 1"),
    "trials": (lambda: ArmijoStep(max_trials=0), "max_trials must be at least 1"),
    "half a trial": (lambda: ArmijoStep(max_trials=1.5), "must be an integer, got 1.5"),
    "no number": (lambda: ArmijoStep(max_trials=True), "must be an integer, got True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_settings_out_of_range(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_what_is_no_rule() -> None:
    with pytest.raises(TypeError, match="must be a rule such as .* got 0.1"):
        mlc.SGD([torch.ones(1)], step_size=0.1)


def test_refuses_a_rule_where_its_gradient_would_be_lost() -> None:
    with pytest.raises(RuntimeError, match="`step_size` does not support `differ"):
        mlc.SGD([torch.ones(1)], step_size=PolyakStep(), differentiable=True)

"""SGD against torch's for-loop, bit for bit, and against exact arithmetic."""

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

from torch_mlcalc.optim import SGD

TorchSGD = torch.optim.SGD
Options = dict[str, Any]

NUMBERS = ("lr", "momentum", "dampening", "weight_decay")
DTYPES = {
    name: getattr(torch, name)
    for name in "float64 float32 bfloat16 float16 complex64 complex128".split()
}
OPTIONS: dict[str, Options] = {
    "defaults": {},
    "lr": dict(lr=0.1),
    "lr zero": dict(lr=0.0, momentum=0.9),
    "lr tensor": dict(lr=torch.tensor(0.1)),
    "lr tensor of one dimension": dict(lr=torch.tensor([0.1]), momentum=0.9),
    "lr tensor that requires grad": dict(lr=torch.tensor(0.1, requires_grad=True)),
    "momentum": dict(lr=0.1, momentum=0.9),
    "momentum tensor": dict(lr=0.1, momentum=torch.tensor(0.9)),
    "momentum above one": dict(lr=0.1, momentum=1.5),
    "dampening": dict(lr=0.1, momentum=0.9, dampening=0.3),
    "dampening tensor": dict(momentum=0.9, dampening=torch.tensor(0.3)),
    "dampening without momentum": dict(lr=0.1, dampening=0.3),
    "dampening negative": dict(lr=0.1, momentum=0.9, dampening=-0.5),
    "decay": dict(lr=0.1, weight_decay=0.05),
    "decay tensor": dict(lr=0.1, weight_decay=torch.tensor(0.05)),
    "decay and momentum": dict(lr=0.1, momentum=0.7, weight_decay=0.05),
    "nesterov": dict(lr=0.1, momentum=0.9, nesterov=True),
    "nesterov and decay": dict(momentum=0.8, nesterov=True, weight_decay=0.05),
    "maximize": dict(lr=0.1, maximize=True),
    "maximize, decay": dict(lr=torch.tensor(0.1), weight_decay=0.05, maximize=True),
    "maximize, dampening": dict(momentum=0.7, dampening=0.2, maximize=True),
    "maximize, nesterov": dict(momentum=0.7, nesterov=True, maximize=True),
}
MODES: dict[str, Options] = {
    "for-loop": dict(foreach=False),
    "foreach": dict(foreach=True),
    "fused": dict(fused=True),
}


def by_name(table: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", list(table.values()), ids=list(table))


def make_params(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Make one parameter of each layout, the same values at each call."""
    generator = torch.Generator().manual_seed(1)
    contiguous, transposed, strided, scalar, empty = (
        torch.randn(shape, dtype=dtype, generator=generator)
        for shape in [(3, 4), (4, 3), (6, 4), (), (0, 2)]
    )
    tensors = [contiguous, transposed.t(), strided[::2, 1:3], scalar, empty]
    return [tensor.requires_grad_() for tensor in tensors]


def params_of(optimizer: Optimizer) -> list[Tensor]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def train(optimizer: Optimizer, *, start: int = 0, stop: int = 5) -> Optimizer:
    """Take some of a fixed sequence of steps; some gradients in it are None."""
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        for i, p in enumerate(params_of(optimizer)):
            grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
            p.grad = None if (step, i) in {(0, 0), (2, 0), (1, 2)} else grad
        optimizer.step()
    return optimizer


def assert_same(a: Optimizer, b: Optimizer, rtol: float = 0) -> None:
    """Demand equal parameters and state, by default bit for bit."""
    for p, q in zip(params_of(a), params_of(b), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=0)
        assert a.state.get(p, {}).keys() == b.state.get(q, {}).keys()
        for name, value in a.state.get(p, {}).items():
            torch.testing.assert_close(value, b.state[q][name], rtol=rtol, atol=0)


# The update


@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@by_name(OPTIONS)
def test_equals_torch_bit_for_bit(
    case: Options, dtype: torch.dtype, foreach: bool
) -> None:
    optimizer = train(SGD(make_params(dtype), foreach=foreach, **case))
    reference = train(TorchSGD(make_params(dtype), foreach=False, **case))
    assert_same(optimizer, reference)
    pairs = zip(params_of(optimizer), make_params(dtype), strict=True)
    stays = all(torch.equal(param, before) for param, before in pairs)
    assert stays == (case.get("lr") == 0)


def test_equals_exact_arithmetic() -> None:
    """Dyadic options leave float64 no rounding, so the formula must hold exactly."""
    lr, momentum, dampening, decay = (Fraction(n, 8) for n in (2, 4, 1, 1))
    theta = buffer = Fraction(3)
    param = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    optimizer = SGD([param], 0.25, 0.5, 0.125, 0.125)
    for step in range(4):
        optimizer.zero_grad()
        (param**2 / 2).backward()
        optimizer.step()

        grad = theta + decay * theta
        buffer = momentum * buffer + (1 - dampening) * grad if step else grad
        theta -= lr * buffer
        assert Fraction(param.item()) == theta


def test_nesterov_is_that_of_sutskever_at_the_point_ahead() -> None:
    lr, momentum = Fraction(1, 4), Fraction(1, 2)
    theta, velocity = Fraction(3), Fraction(0)
    param = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    optimizer = SGD([param], 0.25, 0.5, nesterov=True)
    for _ in range(6):
        optimizer.zero_grad()
        (param**2 / 2).backward()
        optimizer.step()

        velocity = momentum * velocity - lr * (theta + momentum * velocity)
        theta += velocity
        assert Fraction(param.item()) == theta + momentum * velocity


def test_several_groups_keep_their_own_options() -> None:
    def optimize(cls: type[Any]) -> Optimizer:
        params = make_params()
        groups = [
            {"params": params[:2], "lr": 0.5, "weight_decay": 0.1},
            {"params": params[2], "momentum": 0, "maximize": True},
        ]
        optimizer = cls(groups, lr=0.1, momentum=0.9, nesterov=True, foreach=False)
        optimizer.add_param_group({"params": params[3:], "lr": torch.tensor(0.01)})
        return train(optimizer)

    assert_same(optimize(SGD), optimize(TorchSGD))


@pytest.mark.parametrize("name", ["lr", "momentum", "nesterov", "maximize, dampening"])
def test_equals_torch_for_sparse_gradients(name: str) -> None:
    def optimize(cls: type[Any]) -> Tensor:
        weight = torch.arange(12.0, dtype=torch.float64).reshape(4, 3).requires_grad_()
        optimizer = cls([weight], foreach=False, **OPTIONS[name])
        for rows in ([0, 2, 0], [1, 2, 2], [3, 3, 0]):
            optimizer.zero_grad()
            index = torch.tensor(rows)
            picked = torch.nn.functional.embedding(index, weight, sparse=True)
            picked.sin().sum().backward()
            assert weight.grad is not None and weight.grad.is_sparse
            optimizer.step()
        return weight

    assert torch.equal(optimize(SGD), optimize(TorchSGD))


number = st.floats(0, 2, width=32)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    steps=st.lists(
        st.tuples(number, number, number, number, st.booleans(), st.booleans()),
        min_size=1,
        max_size=6,
    ),
)
def test_equals_torch_when_options_change_between_steps(
    dtype: torch.dtype, steps: list[tuple[Any, ...]]
) -> None:
    optimizer = SGD(make_params(dtype), foreach=False)
    reference = TorchSGD(make_params(dtype), foreach=False)
    for i, values in enumerate(steps):
        for each in (optimizer, reference):
            options = zip((*NUMBERS, "nesterov", "maximize"), values, strict=True)
            each.param_groups[0].update(options)
            train(each, start=i, stop=i + 1)
        assert_same(optimizer, reference)


# The caller's gradients, and the state


decay_with_grad = torch.tensor(0.05, requires_grad=True)
GRAD_CASES: dict[str, Options] = {
    **OPTIONS,
    "decay that requires grad": dict(weight_decay=decay_with_grad),
    "foreach": dict(foreach=True, momentum=0.9, weight_decay=0.05),
    "foreach, maximize": dict(foreach=True, maximize=True, weight_decay=0.05),
    "fused": dict(fused=True, momentum=0.9, weight_decay=0.05),
    "differentiable": dict(differentiable=True, momentum=0.9, weight_decay=0.05),
}


@by_name(GRAD_CASES)
def test_grad_is_never_written_to(case: Options) -> None:
    params = make_params()
    if "differentiable" in case:
        params = [param.clone() for param in params]
    optimizer = SGD(params, **case)
    grads = [torch.randn_like(param) for param in params]
    before = copy.deepcopy(grads)
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    for _ in range(3):
        optimizer.step()
    for param, grad, value in zip(params, grads, before, strict=True):
        assert param.grad is grad
        assert grad._version == 0
        assert torch.equal(grad, value)


def test_momentum_buffer_is_one_tensor_of_its_own() -> None:
    optimizer = train(SGD(make_params(), momentum=0.9))
    buffers = [optimizer.state[p]["momentum_buffer"] for p in params_of(optimizer)]
    before = copy.deepcopy(buffers)
    optimizer.zero_grad(set_to_none=False)
    torch.testing.assert_close(buffers, before, rtol=0, atol=0)
    train(optimizer)
    for param, buffer in zip(params_of(optimizer), buffers, strict=True):
        assert optimizer.state[param]["momentum_buffer"] is buffer


def test_no_state_without_momentum() -> None:
    assert not train(SGD(make_params())).state


def test_ordinary_step_leaves_no_graph() -> None:
    param = torch.ones(2, requires_grad=True)
    lr = torch.tensor(0.1, requires_grad=True)
    optimizer = SGD([param], lr, momentum=0.9, nesterov=True)
    param.grad = 2 * param
    optimizer.step()
    assert param.is_leaf
    assert not optimizer.state[param]["momentum_buffer"].requires_grad


def test_signature_is_that_of_torch() -> None:
    def parameters(cls: type[Any]) -> list[tuple[Any, ...]]:
        signature = inspect.signature(cls.__init__)
        return [(p.name, p.kind, p.default) for p in signature.parameters.values()]

    own = parameters(SGD)[len(parameters(TorchSGD)) :]
    assert parameters(SGD) == parameters(TorchSGD) + own
    assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, kind, _ in own)
    assert not any(default for _, _, default in own)


@by_name(OPTIONS)
def test_defaults_groups_and_repr_are_those_of_torch(case: Options) -> None:
    params = make_params()
    optimizer, reference = SGD(params, **case), TorchSGD(params, **case)
    own = dict(decoupled_weight_decay=False, compensated=False, flat=False)
    assert optimizer.defaults == {**reference.defaults, **own}
    expected = reference.state_dict()
    expected["param_groups"][0].update(own)
    assert optimizer.state_dict() == expected
    reference.param_groups[0].update(own)
    assert repr(optimizer) == repr(reference)


@pytest.mark.parametrize(
    "first, second", [(TorchSGD, SGD), (SGD, TorchSGD)], ids=["from torch", "to torch"]
)
@by_name(OPTIONS)
def test_state_dict_is_continued_by_the_other_class(
    case: Options, first: type[Any], second: type[Any]
) -> None:
    whole = train(TorchSGD(make_params(), foreach=False, **case), stop=6)

    started = train(first(make_params(), foreach=False, **case), stop=3)
    file = io.BytesIO()
    torch.save(started.state_dict(), file)
    file.seek(0)
    continued = second(params_of(started), lr=123.0)
    continued.load_state_dict(torch.load(file))
    train(continued, start=3, stop=6)

    assert_same(continued, whole)
    (group,), (expected,) = (
        optimizer.state_dict()["param_groups"] for optimizer in (continued, whole)
    )
    assert group == {**group, **expected}


@by_name({"pickle": lambda o: pickle.loads(pickle.dumps(o)), "copy": copy.deepcopy})
def test_copy_continues_alone(case: Callable[[Any], Any]) -> None:
    optimizer = train(SGD(make_params(), 0.1, 0.9, fused=True), stop=3)
    before = copy.deepcopy(params_of(optimizer))
    twin = train(case(optimizer), start=3)
    torch.testing.assert_close(params_of(optimizer), before, rtol=0, atol=0)
    assert_same(twin, train(optimizer, start=3))
    assert twin._step_supports_amp_scaling


def test_loads_a_state_dict_that_lacks_the_newer_options() -> None:
    optimizer = SGD(make_params(), momentum=0.9)
    state = optimizer.state_dict()
    # Older torch had four options, and kept None for a parameter without momentum.
    for option in ("nesterov", "maximize", "foreach", "differentiable", "fused"):
        del state["param_groups"][0][option]
    state["state"] = {0: {"momentum_buffer": None}}
    reference = TorchSGD(make_params())
    for each in (optimizer, reference):
        each.load_state_dict(state)
    assert_same(train(optimizer), train(reference))
    own = dict(decoupled_weight_decay=False, compensated=False, flat=False)
    (group,) = optimizer.state_dict()["param_groups"]
    assert group == {**reference.state_dict()["param_groups"][0], **own}


# Modes


@by_name(MODES)
@pytest.mark.parametrize("name", ["decay and momentum", "maximize, nesterov"])
def test_every_mode_gives_the_same_numbers(name: str, case: Options) -> None:
    optimizer = train(SGD(make_params(), **OPTIONS[name], **case))
    reference = train(TorchSGD(make_params(), foreach=False, **OPTIONS[name]))
    assert_same(optimizer, reference, rtol=1e-14 * ("fused" in case))


@by_name(MODES)
@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad_clears_in_every_mode(case: Options, set_to_none: bool) -> None:
    optimizer = train(SGD(make_params(), **case))
    optimizer.zero_grad(set_to_none=set_to_none)
    for param in params_of(optimizer):
        assert (param.grad is None) if set_to_none else not torch.any(param.grad)


# Differentiation through the step


def loss_of(theta: Tensor) -> Tensor:
    curvature = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=theta.dtype)
    return theta @ curvature @ theta / 2 + (theta**4).sum()


def unroll(theta: Tensor, steps: int, **options: float | Tensor) -> Tensor:
    param = theta.clone()
    optimizer = SGD([param], differentiable=True, **options)
    for _ in range(steps):
        # The step changes param in place, so the loss may only hold a copy.
        held = param.clone()
        (param.grad,) = torch.autograd.grad(loss_of(held), held, create_graph=True)
        optimizer.step()
    return param


def unroll_by_hand(theta: Tensor, steps: int, **options: float | Tensor) -> Tensor:
    """Apply the documented formula out of place."""
    lr, momentum, dampening, decay = (options[name] for name in NUMBERS)
    buffer = None
    for _ in range(steps):
        (grad,) = torch.autograd.grad(loss_of(theta), theta, create_graph=True)
        grad = (-grad if options["maximize"] else grad) + decay * theta
        if buffer is None:
            buffer = grad
        else:
            buffer = momentum * buffer + (1 - dampening) * grad
        theta = theta - lr * (
            grad + momentum * buffer if options["nesterov"] else buffer
        )
    return theta


# (lr, momentum, dampening, weight_decay), and the flags.
UNROLLED: dict[str, tuple[tuple[float, ...], Options]] = {
    "momentum": ((0.1, 0.9, 0.0, 0.05), dict(nesterov=False, maximize=False)),
    "dampening": ((0.1, 0.9, 0.3, 0.05), dict(nesterov=False, maximize=False)),
    "nesterov": ((0.1, 0.9, 0.0, 0.05), dict(nesterov=True, maximize=False)),
    "maximize": ((0.1, 0.9, 0.3, 0.05), dict(nesterov=False, maximize=True)),
}


def as_leaves(values: tuple[float, ...]) -> tuple[Tensor, ...]:
    return tuple(
        torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for value in ([1.0, -0.5], *values)
    )


@by_name(UNROLLED)
def test_differentiable_has_all_gradients_of_the_formula(
    case: tuple[tuple[float, ...], Options],
) -> None:
    theta, *numbers = as_leaves(case[0])
    options = {**dict(zip(NUMBERS, numbers, strict=True)), **case[1]}
    actual, expected = unroll(theta, 3, **options), unroll_by_hand(theta, 3, **options)
    torch.testing.assert_close(actual, expected, rtol=1e-14, atol=0)
    slopes, expected_slopes = (
        torch.autograd.grad(end.sum(), (theta, *numbers)) for end in (actual, expected)
    )
    torch.testing.assert_close(slopes, expected_slopes, rtol=1e-13, atol=0)
    assert all(torch.all(slope != 0) for slope in slopes)


@by_name(UNROLLED)
def test_differentiable_passes_gradcheck_to_second_order(
    case: tuple[tuple[float, ...], Options],
) -> None:
    def function(theta: Tensor, *numbers: Tensor) -> Tensor:
        options = {**dict(zip(NUMBERS, numbers, strict=True)), **case[1]}
        return unroll(theta, 2, **options)

    leaves = as_leaves(case[0])
    # Nesterov is not defined beside any dampening but 0.
    leaves[3].requires_grad_(not case[1]["nesterov"])
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


# The first forward-mode call makes torch 2.13 itself use its deprecated TorchScript.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_differentiable_passes_gradcheck_in_forward_mode() -> None:
    def function(theta: Tensor, *numbers: Tensor) -> Tensor:
        param = theta.clone()
        options = dict(zip(NUMBERS, numbers, strict=True))
        optimizer = SGD([param], differentiable=True, **options)
        for scale in (1, -2, 3):
            param.grad = scale * theta.sin()
            optimizer.step()
        return param

    leaves = as_leaves(UNROLLED["dampening"][0])
    assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True)


def test_differentiable_gradient_survives_zeroing_grad_in_place() -> None:
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    param = torch.tensor([1.0, 2.0], dtype=torch.float64)
    optimizer = SGD([param], lr, differentiable=True)
    param.grad = torch.tensor([3.0, 5.0], dtype=torch.float64)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    assert torch.autograd.grad(param.sum(), lr) == (torch.tensor(-8.0),)


def test_differentiable_gradient_reaches_a_weight_decay_of_zero() -> None:
    decay = torch.tensor(0.0, requires_grad=True)
    param = torch.tensor([2.0, 6.0])
    optimizer = SGD([param], 0.5, weight_decay=decay, differentiable=True)
    param.grad = torch.ones(2)
    optimizer.step()
    assert param.tolist() == [1.5, 5.5]
    assert torch.autograd.grad(param.sum(), decay) == (torch.tensor(-4.0),)


def test_differentiable_momentum_of_zero_is_off() -> None:
    momentum = torch.tensor(0.5, requires_grad=True)
    param = torch.ones(2)
    optimizer = SGD([param], 0.5, momentum, nesterov=True, differentiable=True)
    optimizer.param_groups[0]["momentum"] = torch.tensor(0.0, requires_grad=True)
    param.grad = torch.tensor([1.0, torch.inf])
    optimizer.step()
    assert param.tolist() == [0.5, -torch.inf]
    assert not param.requires_grad
    assert not optimizer.state


@by_name(OPTIONS)
def test_differentiable_gives_the_numbers_of_the_ordinary_step(case: Options) -> None:
    clones = [param.clone() for param in make_params()]
    for clone in clones:
        clone.retain_grad()
    optimizer = train(SGD(clones, differentiable=True, **case))
    assert_same(optimizer, train(SGD(make_params(), foreach=False, **case)))
    assert all(param.grad_fn is not None for param in clones)


@pytest.mark.parametrize("cls", [SGD, TorchSGD])
def test_differentiable_refuses_leaves_as_torch_does(cls: type[Any]) -> None:
    optimizer = cls(make_params(), differentiable=True)
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        train(optimizer)


# What torch puts around an optimiser


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.5, total_steps=6),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@by_name(SCHEDULERS)
def test_scheduler_acts_as_on_torch(
    case: Callable[[Any], Any], lr: float | Tensor
) -> None:
    def optimize(cls: type[Any]) -> tuple[Optimizer, list[tuple[float, float]]]:
        optimizer = cls(make_params(), copy.deepcopy(lr), momentum=0.9, foreach=False)
        scheduler = case(optimizer)
        metric = [1.0] * isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        schedule = []
        for step in range(6):
            group = optimizer.param_groups[0]
            schedule.append((float(group["lr"]), group["momentum"]))
            train(optimizer, start=step, stop=step + 1)
            scheduler.step(*metric)
        return optimizer, schedule

    optimizer, schedule = optimize(SGD)
    reference, expected = optimize(TorchSGD)
    assert_same(optimizer, reference)
    assert schedule == expected
    assert len(set(schedule)) > 1


def test_closure_runs_with_gradients_and_its_loss_is_returned() -> None:
    param = torch.tensor([2.0], requires_grad=True)
    optimizer = SGD([param], lr=0.25)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (param**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
        assert not torch.is_grad_enabled()
    assert (loss.item(), param.item()) == (4, 1)
    assert optimizer.step() is None


def test_hooks_run_around_the_step() -> None:
    param = torch.tensor([2.0], requires_grad=True)
    param.grad = torch.ones(1)
    optimizer = SGD([param], lr=0.5)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(param.item()))
    optimizer.register_step_post_hook(lambda *_: seen.append(param.item()))
    optimizer.step()
    assert seen == [2.0, 1.5]


@by_name(MODES)
def test_grad_scaler_unscales_and_skips(case: Options) -> None:
    def optimize(cls: type[Any], **options: bool) -> tuple[Optimizer, float]:
        param = torch.tensor([1.0, -3.0, 0.1], requires_grad=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        optimizer = cls([param], 0.1, 0.9, **options)
        for overflows in (True, False, True, False, False):
            before = param.detach().clone()
            optimizer.zero_grad()
            loss = (param**2).sum() * (torch.inf if overflows else 1)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(param, before) == overflows
        return optimizer, scaler.get_scale()

    optimizer, scale = optimize(SGD, **case)
    reference, expected_scale = optimize(TorchSGD, foreach=False)
    assert_same(optimizer, reference, rtol=1e-5 * ("fused" in case))
    assert scale == expected_scale == 256


@by_name({"float32": torch.float32, "float16": torch.float16})
def test_fused_unscales_without_writing_to_grad(case: torch.dtype) -> None:
    param = torch.ones(2, dtype=case, requires_grad=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = SGD([param], 0.25, fused=True)
    scaler.scale(param.sum()).backward()
    scaler.step(optimizer)
    assert param.tolist() == [0.75, 0.75]
    assert param.grad is not None and param.grad.tolist() == [8, 8]


def test_fused_takes_gradients_that_the_caller_unscaled() -> None:
    param = torch.ones(2, requires_grad=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = SGD([param], 0.25, fused=True)
    scaler.scale(param.sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert param.tolist() == [0.75, 0.75]


def test_grad_scale_of_the_caller_is_honoured() -> None:
    param = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    optimizer = SGD([param], 0.25, momentum=0.5, fused=True)
    param.grad = torch.full_like(param, 4.0)
    optimizer.grad_scale = torch.tensor([4.0])
    optimizer.step()
    assert param.tolist() == [0.75, 0.75]
    assert optimizer.state[param]["momentum_buffer"].dtype == torch.bfloat16


def test_differentiable_divides_by_the_scale_of_the_caller() -> None:
    param = torch.ones(2)
    optimizer = SGD([param], 0.25, differentiable=True)
    param.grad = torch.full_like(param, 4.0)
    optimizer.grad_scale = torch.tensor([4.0])
    optimizer.step()
    assert param.tolist() == [0.75, 0.75]
    assert param.grad.tolist() == [4, 4]


def test_skipped_first_step_leaves_no_buffer() -> None:
    optimizer = SGD(make_params(), momentum=0.5, fused=True)
    optimizer.found_inf = torch.tensor(1.0)
    assert not train(optimizer).state


# What is refused


shared = torch.ones(2)
REFUSED_BY_TORCH: dict[str, Options] = {
    "lr negative": dict(lr=-0.1),
    "lr tensor negative": dict(lr=torch.tensor(-0.5)),
    "lr of two elements": dict(lr=torch.tensor([0.1, 0.2])),
    "momentum negative": dict(momentum=-0.9),
    "weight decay negative": dict(weight_decay=-1),
    "weight decay infinitely negative": dict(weight_decay=-torch.inf),
    "nesterov without momentum": dict(nesterov=True),
    "nesterov with dampening": dict(nesterov=True, momentum=0.9, dampening=0.1),
    "fused and differentiable": dict(fused=True, differentiable=True),
    "fused and foreach": dict(fused=True, foreach=True),
    "no parameters": dict(params=[]),
    "parameters in a tensor": dict(params=torch.ones(2)),
    "parameters not tensors": dict(params=[1.0]),
    "parameters not leaves": dict(params=[torch.ones(2, requires_grad=True) * 2]),
    "parameters in a set": dict(params=[{"params": {torch.ones(2)}}]),
    "parameter in two groups": dict(
        params=[{"params": [shared]}, {"params": [shared]}]
    ),
    "parameters half named": dict(params=[("a", torch.ones(2)), torch.ones(2)]),
    "group not a dict": dict(params=[{"params": [torch.ones(2)]}, [torch.ones(2)]]),
}


@by_name(REFUSED_BY_TORCH)
def test_refuses_in_the_words_of_torch(case: Options) -> None:
    with pytest.raises((ValueError, TypeError, RuntimeError)) as theirs:
        TorchSGD(**{"params": make_params(), **copy.copy(case)})
    with pytest.raises(theirs.type) as ours:
        SGD(**{"params": make_params(), **copy.copy(case)})
    assert str(ours.value) == str(theirs.value)


@by_name({k: v for k, v in REFUSED_BY_TORCH.items() if "params" not in v})
def test_refuses_the_same_in_one_group(case: Options) -> None:
    optimizer = SGD(make_params())
    with pytest.raises((ValueError, RuntimeError)):
        optimizer.add_param_group({"params": [torch.ones(2)], **case})
    assert len(optimizer.param_groups) == 1


WRONG_VALUES: dict[str, tuple[Any, type[Exception], str]] = {
    "nan": (float("nan"), ValueError, "must be finite, got nan"),
    "inf": (float("inf"), ValueError, "must be finite, got inf"),
    "nan tensor": (torch.tensor(torch.nan), ValueError, "must be finite, got nan"),
    "two elements": (torch.ones(2), ValueError, "must be 1-element"),
    "text": ("0.1", TypeError, "must be a number or a one-element tensor, got '0.1'"),
    "None": (None, TypeError, "must be a number or a one-element tensor, got None"),
    "complex tensor": (
        torch.tensor(1j),
        TypeError,
        r"must be .*, got tensor\(0",
    ),
    "array": (np.ones(2), TypeError, r"must be a number .*, got array\(\[1., 1.\]\)"),
}


@pytest.mark.parametrize("name", NUMBERS)
@by_name(WRONG_VALUES)
def test_refuses_wrong_numbers_by_name(
    case: tuple[Any, type[Exception], str], name: str
) -> None:
    value, error, message = case
    with pytest.raises(error, match=f"{name} {message}"):
        SGD(make_params(), **{name: value})
    with pytest.raises(error, match=f"{name} {message}"):
        SGD([{"params": make_params(), name: value}])


def test_group_may_switch_momentum_off_under_nesterov() -> None:
    optimizer = SGD(make_params(), momentum=0.9, nesterov=True)
    optimizer.add_param_group({"params": [torch.ones(2)], "momentum": 0})
    assert optimizer.param_groups[1]["nesterov"]


def test_refuses_differentiable_for_one_group() -> None:
    with pytest.raises(ValueError, match=r"one parameter group, got True .* has False"):
        SGD([{"params": make_params(), "differentiable": True}])


sparse = torch.ones(2).to_sparse()
REFUSED_GRADIENTS: dict[str, tuple[Options, Tensor, str]] = {
    "fused, complex": (
        dict(fused=True),
        torch.ones(2) * 1j,
        "`fused=True` requires all",
    ),
    "fused, sparse": (dict(fused=True), sparse, "does not support sparse gradients"),
}


@by_name(REFUSED_GRADIENTS)
def test_refuses_gradients_before_any_parameter_moves(
    case: tuple[Options, Tensor, str],
) -> None:
    options, grad, message = case
    good, bad = torch.ones(2), torch.ones(2, dtype=grad.dtype)
    good.grad, bad.grad = torch.ones(2), grad
    optimizer = SGD([{"params": good}, {"params": bad}], 0.1, 0.9, **options)
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert torch.equal(good, torch.ones(2))
    assert not optimizer.state
    with pytest.raises(RuntimeError):
        TorchSGD([bad], 0.1, 0.9, **options).step()

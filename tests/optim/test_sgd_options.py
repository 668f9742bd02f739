"""What SGD has beyond torch's: decay, compensation, flat memory; and compiling it."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import torch_mlcalc as mlc

Options = dict[str, Any]


# Decoupled weight decay


def test_decoupled_decay_equals_exact_arithmetic() -> None:
    lr, momentum, decay = Fraction(1, 4), Fraction(1, 2), Fraction(1, 8)
    theta, buffer = Fraction(3), Fraction(0)
    param = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    optimizer = mlc.SGD(
        [param], 0.25, 0.5, weight_decay=0.125, decoupled_weight_decay=True
    )
    for _ in range(4):
        optimizer.zero_grad()
        (param**2 / 2).backward()
        optimizer.step()
        buffer = momentum * buffer + theta
        theta = theta * (1 - lr * decay) - lr * buffer
        assert Fraction(param.item()) == theta


@pytest.mark.parametrize("body", [dict(foreach=False), dict(foreach=True), {}], ids=str)
def test_decoupled_decay_below_the_precision_of_its_tensors(body: Options) -> None:
    param = torch.ones(3, dtype=torch.float64)
    param.grad = torch.zeros_like(param)
    options = dict(weight_decay=torch.tensor(1e-5), decoupled_weight_decay=True)
    mlc.SGD([param], torch.tensor(1e-4), **options, **body).step()
    expected = torch.full_like(param, 1e-9)
    torch.testing.assert_close(1 - param, expected, rtol=1e-6, atol=0)


def test_decoupled_decay_of_a_sparse_gradient_shrinks_every_row() -> None:
    param = torch.ones(3, 2)
    param.grad = torch.tensor([[0.0, 0], [2, 2], [0, 0]]).to_sparse()
    mlc.SGD([param], 0.5, weight_decay=0.5, decoupled_weight_decay=True).step()
    assert param.tolist() == [[0.75, 0.75], [-0.25, -0.25], [0.75, 0.75]]


# Compensated updates


LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@LOW
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_compensated_follows_float32_where_rounding_would_stand_still(
    dtype: torch.dtype, momentum: float
) -> None:
    def after(dtype: torch.dtype, **options: object) -> Tensor:
        param = torch.linspace(1, 2, 9).to(dtype)
        optimizer = mlc.SGD([param], lr=1e-4, momentum=momentum, **options)
        for _ in range(300):
            param.grad = torch.ones_like(param)
            optimizer.step()
        return param.float()

    start = torch.linspace(1, 2, 9).to(dtype).float()
    exact = start + after(torch.float32) - torch.linspace(1, 2, 9)
    half_a_unit = torch.finfo(dtype).eps
    found = after(dtype, compensated=True)
    assert torch.all((found - exact).abs() <= half_a_unit)
    if momentum == 0:
        assert torch.equal(after(dtype), start)


@LOW
def test_compensated_sum_is_the_float32_parameter_to_16_bits(
    dtype: torch.dtype,
) -> None:
    param = torch.linspace(1, 2, 9).to(dtype)
    reference = param.float()
    options = dict(lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1)
    optimizer = mlc.SGD([param], compensated=True, **options)
    exact = mlc.SGD([reference], **options)
    for step in range(50):
        generator = torch.Generator().manual_seed(step)
        param.grad = torch.randn(9, generator=generator).to(dtype)
        reference.grad = param.grad.float()
        optimizer.step()
        exact.step()
    state = optimizer.state[param]
    assert state["momentum_buffer"].dtype == torch.float32
    assert state["compensation"].dtype == dtype
    whole = param.float() + state["compensation"]
    # 50 roundings of the compensation, each of 2^-8 of half a unit of the parameter.
    bound = 50 * torch.finfo(dtype).eps ** 2
    torch.testing.assert_close(whole, reference, rtol=0, atol=2 * bound)


def test_compensated_changes_nothing_for_float32() -> None:
    mlc.testing.check_optimizer(
        mlc.SGD,
        mlc.SGD,
        options=dict(momentum=0.9),
        reference_options=dict(compensated=True),
        dtypes=[torch.float32, torch.float64],
    )


def test_compensated_state_is_saved_and_loaded() -> None:
    def train(optimizer: mlc.SGD, steps: range) -> None:
        (param,) = optimizer.param_groups[0]["params"]
        for step in steps:
            param.grad = torch.full_like(param, 1 + step / 8)
            optimizer.step()

    whole, param = (torch.ones(5, dtype=torch.bfloat16) for _ in range(2))
    options = dict(lr=1e-3, momentum=0.9, compensated=True)
    train(mlc.SGD([whole], **options), range(20))
    first = mlc.SGD([param], **options)
    train(first, range(10))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = mlc.SGD([param], **options)
    second.load_state_dict(torch.load(file))
    train(second, range(10, 20))
    assert torch.equal(param, whole)


def test_refuses_compensation_of_parameters_of_another_shape() -> None:
    def trained(size: int) -> mlc.SGD:
        param = torch.ones(size, dtype=torch.bfloat16, requires_grad=True)
        param.grad = torch.ones_like(param)
        optimizer = mlc.SGD([param], compensated=True)
        optimizer.step()
        return optimizer

    with pytest.raises(ValueError, match=r"a compensation of shape \(3,\) .* \(2,\)"):
        trained(3).load_state_dict(trained(2).state_dict())


def test_compensated_takes_sparse_gradients() -> None:
    param = torch.ones(3, 2, dtype=torch.bfloat16)
    grad = torch.zeros_like(param)
    grad[1] = 0.25
    param.grad = grad.to_sparse()
    mlc.SGD([param], lr=1.0, compensated=True).step()
    assert param.tolist() == [[1, 1], [0.75, 0.75], [1, 1]]


# Flat groups


def model_of(*sizes: int) -> nn.Sequential:
    torch.manual_seed(4)
    pairs = zip(sizes, sizes[1:], strict=False)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairs))


def blocks_of(tensors: list[Tensor]) -> int:
    return len({tensor.untyped_storage().data_ptr() for tensor in tensors})


def test_flat_parameters_share_a_block_and_keep_values_and_identity() -> None:
    model = model_of(3, 5, 2)
    params = list(model.parameters())
    before = copy.deepcopy(params)
    optimizer = mlc.SGD(params, flat=True, momentum=0.9)
    assert blocks_of(params) == 1
    assert all(map(torch.equal, params, before))
    assert [id(p) for p in model.parameters()] == [id(p) for p in params]
    assert all(p.data_ptr() % 64 == params[0].data_ptr() % 64 for p in params)
    optimizer.zero_grad(set_to_none=False)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    assert blocks_of([param.grad for param in params]) == 1
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    buffers = [optimizer.state[param]["momentum_buffer"] for param in params]
    assert blocks_of(buffers) == 1
    assert all(torch.any(param.grad != 0) for param in params)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_flat_training_equals_that_without(set_to_none: bool) -> None:
    def train(**options: bool) -> list[Tensor]:
        model = model_of(3, 5, 4, 2)
        frozen = model[1].weight.requires_grad_(False)
        optimizer = mlc.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.1, **options)
        for step in range(8):
            if step == 4:
                frozen.requires_grad_(True)
                model.to(torch.float64)
                optimizer.add_param_group({"params": [torch.ones(2)], "lr": 1.0})
            optimizer.zero_grad(set_to_none)
            model(torch.ones(4, 3, dtype=frozen.dtype)).square().sum().backward()
            optimizer.step()
        return list(model.parameters())

    for a, b in zip(train(flat=True), train(foreach=False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_flat_unscales_without_writing_to_grad() -> None:
    param, other = torch.ones(4, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = mlc.SGD([param, other], 0.25, fused=True, flat=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        scaler.scale(param.sum() + other.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert param.grad.tolist() == [8] * 4
    assert (param.tolist(), other.tolist()) == ([0.5] * 4, [0.5] * 2)


def test_flat_keeps_precise_momentum_of_a_checkpoint() -> None:
    param = torch.ones(3, dtype=torch.bfloat16)
    optimizer = mlc.SGD([param], momentum=0.5, flat=True)
    state = optimizer.state_dict()
    precise = torch.full((3,), 1 + 2**-20)
    state["state"] = {0: {"momentum_buffer": precise}}
    state["param_groups"][0]["flat"] = False
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["flat"]
    param.grad = torch.zeros_like(param)
    optimizer.step()
    assert torch.equal(optimizer.state[param]["momentum_buffer"], precise / 2)


def test_flat_takes_momentum_of_a_wider_checkpoint() -> None:
    def run(flat: bool) -> Tensor:
        param = torch.ones(40)
        optimizer = mlc.SGD([param], 0.1, momentum=0.5, flat=flat, foreach=None)
        state = optimizer.state_dict()
        wide = torch.linspace(0, 1, 40, dtype=torch.float64)
        state["state"] = {0: {"momentum_buffer": wide}}
        optimizer.load_state_dict(state)
        for step in range(3):
            param.grad = torch.full_like(param, float(step))
            optimizer.step()
        assert optimizer.state[param]["momentum_buffer"].dtype == torch.float64
        return param

    torch.testing.assert_close(run(True), run(False), rtol=1e-6, atol=0)


def test_flat_can_be_switched_off_and_on() -> None:
    param, other = torch.ones(4, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = mlc.SGD([param, other], 0.5, 0.5, flat=True)
    for flat, expected in ((True, 0.5), (False, -0.25), (True, -1.125)):
        optimizer.param_groups[0]["flat"] = flat
        param.grad, other.grad = torch.ones(4), torch.ones(2)
        optimizer.step()
        assert (param.tolist(), other.tolist()) == ([expected] * 4, [expected] * 2)


def test_flat_leaves_the_gradients_of_others_where_they_are() -> None:
    bucket = torch.zeros(6)
    param = torch.ones(4, requires_grad=True)
    param.grad = bucket[:4]
    optimizer = mlc.SGD([param], flat=True)
    optimizer.zero_grad(set_to_none=False)
    assert param.grad.tolist() == [0] * 4
    sparse = torch.ones(2, 2, requires_grad=True)
    sparse.grad = torch.ones(2, 2).to_sparse()
    mlc.SGD([sparse], flat=True).zero_grad(set_to_none=False)
    assert sparse.grad.is_sparse


block = torch.ones(12)
UNMOVABLE: dict[str, tuple[Any, str]] = {
    "view": (
        lambda: [torch.ones(3), block[2:5]],
        "parameter 1 .* is a view of another",
    ),
    "gaps": (lambda: [with_gaps()], "has gaps or overlaps .* strides \\(2,\\)"),
    "shared with processes": (lambda: [torch.ones(3).share_memory_()], "shared with"),
    "sparse": (lambda: [torch.ones(3).to_sparse()], "of layout torch.sparse_coo"),
    "lazy": (
        lambda: [nn.LazyLinear(2).weight],
        "shape unknown, has no memory before the model has run once; run it first",
    ),
}


def with_gaps() -> Tensor:
    param = torch.ones(2)
    param.data = torch.ones(4)[::2]
    return param


def alias() -> tuple[Tensor, Tensor]:
    first, second = torch.ones(4), torch.ones(4)
    second.data = first.data
    return first, second


@pytest.mark.parametrize("name", UNMOVABLE)
def test_flat_refuses_what_it_cannot_move(name: str) -> None:
    make, message = UNMOVABLE[name]
    with pytest.raises(ValueError, match=message):
        mlc.SGD(make(), flat=True)
    optimizer = mlc.SGD([torch.ones(1)])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": make(), "flat": True})
    assert len(optimizer.param_groups) == 1


def test_flat_refuses_parameters_that_share_memory() -> None:
    with pytest.raises(ValueError, match="two parameters share theirs"):
        mlc.SGD(list(alias()), flat=True)


CONFLICTS = [
    dict(flat=True, differentiable=True),
    dict(flat=True, compensated=True),
    dict(compensated=True, differentiable=True),
]


@pytest.mark.parametrize("options", CONFLICTS, ids=str)
def test_refuses_switches_that_exclude_each_other(options: Options) -> None:
    first, second = options
    with pytest.raises(RuntimeError, match=f"`{first}` does not support `{second}`"):
        mlc.SGD([torch.ones(2)], **options)


def test_refuses_switches_that_come_to_exclude_each_other() -> None:
    param, other = torch.ones(2), torch.ones(3)
    optimizer = mlc.SGD([{"params": [other]}, {"params": [param], "flat": True}])
    state = optimizer.state_dict()
    state["param_groups"][1].update(compensated=True, flat=False)
    with pytest.raises(RuntimeError, match="`flat` does not support `compensated`"):
        optimizer.load_state_dict(state)
    assert not optimizer.param_groups[1]["compensated"]
    optimizer.param_groups[1]["compensated"] = True
    param.grad, other.grad = torch.ones(2), torch.ones(3)
    with pytest.raises(RuntimeError, match="`flat` does not support `compensated`"):
        optimizer.step()
    assert param.tolist() == [1, 1] and other.tolist() == [1, 1, 1]


# Loading


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay", "dampening"])
def test_refuses_numbers_of_a_checkpoint_as_those_of_a_group(name: str) -> None:
    optimizer = mlc.SGD([torch.ones(2)], lr=0.25, momentum=0.9, nesterov=True)
    state = optimizer.state_dict()
    state["param_groups"][0].update({"weight_decay": 0.5, name: float("nan")})
    with pytest.raises(ValueError, match=f"{name} must be finite, got nan"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["weight_decay"] == 0
    state["param_groups"][0].update({name: 0.0})
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0][name] == 0
    assert optimizer.param_groups[0]["nesterov"]


def test_hooks_around_loading_see_and_change_what_is_loaded() -> None:
    param = torch.ones(2, dtype=torch.bfloat16)
    optimizer = mlc.SGD([param], momentum=0.9)
    seen = []

    def change(_: object, state_dict: Options) -> Options:
        buffer = torch.full((2,), 1 + 2**-20)
        return {**state_dict, "state": {0: {"momentum_buffer": buffer}}}

    def look(optimizer: mlc.SGD) -> None:
        seen.append(optimizer.state[param]["momentum_buffer"].dtype)

    optimizer.register_load_state_dict_pre_hook(change)
    optimizer.register_load_state_dict_post_hook(look)
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == [torch.float32] * 2


def test_loading_twice_keeps_what_flat_is_now() -> None:
    optimizer = mlc.SGD([torch.ones(3, requires_grad=True)], momentum=0.9)
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    optimizer.param_groups[0]["flat"] = True
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["flat"]


def test_loading_widens_momentum_for_wider_parameters_as_torch_does() -> None:
    narrow = torch.ones(2, dtype=torch.bfloat16)
    first = mlc.SGD([narrow], momentum=0.9)
    narrow.grad = torch.ones_like(narrow)
    first.step()
    wide = torch.ones(2)
    second = mlc.SGD([wide], momentum=0.9)
    second.load_state_dict(first.state_dict())
    assert second.state[wide]["momentum_buffer"].dtype == torch.float32


# Compiling


@pytest.mark.parametrize("flat", [False, True], ids=["separate", "flat"])
def test_a_compiled_step_is_not_compiled_again_for_another_lr(flat: bool) -> None:
    def params() -> list[Tensor]:
        generator = torch.Generator().manual_seed(1)
        draw = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
        return [draw(n).requires_grad_() for n in (3, 5)]

    def train(step: Callable[[], None], params: list[Tensor], lr: Tensor) -> list[int]:
        compiled = []
        for i in range(6):
            lr.fill_(0.1 / (1 + i))
            for param in params:
                param.grad = torch.full_like(param, 1.0 + i)
            step()
            compiled.append(counter.frame_count)
        return compiled

    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    lr = torch.tensor(0.1)
    found, expected = params(), params()
    options = dict(momentum=0.9, weight_decay=0.1, nesterov=True)
    optimizer = mlc.SGD(found, lr, flat=flat, **options)
    step = torch.compile(optimizer.step, backend=counter, fullgraph=True)
    # Once for the first step, which makes the buffers, and once for the others.
    assert train(step, found, lr) == [1, 2, 2, 2, 2, 2]
    other = torch.tensor(0.1)
    reference = mlc.SGD(expected, other, foreach=False, **options)
    train(reference.step, expected, other)
    # The compiler multiplies by a tensor lr before it adds, which rounds twice.
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)


def test_a_compiled_step_is_compensated_too() -> None:
    param = torch.ones(3, dtype=torch.bfloat16)
    optimizer = mlc.SGD([param], lr=2.0**-10, compensated=True)
    torch.compiler.reset()
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)
    for _ in range(16):
        param.grad = torch.ones_like(param)
        step()
    # Alone, none of the steps of 2^-10 would move a bfloat16 of 1 far enough.
    assert param.tolist() == [1 - 2.0**-6] * 3

"""What callers do to an optimizer, in every body: equal to the loop, or refused."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, SupportsFloat

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

import torch_mlcalc as mlc

TorchSGD = torch.optim.SGD
Options = dict[str, Any]
BODIES: dict[str, Options] = {
    "default": {},
    "loop": dict(foreach=False),
    "foreach": dict(foreach=True),
    "fused": dict(fused=True),
    "flat": dict(flat=True),
}
every_body = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)


def make_params(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    tensors = [torch.randn(s, generator=generator) for s in ((3, 4), (5,), (), (0, 2))]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def train(optimizer: Optimizer, start: int = 0, stop: int = 4) -> list[Tensor]:
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        for param in params:
            grad = torch.randn(param.shape, generator=generator, device="cpu")
            param.grad = grad.to(param)
        optimizer.step()
    return params


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)


# Where tensors are, and what they are


@every_body
@pytest.mark.parametrize("decoupled", [False, True])
def test_the_default_device_does_not_matter(body: Options, decoupled: bool) -> None:
    options = dict(momentum=0.9, weight_decay=0.1, decoupled_weight_decay=decoupled)
    optimizer = mlc.SGD(make_params(), 0.1, **options, **body)
    with torch.device("meta"):
        found = train(optimizer)
    assert_close(found, train(mlc.SGD(make_params(), 0.1, foreach=False, **options)))


@every_body
def test_parameters_without_memory_beside_others(body: Options) -> None:
    def run(devices: list[str], **options: bool) -> list[Tensor]:
        params = [torch.ones(3, device=device) for device in devices]
        train(mlc.SGD(params, 0.1, momentum=0.9, **options))
        return [param for param in params if param.device.type == "cpu"]

    found = run(["meta", "cpu", "meta", "cpu"], **body)
    torch.testing.assert_close(found[0], run(["cpu"] * 4, foreach=False)[1])


@every_body
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradients_of_another_dtype(body: Options, momentum: float) -> None:
    def run(**options: bool) -> tuple[Tensor, Any]:
        param = torch.linspace(0, 1, 40).bfloat16()
        param.grad_dtype = None
        other = torch.ones(3, dtype=torch.bfloat16)
        optimizer = mlc.SGD([param, other], 0.1, momentum=momentum, **options)
        for step in range(3):
            param.grad = torch.linspace(1, 2, 40) / (step + 3)
            other.grad = torch.ones_like(other)
            optimizer.step()
        return param, optimizer.state.get(param, {}).get("momentum_buffer")

    found, expected = run(**body), run(foreach=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert momentum == 0 or found[1].dtype == torch.float32


@every_body
def test_a_scale_and_an_overflow_set_by_the_caller(body: Options) -> None:
    params = make_params()
    params[1].grad_dtype = None
    optimizer = mlc.SGD(params, 0.5, momentum=0.5, **body)
    before = copy.deepcopy(params)

    def step(**attributes: Tensor) -> None:
        for param in params:
            param.grad = torch.full_like(param, 4.0)
        # Not all bodies take it together with the others.
        params[1].grad = params[1].grad.to(torch.float32)
        for name, value in attributes.items():
            setattr(optimizer, name, value)
        optimizer.step()

    step(found_inf=torch.tensor(1.0), grad_scale=torch.tensor([4.0]))
    assert all(map(torch.equal, params, before))
    assert not optimizer.state
    step(found_inf=torch.tensor(0.0))
    step(grad_scale=torch.tensor(2.0))
    # Steps of lr times 1, then of lr times 0.5 * 1 + 2.
    assert_close(params, [p - 0.5 - 1.25 for p in before])


@every_body
def test_a_parameter_without_gradient_may_be_in_a_graph(body: Options) -> None:
    first, second = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = mlc.SGD([first, second], 0.25, **body)
    later = (first**2).sum()
    for set_to_none in (True, False):
        optimizer.zero_grad(set_to_none)
        second.grad = torch.ones(2)
        optimizer.step()
        first.grad = None
    later.backward()
    optimizer.step()
    assert first.tolist() == [0.5, 0.5]


@every_body
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("set_to_none", [True, False])
def test_inference_mode_may_come_and_go(
    set_to_none: bool, threads: int, body: Options
) -> None:
    torch.set_num_threads(threads)

    def run(inference: tuple[int, ...], **options: bool) -> list[Tensor]:
        params = [param for param in make_params() if param.numel()]
        optimizer = mlc.SGD(params, 0.1, momentum=0.9, **options)
        for step in range(6):
            with torch.inference_mode(step in inference):
                optimizer.zero_grad(set_to_none)
            torch.stack([(p**2).sum() for p in params]).sum().backward()
            with torch.inference_mode(step in inference):
                optimizer.step()
        return params

    assert_close(run((1, 3, 4), **body), run((), foreach=False))


@every_body
def test_steps_inside_the_backward_pass(body: Options) -> None:
    def run(in_backward: bool, **options: bool) -> list[Tensor]:
        params = make_params()[:3]
        optimizers = [mlc.SGD([p], 0.1, momentum=0.9, **options) for p in params]

        def update(param: Tensor) -> None:
            (i,) = (i for i, p in enumerate(params) if p is param)
            optimizers[i].step()
            optimizers[i].zero_grad()

        for _ in range(3):
            handles = [
                p.register_post_accumulate_grad_hook(update)
                for p in params
                if in_backward
            ]
            torch.stack([(p**2).sum() for p in params]).sum().backward()
            for param in params if not in_backward else ():
                update(param)
            for handle in handles:
                handle.remove()
        return params

    assert_close(run(True, **body), run(False, foreach=False))


@every_body
@pytest.mark.parametrize("threads", [1, 2])
def test_two_parameters_with_one_gradient(threads: int, body: Options) -> None:
    torch.set_num_threads(threads)

    def run(**options: bool) -> list[Tensor]:
        params = [torch.ones(3), torch.ones(3)]
        optimizer = mlc.SGD(params, 0.1, momentum=0.9, **options)
        for step in range(4):
            params[0].grad = params[1].grad = torch.full((3,), 1.0 + step)
            optimizer.step()
        return params

    for found, wanted in zip(run(**body), run(foreach=False), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


LAZY: dict[str, Callable[[], Tensor]] = {
    "negative": lambda: torch._neg_view(torch.ones(3)),
    "conjugate": lambda: torch.tensor([1 + 2j, 2j, 3]).conj(),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", ["param", "grad"])
@pytest.mark.parametrize("kind", LAZY)
@pytest.mark.parametrize("name", ["default", "foreach", "fused", "flat"])
def test_memory_that_lacks_its_sign(
    kind: str, what: str, threads: int, name: str
) -> None:
    torch.set_num_threads(threads)
    if (kind, name) == ("conjugate", "fused") or (what, name) == ("param", "flat"):
        return  # Refused, as complex numbers and views are.

    def run(**options: bool) -> list[Tensor]:
        lazy = LAZY[kind]
        param = lazy() if what == "param" else lazy().resolve_conj().resolve_neg()
        other = torch.ones(2, dtype=param.dtype)
        optimizer = mlc.SGD([param, other], 0.1, momentum=0.9, **options)
        for step in range(4):
            param.grad, other.grad = lazy().clone(), torch.ones_like(other)
            if what == "grad" and step != 2:
                param.grad = lazy()
            optimizer.step()
        return [param, other]

    for found, wanted in zip(run(**BODIES[name]), run(foreach=False), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@every_body
@pytest.mark.parametrize(
    "number", [Fraction(1, 8), Decimal("0.125"), np.array(0.125), True], ids=repr
)
def test_numbers_of_every_kind(number: SupportsFloat, body: Options) -> None:
    options = dict(lr=number, momentum=number, weight_decay=number)
    as_float = {name: float(number) for name in options}
    for more in ({}, dict(decoupled_weight_decay=True)):
        found = train(mlc.SGD(make_params(), **options, **more, **body))
        expected = train(mlc.SGD(make_params(), **as_float, **more, foreach=False))
        assert_close(found, expected)


# Memory that is shared


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with dupl")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["default", "foreach", "fused"])
def test_a_parameter_that_is_in_a_group_twice(name: str, threads: int) -> None:
    torch.set_num_threads(threads)

    def run(**options: bool) -> list[Tensor]:
        param, other = torch.ones(3), torch.ones(2)
        params = [param, other, param]
        optimizer = mlc.SGD(params, 0.1, momentum=0.9, weight_decay=0.1, **options)
        for step in range(4):
            param.grad, other.grad = torch.full((3,), 1.0 + step), torch.ones(2)
            optimizer.step()
        return [param, other, optimizer.state[param]["momentum_buffer"]]

    for found, wanted in zip(run(**BODIES[name]), run(foreach=False), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def shares_memory(second_shape: tuple[int, ...] = (6,)) -> list[Tensor]:
    first, second = torch.ones(6), torch.ones(second_shape)
    second.data = first.data[-second.numel() :].view(second_shape)
    return [first, second]


@pytest.mark.parametrize("flat", [(True, True), (True, False), (False, True)], ids=str)
def test_flat_does_not_untie_parameters_of_other_groups(
    flat: tuple[bool, bool],
) -> None:
    for shape in ((6,), (2, 1)):
        groups = [
            {"params": [param], "flat": is_flat}
            for param, is_flat in zip(shares_memory(shape), flat, strict=True)
        ]
        with pytest.raises(ValueError, match="two parameters share theirs, one of the"):
            mlc.SGD(groups)


def test_flat_does_not_untie_what_begins_in_one_of_two_that_are_nested() -> None:
    outer = torch.ones(12)
    inner, flat = torch.ones(2), torch.ones(2)
    inner.data, flat.data = outer.data[1:3], outer.data[6:8]
    with pytest.raises(ValueError, match="two parameters share theirs, one of the"):
        mlc.SGD([{"params": [outer, inner]}, {"params": [flat], "flat": True}])


def test_flat_refuses_a_late_group_that_shares_memory_and_stays_as_it_was() -> None:
    first, second = shares_memory()
    optimizer = mlc.SGD([first])
    with pytest.raises(ValueError, match="two parameters share theirs"):
        optimizer.add_param_group({"params": [second], "flat": True})
    assert [group["params"] for group in optimizer.param_groups] == [[first]]
    assert first.data_ptr() == second.data_ptr()


def test_flat_takes_parameters_that_lie_side_by_side_or_share_elsewhere() -> None:
    block = torch.arange(6.0)
    params = [torch.empty(3), torch.empty(3)]
    for param, start in zip(params, (0, 3), strict=True):
        param.data = block[start : start + 3]
    tied = shares_memory()
    optimizer = mlc.SGD([{"params": params, "flat": True}, {"params": tied}], 1.0)
    for param in (*params, *tied):
        param.grad = torch.ones_like(param)
    optimizer.step()
    assert [p.tolist() for p in params] == [[-1, 0, 1], [2, 3, 4]]
    assert tied[0].tolist() == [-1] * 6


@every_body
def test_gradients_that_were_kept_stay_as_they_were(body: Options) -> None:
    params = make_params()
    optimizer = mlc.SGD(params, 0.1, momentum=0.9, **body)

    def backward(factor: float, set_to_none: bool) -> list[Tensor]:
        optimizer.zero_grad(set_to_none)
        torch.stack([(factor * p).sum() for p in params]).sum().backward()
        return [param.grad for param in params]

    for _ in range(2):
        kept = backward(1.0, False)
    optimizer.step()
    backward(2.0, True)
    optimizer.step()
    # As for one step along the mean of two gradients.
    for param, grad in zip(params, kept, strict=True):
        param.grad = (param.grad + grad) / 2
    optimizer.step()
    assert_close(kept, [torch.ones_like(param) for param in params])


@every_body
@pytest.mark.parametrize("what", ["param", "grad", "momentum"])
def test_notices_data_that_was_replaced(body: Options, what: str) -> None:
    def run(**options: bool) -> list[Tensor]:
        params = make_params()
        optimizer = mlc.SGD(params, 0.1, momentum=0.9, **options)
        for step in range(6):
            # With flat, gradients are views of its block from the second step on.
            optimizer.zero_grad(set_to_none=False)
            torch.stack([(p**2).sum() for p in params]).sum().backward()
            if step > 2:
                tensors = {
                    "param": params,
                    "grad": [param.grad for param in params],
                    "momentum": [
                        s["momentum_buffer"] for s in optimizer.state.values()
                    ],
                }
                for tensor in tensors[what]:
                    tensor.data = tensor.data + 1
            optimizer.step()
        return params

    assert_close(run(**body), run(foreach=False))


@pytest.mark.parametrize("set_to_none", [True, False])
def test_flat_refuses_a_vector_that_now_repeats_one_element(set_to_none: bool) -> None:
    param = torch.arange(4.0, requires_grad=True)
    optimizer = mlc.SGD([param], 0.1, flat=True)
    for step in range(3):
        if step == 2:
            param.data = param.data.as_strided((4,), (0,))
        optimizer.zero_grad(set_to_none=False) if not set_to_none and step < 2 else None
        param.grad = torch.ones(4) if set_to_none else param.grad
        if step < 2:
            optimizer.step()
    with pytest.raises(ValueError, match=r"has gaps or overlaps in memory"):
        optimizer.step() if set_to_none else optimizer.zero_grad(set_to_none=False)


def test_flat_follows_a_vector_that_became_shorter() -> None:
    def run(flat: bool) -> Tensor:
        param = torch.arange(4.0).requires_grad_()
        optimizer = mlc.SGD([param], 0.1, flat=flat)
        for step in range(4):
            if step == 2:
                param.grad = None
                param.data = param.data[:1]
            optimizer.zero_grad(set_to_none=False)
            (param**2).sum().backward()
            optimizer.step()
        return param

    torch.testing.assert_close(run(True), run(False), rtol=0, atol=0)


LATE: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": Tensor.to_sparse,
    "every other": lambda grad: torch.stack([grad, grad], -1)[..., 0],
    "expanded": lambda grad: grad.new_tensor(0.5).expand(grad.shape),
    "with a graph": lambda grad: grad.clone().requires_grad_() * 2,
    "parameter": nn.Parameter,
}


@every_body
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("kind", LATE)
def test_takes_a_gradient_of_another_kind_late(
    kind: str, momentum: float, threads: int, body: Options
) -> None:
    torch.set_num_threads(threads)

    def run(**options: bool) -> list[Tensor]:
        params = [torch.ones(s, requires_grad=True) for s in ((4,), (3, 2), (5,))]
        optimizer = mlc.SGD(params, 0.1, momentum=momentum, **options)
        for step in range(5):
            for i, param in enumerate(params):
                grad = torch.full_like(param, step + i, requires_grad=False)
                param.grad = LATE[kind](grad) if step == 3 else grad
            optimizer.step()
        return params

    if kind == "sparse" and body.get("fused"):
        with pytest.raises(RuntimeError, match="does not support sparse gradients"):
            run(**body)
        return
    for found, wanted in zip(run(**body), run(foreach=False), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("first", ["sparse", "dense"])
@pytest.mark.parametrize(
    "body", [{}, dict(foreach=False), dict(flat=True), dict(compensated=True)], ids=str
)
def test_sparse_and_dense_gradients_take_turns(
    body: Options, first: str, nesterov: bool
) -> None:
    def run(sparse_at: int | None, **options: bool) -> list[Tensor]:
        param = torch.ones(4, 3, dtype=torch.bfloat16, requires_grad=True)
        optimizer = mlc.SGD([param], 0.5, 0.5, nesterov=nesterov, **options)
        weights, buffers = [torch.ones(4, 3)], None
        for step in range(5):
            grad = torch.zeros(4, 3)
            grad[step % 4] = step + 1
            grad = grad.to_sparse() if step % 2 == sparse_at else grad
            param.grad = grad.to(param.dtype)
            optimizer.step()
            weights, buffers = mlc.sgd_step(
                weights, [grad], buffers, lr=0.5, momentum=0.5, nesterov=nesterov
            )
        return [param, *weights]

    found, expected = run(0 if first == "sparse" else 1, **body), run(None)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("body", [{}, dict(foreach=False), dict(foreach=True)], ids=str)
def test_sparse_parameters_with_weight_decay(body: Options) -> None:
    options = dict(lr=0.5, momentum=0.5, weight_decay=0.25, nesterov=True)
    grads = [torch.eye(3)[i].diag().to_sparse() for i in range(3)]

    def run(cls: type[Any], **body: bool) -> Tensor:
        param = torch.ones(3, 3).tril().to_sparse()
        optimizer = cls([param], **options, **body)
        for grad in grads:
            param.grad = grad
            optimizer.step()
        return param.to_dense()

    expected = run(TorchSGD)
    assert torch.equal(run(mlc.SGD, **body), expected)
    params, buffers = [torch.ones(3, 3).tril().to_sparse()], None
    for grad in grads:
        params, buffers = mlc.sgd_step(params, [grad], buffers, **options)
    assert torch.equal(params[0].to_dense(), expected)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sparse_gradients_change_nothing_beside_a_view(
    momentum: float, threads: int
) -> None:
    torch.set_num_threads(threads)

    def run(is_sparse: Callable[[int], bool]) -> Tensor:
        memory = torch.zeros(12)
        param = memory[3:6].requires_grad_()
        optimizer = mlc.SGD([param], 0.1, momentum=momentum)
        for step in range(4):
            grad = torch.ones(3) * step
            param.grad = grad.to_sparse() if is_sparse(step) else grad
            optimizer.step()
        assert not memory[:3].any() and not memory[6:].any()
        return param

    expected = run(lambda step: False)
    for is_sparse in (lambda step: True, lambda step: step == 3):
        torch.testing.assert_close(run(is_sparse), expected)


@pytest.mark.filterwarnings("ignore:grad and param do not obey the gradient layout")
@every_body
@pytest.mark.parametrize("what", ["param", "grad", "momentum"])
def test_notices_data_that_was_transposed_where_it_is(body: Options, what: str) -> None:
    def run(**options: bool) -> list[Tensor]:
        values = torch.arange(9.0).reshape(3, 3).clone(), torch.ones(2)
        params = [value.requires_grad_() for value in values]
        optimizer = mlc.SGD(params, 0.1, momentum=0.9, **options)
        for step in range(6):
            optimizer.zero_grad(set_to_none=False)
            torch.stack([(p**2).sum() for p in params]).sum().backward()
            if step in (2, 3, 5):
                state = optimizer.state[params[0]]
                tensors = {
                    "param": params[0],
                    "grad": params[0].grad,
                    "momentum": state["momentum_buffer"],
                }
                tensors[what].data = tensors[what].data.t()
            optimizer.step()
        return params

    expected = run(foreach=False)
    for found, wanted in zip(run(**body), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_flat_lends_its_memory_again_after_gradients_were_moved() -> None:
    params = make_params()[:2]
    optimizer = mlc.SGD(params, 0.1, flat=True)

    def gradients() -> list[Tensor]:
        optimizer.zero_grad(set_to_none=False)
        torch.stack([(p**2).sum() for p in params]).sum().backward()
        return [param.grad for param in params]

    gradients()
    for grad in gradients():
        grad.data = grad.data.clone()
    optimizer.step()
    places = {grad.untyped_storage().data_ptr() for grad in gradients()}
    assert len(places) == 1


# Saving, loading, copying


@every_body
@pytest.mark.parametrize("to_torch", [True, False], ids=["to torch", "from torch"])
def test_state_is_exchanged_with_torch(body: Options, to_torch: bool) -> None:
    options = dict(lr=0.1, momentum=0.9, weight_decay=0.1)
    expected = train(TorchSGD(make_params(), foreach=False, **options), 0, 6)
    classes: list[tuple[type[Any], Options]] = [(mlc.SGD, body), (TorchSGD, {})]
    (first, more), (second, others) = classes if to_torch else reversed(classes)
    started = first(make_params(), **options, **more)
    params = train(started, 0, 3)
    state = copy.deepcopy(started.state_dict())
    other = second([p.detach().clone() for p in params], lr=9.0, **others)
    other.load_state_dict(state)
    found = train(other, 3, 6)
    assert_close(found, [param.detach() for param in expected])


@every_body
def test_refuses_the_state_of_parameters_of_another_shape(body: Options) -> None:
    one = mlc.SGD([torch.ones(2), torch.ones(1)], momentum=0.9, **body)
    params = train(one)
    other = mlc.SGD([torch.ones(2), torch.ones(3)], momentum=0.5, **body)
    message = r"momentum_buffer of shape \(3,\) for parameter 1, got \(1,\)"
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(one.state_dict())
    assert not other.state
    assert other.param_groups[0]["momentum"] == 0.5
    assert len(params) == 2


def test_state_that_is_not_its_own_is_loaded_and_left_alone() -> None:
    optimizer = mlc.SGD([torch.ones(2)], momentum=0.9)
    (param,) = train(optimizer)
    state = optimizer.state_dict()
    state["state"][0]["steps"] = torch.tensor(4)
    optimizer.load_state_dict(state)
    train(optimizer)
    assert optimizer.state[param]["steps"] == 4


@every_body
@pytest.mark.parametrize("groups", [[[1], [2]], [[1, 2]]], ids=["groups", "length"])
def test_refuses_another_number_of_groups_as_torch_does(
    body: Options, groups: list[list[int]]
) -> None:
    def load(cls: type[Any], **options: bool) -> str:
        given = [{"params": [torch.ones(n) for n in sizes]} for sizes in groups]
        optimizer = cls(given, momentum=0.9, **options)
        with pytest.raises(ValueError) as error:
            optimizer.load_state_dict(cls([torch.ones(1)], **options).state_dict())
        assert len(optimizer.param_groups) == len(groups)
        return str(error.value)

    assert load(mlc.SGD, **body) == load(TorchSGD)


@every_body
def test_pickles_and_goes_on(body: Options) -> None:
    optimizer = mlc.SGD(make_params(), 0.1, momentum=0.9, **body)
    train(optimizer, 0, 3)
    twin = pickle.loads(pickle.dumps(optimizer))
    found, expected = train(twin, 3, 6), train(optimizer, 3, 6)
    assert all(map(torch.equal, found, expected))
    twin.add_param_group({"params": [torch.ones(2)], **body})
    train(twin, 6, 7)


# Nothing to do


@every_body
def test_gradients_of_zero_and_none_change_nothing(body: Options) -> None:
    params = make_params()
    before = copy.deepcopy(params)
    optimizer = mlc.SGD(params, 0.1, momentum=0.9, nesterov=True, **body)
    optimizer.step()
    assert not optimizer.state
    optimizer.zero_grad(set_to_none=False)
    assert all(param.grad is None for param in params)
    for param in params:
        param.grad = torch.zeros_like(param)
    optimizer.step()
    assert all(map(torch.equal, params, before))


@every_body
def test_groups_without_parameters(body: Options) -> None:
    optimizer = mlc.SGD([{"params": []}, {"params": [torch.ones(2)]}], 0.5, **body)
    optimizer.zero_grad(set_to_none=False)
    (param,) = train(optimizer)
    del optimizer.param_groups[0]
    train(optimizer)
    assert torch.all(param != 1)


# Calls that torch sees


class Calls(TorchDispatchMode):
    """Counts what reaches the dispatcher, but for views and the marks of a profiler."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Options | None = None,
    ) -> object:
        if "profiler" not in str(func) and not func.is_view:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_flat_takes_one_kernel_however_many_parameters(momentum: float) -> None:
    params = [torch.ones(3, requires_grad=True) for _ in range(50)]
    optimizer = mlc.SGD(params, 0.1, momentum=momentum, flat=True)
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        torch.stack(params).square().sum().backward()
        optimizer.step()
    with Calls() as calls:
        optimizer.step()
    kernel = "aten._fused_sgd_.default" if momentum else "aten.add_.Tensor"
    assert calls.names == [kernel]


# All bodies are the same one when they are compiled, so that one or two are enough.


def test_a_compiled_step_is_not_compiled_again_for_another_number() -> None:
    torch.compiler.reset()
    # Others make constants of numbers, with torch.optim.SGD too; tensors are for those.
    counter = CompileCounterWithBackend("eager")
    options = dict(momentum=0.9, weight_decay=0.1, nesterov=True)
    params = [make_params() for _ in range(2)]
    optimizer = mlc.SGD(params[0], 0.1, **options)
    optimizer.step = torch.compile(optimizer.step, backend=counter, fullgraph=True)
    reference = mlc.SGD(params[1], 0.1, foreach=False, **options)
    compiled = []
    for i in range(5):
        for each in (optimizer, reference):
            each.param_groups[0]["lr"] = 0.1 / (1 + i)
            train(each, i, i + 1)
        compiled.append(counter.frame_count)
    # Once for the first step, and once where numbers and buffers turn out to vary.
    assert compiled == [1, 2, 2, 2, 2]
    torch.testing.assert_close(*params, rtol=1e-13, atol=1e-14)


# torch's compiler looks at the .grad of the loss.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("body", [{}, dict(flat=True)], ids=str)
def test_a_compiled_training_step(body: Options) -> None:
    def run(wrap: Callable[[Any], Any], **options: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        optimizer = mlc.SGD(model.parameters(), 0.1, momentum=0.9, **options)

        def step(features: Tensor) -> Tensor:
            optimizer.zero_grad()
            loss = model(features).square().mean()
            loss.backward()
            optimizer.step()
            return loss

        step = wrap(step)
        losses = [step(torch.ones(5, 3, dtype=torch.float64)) for _ in range(4)]
        return [*model.parameters(), torch.stack(losses)]

    torch.compiler.reset()
    found = run(lambda f: torch.compile(f, backend="eager"), **body)
    assert_close(found, run(lambda f: f, foreach=False))

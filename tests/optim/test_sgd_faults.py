"""Faults of torch.optim.SGD 2.13, one test each, and the right answer beside it.

What torch does is shown as well. The day it does better a warning says so, and the
test of the right answer goes on.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import torch_mlcalc as mlc

TorchSGD = torch.optim.SGD


def torch_does(fault: str, shown: bool) -> None:
    """Say so if torch no longer has a fault; nothing here depends on it."""
    if not shown:
        warnings.warn(f"torch {torch.__version__} is right now: {fault}", stacklevel=2)


pytestmark = pytest.mark.filterwarnings("default:torch .* is right now")


def with_grad(values: Tensor, grad: Tensor) -> Tensor:
    param = values.clone().requires_grad_()
    param.grad = grad
    return param


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fused_updates_all_elements_in_low_precision(dtype: torch.dtype) -> None:
    def after_a_step(cls: type[Any]) -> Tensor:
        param = with_grad(torch.ones(64, dtype=dtype), torch.ones(64, dtype=dtype))
        cls([param], lr=0.5, fused=True).step()
        return param.detach()

    stays = torch.equal(after_a_step(TorchSGD), torch.ones(64, dtype=dtype))
    torch_does("fused writes vectors of 16-bit numbers back", stays)
    assert torch.equal(after_a_step(mlc.SGD), torch.full((64,), 0.5, dtype=dtype))


def test_first_step_that_is_skipped_leaves_no_momentum() -> None:
    def after_overflow(cls: type[Any]) -> dict[str, Any]:
        param = torch.ones(4, requires_grad=True)
        optimizer = cls([param], lr=0.5, momentum=0.9, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        scaler.scale(param.sum() * torch.inf).backward()
        scaler.step(optimizer)
        assert torch.equal(param, torch.ones(4))
        return dict(optimizer.state[param])

    kept = after_overflow(TorchSGD).get("momentum_buffer") is not None
    torch_does("a skipped first step leaves no buffer", kept)
    assert after_overflow(mlc.SGD) == {}


def test_fused_pairs_elements_by_their_index_whatever_the_strides() -> None:
    grad = torch.arange(6.0).reshape(3, 2).t()

    def after_a_step(cls: type[Any]) -> Tensor:
        param = with_grad(torch.zeros(2, 3), grad)
        cls([param], lr=1.0, fused=True).step()
        return param.detach()

    torch_does("fused looks at strides", not torch.equal(after_a_step(TorchSGD), -grad))
    assert torch.equal(after_a_step(mlc.SGD), -grad)


def test_fused_takes_a_gradient_that_comes_late() -> None:
    def late(cls: type[Any]) -> Tensor:
        first, second = torch.zeros(3), torch.zeros(3)
        first.grad = torch.ones(3)
        optimizer = cls([first, second], lr=1.0, momentum=0.5, fused=True)
        optimizer.step()
        second.grad = torch.ones(3)
        optimizer.step()
        return torch.stack([first, second])

    try:
        late(TorchSGD)
        fails = False
    except TypeError:
        fails = True
    torch_does("fused takes late gradients", fails)
    expected = torch.tensor([-2.5, -1.0])[:, None].expand(2, 3)
    assert torch.equal(late(mlc.SGD), expected)


def test_foreach_with_nesterov_leaves_the_gradient_alone() -> None:
    def gradient_after(cls: type[Any]) -> Tensor:
        param = with_grad(torch.zeros(3), torch.ones(3))
        optimizer = cls([param], 1.0, 0.5, nesterov=True, foreach=True)
        for _ in range(2):  # The first step of mlc.SGD is that of the loop.
            optimizer.step()
        return param.grad

    changed = not torch.equal(gradient_after(TorchSGD), torch.ones(3))
    torch_does("foreach with nesterov leaves .grad alone", changed)
    assert torch.equal(gradient_after(mlc.SGD), torch.ones(3))


# theta -> theta - lr * b with b1 = g1, b2 = 0.5 * b1 + g2 and g = theta**3
def _meta_gradient(cls: type[Any], clone: bool) -> Tensor:
    start = torch.tensor([0.8], dtype=torch.float64, requires_grad=True)
    param = start.clone()
    optimizer = cls([param], lr=0.1, momentum=0.5, differentiable=True)
    for _ in range(2):
        inner = param.clone() if clone else param
        (inner**4 / 4).sum().backward(create_graph=True, inputs=[inner])
        if clone:
            param.grad = inner.grad
        optimizer.step()
    (meta,) = torch.autograd.grad(param.sum(), start)
    return meta


def _meta_gradient_by_hand() -> Tensor:
    start = torch.tensor([0.8], dtype=torch.float64, requires_grad=True)
    first = start - 0.1 * start**3
    second = first - 0.1 * (0.5 * start**3 + first**3)
    return torch.autograd.grad(second.sum(), start)[0]


# torch warns that backward(create_graph=True) makes a cycle of references.
@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_differentiable_keeps_the_graph_of_the_first_momentum() -> None:
    def gradient_in_the_first_gradient(cls: type[Any]) -> Tensor:
        grad = torch.ones(1, dtype=torch.float64, requires_grad=True)
        param = torch.zeros(1, dtype=torch.float64)
        optimizer = cls([param], lr=1.0, momentum=0.5, differentiable=True)
        for _ in range(2):
            param.grad = grad * 1
            optimizer.step()
        return torch.autograd.grad(param.sum(), grad)[0]

    # Steps of g and 0.5 g + g.
    right = torch.tensor([-2.5], dtype=torch.float64)
    wrong = not torch.equal(gradient_in_the_first_gradient(TorchSGD), right)
    torch_does("differentiable keeps the first buffer in the graph", wrong)
    assert torch.equal(gradient_in_the_first_gradient(mlc.SGD), right)


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_a_nonlinear_loss_can_be_unrolled() -> None:
    try:
        _meta_gradient(TorchSGD, clone=False)
        raises = False
    except RuntimeError:
        raises = True
    torch_does("nonlinear losses can be unrolled", raises)
    expected = _meta_gradient_by_hand()
    torch.testing.assert_close(
        _meta_gradient(mlc.SGD, clone=True), expected, rtol=1e-14, atol=0
    )
    start = torch.tensor([0.8], dtype=torch.float64, requires_grad=True)
    params, buffers = [start], None
    for _ in range(2):
        loss = (params[0] ** 4 / 4).sum()
        grads = torch.autograd.grad(loss, params, create_graph=True)
        params, buffers = mlc.sgd_step(params, grads, buffers, lr=0.1, momentum=0.5)
    (found,) = torch.autograd.grad(params[0].sum(), start)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_tensor_weight_decay_leaves_the_gradient_alone() -> None:
    def gradient_after(cls: type[Any]) -> Tensor:
        decay = torch.tensor(0.5, requires_grad=True)
        param = with_grad(torch.ones(3), torch.ones(3))
        cls([param], lr=1.0, weight_decay=decay, foreach=False).step()
        return param.grad

    changed = not torch.equal(gradient_after(TorchSGD), torch.ones(3))
    torch_does("weight_decay that requires grad leaves .grad alone", changed)
    assert torch.equal(gradient_after(mlc.SGD), torch.ones(3))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sparse_gradients_go_with_weight_decay(momentum: float) -> None:
    dense = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    options = dict(lr=0.5, weight_decay=0.25, momentum=momentum)

    def after_steps(cls: type[Any], grad: Tensor) -> Tensor:
        param = torch.ones(3, 2)
        optimizer = cls([param], **options)
        for _ in range(3):
            param.grad = grad
            optimizer.step()
        return param

    try:
        after_steps(TorchSGD, dense.to_sparse())
        raises = False
    except RuntimeError:
        raises = True
    torch_does("sparse gradients go with weight_decay", raises)
    expected = after_steps(TorchSGD, dense)
    assert torch.equal(after_steps(mlc.SGD, dense.to_sparse()), expected)


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay", "dampening"])
def test_nan_is_refused(name: str) -> None:
    param = torch.ones(1)
    try:
        TorchSGD([param], **{name: float("nan")})
        accepts = True
    except ValueError:
        accepts = False
    torch_does(f"{name}=nan is refused", accepts)
    with pytest.raises(ValueError, match=f"{name} must be finite, got nan"):
        mlc.SGD([param], **{name: float("nan")})


def test_loading_keeps_the_precision_of_momentum() -> None:
    precise = torch.tensor([1.0 + 2**-20])

    def loaded(cls: type[Any]) -> Tensor:
        param = torch.ones(1, dtype=torch.bfloat16)
        optimizer = cls([param], momentum=0.9)
        state = optimizer.state_dict()
        state["state"] = {0: {"momentum_buffer": precise}}
        optimizer.load_state_dict(state)
        return optimizer.state[param]["momentum_buffer"]

    casts = loaded(TorchSGD).dtype == torch.bfloat16
    torch_does("load_state_dict keeps the dtype of momentum", casts)
    found = loaded(mlc.SGD)
    assert found.dtype == torch.float32
    assert torch.equal(found, precise)


# Found on the way


def test_fused_tells_backward_that_a_parameter_has_changed() -> None:
    def backward_after_a_step(cls: type[Any]) -> bool:
        param = torch.ones(3, requires_grad=True)
        loss = (param**2).sum()
        param.grad = torch.ones(3)
        cls([param], lr=0.5, fused=True).step()
        try:
            loss.backward()
        except RuntimeError:
            return True
        return False

    torch_does("fused counts versions", not backward_after_a_step(TorchSGD))
    assert backward_after_a_step(mlc.SGD)


def test_foreach_multiplies_low_precision_momentum_by_the_number_given() -> None:
    def momentum_after(cls: type[Any], **options: bool) -> Tensor:
        param = torch.zeros(40, dtype=torch.bfloat16)
        optimizer = cls([param], lr=1.0, momentum=0.9, **options)
        for grad in (torch.linspace(1, 2, 40).bfloat16(), torch.zeros_like(param)):
            param.grad = grad
            optimizer.step()
        return optimizer.state[param]["momentum_buffer"]

    exact = (0.9 * torch.linspace(1, 2, 40).bfloat16().double()).bfloat16()
    rounds_twice = not torch.equal(momentum_after(TorchSGD, foreach=True), exact)
    torch_does("foreach does not round momentum to bfloat16", rounds_twice)
    assert torch.equal(momentum_after(mlc.SGD, foreach=True), exact)

"""The functional step: unrolled training has the gradients of the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torch_mlcalc as mlc

Options = dict[str, Any]
NUMBERS = ("lr", "momentum", "dampening", "weight_decay")
SWITCHES: dict[str, Options] = {
    "plain": {},
    "maximize": dict(maximize=True),
    "decoupled": dict(decoupled_weight_decay=True),
    "nesterov": dict(nesterov=True),
}


def leaf(*values: float) -> Tensor:
    value = values[0] if len(values) == 1 else values
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def numbers_for(switches: Options) -> list[Tensor]:
    # Nesterov is not defined beside any dampening but 0.
    dampening = torch.tensor(0.0) if "nesterov" in switches else leaf(0.2)
    return [leaf(0.05), leaf(0.8), dampening, leaf(0.1)]


def unroll(theta: Tensor, *numbers: Tensor, steps: int = 3, **switches: bool) -> Tensor:
    params, buffers = [theta], None
    options = dict(zip(NUMBERS, numbers, strict=True))
    for _ in range(steps):
        loss = (params[0] ** 4).sum() + (params[0].prod() - 1).square()
        grads = torch.autograd.grad(loss, params, create_graph=True)
        params, buffers = mlc.sgd_step(params, grads, buffers, **options, **switches)
    return params[0]


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_unrolled_nonlinear_training_passes_gradcheck(switches: Options) -> None:
    inputs = (leaf(0.7, -0.4), *numbers_for(switches))
    assert torch.autograd.gradcheck(lambda *a: unroll(*a, **switches), inputs)
    assert torch.autograd.gradgradcheck(
        lambda *a: unroll(*a, steps=2, **switches), inputs
    )


# The first forward-mode call makes torch 2.13 itself use its deprecated TorchScript.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_step_passes_gradcheck_in_forward_mode_and_under_vmap() -> None:
    def function(
        theta: Tensor, grad: Tensor, buffer: Tensor, *numbers: Tensor
    ) -> tuple[Tensor, Tensor]:
        options = dict(zip(NUMBERS, numbers, strict=True))
        new, buffers = mlc.sgd_step([theta], [grad], [buffer], **options)
        return new[0], buffers[0]

    theta, grad, buffer = leaf(1.0, 2.0), leaf(0.3, 0.4), leaf(-1.0, 0.5)
    inputs = (theta, grad, buffer, *numbers_for({}))
    assert torch.autograd.gradcheck(
        function,
        inputs,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    lrs = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    each = torch.func.vmap(lambda lr: function(theta, grad, buffer, lr, *inputs[4:])[0])
    for lr, row in zip(lrs, each(lrs), strict=True):
        expected = function(theta, grad, buffer, lr, *inputs[4:])[0]
        torch.testing.assert_close(row, expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_gives_the_numbers_of_the_class(switches: Options) -> None:
    options = dict(lr=0.05, momentum=0.8, weight_decay=0.1, **switches)
    param = leaf(0.7, -0.4)
    optimizer = mlc.SGD([param], foreach=False, **options)
    params, buffers = [param.detach().clone()], None
    for step in range(4):
        grad = torch.tensor([1.0, 2.0], dtype=torch.float64) * (step + 1) / 7
        param.grad = grad
        optimizer.step()
        params, buffers = mlc.sgd_step(params, [grad], buffers, **options)
        assert torch.equal(params[0], param.detach())
        assert torch.equal(buffers[0], optimizer.state[param]["momentum_buffer"])


def test_hypergradient_through_functional_call_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    features = torch.randn(20, 2, dtype=torch.float64)
    target = features.prod(1, keepdim=True)

    def final_loss(log_lr: Tensor) -> Tensor:
        params = {k: p.detach().requires_grad_() for k, p in model.named_parameters()}
        buffers = None
        for _ in range(5):
            output = torch.func.functional_call(model, params, (features,))
            loss = mlc.mse_loss(output, target)
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            named = dict(zip(params, grads, strict=True))
            params, buffers = mlc.sgd_step(
                params, named, buffers, lr=log_lr.exp(), momentum=0.9
            )
        output = torch.func.functional_call(model, params, (features,))
        return mlc.mse_loss(output, target)

    assert torch.autograd.gradcheck(final_loss, (leaf(-3.0),))


def test_leaves_alone_what_has_no_gradient_and_what_it_was_given() -> None:
    params = {"a": torch.ones(2), "b": torch.ones(3), "c": None}
    grads = {"b": None, "a": torch.ones(2), "c": None}
    new, buffers = mlc.sgd_step(params, grads, lr=0.5, momentum=0.9)
    assert list(new) == list(buffers) == ["a", "b", "c"]
    assert new["a"].tolist() == [0.5, 0.5]
    assert new["b"] is params["b"]
    assert (new["c"], buffers["b"]) == (None, None)
    assert params["a"].tolist() == grads["a"].tolist() == [1, 1]
    assert buffers["a"] is not grads["a"]
    pair, empty = mlc.sgd_step((params["a"],), [grads["a"]], lr=1)
    assert (pair[0].tolist(), empty) == ([0, 0], [None])


def test_sparse_gradients() -> None:
    grad = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    options = dict(lr=0.5, momentum=0.5, weight_decay=0.25, nesterov=True)
    param = torch.ones(2, 2)
    (dense,), _ = mlc.sgd_step([param], [grad], **options)
    (sparse,), _ = mlc.sgd_step([param], [grad.to_sparse()], **options)
    assert torch.equal(dense, sparse)


@pytest.mark.parametrize("shape", [(), (2,)], ids=str)
@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_options_of_a_wider_dtype_do_not_widen_parameters(
    switches: Options, shape: tuple[int, ...]
) -> None:
    options = dict(zip(NUMBERS, numbers_for(switches), strict=True))
    params, buffers = [torch.ones(shape)], None
    param = torch.ones(shape)
    optimizer = mlc.SGD([param], **options, **switches, differentiable=True)
    for _ in range(2):
        param.grad = torch.full(shape, 0.5)
        params, buffers = mlc.sgd_step(
            params, [param.grad], buffers, **options, **switches
        )
        optimizer.step()
        found = [params[0], buffers[0], optimizer.state[param]["momentum_buffer"]]
        assert [tensor.dtype for tensor in found] == [torch.float32] * 3
    assert torch.equal(params[0], param)


REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "length": (([torch.ones(1)], []), ValueError, "grads must have an entry for each"),
    "names": (
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}),
        ValueError,
        r"got \['b'\] where params has \['a'\]",
    ),
    "buffers": (
        ([torch.ones(1)], [None], [None, None]),
        ValueError,
        "momentum_buffers must have an entry",
    ),
    "tensor": ((torch.ones(1), [None]), TypeError, "got Tensor; put a single tensor"),
    "iterator": ((iter([]), []), TypeError, "must be dicts, lists or tuples"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_does_not_match(name: str) -> None:
    arguments, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        mlc.sgd_step(*arguments, lr=0.1)


def test_a_tensor_momentum_of_zero_receives_its_gradient() -> None:
    momentum = leaf(0.0)
    params, buffers = [torch.ones(1, dtype=torch.float64)], None
    for _ in range(2):
        params, buffers = mlc.sgd_step(
            params, [torch.ones_like(params[0])], buffers, lr=0.5, momentum=momentum
        )
    assert params[0].item() == 0
    # The second step is lr * (momentum * 1 + 1).
    assert torch.autograd.grad(params[0].sum(), momentum) == (torch.tensor(-0.5),)


@pytest.mark.parametrize("number", NUMBERS)
def test_refuses_numbers_out_of_range(number: str) -> None:
    with pytest.raises(ValueError, match=f"{number} must be finite, got nan"):
        mlc.sgd_step([torch.ones(1)], [None], **{"lr": 0.1, number: float("nan")})
    with pytest.raises(ValueError, match=f"Tensor {number} must be 1-element"):
        mlc.sgd_step([torch.ones(1)], [None], **{"lr": 0.1, number: torch.ones(2)})
    with pytest.raises(ValueError, match="Nesterov momentum requires"):
        mlc.sgd_step([torch.ones(1)], [None], lr=0.1, nesterov=True)

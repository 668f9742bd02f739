"""Tests of check_gradients: healthy functions pass, every planted fault is caught."""

import functools
import itertools
import math
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from torch_mlcalc.testing import (
    GradientCheckError,
    OptimizerCheckError,
    check_gradients,
    check_optimizer,
)
from torch_mlcalc.testing.captured import find_captured
from torch_mlcalc.testing.derivatives import Differentiation, Settings
from torch_mlcalc.testing.precision import check_float32
from torch_mlcalc.testing.problem import working_copies

CHECKS = (
    "gradcheck",
    "forward_mode",
    "gradgradcheck",
    "forward_over_reverse",
    "vmap",
    "compile",
    "float32",
)


def only(*names: str) -> dict[str, bool]:
    """Turn all other checks off."""
    return {name: name in names for name in CHECKS}


def without(*names: str) -> dict[str, bool]:
    """Turn these checks off."""
    return dict.fromkeys(names, False)


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_()


# --- Healthy functions pass every check -----------------------------------------------


class Square(Function):
    """A custom function with nothing missing."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ANN401
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return 2 * x * grad_output

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return 2 * x * tangent


HEALTHY: dict[str, Callable[[], tuple[Callable[..., object], object]]] = {
    "scalar": lambda: (torch.sin, torch.tensor(0.7, requires_grad=True)),
    "double": lambda: (torch.sin, leaf(3, dtype=torch.float64)),
    "half": lambda: (torch.sin, leaf(3, dtype=torch.bfloat16)),
    "identity": lambda: (lambda x: x, leaf(3)),
    "two inputs": lambda: (torch.matmul, (leaf(2, 3), leaf(3, 2))),
    "one input fixed": lambda: (torch.matmul, (leaf(2, 3), torch.randn(3, 2))),
    "inputs in containers": lambda: (
        lambda pair, named: pair[0].sin() * named["b"],
        ((leaf(3), 2), {"b": leaf(3)}),
    ),
    "several outputs": lambda: (
        lambda x: {"value": x.sin(), "more": (x.sum(), x.argmax())},
        leaf(3),
    ),
    "integer input": lambda: (
        nn.functional.cross_entropy,
        (leaf(4, 3), torch.tensor([0, 1, 2, 0])),
    ),
    "boolean input": lambda: (
        lambda x, mask: torch.where(mask, x.sin(), x.cos()),
        (leaf(3), torch.tensor([True, False, True])),
    ),
    "complex to complex": lambda: (
        lambda z: z**3 + z.conj() * z,
        leaf(3, dtype=torch.complex64),
    ),
    "complex to real": lambda: (torch.abs, leaf(3, dtype=torch.complex64)),
    "real to complex": lambda: (lambda x: torch.complex(x, x.sin()), leaf(3)),
    "conjugate view": lambda: (torch.conj, leaf(3, dtype=torch.complex64)),
    "conjugate input": lambda: (
        torch.square,
        torch.randn(3, dtype=torch.complex64).conj().requires_grad_(),
    ),
    "not contiguous": lambda: (
        torch.sin,
        torch.randn(2, 3).t().requires_grad_(),
    ),
    "expanded": lambda: (torch.sin, torch.randn(1).expand(3).requires_grad_()),
    "empty input": lambda: (lambda x, e: x.sin() + e.sum(), (leaf(2), leaf(0))),
    "empty output": lambda: (lambda x: (x.sin(), x[:0]), leaf(2)),
    "no dependence": lambda: (lambda x, y: x.sin(), (leaf(2), leaf(2))),
    "constant": lambda: (lambda x: torch.ones(2, dtype=x.dtype), leaf(2)),
    "large": lambda: (torch.square, (1e8 * torch.randn(3)).requires_grad_()),
    "module": lambda: (nn.Sequential(nn.Linear(3, 4), nn.Tanh()), leaf(2, 3)),
    "module, inputs fixed": lambda: (nn.Linear(3, 2), torch.randn(2, 3)),
    "batch norm in eval": lambda: (nn.BatchNorm1d(1).eval(), leaf(2, 1)),
    "dropout in eval": lambda: (nn.Dropout().eval(), leaf(3)),
    "convolution": lambda: (nn.Conv1d(1, 1, 2), leaf(1, 1, 3)),
    "tied parameters": lambda: (tied(), leaf(2, 3)),
    "no inputs": lambda: (functools.partial(torch.mul, leaf(2), leaf(2)), ()),
}


def tied() -> nn.Module:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    return nn.Sequential(first, nn.Tanh(), second)


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_functions_pass_every_check(name: str) -> None:
    check_gradients(*HEALTHY[name]())


def test_custom_function_passes_all_but_compile() -> None:
    # Dynamo of torch 2.13 refuses every autograd.Function that has a jvp.
    check_gradients(Square.apply, leaf(3), compile=False)


def test_batch_norm_in_training_passes_all_but_vmap() -> None:
    check_gradients(nn.BatchNorm1d(2), leaf(4, 2), vmap=False, max_elements=1)


def test_functions_transformed_by_torch_pass() -> None:
    w = leaf(3)
    check_gradients(torch.func.grad(lambda x: (w * x**3).sum()), leaf(3))


def test_works_where_gradients_are_off() -> None:
    x = leaf(2)
    with torch.no_grad():
        check_gradients(Square.apply, x, compile=False)
    with torch.inference_mode():
        check_gradients(torch.sin, x)
        check_gradients(lambda y: y * x, torch.ones(2))


# --- Planted faults -------------------------------------------------------------------


class WrongBackward(Square):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return x * grad_output


class IgnoresGradOutput(Square):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return 2 * x


class OnceDifferentiable(Square):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return 2 * x * grad_output


class DetachedBackward(Square):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return 2 * x.detach() * grad_output


class DetachedGradOutput(Square):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return 2 * x * grad_output.detach()


class WrongJvp(Square):
    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return 3 * x * tangent


class NoJvp(Square):
    jvp = Function.jvp


class WrongVmap(Square):
    generate_vmap_rule = False

    @staticmethod
    def vmap(info: object, in_dims: tuple[int], x: Tensor) -> tuple[Tensor, int]:
        return Square.apply(x.roll(1, 0)), 0


class NoVmap(Square):
    generate_vmap_rule = False


class WrongConjugate(Square):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: ANN401
        (z,) = ctx.saved_tensors
        return 2 * z * grad_output


def lost_closure() -> Callable[[Tensor], Tensor]:
    w = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)

    class Scale(Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x * w

        @staticmethod
        def setup_context(ctx: Any, inputs: object, output: object) -> None:  # noqa: ANN401
            pass

        @staticmethod
        def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: ANN401
            return grad_output * w

        @staticmethod
        def jvp(ctx: Any, tangent: Tensor) -> Tensor:  # noqa: ANN401
            return tangent * w

    return lambda x: Scale.apply(x)


class Frozen(nn.Linear):
    """A layer whose weight never learns."""

    def forward(self, input: Tensor) -> Tensor:
        return nn.functional.linear(input, self.weight.detach(), self.bias)


@torch.compiler.disable
def not_compiled(x: Tensor) -> Tensor:
    return x.sin()


def other_when_compiled(x: Tensor) -> Tensor:
    return x.sin() + 1e-3 * torch.compiler.is_compiling()


def branches_on_a_value(x: Tensor) -> Tensor:
    return x.sin() if x.sum() > 0 else x.cos()


def keeps_saved_tensors(x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return x.sin()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return x.sin()


FIRST = ("gradcheck", "forward_mode")
SECOND = ("gradgradcheck", "forward_over_reverse")
REFUSED = "compile"  # dynamo refuses an autograd.Function that has a jvp

# name: function and input, the checks that notice in the order they run, the message
FAULTS: dict[str, tuple[Callable[[], tuple[Any, Any]], tuple[str, ...], str]] = {
    "wrong backward": (
        lambda: (WrongBackward.apply, torch.tensor([3.0], requires_grad=True)),
        ("gradcheck", REFUSED),
        "the derivative of output[0] by inputs[0][0] is 3 by reverse mode but 6 by "
        "finite differences. They differ by 3, allowed is 0.00601 "
        "(atol=1e-05 + rtol=0.001 * |second|); 1 of 1 such numbers",
    ),
    "backward ignores grad_output": (
        lambda: (IgnoresGradOutput.apply, torch.tensor([3.0], requires_grad=True)),
        ("gradcheck", REFUSED),
        "is -3 by reverse mode but 6 by finite differences",
    ),
    "wrong in the second output": (
        lambda: (lambda x: (x.sin(), WrongBackward.apply(x)), leaf(3)),
        ("gradcheck", REFUSED),
        "the derivative of output[1][",
    ),
    "wrong in the second input": (
        lambda: (lambda x, y: x * WrongBackward.apply(y), (leaf(3), leaf(3))),
        ("gradcheck", "gradgradcheck", REFUSED),
        "by inputs[1][",
    ),
    "wrong for complex numbers": (
        lambda: (
            WrongConjugate.apply,
            torch.tensor([1 + 2j, 3.0], requires_grad=True),
        ),
        ("gradcheck", REFUSED),
        "part of output[0] by the",
    ),
    "lost closure gradient": (
        lambda: (lost_closure(), leaf(2, 3)),
        (*FIRST, REFUSED),
        "No graph leads from output to params['Scale.forward.w']",
    ),
    "detached parameter": (
        lambda: (Frozen(3, 2), leaf(3)),
        (*FIRST, *SECOND),
        "by params['weight'][",
    ),
    "detached intermediate": (
        lambda: (lambda x: x * x.exp().detach(), leaf(3)),
        (*FIRST, *SECOND),
        "by inputs[0][",
    ),
    "data of the input": (
        lambda: (lambda x: x.data.sin(), leaf(3)),
        (*FIRST, "vmap"),
        "No graph leads from output to inputs[0]",
    ),
    "once differentiable": (
        lambda: (OnceDifferentiable.apply, leaf(3)),
        (*SECOND, REFUSED),
        "No graph leads from (gradient by inputs[0]) to inputs[0]",
    ),
    "backward detaches what it saved": (
        lambda: (DetachedBackward.apply, torch.tensor([3.0], requires_grad=True)),
        (*SECOND, REFUSED),
        "the derivative of (gradient by inputs[0])[0] by inputs[0][0] is 0 by reverse",
    ),
    "backward detaches grad_output": (
        lambda: (DetachedGradOutput.apply, torch.tensor(3.0, requires_grad=True)),
        (*SECOND, REFUSED),
        "the derivative of (gradient by inputs[0]) by grad_output of output is",
    ),
    "wrong jvp": (
        lambda: (WrongJvp.apply, torch.tensor([3.0], requires_grad=True)),
        ("forward_mode", REFUSED),
        "the derivative of output[0] by inputs[0][0] is 9 by forward mode but 6 by",
    ),
    "no jvp": (
        lambda: (NoJvp.apply, leaf(3)),
        ("forward_mode", "forward_over_reverse"),
        "NotImplementedError: You must implement the jvp function",
    ),
    "wrong vmap": (
        lambda: (WrongVmap.apply, torch.tensor(2.0, requires_grad=True)),
        ("vmap", REFUSED),
        "output[1] is 4 by vmap but 3.75390625 by a loop over the first dimension.",
    ),
    "no vmap": (lambda: (NoVmap.apply, leaf(3)), ("vmap", REFUSED), "vmap static"),
    "branches on a value": (
        lambda: (branches_on_a_value, leaf(3)),
        ("vmap", "compile"),
        "data-dependent control flow",
    ),
    "hooks that torch.func refuses": (
        lambda: (keeps_saved_tensors, leaf(3)),
        ("vmap",),
        "torch.func.{grad, vjp, jacrev, hessian}",
    ),
    "graph break": (
        lambda: (not_compiled, leaf(3)),
        ("compile",),
        "torch.compiler.disable",
    ),
    "other values when compiled": (
        lambda: (other_when_compiled, torch.tensor([0.0], requires_grad=True)),
        ("compile",),
        "output[0] is 0.001 by compiled code but 0 by eager mode",
    ),
    "cancels in float32": (
        lambda: (
            lambda x: 1 - x.cos(),
            torch.tensor([1.0, 2.0**-14], requires_grad=True),
        ),
        ("float32",),
        "output[1] is 0 by float32 but 1.86264515e-09 by float64",
    ),
    "overflows in float32": (
        lambda: (
            lambda x: x.exp() * (-x).exp(),
            torch.tensor([100.0], requires_grad=True),
        ),
        ("float32",),
        "by float32 but 1 by float64",
    ),
    "leaves float32": (
        lambda: (lambda x: x * torch.ones(1, dtype=torch.float64), leaf(3)),
        ("float32",),
        "output is torch.float64 for float32 inputs",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_caught_by_the_right_check(name: str) -> None:
    make, noticed_by, message = FAULTS[name]
    with pytest.raises(GradientCheckError) as caught:
        check_gradients(*make())
    assert str(caught.value).startswith(f"{noticed_by[0]} failed: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", FAULTS)
def test_planted_fault_is_noticed_by_these_checks_and_no_others(name: str) -> None:
    make, noticed_by, _ = FAULTS[name]
    for check in noticed_by:
        with pytest.raises(GradientCheckError, match=f"^{check} failed"):
            check_gradients(*make(), **only(check))
    check_gradients(*make(), **without(*noticed_by))


ORACLE = {
    "sine": torch.sin,
    "cube of complex": lambda z: z**3 * z.conj(),
    "identity": lambda x: x,
    "good": Square.apply,
    "wrong": WrongBackward.apply,
    "ignorant": IgnoresGradOutput.apply,
    "wrong conjugate": WrongConjugate.apply,
    "once": OnceDifferentiable.apply,
    "detached": DetachedBackward.apply,
    "detached grad_output": DetachedGradOutput.apply,
    "wrong jvp": WrongJvp.apply,
    "detaches": lambda x: x * x.detach(),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", ORACLE)
def test_verdicts_are_those_of_torch(name: str, dtype: torch.dtype) -> None:
    function, x = ORACLE[name], leaf(3, dtype=dtype)
    gradcheck = torch.autograd.gradcheck
    verdicts = {
        "gradcheck": lambda: gradcheck(function, x),
        "forward_mode": lambda: gradcheck(
            function,
            x,
            check_forward_ad=True,
            check_backward_ad=False,
            check_undefined_grad=False,
        ),
        "gradgradcheck": lambda: torch.autograd.gradgradcheck(function, x),
        "forward_over_reverse": lambda: torch.autograd.gradgradcheck(
            function,
            x,
            check_fwd_over_rev=True,
            check_rev_over_rev=False,
            check_undefined_grad=False,
        ),
    }
    for check, verdict in verdicts.items():
        assert passes(verdict) == passes(
            functools.partial(check_gradients, function, x, **only(check))
        ), check


def passes(check: Callable[[], object]) -> bool:
    try:
        check()
    except (GradientCheckError, RuntimeError):
        return False
    return True


def test_jacobians_are_exact_in_every_mode() -> None:
    # (a + ib)^2 = (a^2 - b^2) + 2iab, a matrix product beside it
    z = torch.tensor([1 + 2j], dtype=torch.complex128, requires_grad=True)
    x = leaf(3, dtype=torch.float64)
    matrix = torch.randn(2, 3, dtype=torch.float64)
    differentiation = Differentiation(
        lambda: {"square": z**2, "product": matrix @ x},
        {"z": z, "x": x},
        Settings(eps=1e-6, atol=0.0, rtol=0.0, max_elements=None),
    )
    exact = {
        ("square", "z"): torch.tensor([[2.0, -4.0], [4.0, 2.0]], dtype=torch.float64),
        ("square", "x"): torch.zeros(2, 3, dtype=torch.float64),
        ("product", "z"): torch.zeros(2, 2, dtype=torch.float64),
        ("product", "x"): matrix,
    }
    reverse, unconnected = differentiation.by_reverse_mode()
    torch.testing.assert_close(reverse, exact)
    torch.testing.assert_close(differentiation.by_forward_mode(), exact)
    # central differences: rounding of about 1e-16 / 1e-6
    differences = differentiation.by_differences
    torch.testing.assert_close(differences, exact, rtol=0.0, atol=1e-8)
    assert unconnected == {("square", "x"), ("product", "z")}


# --- The precision of float32 ---------------------------------------------------------

PRECISE = {
    "confident cross-entropy": lambda: (
        lambda x: nn.functional.cross_entropy(5 * x, torch.arange(4) % 3),
        leaf(4, 3),
    ),
    "student t": lambda: (
        lambda y, df: torch.distributions.StudentT(df, validate_args=False).log_prob(y),
        (leaf(50), (3 * torch.rand(50) + 0.1).requires_grad_()),
    ),
    "deep network": lambda: (
        nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.SiLU()) for _ in range(6))),
        leaf(8, 8),
    ),
    "long sum": lambda: (torch.sum, leaf(10000)),
    "gradient zero by cancelling": lambda: (
        lambda x, b: (x + b).log_softmax(0)[0],
        (leaf(100), torch.zeros(1, requires_grad=True)),
    ),
    "saturated": lambda: (
        nn.functional.binary_cross_entropy_with_logits,
        (torch.tensor([20.0, -1.0], requires_grad=True), torch.tensor([1.0, 0.0])),
    ),
    "inverse": lambda: (torch.linalg.inv, leaf(6, 6)),
    "probabilities up to 1": lambda: (
        lambda p: torch.distributions.Bernoulli(p).entropy(),
        torch.tensor([0.3, 0.5, 0.99], requires_grad=True),
    ),
    "ill-conditioned": lambda: (
        lambda x, y: 3 * x - 3 * y,
        (
            torch.linspace(1.0, 1.001, 9).requires_grad_(),
            torch.ones(9, requires_grad=True),
        ),
    ),
    "near the end of a domain": lambda: (
        lambda x, y: (x - y).sum().sqrt(),  # of 2^-21, moved by about as much
        (
            (2 + 2**-21 * (torch.arange(500) == 0)).requires_grad_(),
            torch.full((500,), 2.0, requires_grad=True),
        ),
    ),
    "nothing left": lambda: (
        lambda x: (x - torch.ones(2)) ** 2,
        torch.ones(2, requires_grad=True),
    ),
}


@pytest.mark.parametrize("name", PRECISE)
def test_stable_functions_are_precise_in_float32(name: str) -> None:
    check_gradients(*PRECISE[name](), **only("float32"))


class ImpreciseBackward(Square):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:  # noqa: ANN401
        (x,) = ctx.saved_tensors
        return ((1 + 2 * x) - 1) * grad_output


def test_data_are_put_back_after_the_check_of_float32() -> None:
    x = leaf(2, dtype=torch.float64)
    with working_copies(torch.sin, x, None) as problem:
        problem.cotangents = {"output": torch.ones(2, dtype=torch.float64)}
        check_float32(problem, ulps=128.0)
        assert torch.equal(problem.variables["inputs[0]"], x)


IMPRECISE = {
    "naive variance": lambda: (
        lambda x: (x**2).mean() - x.mean() ** 2,
        (torch.randn(100) + 100).requires_grad_(),
    ),
    "logarithm near one": lambda: (lambda x: (1 + x).log(), 1e-3 * torch.rand(5)),
    "root near one": lambda: (lambda x: (x**2 + 1).sqrt() - 1, 1e-2 * torch.rand(5)),
    "lower tail by one minus upper": lambda: (
        lambda x: 1 - 0.5 * torch.erfc(x),
        -torch.rand(5) - 3,
    ),
    "gradient alone": lambda: (ImpreciseBackward.apply, 1e-5 * torch.rand(5)),
}


@pytest.mark.parametrize("name", IMPRECISE)
def test_cancelling_functions_are_not(name: str) -> None:
    function, x = IMPRECISE[name]()
    x = x.detach().requires_grad_()
    with pytest.raises(GradientCheckError, match="^float32 failed"):
        check_gradients(function, x, compile=False)


# --- What a function reaches by itself ------------------------------------------------

GLOBAL = torch.tensor([0.5, 1.5], requires_grad=True)


class Holder:
    """An object that holds a tensor, and one that holds a holder."""

    def __init__(self, held: object) -> None:
        self.held = held

    def scale(self, x: Tensor) -> Tensor:
        return x * self.held.data  # type: ignore[attr-defined]

    def __call__(self, x: Tensor) -> Tensor:
        return self.scale(x)


class ListModule(nn.Module):
    """A module that forgets to register what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [leaf(2)]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.hidden[0].data


def with_default(x: Tensor, w: Tensor = leaf(2)) -> Tensor:  # noqa: B008
    return x * w.data


def with_keyword_default(x: Tensor, *, w: Tensor = leaf(2)) -> Tensor:  # noqa: B008
    return x * w.data


def uses_global(x: Tensor) -> Tensor:
    return (lambda: x * GLOBAL.data)()


def calls_helper(x: Tensor) -> Tensor:
    return uses_global(x)


def scaled(x: Tensor, w: Any) -> Tensor:  # noqa: ANN401
    return x * w.data


def in_closure() -> Callable[[Tensor], Tensor]:
    w = leaf(2)
    return lambda x: x * w.data


def in_list_in_closure() -> Callable[[Tensor], Tensor]:
    ws = [1, {"w": leaf(2)}]
    return lambda x: x * ws[1]["w"].data  # type: ignore[index]


def in_inner_function() -> Callable[[Tensor], Tensor]:
    inner = in_closure()
    return lambda x: inner(x)


def in_module_in_closure() -> Callable[[Tensor], Tensor]:
    net = Frozen(2, 2, bias=False)
    return lambda x: net(x)


def under_decorator() -> Callable[[Tensor], Tensor]:
    return torch.no_grad()(in_closure())


LOST: dict[str, tuple[Callable[[], Any], str]] = {
    "closure": (in_closure, "w"),
    "containers in a closure": (in_list_in_closure, "ws[1]['w']"),
    "function in a closure": (in_inner_function, "inner.w"),
    "module in a closure": (in_module_in_closure, "net.weight"),
    "function in a decorator": (under_decorator, "func.w"),
    "global": (lambda: uses_global, "GLOBAL"),
    "global of a helper": (lambda: calls_helper, "uses_global.GLOBAL"),
    "default": (lambda: with_default, "w"),
    "keyword default": (lambda: with_keyword_default, "w"),
    "partial": (lambda: functools.partial(scaled, w=leaf(2)), "w"),
    "positional partial": (
        lambda: functools.partial(lambda w, x: scaled(x, w), leaf(2)),
        "args[0]",
    ),
    "method": (lambda: Holder(leaf(2)).scale, "self.held"),
    "callable object": (lambda: Holder(leaf(2)), "held"),
    "list of a module": (ListModule, "hidden[0]"),
}


@pytest.mark.parametrize("place", LOST)
def test_lost_gradient_is_found_wherever_the_tensor_is_held(place: str) -> None:
    make, name = LOST[place]
    with pytest.raises(GradientCheckError, match="^gradcheck failed") as caught:
        check_gradients(make(), torch.randn(2), **only("gradcheck"))
    assert f"by params[{name!r}]" in str(caught.value)


def test_tensors_behind_arguments_are_found() -> None:
    holder = Holder(leaf(2))
    with pytest.raises(GradientCheckError, match=r"params\['inputs\[1\].held'\]"):
        check_gradients(lambda x, h: h(x), (torch.randn(2), holder))


def test_what_torch_and_other_files_hold_is_not_searched() -> None:
    def of_torch(x: Tensor, w: Tensor = leaf(2)) -> Tensor:  # noqa: B008
        return x * w

    def of_another_file(x: Tensor, w: Tensor = leaf(2)) -> Tensor:  # noqa: B008
        return x * w

    class OfTorch:
        w = leaf(2)

    of_torch.__module__ = OfTorch.__module__ = "torch.nn.functional"
    of_another_file.__module__ = "elsewhere"
    names = {"__name__": __name__, "uses_global": of_another_file}
    roots = {
        "function": of_torch,
        "class": OfTorch,
        "object": OfTorch(),
        "caller": types.FunctionType(calls_helper.__code__, names),
        "namespace": types.SimpleNamespace(w=leaf(2)),
        "module": sys.modules[__name__],
    }
    found = find_captured(roots)
    assert not found.tensors and not found.modules


def test_each_tensor_is_found_once() -> None:
    module = tied()
    found = find_captured({"": module, "again": module})
    assert list(found.tensors) == ["0.weight", "0.bias", "2.bias"]
    assert found.modules == [module, *module.children()]


def test_unset_closure_variable_is_passed_over() -> None:
    def function(x: Tensor) -> Tensor:
        return x.sin() if True else later

    check_gradients(function, leaf(2), **only("gradcheck"))
    later = 1


@pytest.mark.parametrize(
    "make",
    [
        lambda w: lambda x: x * w,
        lambda w: functools.partial(torch.mul, w),
        lambda w: torch.distributions.Normal(w, torch.ones(2)).log_prob,
    ],
    ids=["closure", "partial", "distribution"],
)
def test_results_of_earlier_computations_are_refused(make: Any) -> None:  # noqa: ANN401
    function = make(2 * leaf(2))
    with pytest.raises(ValueError, match="computed before the check"):
        check_gradients(function, leaf(2))
    check_gradients(function, leaf(2), params=())


def test_remembered_results_in_attributes_are_passed_over() -> None:
    layer = nn.Linear(2, 2)
    layer.last = layer(torch.randn(2))
    check_gradients(layer, leaf(2), **only("gradcheck"))


# --- params ---------------------------------------------------------------------------


def lost_in_two() -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    a, b = leaf(2), leaf(2)
    return a, b, lambda x: x * a * b.data


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (lambda a, b: b, "params[0]"),
        (lambda a, b: [a, b], "params[1]"),
        (lambda a, b: iter((a, b)), "params[1]"),
        (lambda a, b: {"a": a, "b": b}, "params['b']"),
        (lambda a, b: [("a", a), ("b", b)], "params['b']"),
    ],
    ids=["tensor", "list", "iterator", "dict", "pairs"],
)
def test_params_are_named_as_they_are_passed(form: Any, name: str) -> None:  # noqa: ANN401
    a, b, function = lost_in_two()
    with pytest.raises(GradientCheckError) as caught:
        check_gradients(function, leaf(2), params=form(a, b))
    assert f"by {name}[" in str(caught.value)


def test_only_the_params_passed_are_checked() -> None:
    a, _, function = lost_in_two()
    check_gradients(function, leaf(2), params=[a])


def test_params_that_cannot_be_found_are_checked() -> None:
    state = types.SimpleNamespace(w=leaf(2))  # of the standard library, not searched
    x = leaf(2)
    check_gradients(lambda x: x * state.w.data, x, **only("gradcheck"))
    with pytest.raises(GradientCheckError, match=r"by params\[0\]"):
        check_gradients(lambda x: x * state.w.data, x, params=[state.w])


def test_gradient_lost_by_detaching_beforehand_is_found() -> None:
    w = leaf(3)
    detached = w.detach()[1:]
    with pytest.raises(GradientCheckError, match=r"by params\['w'\]\[[12]\]"):
        check_gradients(lambda x: x * detached, torch.randn(2), params={"w": w})


def test_frozen_parameters_are_constants() -> None:
    layer = Frozen(2, 2)
    layer.weight.requires_grad_(False)
    check_gradients(layer, leaf(2))


# --- Nothing of the caller's is touched -----------------------------------------------


class Counter(nn.Module):
    """A module that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.calls = 0
        self.seen: list[torch.Size] = []
        self.scale = torch.ones(2)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x.shape)
        self.last = x
        return self.norm(x) * self.scale


def state(module: Counter) -> dict[str, object]:
    tensors = {**module.state_dict(keep_vars=True), "scale": module.scale}
    return {
        "tensors": {
            name: (id(t), t.data_ptr(), t.dtype, t.requires_grad, t.tolist())
            for name, t in tensors.items()
        },
        "versions": {name: t._version for name, t in tensors.items()},
        "grads": {
            n: (id(p.grad), p.grad.tolist()) for n, p in module.named_parameters()
        },
        "attributes": sorted(vars(module)),
        "calls": module.calls,
        "seen": (id(module.seen), list(module.seen)),
        "training": [m.training for m in module.modules()],
    }


@pytest.mark.parametrize("fails", [False, True], ids=["passing", "failing"])
def test_module_is_left_as_it_was(fails: bool) -> None:
    module = Counter()
    module.norm.weight.grad = torch.tensor([1.0, 2.0])
    module.norm.bias.grad = torch.tensor([3.0, 4.0])
    before = state(module)
    check = functools.partial(
        check_gradients,
        module,
        leaf(3, 2),
        vmap=False,  # because of the running statistics
        compile=False,  # because of the memory
        max_elements=1,
    )
    if fails:
        with pytest.raises(GradientCheckError):
            check(ulps=1e-9)
    else:
        check()
    assert state(module) == before


@pytest.mark.parametrize("fails", [False, True], ids=["passing", "failing"])
def test_closures_and_inputs_are_left_as_they_were(fails: bool) -> None:
    w, x = leaf(3), leaf(3)
    x.grad = torch.ones(3)
    constant = torch.randn(3)
    tensors = (w, x, constant)
    before = [(t.data_ptr(), t.dtype, t._version, t.tolist()) for t in tensors]
    pending = (w**2).sum()

    def function(x: Tensor) -> Tensor:
        return (x.detach() if fails else x) * w * constant

    if fails:
        with pytest.raises(GradientCheckError):
            check_gradients(function, x)
    else:
        check_gradients(function, x)
    after = [(t.data_ptr(), t.dtype, t._version, t.tolist()) for t in tensors]
    assert after == before
    assert w.grad is None and torch.equal(x.grad, torch.ones(3))
    pending.backward()  # a graph that has saved w still works
    assert torch.equal(w.grad, 2 * w.detach())


def test_global_state_is_left_as_it_was() -> None:
    def seeds(x: Tensor) -> Tensor:
        torch.manual_seed(7)
        return x * torch.rand((), dtype=torch.float64).to(x.dtype)

    x = leaf(2)
    before = torch.get_rng_state()
    check_gradients(seeds, x, compile=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_warnings_of_the_function_are_not_hidden() -> None:
    def warns(x: Tensor) -> Tensor:
        warnings.warn("think again", UserWarning, stacklevel=2)
        return x.sin()

    with pytest.warns(UserWarning, match="think again"):
        check_gradients(warns, leaf(2), compile=False)


def test_many_functions_can_be_compiled_in_one_process() -> None:
    # Dynamo compiles at most eight versions of one code object.
    for power in range(2, 12):
        check_gradients(lambda x, n=power: x**n, leaf(power), **only("compile"))


def test_import_is_cheap() -> None:
    code = "import sys, torch_mlcalc.testing; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    costly = ("torch._dynamo", "torch._inductor", "matplotlib", "torch_mlcalc.plot")
    assert "torch_mlcalc.testing" in done.stdout.split()
    assert not [m for m in done.stdout.split() if m.startswith(costly)]


def test_inference_tensors_are_left_as_they_were() -> None:
    with torch.inference_mode():
        constant = torch.randn(3)
    data = constant.data_ptr()
    check_gradients(lambda x: x * constant.sin(), leaf(3), **only("gradcheck"))
    assert constant.is_inference() and constant.data_ptr() == data


def test_seeded_generators_are_allowed() -> None:
    def noisy(x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return x + torch.rand(3, generator=generator, dtype=torch.float64).to(x.dtype)

    # Dynamo of torch 2.13 does not trace a generator.
    check_gradients(noisy, leaf(3), compile=False)


# --- Arguments ------------------------------------------------------------------------


def test_eps_is_the_step() -> None:
    x = torch.tensor([1.0], requires_grad=True)
    check_gradients(torch.exp, x, **only("gradcheck"))
    with pytest.raises(
        GradientCheckError, match=r"2\.7182\d* by reverse mode but 2\.83"
    ):
        check_gradients(torch.exp, x, eps=0.5, **only("gradcheck"))


def test_step_follows_large_elements() -> None:
    x = torch.tensor([1e12], requires_grad=True)
    check_gradients(torch.sqrt, x, atol=0.0, rtol=1e-6, **only("gradcheck"))


def test_atol_and_rtol_bound_the_difference() -> None:
    x = torch.tensor([3.0], requires_grad=True)  # wrong by 3 of 6
    checked = functools.partial(
        check_gradients, WrongBackward.apply, x, **only("gradcheck")
    )
    checked(atol=3.1, rtol=0.0)
    checked(atol=0.0, rtol=0.51)
    for atol, rtol in ((2.9, 0.0), (0.0, 0.49)):
        with pytest.raises(GradientCheckError, match="differ by 3, allowed is 2.9"):
            checked(atol=atol, rtol=rtol)


def test_ulps_bounds_float32() -> None:
    x = torch.tensor([0.1], requires_grad=True)

    def cancels(x: Tensor) -> Tensor:
        return 1 - x.cos()

    check_gradients(cancels, x, ulps=1e3, **only("float32"))
    with pytest.raises(GradientCheckError, match="ulps=1 times"):
        check_gradients(cancels, x, ulps=1.0, **only("float32"))


def test_max_elements_bounds_the_work() -> None:
    calls = itertools.count()

    def counted(x: Tensor) -> Tensor:
        next(calls)
        return x.sin()

    check_gradients(counted, leaf(100), max_elements=3, **only("gradcheck"))
    assert next(calls) == 2 + 1 + 1 + 2 * 3  # two at first, rows, reverse, differences


def test_max_elements_looks_at_diagonal_elements() -> None:
    with pytest.raises(GradientCheckError, match="3 of 9 such numbers"):
        check_gradients(lambda x: x.sin().detach(), leaf(10), max_elements=3)


def test_compile_backend_compiles() -> None:
    compiled = []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:  # noqa: ANN401
        compiled.append(graph)
        return graph

    check_gradients(torch.sin, leaf(2), compile_backend=backend, **only("compile"))
    assert len(compiled) == 1


# --- Bad input ------------------------------------------------------------------------

BAD: dict[str, tuple[type[Exception], str, Callable[[], object]]] = {
    "function": (
        TypeError,
        "function must be callable, but is int",
        lambda: check_gradients(3, leaf(2)),  # type: ignore[arg-type]
    ),
    "inputs": (
        TypeError,
        "inputs must be a tensor or a tuple",
        lambda: check_gradients(torch.sin, 2.0),
    ),
    "params of no tensors": (
        TypeError,
        r"params\[0\] must be a tensor, but is int",
        lambda: check_gradients(torch.sin, leaf(2), params=[3]),  # type: ignore[list-item]
    ),
    "params not required": (
        ValueError,
        r"params\['w'\] must be a leaf that requires grad, but has requires_grad=False",
        lambda: check_gradients(torch.sin, leaf(2), params={"w": torch.ones(2)}),
    ),
    "params computed": (
        ValueError,
        "is_leaf=False",
        lambda: check_gradients(torch.sin, leaf(2), params=[2 * leaf(2)]),
    ),
    "params that are views": (
        ValueError,
        r"params\['w'\] must own its memory, but is a view",
        lambda: check_gradients(
            functools.partial(torch.mul, torch.ones(2, 2)[0].requires_grad_()),
            leaf(2),
            params={"w": torch.ones(1).expand(2).requires_grad_()},
        ),
    ),
    "nothing to differentiate": (
        ValueError,
        "nothing to differentiate by",
        lambda: check_gradients(torch.sin, torch.ones(2)),
    ),
    "nothing to check": (
        ValueError,
        "nothing to check",
        lambda: check_gradients(torch.sin, leaf(2), **only()),
    ),
    "no floating output": (
        TypeError,
        "at least one floating-point or complex tensor",
        lambda: check_gradients(lambda x: x > 0, leaf(2)),
    ),
    "float32 output": (
        ValueError,
        "output is torch.float32 for float64 inputs",
        lambda: check_gradients(lambda x: x.float(), leaf(2)),
    ),
    "random function": (
        ValueError,
        "function must be deterministic, but output changed by",
        lambda: check_gradients(nn.Dropout(), leaf(20)),
    ),
    "eps": (
        ValueError,
        "eps must be positive and finite, but is 0",
        lambda: check_gradients(torch.sin, leaf(2), eps=0),
    ),
    "ulps": (
        ValueError,
        "ulps must be positive and finite, but is inf",
        lambda: check_gradients(torch.sin, leaf(2), ulps=math.inf),
    ),
    "atol": (
        ValueError,
        "atol must be finite and not negative, but is -1",
        lambda: check_gradients(torch.sin, leaf(2), atol=-1),
    ),
    "rtol": (
        ValueError,
        "rtol must be finite and not negative, but is nan",
        lambda: check_gradients(torch.sin, leaf(2), rtol=math.nan),
    ),
    "max_elements": (
        ValueError,
        "max_elements must be at least 1 or None, but is 0",
        lambda: check_gradients(torch.sin, leaf(2), max_elements=0),
    ),
    "compile_backend": (
        ValueError,
        "compile_backend must be one of .*inductor.* but is 'nope'",
        lambda: check_gradients(torch.sin, leaf(2), compile_backend="nope"),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name: str) -> None:
    category, message, call = BAD[name]
    with pytest.raises(category, match=message):
        call()


def test_equal_infinities_agree() -> None:
    def infinite(x: Tensor) -> Tensor:
        return torch.stack([x / 0, (-1 - x**2).sqrt(), x])

    x = torch.tensor(1.0, requires_grad=True)
    check_gradients(infinite, x, **only("vmap", "compile", "float32"))


def test_errors_of_the_function_itself_are_not_dressed_up() -> None:
    with pytest.raises(RuntimeError, match="size of tensor a"):
        check_gradients(torch.add, (leaf(2), leaf(3)))


def test_nan_is_not_taken_for_agreement_with_a_number() -> None:
    with pytest.raises(GradientCheckError, match="is nan by|but nan by"):
        check_gradients(torch.sqrt, torch.zeros(1, requires_grad=True))


def test_optimizers_are_classes() -> None:
    sgd = torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)
    for pair in ((sgd, torch.optim.SGD), (torch.optim.SGD, sgd)):
        what = ("optimizer", "reference")[pair.index(sgd)]
        with pytest.raises(TypeError, match=f"{what} must be a class, or .* of SGD"):
            check_optimizer(*pair)


class _Numbered(torch.optim.SGD):
    """Keeps a plain number of its own beside the momentum."""

    number = 1

    def step(self, closure: Callable | None = None) -> float | None:
        loss = super().step(closure)
        for param in self.state:
            self.state[param]["number"] = self.number
        return loss


class _OtherNumber(_Numbered):
    number = 2


class _Flat(torch.optim.SGD):
    """Keeps its momentum in another shape."""

    def step(self, closure: Callable | None = None) -> float | None:
        loss = super().step(closure)
        for state in self.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].flatten()
        return loss


@pytest.mark.parametrize(
    ("optimizer", "reference", "message"),
    [
        (_OtherNumber, _Numbered, r"has number=2, but that of the reference 1"),
        (_Flat, torch.optim.SGD, r"'momentum_buffer'\] has shape .* but that of"),
    ],
    ids=["number", "shape"],
)
def test_check_optimizer_compares_what_is_not_a_parameter(
    optimizer: type, reference: type, message: str
) -> None:
    with pytest.raises(OptimizerCheckError, match=message):
        check_optimizer(optimizer, reference, options={"lr": 0.1, "momentum": 0.9})

"""The same values and gradients under vmap and under compile."""

import functools
import types
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from torch_mlcalc.testing.comparison import compare, element, within
from torch_mlcalc.testing.problem import (
    Problem,
    detached,
    gradient_name,
    named_outputs,
    values_and_gradients,
    weighted_sum,
)

Backend = str | Callable[..., object]

# torch.testing.assert_close compares float64 tensors with these two.
_ATOL = _RTOL = 1e-7

# Copies of an input along the batch. Scaling towards zero keeps positive numbers
# positive, probabilities below one and positive definite matrices what they are.
_BATCH_SCALES = (1.0, 0.96875, 0.984375)
_LOOP = "a loop over the first dimension"

# What torch 2.13 says about its own doings while it compiles: it instantiates the
# autograd.Function it traces, reads the grad of captured tensors that are not leaves,
# and loads TorchScript with inductor.
_DYNAMO_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    (
        r".*autograd\.function\.Function'> should not be instantiated",
        DeprecationWarning,
    ),
    (r"The \.grad attribute of a Tensor that is not a leaf", UserWarning),
    (r"`torch\.jit\.\w+` is deprecated", DeprecationWarning),
)


def check_vmap(problem: Problem) -> None:
    """Compare :func:`torch.func.vmap` with a loop: values, gradients both ways."""
    stacks, variables = _batched(problem)
    if not stacks:
        return

    def call(*tensors: Tensor) -> dict[str, Tensor]:
        flat = list(problem.arguments)
        for position, tensor in zip(stacks, tensors, strict=True):
            flat[position] = tensor
        return named_outputs(problem.function(*problem.positional(flat)))

    batch = list(stacks.values())
    rows = [call(*row) for row in zip(*batch, strict=True)]
    looped = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    weights = {n: w.expand(len(rows), *w.shape) for n, w in problem.cotangents.items()}
    expected = values_and_gradients(looped, weights, variables)
    # A function that seeds its own generator draws the same numbers for every row.
    mapped = torch.func.vmap(call, randomness="same")(*batch)
    actual = values_and_gradients(mapped, weights, variables)
    _compare_float64("vmap", ("vmap", actual), (_LOOP, expected))

    names = {id(stack): name for name, stack in variables.items()}
    inputs = {names[id(t)]: i for i, t in enumerate(batch) if t.requires_grad}
    if inputs:

        def total(*tensors: Tensor) -> Tensor:
            return weighted_sum(call(*tensors), detached(problem.cotangents))

        each = torch.func.grad(total, argnums=tuple(inputs.values()))
        found = torch.func.vmap(each, randomness="same")(*batch)
        actual = detached(dict(zip(map(gradient_name, inputs), found, strict=True)))
        expected = {name: expected[name] for name in actual}
        _compare_float64("vmap", ("torch.func.grad in vmap", actual), (_LOOP, expected))


def _batched(problem: Problem) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
    """Stack copies of every tensor input along a new first dimension.

    Returns:
        The stacks by position among the arguments, and the variables with the stacks
        in place of the inputs.
    """
    names = {id(tensor): name for name, tensor in problem.variables.items()}
    variables = dict(problem.variables)
    stacks = {}
    for position, argument in enumerate(problem.arguments):
        if not isinstance(argument, Tensor):
            continue
        rows = [argument.detach()] * len(_BATCH_SCALES)
        if argument.requires_grad:
            rows = [row * scale for row, scale in zip(rows, _BATCH_SCALES, strict=True)]
        stacks[position] = torch.stack(rows).requires_grad_(argument.requires_grad)
        if argument.requires_grad:
            variables[names[id(argument)]] = stacks[position]
    return stacks, variables


def check_compile(problem: Problem, backend: Backend) -> None:
    """Compare :func:`torch.compile` of the whole graph with eager mode."""
    function = problem.function

    def call(*arguments: object) -> object:
        return function(*arguments)

    # Dynamo keeps what it compiled on the code object, 8 versions at most. A new code
    # object for each check never meets that limit and is freed with it.
    fresh = types.FunctionType(
        call.__code__.replace(), call.__globals__, closure=call.__closure__
    )
    compiled = torch.compile(fresh, fullgraph=True, dynamic=False, backend=backend)
    with warnings.catch_warnings():
        for message, category in _DYNAMO_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        outputs = named_outputs(compiled(*problem.positional()))
    weights, variables = problem.cotangents, problem.variables
    actual = values_and_gradients(outputs, weights, variables)
    expected = values_and_gradients(problem.outputs(), weights, variables)
    _compare_float64("compile", ("compiled code", actual), ("eager mode", expected))


def _compare_float64(
    check: str,
    actual: tuple[str, dict[str, Tensor]],
    expected: tuple[str, dict[str, Tensor]],
) -> None:
    (source, found), (reference, wanted) = actual, expected
    for name, value in wanted.items():
        compare(
            check,
            (source, found[name]),
            (reference, value),
            within(value, atol=_ATOL, rtol=_RTOL),
            functools.partial(element, name),
        )

"""Check of an optimizer: step by step against a reference, over a table of inputs."""

from __future__ import annotations

import copy
import functools
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from torch_mlcalc.testing.comparison import (
    Bound,
    GradientCheckError,
    compare,
    element,
)

Options: TypeAlias = Mapping[str, Any]
Maker: TypeAlias = Callable[..., Optimizer]
Draw: TypeAlias = Callable[[tuple[int, ...]], Tensor]

#: How the parameters of a run lie in memory, by name.
LAYOUTS: dict[str, Callable[[Draw], Tensor]] = {
    "matrix": lambda draw: draw((5, 7)),
    "transposed": lambda draw: draw((3, 6)).t().clone(),
    "channels last": lambda draw: draw((2, 3, 4, 5)).to(
        memory_format=torch.channels_last
    ),
    "gaps": lambda draw: draw((6, 4))[::2, 1:3],
    "scalar": lambda draw: draw(()),
    "empty": lambda draw: draw((0, 2)),
    "long": lambda draw: draw((1003,)),
}


class OptimizerCheckError(AssertionError):
    """An optimizer differs from its reference.

    The message says in which case, after which step, in which element of which
    parameter or state, which two numbers, and how far apart they may be.
    """


def check_optimizer(
    optimizer: Maker,
    reference: Maker,
    *,
    options: Options | None = None,
    reference_options: Options | None = None,
    dtypes: Collection[torch.dtype] = (torch.float64, torch.float32, torch.bfloat16),
    layouts: Collection[str] = tuple(LAYOUTS),
    cases: Collection[str] | None = None,
    steps: int = 6,
    ulps: float = 0,
) -> None:
    r"""Check that two optimizers agree after every step of every case.

    Compared are parameters and state, and that ``.grad`` is what it was:

    .. math:: |\theta_t - \theta'_t| \le \text{ulps} \cdot \varepsilon
        \max |\theta'_t, b'_t|

    The cases are ``"every gradient"``, ``"missing gradients"`` (at some steps),
    ``"late gradients"`` (for some parameters at first), ``"frozen parameter"``,
    ``"other strides"`` (of gradients), ``"zeroed in place"`` (by
    ``zero_grad(set_to_none=False)``), ``"closure"``, ``"added group"``,
    ``"changed options"`` (as schedulers do), ``"saved and loaded"``, ``"copied"`` and
    ``"sparse gradients"`` (left out if the reference refuses them).

    Args:
        optimizer: Class, or function of parameters and options.
        reference: Another one, trusted.
        options: Options of both.
        reference_options: Options of the reference alone, in addition.
        dtypes: Of the parameters. Low precision cannot be told from a step too small.
        layouts: Names from the table of layouts: ``"matrix"``, ``"transposed"``,
            ``"channels last"``, ``"gaps"``, ``"scalar"``, ``"empty"``, ``"long"``.
        cases: Names of the cases to run; by default all.
        steps: Steps of a run, at least 4.
        ulps: Error allowed, in units of the last place of the largest number among
            parameters and state.

    Raises:
        OptimizerCheckError: If they differ.
        TypeError: If an optimizer is an instance, not a class.
        ValueError: If a name is unknown, or the steps are too few.

    Example:
        >>> import torch
        >>> import torch_mlcalc as mlc
        >>> from torch_mlcalc.testing import check_optimizer
        >>> check_optimizer(
        ...     mlc.SGD, torch.optim.SGD, options=dict(momentum=0.9, foreach=False)
        ... )
        >>> check_optimizer(
        ...     torch.optim.SGD,
        ...     torch.optim.SGD,
        ...     options=dict(lr=0.1, momentum=0.9),
        ...     reference_options=dict(dampening=0.1),
        ... )
        Traceback (most recent call last):
        torch_mlcalc.testing.optimizers.OptimizerCheckError: every gradient, float64...
    """
    for what, make in (("optimizer", optimizer), ("reference", reference)):
        if not callable(make):
            raise TypeError(
                f"{what} must be a class, or a function of parameters and options, got "
                f"an instance of {type(make).__name__}"
            )
    for name in (*layouts, *(cases or ())):
        if name not in LAYOUTS and name not in _CASES:
            raise ValueError(
                f"layouts and cases must be among {[*LAYOUTS, *_CASES]}, got {name!r}"
            )
    if steps < 4:
        raise ValueError(f"steps must be at least 4, got {steps}")
    own = dict(options or {})
    for dtype in dtypes:
        for case in cases if cases is not None else _CASES:
            runs = [
                _Run(optimizer, own, dtype, layouts, steps),
                _Run(reference, {**own, **(reference_options or {})}, dtype, layouts),
            ]
            name = f"{case}, {str(dtype).removeprefix('torch.')}"
            _CASES[case](name, runs[0], runs[1], ulps)


class _Run:
    """An optimizer and its parameters, which it shares with no other."""

    def __init__(
        self,
        make: Maker,
        options: Options,
        dtype: torch.dtype,
        layouts: Collection[str],
        steps: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        draw = functools.partial(torch.randn, generator=generator, dtype=dtype)
        self.params = [LAYOUTS[layout](draw).requires_grad_() for layout in layouts]
        self.make, self.options, self.steps = make, copy.deepcopy(dict(options)), steps
        self.optimizer = make(self.params, **self.options)

    def replace(self, optimizer: Optimizer) -> None:
        """Go on with another optimizer, and the parameters that it has."""
        self.optimizer = optimizer
        groups = optimizer.param_groups
        self.params = [param for group in groups for param in group["params"]]

    def set_grads(self, step: int, missing: Collection[int] = ()) -> None:
        """Give each parameter the gradient of a step, as memory of its own."""
        generator = torch.Generator().manual_seed(step)
        for i, param in enumerate(self.params):
            grad = torch.randn(
                param.shape, generator=generator, dtype=param.dtype, device="cpu"
            )
            like = torch.empty_like(param).copy_(grad)
            param.grad = None if i in missing else like


Case: TypeAlias = Callable[[str, _Run, _Run, float], None]
_CASES: dict[str, Case] = {}


def _case(name: str) -> Callable[[Case], Case]:
    def register(case: Case) -> Case:
        _CASES[name] = case
        return case

    return register


def _walk(
    name: str,
    runs: tuple[_Run, _Run],
    ulps: float,
    missing: Callable[[int], Collection[int]] = lambda step: (),
    steps: Sequence[int] | None = None,
) -> None:
    for step in steps if steps is not None else range(runs[0].steps):
        for run in runs:
            run.set_grads(step, missing(step))
        _step(f"{name}, step {step}", runs, ulps)


def _step(name: str, runs: tuple[_Run, _Run], ulps: float) -> None:
    """Take a step with both and compare everything."""
    params = runs[0].params
    before = [None if p.grad is None else (p.grad, p.grad.clone()) for p in params]
    for run in runs:
        run.optimizer.step()
    for i, (param, held) in enumerate(zip(params, before, strict=True)):
        if param.grad is (held and held[0]) and (held is None or _equal(*held)):
            continue
        raise OptimizerCheckError(f"{name}: the gradient of params[{i}] was written to")
    _compare(name, *runs, ulps)


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.to_dense(), b.to_dense()) if a.is_sparse else torch.equal(a, b)


def _compare(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    allowed = ulps * _largest(reference)
    for i, (p, q) in enumerate(zip(run.params, reference.params, strict=True)):
        _compare_tensors(name, f"params[{i}]", p.detach(), q.detach(), allowed)
        state, expected = run.optimizer.state.get(p), reference.optimizer.state.get(q)
        if (state or {}).keys() != (expected or {}).keys():
            raise OptimizerCheckError(
                f"{name}: the state of params[{i}] has {sorted(state or ())}, but that "
                f"of the reference {sorted(expected or ())}"
            )
        for key, value in (expected or {}).items():
            found = (state or {})[key]
            if isinstance(value, Tensor) and isinstance(found, Tensor):
                label = f"state of params[{i}][{key!r}]"
                _compare_tensors(name, label, found, value, allowed)
            elif found != value:
                raise OptimizerCheckError(
                    f"{name}: the state of params[{i}] has {key}={found}, but that of "
                    f"the reference {value}"
                )


def _largest(run: _Run) -> float:
    values = [param.detach() for param in run.params]
    for param in run.params:
        state = run.optimizer.state.get(param, {})
        values += [value for value in state.values() if isinstance(value, Tensor)]
    dense = [value.to_dense() if value.is_sparse else value for value in values]
    return max(
        (float(value.abs().max()) for value in dense if value.numel()), default=0
    )


def _compare_tensors(
    name: str, label: str, a: Tensor, b: Tensor, allowed: float
) -> None:
    a, b = (t.to_dense() if t.is_sparse else t for t in (a, b))
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        raise OptimizerCheckError(
            f"{name}: {label} has shape {tuple(a.shape)} and {a.dtype}, but that of "
            f"the reference has {tuple(b.shape)} and {b.dtype}"
        )
    if torch.equal(a, b):
        return
    eps = torch.finfo(a.dtype).eps
    a, b = (torch.view_as_real(t) if t.is_complex() else t for t in (a, b))
    a, b = a.double(), b.double()
    unit = f"{allowed:.3g} * eps, which is {eps:.3g}"
    bound = Bound(torch.full(b.shape, allowed * eps, dtype=b.dtype, device="cpu"), unit)
    describe = functools.partial(element, label)
    try:
        compare(name, ("the optimizer", a), ("the reference", b), bound, describe)
    except GradientCheckError as error:
        raise OptimizerCheckError(str(error)) from None


@_case("every gradient")
def _every(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    _walk(name, (run, reference), ulps)


@_case("missing gradients")
def _missing(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    def missing(step: int) -> list[int]:
        # At step 2 all of them.
        return [i for i in range(len(run.params)) if step == 2 or (step + i) % 3 == 1]

    _walk(name, (run, reference), ulps, missing)


@_case("late gradients")
def _late(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    _walk(name, (run, reference), ulps, lambda step: range(3 - step))


@_case("frozen parameter")
def _frozen(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    _walk(name, (run, reference), ulps, steps=range(2))
    for each in (run, reference):
        each.params[0].requires_grad_(False)
    later = range(2, run.steps)
    _walk(name, (run, reference), ulps, lambda step: (0,), later)


@_case("other strides")
def _strides(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    for step in range(run.steps):
        for each in (run, reference):
            each.set_grads(step)
            for i, param in enumerate(each.params):
                if param.grad is not None and (step + i) % 2:
                    dims = tuple(reversed(range(param.dim())))
                    grad = param.grad.permute(dims).contiguous().permute(dims)
                    param.grad = grad
        _step(f"{name}, step {step}", (run, reference), ulps)


@_case("zeroed in place")
def _zeroed(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    for step in range(run.steps):
        for each in (run, reference):
            each.optimizer.zero_grad(set_to_none=False)
            generator = torch.Generator().manual_seed(step)
            for i, param in enumerate(each.params):
                grad = torch.randn(
                    param.shape, generator=generator, dtype=param.dtype, device="cpu"
                )
                # The first and the last get none at the odd steps.
                if step % 2 == 0 or 0 < i < len(each.params) - 1:
                    (param * grad).sum().backward()  # type: ignore[no-untyped-call]
        _step(f"{name}, step {step}", (run, reference), ulps)


@_case("closure")
def _closure(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    def losses(each: _Run) -> Tensor:
        def closure() -> Tensor:
            each.optimizer.zero_grad()
            sums = [(p.abs() ** 2).sum() for p in each.params]
            loss = torch.stack(sums).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        # The stubs want a closure to return a number.
        loss: Any = each.optimizer.step(closure)  # type: ignore[arg-type]
        if loss is None:
            raise OptimizerCheckError(f"{where}: step returned None, not the loss")
        return torch.as_tensor(loss, device="cpu").detach()

    for step in range(run.steps):
        where = f"{name}, step {step}"
        found, expected = losses(run), losses(reference)
        _compare_tensors(where, "loss", found, expected, 8 * ulps * float(expected))
        _compare(where, run, reference, ulps)


@_case("added group")
def _added(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    _walk(name, (run, reference), ulps, steps=range(2))
    for each in (run, reference):
        generator = torch.Generator().manual_seed(9)
        dtype = each.params[0].dtype
        new = torch.randn(
            4, 3, generator=generator, dtype=dtype, device="cpu"
        ).requires_grad_()
        each.optimizer.add_param_group({"params": [new], "lr": 0.03})
        each.params.append(new)
    _walk(name, (run, reference), ulps, steps=range(2, run.steps))


@_case("changed options")
def _changed(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    for step in range(run.steps):
        for each in (run, reference):
            for group in each.optimizer.param_groups:
                group["lr"] = 0.1 / (1 + step)
        _walk(name, (run, reference), ulps, steps=[step])


@_case("saved and loaded")
def _saved(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    _walk(name, (run, reference), ulps, lambda step: (1,), range(3))
    for each in (run, reference):
        file = io.BytesIO()
        torch.save(each.optimizer.state_dict(), file)
        file.seek(0)
        each.optimizer = each.make(each.params, **each.options)
        each.optimizer.load_state_dict(torch.load(file))
    _walk(name, (run, reference), ulps, steps=range(3, run.steps))


@_case("copied")
def _copied(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    _walk(name, (run, reference), ulps, steps=range(3))
    originals = [run.optimizer, reference.optimizer]
    before = [param.detach().clone() for param in run.params]
    for each, original in zip((run, reference), originals, strict=True):
        each.replace(copy.deepcopy(original))
    _walk(name, (run, reference), ulps, steps=range(3, run.steps))
    stayed = [p for group in originals[0].param_groups for p in group["params"]]
    if not all(torch.equal(p, q) for p, q in zip(stayed, before, strict=True)):
        raise OptimizerCheckError(f"{name}: steps of the copy changed the original")


@_case("sparse gradients")
def _sparse(name: str, run: _Run, reference: _Run, ulps: float) -> None:
    def set_sparse(each: _Run, step: int) -> None:
        each.set_grads(step)
        for param in each.params:
            if param.dim() == 2 and param.numel() and param.grad is not None:
                index = torch.tensor([[0, 2, 0, step % 3]], device="cpu")
                values = param.grad[:4][[0, 1, 2, 0]]
                param.grad = torch.sparse_coo_tensor(
                    index, values, param.shape, check_invariants=True
                )

    for step in range(run.steps):
        for each in (run, reference):
            set_sparse(each, step)
        try:
            copy.deepcopy(reference.optimizer).step()
        except RuntimeError:
            return
        _step(f"{name}, step {step}", (run, reference), ulps)

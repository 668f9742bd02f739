"""Every property that a gradient can lose, checked in one call."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from torch_mlcalc.testing.agreement import Backend, check_compile, check_vmap
from torch_mlcalc.testing.comparison import reported
from torch_mlcalc.testing.derivatives import Differentiation, Settings
from torch_mlcalc.testing.precision import check_float32
from torch_mlcalc.testing.problem import Params, Problem, at_precision, working_copies


def check_gradients(
    function: Callable[..., object],
    inputs: object,
    *,
    params: Params | None = None,
    gradcheck: bool = True,
    gradgradcheck: bool = True,
    forward_mode: bool = True,
    forward_over_reverse: bool = True,
    vmap: bool = True,
    compile: bool = True,
    float32: bool = True,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    ulps: float = 128.0,
    max_elements: int | None = None,
    compile_backend: Backend = "aot_eager",
) -> None:
    r"""Check that the gradients of a function or module are right, in every mode.

    Each check is one argument, and each is on by default:

    ======================== =========================================================
    ``gradcheck``            reverse mode against central differences
                             :math:`(f(x + h) - f(x - h)) / 2h`
    ``gradgradcheck``        the same for the gradient, by the inputs, the parameters
                             and the incoming gradient
    ``forward_mode``         forward mode (jvp) against the same differences
    ``forward_over_reverse`` forward mode through the gradient, as a Hessian-vector
                             product uses it
    ``vmap``                 :func:`torch.func.vmap` against a loop over a batch of
                             three: values, gradients through it, and
                             :func:`torch.func.grad` inside it
    ``compile``              :func:`torch.compile` with ``fullgraph=True`` against
                             eager mode: values and gradients
    ``float32``              float32 against float64 at the same points: values,
                             gradients and dtypes
    ======================== =========================================================

    All but the last work in float64, whatever the dtype of what is passed. Nothing of
    the caller's changes: inputs are copied; parameters, buffers and other tensors that
    the function reaches point at copies during the call, and at their own data again
    after it; ``grad`` fields and the global random state are left alone.

    Differences need a function that is smooth at the point of the check: keep away from
    the kinks of an absolute value or a hinge, and from the ends of a domain. In float32
    every value is held to a precision of its own, so a value that is zero only because
    terms cancel has none to show: move the point, or pass ``float32=False``.

    Args:
        function: A function or :class:`torch.nn.Module`, deterministic: seed what is
            random, put dropout into ``eval()``. It returns a tensor or nested tuples,
            lists and dicts of tensors; integer and boolean outputs are ignored.
        inputs: A tensor, or a tuple or list of all positional arguments. Tensors in
            nested tuples, lists and dicts count as well. Differentiated are those that
            require grad.
        params: Tensors that the function uses without being passed them, as an iterable
            (of tensors or of name and tensor) or a dict. By default all leaves that
            require grad and are found from the function and from non-tensor arguments:
            parameters of modules, closure variables, globals, defaults, attributes.
            ``()`` means inputs only. They must be leaves that own their memory.
        gradcheck: Whether to check the first derivative.
        gradgradcheck: Whether to check the second derivative.
        forward_mode: Whether to check forward mode.
        forward_over_reverse: Whether to check forward mode over reverse mode.
        vmap: Whether to check vmap; without tensors in ``inputs`` there is nothing to
            map over.
        compile: Whether to check compilation. Torch 2.13 does not compile an
            :class:`torch.autograd.Function` that has a ``jvp``.
        float32: Whether to check single precision.
        eps: Step of the differences, multiplied by the magnitude of elements above 1.
        atol: Absolute tolerance against differences.
        rtol: Relative tolerance against differences. These three default to those of
            :func:`torch.autograd.gradcheck`.
        ulps: How much worse float32 may be than rounding the inputs and the result.
            Measured over 47 functions of torch and textbook formulas, eight draws each:
            at most 7 for those that are fine, at least 1800 for those that cancel.
        max_elements: How many elements of each tensor the differences look at, picked
            at random but always alike; by default all. The cost of the first four
            checks is two evaluations for each.
        compile_backend: As in :func:`torch.compile`. The default differentiates the
            graph ahead of time and needs no C++ compiler, as ``"inductor"`` does.

    Raises:
        GradientCheckError: If a check fails; an AssertionError that says which check,
            which element of which input or parameter, and which numbers.
        TypeError: If ``function`` cannot be called or has no floating-point output, or
            ``inputs`` or ``params`` are of the wrong type.
        ValueError: If there is nothing to differentiate or nothing to check, if the
            function is not deterministic, if ``params`` cannot be varied, or if a
            tolerance is out of range.

    Example:
        >>> import torch
        >>> from torch_mlcalc.testing import check_gradients
        >>> x = torch.tensor([0.5, 2.0], requires_grad=True)
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Tanh())
        >>> check_gradients(model, x)
        >>> try:
        ...     check_gradients(lambda x: (x * x.detach()).sum(), x)
        ... except AssertionError as error:
        ...     print(error)
        gradcheck failed: the derivative of output by inputs[0][1] is 2 by reverse
        mode but 4 by finite differences. They differ by 2, allowed is 0.00401
        (atol=1e-05 + rtol=0.001 * |second|); 2 of 2 such numbers differ by too much,
        this one by most.

    References:
        A. Griewank and A. Walther, "Evaluating Derivatives", SIAM, 2nd ed. 2008,
        chapters 3 (forward and reverse mode) and 5 (forward over reverse).
    """
    wanted = {
        "gradcheck": gradcheck,
        "forward_mode": forward_mode,
        "gradgradcheck": gradgradcheck,
        "forward_over_reverse": forward_over_reverse,
        "vmap": vmap,
        "compile": compile,
        "float32": float32,
    }
    _refuse_bad_types(function, inputs)
    _refuse_bad_numbers(eps, atol, rtol, ulps, max_elements)
    _refuse_bad_choices(wanted, compile_backend)
    settings = Settings(eps, atol, rtol, max_elements)
    with (
        torch.inference_mode(False),  # which turns gradients on as well
        working_copies(function, inputs, params) as problem,
        torch.random.fork_rng(devices=problem.cuda_devices()),
    ):
        _evaluate_once(problem, settings)
        checks = _checks(problem, settings, ulps, compile_backend)
        for name, check in checks.items():
            if wanted[name]:
                with reported(name):
                    check()


def _checks(
    problem: Problem, settings: Settings, ulps: float, backend: Backend
) -> dict[str, Callable[[], None]]:
    """Return every check bound to its problem, the basic ones first."""

    # One set of differences serves reverse and forward mode alike.
    @functools.cache
    def first() -> Differentiation:
        return Differentiation(problem.outputs, problem.variables, settings)

    @functools.cache
    def second() -> Differentiation:
        incoming = {f"grad_output of {n}": t for n, t in problem.cotangents.items()}
        return Differentiation(
            problem.gradients, problem.variables | incoming, settings
        )

    return {
        "gradcheck": lambda: first().check_reverse_mode("gradcheck"),
        "forward_mode": lambda: first().check_forward_mode("forward_mode"),
        "gradgradcheck": lambda: second().check_reverse_mode("gradgradcheck"),
        "forward_over_reverse": lambda: second().check_forward_mode(
            "forward_over_reverse"
        ),
        "vmap": lambda: check_vmap(problem),
        "compile": lambda: check_compile(problem, backend),
        "float32": lambda: check_float32(problem, ulps),
    }


def _evaluate_once(problem: Problem, settings: Settings) -> None:
    # Before any check and outside of them: what fails here is not a gradient.
    if not problem.variables:
        raise ValueError(
            "there is nothing to differentiate by: no tensor in inputs requires grad, "
            "and no leaf that does was found behind function or in params. Call "
            "requires_grad_() on an input, or pass params."
        )
    outputs = problem.outputs()
    if not outputs:
        raise TypeError(
            "function must return at least one floating-point or complex tensor, but "
            "returned none. Integer and boolean results have no gradient."
        )
    for name, output in outputs.items():
        if at_precision(output, torch.float64).dtype != output.dtype:
            raise ValueError(
                f"{name} is {output.dtype} for float64 inputs, too coarse for "
                "differences. Let the dtype of the result follow the inputs."
            )
    _refuse_randomness(outputs, problem.outputs(), settings)
    generator = torch.Generator().manual_seed(0)
    for name, output in outputs.items():
        problem.cotangents[name] = _cotangent(output, generator).requires_grad_()


def _cotangent(output: Tensor, generator: torch.Generator) -> Tensor:
    """Return a weight for every element, none so small that it hides the element."""
    shape = (*output.shape, 2) if output.is_complex() else output.shape
    drawn = (
        torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu") + 0.5
    )
    weights = torch.view_as_complex(drawn) if output.is_complex() else drawn
    return weights.to(output.device)


def _refuse_randomness(
    once: dict[str, Tensor], again: dict[str, Tensor], settings: Settings
) -> None:
    for name, value in once.items():
        # A difference d between two calls appears in the derivatives as d / eps.
        bound = settings.eps * (settings.atol + settings.rtol * value.abs())
        change = (again[name] - value).abs()
        if (change > bound).any():
            raise ValueError(
                f"function must be deterministic, but {name} changed by "
                f"{change.max().item():.3g} when it was called again. Seed a generator "
                "inside the function, or put the module into eval()."
            )


def _refuse_bad_types(function: object, inputs: object) -> None:
    if not callable(function):
        raise TypeError(
            f"function must be callable, but is {type(function).__name__}. Pass a "
            "function or a module."
        )
    if not isinstance(inputs, (Tensor, tuple, list)):
        raise TypeError(
            "inputs must be a tensor or a tuple of positional arguments, but is "
            f"{type(inputs).__name__}. Write (value,) for a single argument."
        )


def _refuse_bad_numbers(
    eps: float, atol: float, rtol: float, ulps: float, max_elements: int | None
) -> None:
    for name, value in (("eps", eps), ("ulps", ulps)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, but is {value}.")
    for name, value in (("atol", atol), ("rtol", rtol)):
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be finite and not negative, but is {value}.")
    if max_elements is not None and max_elements < 1:
        raise ValueError(
            f"max_elements must be at least 1 or None, but is {max_elements}."
        )


def _refuse_bad_choices(wanted: dict[str, bool], backend: Backend) -> None:
    if not any(wanted.values()):
        raise ValueError(
            f"there is nothing to check: all of {', '.join(wanted)} are turned off."
        )
    if wanted["compile"] and isinstance(backend, str):
        known = torch.compiler.list_backends(exclude_tags=())
        if backend not in known:
            raise ValueError(
                f"compile_backend must be one of {', '.join(known)} or a function, but "
                f"is {backend!r}."
            )

"""The same values and gradients in float32, as far as rounding allows."""

import functools

import torch
from torch import Tensor

from torch_mlcalc.testing.comparison import (
    Bound,
    GradientCheckError,
    compare,
    element,
)
from torch_mlcalc.testing.problem import (
    Problem,
    at_precision,
    gradient_name,
    place,
    values_and_gradients,
)

# Random roundings of the inputs. The spread of eight misses the largest change by a
# small factor only, which ulps covers.
_ROUNDINGS = 8


def check_float32(problem: Problem, ulps: float) -> None:
    r"""Compare float32 with float64, at inputs that are exact in both.

    Rounding the inputs moves even an exact result, and no algorithm can be asked for
    more than that: the error is measured in units of the result's own rounding and of
    its largest change when the inputs are rounded at random,

    .. math:: |\hat f - f| \le \text{ulps} \cdot
        (\varepsilon |f| + \max_k |f(x (1 - \varepsilon \delta_k)) - f(x)|).

    A gradient may in addition be off by what changes the function, relative to its
    largest term, by as little: :math:`\varepsilon S / \max |x|`, where :math:`S` is the
    largest weighted output or :math:`|x_j \, \partial f / \partial x_j|`. Without that
    a gradient that is zero because terms cancel, as that of an energy's constant in a
    normalised density is, would have to be an exact zero.

    Args:
        problem: Its working copies are replaced and put back.
        ulps: How many of these units are allowed.

    Raises:
        GradientCheckError: If a result is further off, or is not in float32.

    References:
        N. J. Higham, "Accuracy and Stability of Numerical Algorithms", SIAM, 2nd ed.
        2002, section 1.5: mixed forward-backward error.
    """
    tensors = problem.floating()
    originals = [tensor.data for tensor in tensors]
    rounded = [at_precision(data, torch.float32) for data in originals]
    points = [at_precision(data, torch.float64) for data in rounded]
    try:
        actual = _evaluate_at(problem, rounded)
        _check_dtype(actual)
        expected = _evaluate_at(problem, points)
        floors = _floors(problem, expected)
        spread = _spread(problem, points, expected)
    finally:
        place(tensors, originals)
    eps, tiny = torch.finfo(torch.float32).eps, torch.finfo(torch.float32).tiny
    for name, exact in expected.items():
        unit = eps * (exact.abs() + floors.get(name, 0.0)) + spread[name]
        rule = f"ulps={ulps:.3g} times the effect of rounding it and its inputs"
        compare(
            "float32",
            ("float32", at_precision(actual[name], torch.float64)),
            ("float64", exact),
            Bound(ulps * unit + tiny, rule),
            functools.partial(element, name),
        )


def _floors(problem: Problem, expected: dict[str, Tensor]) -> dict[str, float]:
    """Return the size of a gradient beside which the largest term would be as large."""
    terms = {n: w.detach() * expected[n] for n, w in problem.cotangents.items()}
    for name, variable in problem.variables.items():
        terms[name] = variable.detach() * expected[gradient_name(name)]
    largest = max(_largest(term) for term in terms.values())
    # A variable that is all zeros, a fresh bias, has no size to compare with: take 1.
    return {
        gradient_name(name): largest / (_largest(variable.detach()) or 1.0)
        for name, variable in problem.variables.items()
    }


def _largest(values: Tensor) -> float:
    """Return the largest finite magnitude, 0 if there is none."""
    sizes = values.abs()
    sizes = sizes[sizes.isfinite()]
    return sizes.max().item() if sizes.numel() else 0.0


def _check_dtype(results: dict[str, Tensor]) -> None:
    for name, result in results.items():
        if at_precision(result, torch.float32).dtype != result.dtype:
            raise GradientCheckError(
                f"float32 failed: {name} is {result.dtype} for float32 inputs. "
                "Something inside is made in float64; give it the dtype of the inputs."
            )


def _spread(
    problem: Problem, points: list[Tensor], center: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return how far results move when float32 rounds what they depend on."""
    generator = torch.Generator().manual_seed(0)
    eps = torch.finfo(torch.float32).eps
    spread = {name: torch.zeros_like(value.abs()) for name, value in center.items()}
    for _ in range(_ROUNDINGS):
        moved = []
        for point in points:
            # Towards zero, for the reason of _BATCH_SCALES.
            delta = torch.rand(
                point.shape, generator=generator, dtype=torch.float64, device="cpu"
            )
            moved.append(point * (1 - eps * delta.to(point.device)))
        for name, value in _evaluate_at(problem, moved).items():
            # fmax passes over the NaN of a point that has left the domain.
            spread[name] = torch.fmax(spread[name], (value - center[name]).abs())
    return spread


def _evaluate_at(problem: Problem, points: list[Tensor]) -> dict[str, Tensor]:
    # Copies: a function that writes to its buffers must not write to the points.
    place(problem.floating(), [point.clone() for point in points])
    return values_and_gradients(
        problem.outputs(), problem.cotangents, problem.variables
    )

"""What every likelihood is held to: exactness, gradients, and the house conventions."""

import copy
import functools
import itertools
import math
import pickle
from collections.abc import Callable, Sequence
from typing import NamedTuple

import mpmath as mp
import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Loss
from torch_mlcalc.testing import check_gradients

REDUCTIONS = ("none", "mean", "sum")
DTYPES = (torch.float32, torch.float64)

Point = tuple[float, ...]


class Case(NamedTuple):
    """A likelihood with settings, and its value in exact arithmetic."""

    function: Callable[..., Tensor]
    module: type[Loss]
    settings: dict[str, object]
    #: The loss of one element, of as many numbers as the loss takes tensors.
    exact: Callable[..., mp.mpf]
    #: Where it is compared with the exact one.
    points: Sequence[Point]
    #: Where the gradients are checked; away from kinks.
    ordinary: Sequence[Point]
    #: Which of the tensors are differentiated; the others are counts or the like.
    smooth: tuple[int, ...]
    #: How many eps value, slopes and curvatures may be off, relative to their size...
    eps: tuple[float, float, float] = (8, 16, 64)
    #: ... plus that of this much: the terms that cancel in a sum of logarithms.
    size: Callable[..., mp.mpf] = lambda *point: mp.mpf(1)
    #: Points that only float64 holds.
    double: Sequence[Point] = ()
    #: Points whose curvatures, differences of nearly equal ones, have no digits.
    far: Sequence[Point] = ()
    #: Digits of the exact arithmetic; a slope of exp(-200) beside a value needs more.
    digits: int = 50

    def __call__(self, *tensors: Tensor, **options: object) -> Tensor:
        return self.function(*tensors, **self.settings, **options)

    def build(self, **options: object) -> Loss:
        return self.module(**self.settings, **options)


def columns(points: Sequence[Point], dtype: torch.dtype) -> list[Tensor]:
    return list(torch.tensor(points, dtype=torch.float64).to(dtype).T.contiguous())


def derivatives(case: Case, tensors: list[Tensor]) -> dict[tuple[int, ...], Tensor]:
    """Value, slopes and curvatures of each element, by the numbers of the tensors."""
    inputs = [
        tensor.clone().requires_grad_(i in case.smooth)
        for i, tensor in enumerate(tensors)
    ]
    wanted = [inputs[i] for i in case.smooth]
    value = case(*inputs, reduction="none")
    found = {(): value.detach()}
    slopes = torch.autograd.grad(value.sum(), wanted, create_graph=True)
    for i, slope in zip(case.smooth, slopes, strict=True):
        found[(i,)] = slope.detach()
        curvatures = (
            torch.autograd.grad(
                slope.sum(), wanted, retain_graph=True, materialize_grads=True
            )
            if slope.requires_grad
            else [torch.zeros_like(slope)] * len(wanted)
        )
        for j, curvature in zip(case.smooth, curvatures, strict=True):
            found[(i, j)] = curvature
    return found


def exact_derivative(case: Case, point: Point, by: tuple[int, ...]) -> mp.mpf:
    """Differentiate with steps of the size of the numbers, and digits to spare."""
    with mp.workdps(case.digits):
        at = [mp.mpf(x) for x in point]
        if not by:
            return case.exact(*at)
        steps = [x if x != 0 else max(map(abs, at)) or mp.mpf(1) for x in at]

        def moved(*shifts: mp.mpf) -> mp.mpf:
            return case.exact(
                *(x + h * s for x, h, s in zip(at, steps, shifts, strict=True))
            )

        order = tuple(by.count(i) for i in range(len(at)))
        found = mp.diff(moved, (mp.mpf(0),) * len(at), order)
        return found / mp.fprod(steps[i] for i in by)


def assert_exact(case: Case, dtype: torch.dtype) -> None:
    """Compare value, slopes and curvatures with those in exact arithmetic."""
    points = [*case.points, *(case.double if dtype == torch.float64 else ())]
    points += case.far
    tensors = columns(points, dtype)
    rounded = torch.stack(tensors, 1).tolist()
    finfo = torch.finfo(dtype)
    floor = max(mp.mpf(finfo.tiny), mp.mpf(10) ** (15 - case.digits))
    # Both orders of a mixed curvature have the same exact one.
    exact_at = functools.cache(lambda *at: exact_derivative(case, at[0], at[1]))
    for by, actual in derivatives(case, tensors).items():
        numbers = actual.tolist()
        if len(by) == 2:
            numbers = numbers[: len(points) - len(case.far)]
        for point, number in zip(rounded, numbers, strict=False):
            exact = exact_at(tuple(point), tuple(sorted(by)))
            if abs(exact) > finfo.max:
                # A curvature may have overflown on the way, as the difference of two.
                right = number == mp.sign(exact) * mp.inf or len(by) == 2
                assert right and not math.isfinite(number), f"{by} at {point}: {number}"
                continue
            size = case.size(*point) if not by else mp.mpf(0)
            allowed = case.eps[len(by)] * finfo.eps * (abs(exact) + size) + floor
            error = abs(mp.mpf(number) - exact)
            assert error <= allowed, (
                f"{by} at {point}: {number}, not {mp.nstr(exact, 17)}: "
                f"{mp.nstr(error / allowed * case.eps[len(by)], 5)} eps"
            )


def assert_gradients(case: Case, **options: object) -> None:
    """Check the gradients in every mode, reduction, and with a weight."""
    tensors = columns(case.ordinary, torch.float64)
    for i in case.smooth:
        tensors[i].requires_grad_()
    weight = (torch.rand_like(tensors[0]) + 0.5).requires_grad_()

    def weighted(*inputs: Tensor) -> Tensor:
        return case(*inputs[:-1], weight=inputs[-1], reduction="mean")

    check_gradients(weighted, (*tensors, weight), **options)
    for reduction in ("none", "sum"):
        check_gradients(
            lambda *inputs, kind=reduction: case(*inputs, reduction=kind),
            tuple(tensors),
            vmap=False,
            compile=False,
            float32=False,
            gradgradcheck=False,
            forward_over_reverse=False,
            **options,
        )


def assert_conventions(case: Case) -> None:
    """Check what all losses of the package share."""
    tensors = columns(case.ordinary, torch.float32)
    elements = case(*tensors, reduction="none")
    _assert_reductions(case, tensors, elements)
    _assert_shapes(case, tensors, elements)
    _assert_dtypes(case, tensors)
    _assert_module(case, tensors)
    before = [(tensor.clone(), tensor._version) for tensor in tensors]
    case(*tensors)
    for tensor, (data, version) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, data)
        assert tensor._version == version


def _assert_reductions(case: Case, tensors: list[Tensor], elements: Tensor) -> None:
    weight = torch.rand_like(elements) + 0.5
    close = torch.testing.assert_close
    close(case(*tensors, reduction="sum"), elements.sum())
    close(case(*tensors), elements.mean())
    close(case(*tensors, reduction="none", weight=weight), elements * weight)
    close(case(*tensors, reduction="sum", weight=weight), (elements * weight).sum())
    mean = (elements * weight).sum() / weight.sum()
    close(case(*tensors, weight=weight), mean)


def _assert_shapes(case: Case, tensors: list[Tensor], elements: Tensor) -> None:
    matrices = [torch.stack([tensor, tensor.flip(0)]) for tensor in tensors]
    expected = torch.stack([elements, elements.flip(0)])
    torch.testing.assert_close(case(*matrices, reduction="none"), expected)
    scalar = case(*(tensor[0] for tensor in tensors), reduction="none")
    torch.testing.assert_close(scalar, elements[0])
    empty = [tensor[:0] for tensor in tensors]
    assert case(*empty, reduction="none").shape == (0,)
    assert case(*empty, reduction="sum").item() == 0
    assert case(*empty).isnan()
    meta = [tensor.to("meta") for tensor in matrices]
    for reduction in REDUCTIONS:
        # Tensors without data pass, so nothing waits for a device.
        shape = case(*meta, reduction=reduction).shape
        assert shape == (matrices[0].shape if reduction == "none" else ())
    for i in range(1, len(tensors)):
        short = [t[:-1] if i == j else t for j, t in enumerate(tensors)]
        _assert_refused(case, short, "losses do not broadcast")
    _assert_refused(case, tensors, "losses do not broadcast", weight=tensors[0][:-1])
    _assert_refused(case, tensors, "reduction must be", reduction="average")


def _assert_refused(
    case: Case, tensors: list[Tensor], message: str, **options: object
) -> None:
    try:
        case(*tensors, **options)
    except ValueError as error:
        assert message in str(error)
    else:
        raise AssertionError(f"not refused: {message}")


def _assert_dtypes(case: Case, tensors: list[Tensor]) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        half = [tensor.to(dtype) for tensor in tensors]
        exact = case(*(tensor.double() for tensor in half), reduction="none")
        actual = case(*half, reduction="none")
        assert actual.dtype == dtype
        bound = 0.51 * torch.finfo(dtype).eps * exact.abs() + 1e-6
        assert ((actual - exact).abs() <= bound).all()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert case(*half).dtype == torch.float32
    mixed = [tensors[0].double(), *tensors[1:]]
    assert case(*mixed).dtype == torch.float64
    _assert_typed(case, [tensor.to(torch.complex64) for tensor in tensors])
    _assert_typed(case, [tensor.long() for tensor in tensors])
    _assert_typed(case, [[1.0], *tensors[1:]])


def _assert_typed(case: Case, tensors: list[object]) -> None:
    try:
        case(*tensors)
    except TypeError:
        return
    raise AssertionError("a wrong type was taken")


def _assert_module(case: Case, tensors: list[Tensor]) -> None:
    weight = torch.rand_like(tensors[0]) + 0.5
    for reduction in REDUCTIONS:
        module = case.build(reduction=reduction)
        copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module))]
        module.load_state_dict(module.state_dict())
        for each in [module, module.double(), *copies]:
            expected = case(*tensors, reduction=reduction)
            assert torch.equal(each(*tensors), expected)
            expected = case(*tensors, reduction=reduction, weight=weight)
            assert torch.equal(each(*tensors, weight=weight), expected)
        assert f"reduction={reduction!r}" in repr(module)
        for name, value in case.settings.items():
            assert f"{name}={value!r}" in repr(module)
    for validate in ("yes", 1):
        try:
            case.build(validate=validate)
        except TypeError as error:
            assert "validate must be" in str(error)
        else:
            raise AssertionError("validate was not checked")


def grid(*axes: Sequence[float]) -> list[Point]:
    """Return all combinations."""
    return list(itertools.product(*axes))

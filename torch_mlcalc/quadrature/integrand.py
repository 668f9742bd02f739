"""The caller's function with its arguments, called and checked in one place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from torch_mlcalc.quadrature.domains import Extent
from torch_mlcalc.quadrature.sharding import Ranks

Function = Callable[..., Tensor]

# torch.dtype.to_real, which the compiler cannot trace.
_REAL = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}

#: Dtypes whose sums lose all but three digits; they are summed in float32.
HALF = (torch.float16, torch.bfloat16)


class Callee(Protocol):
    """What an adaptive rule evaluates: an integrand, or one mapped to the cube."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Further arguments of the function."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch."""

    @property
    def dtype(self) -> torch.dtype:
        """That of the points."""

    @property
    def device(self) -> torch.device:
        """That of the points."""

    @property
    def ranks(self) -> Ranks | None:
        """Processes that share the points, or None."""

    def __call__(self, points: Tensor, rows: Tensor | None = None) -> Tensor:
        """Values at points."""

    def result_dtype(self, values: Tensor) -> torch.dtype:
        """That of the integral of such values, which a call has just returned."""


class Integrand(NamedTuple):
    """A function of points and args, and what is known of one batch of integrals.

    ``batch_shape`` is that of the integrals; inside ``vmap`` the mapped dimensions are
    not in it. ``dtype`` and ``device`` are those of the points. On the line
    (``coordinates`` is 0) points are numbers, else they have so many coordinates in
    their last dimension. ``ranks`` are the processes that share the points, if several.
    Of a ``log`` integrand the values are logs, which are real.
    """

    function: Function
    args: tuple[Any, ...]
    batch_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    coordinates: int = 0
    ranks: Ranks | None = None
    log: bool = False

    def __call__(self, points: Tensor, rows: Tensor | None = None) -> Tensor:
        """Values at points ``(n, *batch)``, or ``(n, m)`` for ``m`` rows of args.

        On a Box there are coordinates behind, in the points but not in the values.

        Returns:
            Values ``(n, *batch, *event)``, or ``(n, m, *event)``.

        Raises:
            TypeError: If the function does not return a tensor, or logs are complex.
            ValueError: If that has another shape.
        """
        args = self.args
        if rows is not None:
            args = tuple(self.rows(a, rows) for a in args)
        values = checked(ask(self.function, points, args), points, self.coordinates)
        if self.log and values.is_complex():
            raise TypeError(
                f"the log integrand returned {values.dtype}; real logs are wanted, of "
                "a positive integrand. A complex one is taken by integrate."
            )
        return values

    def result_dtype(self, values: Tensor) -> torch.dtype:
        """Not narrower than the points, as the weights are not."""
        if values.dtype == self.dtype:
            return self.dtype
        return torch.promote_types(values.dtype, self.dtype)

    def rows(self, arg: Any, rows: Tensor) -> Any:  # noqa: ANN401
        """An arg for some elements of the batch, numbered in one dimension."""
        if not isinstance(arg, Tensor) or arg.ndim == 0:
            return arg
        trailing = arg.shape[self._leading(arg) :]
        full = arg.expand(*self.batch_shape, *trailing).reshape(-1, *trailing)
        taken = full.index_select(0, rows.reshape(-1))
        return taken.reshape(*rows.shape, *trailing)

    def _leading(self, arg: Tensor) -> int:
        # Without declared batch dimensions an arg has no trailing ones of its own.
        return min(arg.ndim, len(self.batch_shape))


def ask(function: Function, points: Tensor, args: tuple[Any, ...] = ()) -> object:
    """What a function returns; an error of torch inside of it says at which points."""
    try:
        return function(points, *args)
    except RuntimeError as error:
        if type(error) is not RuntimeError:
            raise
        raise RuntimeError(
            f"{error}\nThe integrand got points of shape {_shape(points.shape)} in "
            f"{points.dtype}, of which the first dimension counts the points and the "
            "others are the batch. A batch of tensors that it closes over is declared "
            "by batch_shape=, and a network wants points[..., None] on a line."
        ) from error


def checked(values: object, points: Tensor, coordinates: int = 0) -> Tensor:
    """What a function returned at points, refused if it is not values of these."""
    wanted = points.shape[:-1] if coordinates else points.shape
    if not isinstance(values, Tensor):
        raise TypeError(
            f"the integrand returned {type(values).__name__}; a tensor is wanted, "
            f"of shape {_shape(wanted)} or with event dimensions behind."
        )
    if values.shape != wanted and values.shape[: len(wanted)] != wanted:
        raise ValueError(_wrong_shape(points.shape, values.shape, wanted))
    if not (values.is_floating_point() or values.is_complex()):
        return values.to(points.dtype)
    return values


def bind(
    function: Function,
    extent: Extent,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Tensor | None = None,
) -> Integrand:
    """Check what the caller passed; settle batch shape, dtype and device."""
    limits = []
    for limit in extent:
        if isinstance(limit, Tensor):
            limits.append(limit)
    shapes = [t.shape for t in limits] if limits else []
    if breakpoints is not None:
        limits.append(breakpoints)
        shapes.append(breakpoints.shape[1:])
    return bind_shaped(function, limits, shapes, args, batch_shape)


def bind_shaped(
    function: Function,
    limits: list[Tensor],
    shapes: list[torch.Size],
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    coordinates: int = 0,
) -> Integrand:
    """The same from the tensors of a domain and the batch shape of each."""
    if not isinstance(args, tuple):
        args = _as_tuple(args)
    if not limits and not args and batch_shape is None:
        return bind_alone(function, coordinates)
    check_function(function)
    tensors = [a for a in args if isinstance(a, Tensor)]
    dtype, device = _dtype_and_device(limits, tensors)
    batch = _batch(shapes, tensors, batch_shape)
    return Integrand(function, args, batch, dtype, device, coordinates)


def bind_alone(function: Function, coordinates: int = 0) -> Integrand:
    """The same for a function without args between numbers."""
    check_function(function)
    dtype, device = torch.get_default_dtype(), default_device()
    return Integrand(function, (), (), dtype, device, coordinates)


def check_function(function: object) -> None:
    """Refuse what cannot be called."""
    if not callable(function):
        raise TypeError(
            f"integrand is a {type(function).__name__}; a function of the points is "
            "wanted, for example lambda x: torch.exp(-x * x)."
        )


def default_device() -> torch.device:
    """Where torch makes a tensor if nothing is said."""
    # A mode may say otherwise. To ask a tensor takes ten times as long, and to ask
    # torch.get_default_device() three times that.
    if torch._C._len_torch_function_stack() or torch._C._get_default_device() != "cpu":
        return torch.empty(0).device
    return CPU


#: The device of a tensor if nobody said otherwise.
CPU = torch.device("cpu")


# The compiler cannot trace the query; this makes it ask once. See also host.py.
default_device._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _as_tuple(args: object) -> tuple[Any, ...]:
    if isinstance(args, list):
        return tuple(args)
    raise TypeError(
        f"args is a {type(args).__name__}; a tuple is wanted: "
        "args=(theta,) for one argument."
    )


def _dtype_and_device(
    limits: list[Tensor], args: list[Tensor]
) -> tuple[torch.dtype, torch.device]:
    """Those of the limits, else of the args, else torch's defaults."""
    every = limits + args
    device = every[0].device if every else default_device()
    for tensor in every:
        if tensor.device != device and tensor.ndim > 0:
            raise ValueError(
                f"limits and args are on {device} and {tensor.device}; "
                "move them to one device."
            )
    for group in (limits, args):
        dtype = None
        for tensor in group:
            if tensor.is_floating_point() or tensor.is_complex():
                own = _REAL.get(tensor.dtype, tensor.dtype)
                dtype = own if dtype is None else torch.promote_types(dtype, own)
        if dtype is not None:
            return dtype, device
    return torch.get_default_dtype(), device


def _batch(
    limits: list[torch.Size], args: list[Tensor], declared: Sequence[int] | None
) -> tuple[int, ...]:
    shapes = [tuple(s) for s in limits]
    if declared is None:
        shapes += [tuple(a.shape) for a in args]
        distinct = set(shapes)
        if len(distinct) == 1:
            return distinct.pop()
        try:
            return tuple(torch.broadcast_shapes(*shapes))  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise ValueError(
                f"limits, breakpoints and args have shapes {shapes}, which do not "
                "broadcast to one batch; declare batch_shape= if an argument has "
                "dimensions of its own behind those of the batch."
            ) from None
    batch = _as_shape(declared)
    # Nearly always; torch.broadcast_shapes takes as long as all else here.
    if not all(s in ((), batch) for s in shapes) and not _broadcasts(shapes, batch):
        raise ValueError(
            f"batch_shape is {batch}, but the limits have shapes {shapes}; "
            "they must broadcast to it."
        )
    for i, arg in enumerate(args):
        lead = tuple(arg.shape[: len(batch)])
        if arg.ndim and lead != batch:
            raise ValueError(
                f"args[{i}] has shape {_shape(arg.shape)}, which does not begin with "
                f"batch_shape {batch}; expand it, or close over it if all integrals "
                "share it."
            )
    return batch


def _broadcasts(shapes: list[tuple[int, ...]], batch: tuple[int, ...]) -> bool:
    """Whether shapes broadcast to that of a batch."""
    try:
        joint = torch.broadcast_shapes(batch, *shapes)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return tuple(joint) == batch


def _as_shape(declared: object) -> tuple[int, ...]:
    shape = tuple(declared) if isinstance(declared, Sequence) else None
    whole = (int, torch.SymInt)
    if shape is None or not all(isinstance(n, whole) and n >= 0 for n in shape):
        raise TypeError(
            f"batch_shape is {declared!r}; a tuple of sizes is wanted, for example "
            "features.shape[:-1]."
        )
    return shape


def _shape(shape: Sequence[int]) -> str:
    return str(tuple(shape))


def _wrong_shape(
    points: Sequence[int], values: Sequence[int], wanted: Sequence[int]
) -> str:
    if math.prod(values) == 1:
        each = "points" if points == wanted else "points[..., 0]"
        remedy = (
            "It must be vectorised: one value for each point. For a constant c, "
            f"return torch.full_like({each}, c)."
        )
    else:
        remedy = (
            "The batch is that of limits and args; if the function closes over "
            "batched tensors, declare batch_shape=. Event dimensions come last."
        )
    return (
        f"the integrand got points of shape {_shape(points)} and returned shape "
        f"{_shape(values)}; {_shape(wanted)} is wanted, or that with event dimensions "
        f"behind. {remedy}"
    )


def as_result(total: Tensor, integrand: Callee) -> Tensor:
    """Half-precision inputs give a half-precision result, summed in float32."""
    if integrand.dtype in HALF and total.dtype == torch.float32:
        return total.to(integrand.dtype)
    return total

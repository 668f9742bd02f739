"""Jacobians by finite differences, by reverse mode and by forward mode."""

import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd import forward_ad

from torch_mlcalc.testing.comparison import compare, element, within

# The derivative of one result by one variable, under the names of both: a row for each
# real number in the result, a column for each real number in the variable.
Jacobians = dict[tuple[str, str], Tensor]

# Neither 0 nor 1 nor positive: a backward that ignores its grad_output, squares it or
# takes its absolute value gives itself away.
_GRAD_OUTPUT = -2.0


@dataclass(frozen=True)
class Settings:
    """The step of finite differences, and what they may miss.

    Args:
        eps: Step, relative to the element where that is larger than 1.
        atol: Absolute tolerance.
        rtol: Relative tolerance.
        max_elements: How many elements of each tensor are looked at; None: all.
    """

    eps: float
    atol: float
    rtol: float
    max_elements: int | None


@dataclass
class Coordinates:
    """The real numbers in a tensor that are looked at: two in each complex element.

    Args:
        name: Name of the tensor.
        shape: Its shape, with a last dimension of 2 if it is complex.
        chosen: Which numbers, as flat indices.
        is_complex: Whether the tensor is complex.
    """

    name: str
    shape: torch.Size
    chosen: Tensor
    is_complex: bool

    @cached_property
    def positions(self) -> list[tuple[int, ...]]:
        """The numbers as indices into the shape."""
        if not self.shape:
            return [()]
        index = torch.unravel_index(self.chosen, self.shape)
        return list(zip(*(i.tolist() for i in index), strict=True))

    def read(self, tensor: Tensor) -> Tensor:
        """Return the numbers as a vector, a copy: results may be views of inputs."""
        return real_view(tensor.detach()).reshape(-1)[self.chosen]

    def label(self, number: int) -> str:
        """Return the name of one of the numbers."""
        position = self.positions[number]
        if not self.is_complex:
            return element(self.name, position)
        part = ("real", "imaginary")[position[-1]]
        return f"the {part} part of {element(self.name, position[:-1])}"


def coordinates(
    tensors: dict[str, Tensor], max_elements: int | None
) -> dict[str, Coordinates]:
    """Return which numbers of each tensor to look at, all or so many at random."""
    chosen = {}
    for name, tensor in tensors.items():
        if not tensor.numel():
            continue
        numbers = real_view(tensor.detach())
        flat = torch.arange(numbers.numel(), device=tensor.device)
        if max_elements is not None:
            # A generator of its own: the same elements in every call, no global seed.
            generator = torch.Generator().manual_seed(0)
            shuffled = torch.randperm(
                numbers.numel(), generator=generator, device="cpu"
            )
            flat = flat[shuffled[:max_elements].sort().values]
        chosen[name] = Coordinates(name, numbers.shape, flat, tensor.is_complex())
    return chosen


@dataclass
class Differentiation:
    """Results, variables, and the Jacobians between them found in three ways.

    Args:
        results: Evaluates the results, by name, at the variables as they are.
        variables: Leaves that require grad, by name; their data are moved and put back.
        settings: Step and tolerances.
    """

    results: Callable[[], dict[str, Tensor]]
    variables: dict[str, Tensor]
    settings: Settings

    @cached_property
    def rows(self) -> dict[str, Coordinates]:
        """The numbers that are differentiated."""
        return coordinates(self.results(), self.settings.max_elements)

    @cached_property
    def columns(self) -> dict[str, Coordinates]:
        """The numbers by which they are differentiated."""
        return coordinates(self.variables, self.settings.max_elements)

    @cached_property
    def by_differences(self) -> Jacobians:
        """Central differences, a column at a time."""
        columns: defaultdict[tuple[str, str], list[Tensor]] = defaultdict(list)
        for variable, numbers in self.columns.items():
            data = real_view(self.variables[variable].data)
            for position in numbers.positions:
                center = data[position].item()
                # Far from 1 an absolute step would vanish in the rounding of center.
                step = self.settings.eps * max(1.0, abs(center))
                data[position] = upper = center + step
                above = self._read_results()
                data[position] = lower = center - step
                below = self._read_results()
                data[position] = center
                for result, high in above.items():
                    slope = (high - below[result]) / (upper - lower)
                    columns[result, variable].append(slope)
        return {key: torch.stack(column, -1) for key, column in columns.items()}

    def _read_results(self) -> dict[str, Tensor]:
        results = self.results()
        return {name: row.read(results[name]) for name, row in self.rows.items()}

    def by_forward_mode(self) -> Jacobians:
        """Return Jacobian-vector products, found a column at a time."""
        _load_forward_mode()
        columns: defaultdict[tuple[str, str], list[Tensor]] = defaultdict(list)
        for variable, numbers in self.columns.items():
            tensor = self.variables[variable]
            for position in numbers.positions:
                tangent = torch.zeros_like(tensor.data)
                real_view(tangent)[position] = 1.0
                with forward_ad.dual_level():
                    _attach_tangent(tensor, tangent)
                    results = self.results()
                    for result, row in self.rows.items():
                        slope = row.read(_tangent_of(results[result]))
                        columns[result, variable].append(slope)
        return {key: torch.stack(column, -1) for key, column in columns.items()}

    def by_reverse_mode(self) -> tuple[Jacobians, set[tuple[str, str]]]:
        """Find vector-Jacobian products, a row at a time.

        Returns:
            The Jacobians, and the keys of those that are zero for want of a graph.
        """
        rows: defaultdict[tuple[str, str], list[Tensor]] = defaultdict(list)
        connected = set()
        results = self.results()
        for result, numbers in self.rows.items():
            for position in numbers.positions:
                found = self._backward(results[result], position)
                for variable, gradient in found.items():
                    if gradient is None:
                        gradient = torch.zeros_like(self.variables[variable])
                    else:
                        connected.add((result, variable))
                    row = self.columns[variable].read(gradient)
                    rows[result, variable].append(row / _GRAD_OUTPUT)
        jacobians = {key: torch.stack(row) for key, row in rows.items()}
        return jacobians, jacobians.keys() - connected

    def _backward(
        self, result: Tensor, position: tuple[int, ...]
    ) -> dict[str, Tensor | None]:
        if not result.requires_grad:
            return dict.fromkeys(self.columns)
        grad_output = torch.zeros_like(result)
        real_view(grad_output)[position] = _GRAD_OUTPUT
        found = torch.autograd.grad(
            result,
            [self.variables[name] for name in self.columns],
            grad_output,
            retain_graph=True,
            allow_unused=True,
        )
        return dict(zip(self.columns, found, strict=True))

    def check_reverse_mode(self, check: str) -> None:
        """Compare reverse mode with finite differences."""
        actual, unconnected = self.by_reverse_mode()
        for result, variable in actual:
            lost = (
                f" No graph leads from {result} to {variable}: it was detached on the "
                "way, or an autograd.Function uses it without taking it as an argument."
            )
            hint = lost if (result, variable) in unconnected else ""
            self._compare(check, "reverse mode", actual, (result, variable), hint)

    def check_forward_mode(self, check: str) -> None:
        """Compare forward mode with finite differences."""
        actual = self.by_forward_mode()
        for key in actual:
            self._compare(check, "forward mode", actual, key)

    def _compare(
        self,
        check: str,
        mode: str,
        actual: Jacobians,
        key: tuple[str, str],
        hint: str = "",
    ) -> None:
        row, column = self.rows[key[0]], self.columns[key[1]]
        expected = self.by_differences[key]
        compare(
            check,
            (mode, actual[key]),
            ("finite differences", expected),
            within(expected, atol=self.settings.atol, rtol=self.settings.rtol),
            lambda at: f"the derivative of {row.label(at[0])} by {column.label(at[1])}",
            hint,
        )


def real_view(tensor: Tensor) -> Tensor:
    """Return a view of complex elements as pairs of real ones."""
    if not tensor.is_complex():
        return tensor
    return torch.view_as_real(tensor.resolve_conj())


def _attach_tangent(tensor: Tensor, tangent: Tensor) -> None:
    """Give a leaf a tangent in place, so that closures see it as well.

    A tensor into which a dual number is copied has its tangent until the dual level
    ends. No-grad mode lets a leaf be written to, and does not stop forward mode.
    """
    dual = forward_ad.make_dual(  # type: ignore[no-untyped-call]
        tensor.detach().clone(), tangent
    )
    with torch.no_grad():
        tensor.copy_(dual)


def _tangent_of(result: Tensor) -> Tensor:
    tangent = forward_ad.unpack_dual(result).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(result) if tangent is None else tangent


def _load_forward_mode() -> None:
    """Let torch load its forward-mode rules, which it does with a warning.

    Some are written in TorchScript, and torch 2.13 warns of its own use of it.
    """
    zero = torch.zeros((), device="cpu")
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.filterwarnings(
            "ignore", r".*torch\.jit\.\w+` is deprecated", DeprecationWarning
        )
        forward_ad.make_dual(zero, zero)  # type: ignore[no-untyped-call]

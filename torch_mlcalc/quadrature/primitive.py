"""An antiderivative as a piecewise Legendre series: to evaluate and to invert."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.precision import full_precision
from torch_mlcalc.quadrature.brackets import narrowed
from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.host import dual_level, transforming
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.panels import NODES, Reach, at_end, series

#: Halvings that bring a bracket of length 2 below the spacing of float64 at 1.
HALVINGS = 54


class Mesh(NamedTuple):
    """The panels of a batch of antiderivatives.

    Attributes:
        reach: The ranges, ``(*batch)``.
        edges: Edges of the panels in ``u``, ``(panels + 1, *batch)``.
        status: How the search for them ended, ``(*batch)``.
    """

    reach: Reach
    edges: Tensor
    status: Tensor


class Piecewise(ABC):
    r"""The integral of Legendre series on panels, up to any point.

    On every panel the integrand is a series in :math:`s \in [-1, 1]`, whose terms are
    integrated by

    .. math:: \int_{-1}^s P_k = \frac{P_{k+1}(s) - P_{k-1}(s)}{2 k + 1}

    Gradients flow through the coefficients by plain autograd, while the panels and the
    points asked for stand still.

    References:
        NIST Digital Library of Mathematical Functions, equation 18.9.7 and section
        18.17, https://dlmf.nist.gov/18
    """

    def __init__(self, integrand: Integrand, coefficients: Tensor) -> None:
        """Add up the panels.

        Args:
            integrand: What is integrated.
            coefficients: Its series on each panel, times half the length, ``(terms,
                panels, *batch, *event)``.
        """
        self.integrand = integrand
        self.coefficients = coefficients
        whole = 2 * coefficients[0]
        self.at_edges = torch.cat([torch.zeros_like(whole[:1]), whole.cumsum(0)])

    @abstractmethod
    def locate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The panels of points ``(m, *batch)``, and the places ``s`` in them."""

    @abstractmethod
    def points(self, index: Tensor, s: Tensor) -> Tensor:
        """The points at places in panels, ``(m, *batch)``."""

    @property
    @abstractmethod
    def last(self) -> Tensor:
        """The last panel of each element, ``(*batch)``; those behind it pad."""

    @property
    def requires_grad(self) -> bool:
        """Whether it has a gradient in what the integrand depends on."""
        return self.coefficients.requires_grad

    @property
    def total(self) -> Tensor:
        """The integral over the whole range, ``(*batch, *event)``."""
        return self.at_edges[-1]

    def __call__(self, x: Tensor) -> Tensor:
        """The integral up to ``x`` ``(m, *batch)``, of shape ``(m, *batch, *event)``.

        Its derivatives by ``x`` are those of the integrand itself, not of the series.

        Returns:
            The integrals.
        """
        value = self._value(x.detach().to(torch.float64))
        return value + boundary(self.integrand, x, value) if moves(x) else value

    def _value(self, x: Tensor) -> Tensor:
        index, s = self.locate(x)
        value = _pick(self.at_edges, index)
        terms = len(self.coefficients)
        for row, basis in zip(
            self.coefficients, _integrals(s.clamp(-1, 1), terms), strict=True
        ):
            # Term by term: together the rows would leave the cache.
            term = _pick(row, index)
            value = value + term * _like(basis, term)
        return value

    def invert(self, y: Tensor) -> Tensor:
        r"""Points up to which a positive integrand has the integral ``y``.

        Bisection on the series. Newton steps from there,

        .. math:: x \leftarrow x - \frac{F(x) - y}{f(x)},

        are rounding alone, but two of them have the derivatives of the implicit
        function up to the third order.

        Args:
            y: Integrals ``(m, *batch)``; the integrand has no event dimensions.

        Returns:
            The points ``(m, *batch)``; an end of the range where ``y`` is beyond.
        """
        x = self._bisect(y.detach().to(torch.float64)).to(self.integrand.dtype)
        for _ in range(2):
            inside = x.isfinite()
            value, slope = self(x), self.integrand(torch.where(inside, x, 0))
            inside = inside & (slope > 0) & slope.isfinite()
            step = (value - y) / torch.where(inside, slope, 1)
            # Where next to nothing is, rounding over density would be a long way.
            step = torch.where(inside, step - step.detach(), 0)
            x = x - step
        return x

    def _bisect(self, y: Tensor) -> Tensor:
        with torch.no_grad():
            at_edges = self.at_edges.detach().to(torch.float64).cummax(0).values
            index = torch.minimum(find(at_edges, y), self.last)
            rest = y - at_edges.gather(0, index)
            every = index.expand(len(self.coefficients), *index.shape)
            rows = self.coefficients.gather(1, every).to(torch.float64)
            series = _antiderivative(rows)
            _, high = narrowed(
                lambda s: ~(_clenshaw(series, s) < rest),
                torch.full_like(rest, -1),
                torch.ones_like(rest),
                HALVINGS,
            )
            return self.points(index, high)


class Primitive(Piecewise):
    """The integral from the start of the range to any point in it, on a mesh.

    The integrand is called once, at the nodes of all panels.
    """

    def __init__(self, integrand: Integrand, mesh: Mesh) -> None:
        """Evaluate the integrand on a mesh.

        Args:
            integrand: What is integrated.
            mesh: The panels.
        """
        self.reach, self.edges, self.status = mesh
        low, high = self.edges[:-1], self.edges[1:]
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        points, slope = self._nodes()
        batch = integrand.batch_shape
        points = points.to(integrand.dtype)
        values = integrand(points.flatten(0, 1))
        values = values.reshape(*points.shape, *values.shape[1 + len(batch) :])
        wide = accumulator(integrand.result_dtype(values))
        values = values.to(wide)
        real = values.real.dtype if values.is_complex() else wide
        weights = (slope * self.half).to(real)
        # Nothing is there where there is no panel, even if the integrand is infinite.
        some = (weights > 0) & ~at_end(self.reach, points.to(torch.float64))
        events = (1,) * (values.ndim - weights.ndim)
        some, weights = (t.reshape(t.shape + events) for t in (some, weights))
        values = torch.where(some, values, 0) * weights
        ordered = values.numel() > 0 and not values.is_complex()
        self.lowest = values.detach().amin() if ordered else None
        transform = torch.tensor(series(NODES).transform, device=points.device).to(wide)
        with full_precision(values.device):
            coefficients = torch.tensordot(transform, values, 1)
        super().__init__(integrand, coefficients)

    def _nodes(self) -> tuple[Tensor, Tensor]:
        """Nodes of all panels and their slope, ``(NODES, panels, *batch)``."""
        nodes = torch.tensor(series(NODES).nodes, device=self.edges.device)
        # A panel of no length, which fills up a batch, takes the place of the first.
        middle = torch.where(self.half > 0, self.middle, self.middle[:1])
        u = middle + self.half * nodes.reshape(-1, *(1,) * self.edges.ndim)
        return self.reach.points(u)

    def nodes(self) -> Tensor:
        """Points at which the integrand was evaluated, ``(n, *batch)``."""
        return self._nodes()[0].flatten(0, 1)

    @property
    def last(self) -> Tensor:
        """The last panel of each element: padding sits at the end."""
        return ((self.half > 0).sum(0) - 1).clamp(min=0)

    def locate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The panels of points ``(m, *batch)``, and the places ``s`` in them."""
        u = self.reach.variable(x)
        # At u = 1 it would be one of the padding.
        index = torch.minimum(find(self.edges, u), self.last)
        half = self.half.gather(0, index)
        s = (u - self.middle.gather(0, index)) / torch.where(half > 0, half, 1)
        return index, s

    def points(self, index: Tensor, s: Tensor) -> Tensor:
        """The points at places in panels, ``(m, *batch)``."""
        half = self.half.gather(0, index)
        return self.reach.points(self.middle.gather(0, index) + half * s)[0]


def _like(basis: Tensor, term: Tensor) -> Tensor:
    """A basis ``(m, *batch)`` in the dtype and with the dimensions of its term."""
    real = term.real.dtype if term.is_complex() else term.dtype
    return basis.to(real).reshape(basis.shape + (1,) * (term.ndim - basis.ndim))


def _integrals(s: Tensor, terms: int) -> Iterator[Tensor]:
    """Integrals from -1 of the Legendre polynomials of degree 0 to ``terms - 1``."""
    yield s + 1
    before, here = torch.ones_like(s), s
    for k in range(1, terms):
        after = ((2 * k + 1) * s * here - k * before) / (k + 1)
        yield (after - before) / (2 * k + 1)
        before, here = here, after


def _antiderivative(rows: Tensor) -> list[Tensor]:
    """Legendre coefficients of the integral from -1 of a series ``(terms, ...)``."""
    k = torch.arange(len(rows), dtype=rows.dtype, device=rows.device)
    shares = rows / (2 * k + 1).reshape(-1, *(1,) * (rows.ndim - 1))
    none = torch.zeros_like(rows[:1])
    return [*(torch.cat([rows[:1], shares]) - torch.cat([shares[1:], none, none]))]


def _clenshaw(series: list[Tensor], s: Tensor) -> Tensor:
    """A Legendre series by its recurrence, two operations a term and not nine."""
    value = above = torch.zeros_like(s)
    for k in range(len(series) - 1, -1, -1):
        rest = torch.sub(series[k], above, alpha=(k + 1) / (k + 2))
        value, above = rest.addcmul(s, value, value=(2 * k + 1) / (k + 1)), value
    return value


def find(edges: Tensor, values: Tensor) -> Tensor:
    """The panel ``(m, *batch)`` whose edges ``(panels + 1, *batch)`` hold a value."""
    edges = edges.movedim(0, -1).contiguous()
    values = values.movedim(0, -1).contiguous()
    index = torch.searchsorted(edges, values, right=True) - 1
    return index.clamp(0, edges.shape[-1] - 2).movedim(-1, 0)


def _pick(table: Tensor, index: Tensor) -> Tensor:
    """Rows ``(m, *batch)`` of a table ``(panels, *batch, *event)``."""
    event = table.shape[index.ndim :]
    index = index.reshape(*index.shape, *(1,) * len(event))
    return table.gather(0, index.expand(*index.shape[: -len(event) or None], *event))


def moves(x: Tensor) -> bool:
    """Whether a derivative by ``x`` may be asked for."""
    if transforming() or dual_level():
        return True
    return x.requires_grad and torch.is_grad_enabled()


def boundary(integrand: Integrand, x: Tensor, like: Tensor) -> Tensor:
    r"""A zero with the derivatives of the integral by its upper limit ``x``.

    With the number :math:`x_0 = x`, :math:`(x - x_0)\,f((x + x_0) / 2)` is 0, has the
    first derivative :math:`f(x)`, the second :math:`f'(x)`, and all mixed ones with
    parameters of the integrand: the Leibniz rule in plain autograd.

    Args:
        integrand: The integrand.
        x: Upper limits ``(m, *batch)``.
        like: The integrals, whose shape and dtype the result has.

    Returns:
        The zero; nothing where ``x`` is infinite.
    """
    finite = x.isfinite()
    inner = torch.where(finite, x, 0)
    step = inner - inner.detach()
    values = integrand((inner.detach() + step / 2).to(integrand.dtype)).to(like.dtype)
    # At a singular end the derivative is infinite and the value is not.
    if not values.is_complex():
        values = torch.nan_to_num(values, nan=torch.nan)
    return _like(torch.where(finite, step, 0), values) * values

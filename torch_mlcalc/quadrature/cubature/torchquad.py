"""torchquad's integrators as rules."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache, partial
from types import ModuleType
from typing import Any, NamedTuple, final

import numpy as np
import torch
from scipy import special
from torch import Tensor

from torch_mlcalc.quadrature.cubature.chart import Chart
from torch_mlcalc.quadrature.cubature.cubature import (
    FixedCubature,
    Outcome,
    RandomRule,
)
from torch_mlcalc.quadrature.cubature.nodes import UnitNodes
from torch_mlcalc.quadrature.cubature.recording import Recorded, record
from torch_mlcalc.quadrature.cubature.replicates import (
    CONFIDENCE,
    check_budget,
    judge,
)
from torch_mlcalc.quadrature.cubature.sampler import Sampler
from torch_mlcalc.quadrature.host import readable, write
from torch_mlcalc.quadrature.placement import FINITE
from torch_mlcalc.quadrature.rules import Array, Rule, check_count

#: VEGAS warms up with 1/125 of the points at a time.
_LEAST = 125


@dataclass(frozen=True, init=False, repr=False)
class Torchquad(Rule):
    r"""Any integrator of torchquad as a rule, on lines, boxes and simplices.

    .. math:: Q = \sum_i w_i f(x_i)

    with nodes and weights of the integrator, found through its public ``integrate`` on
    the unit cube. torchquad never sees the values that are returned to you, so that
    gradients are those of the sum, also for integrators that cannot be differentiated
    themselves; shapes, batches, dtypes, infinite limits and the log form are those of
    this package. Grids and Monte Carlo are fixed rules and state no error; ``VEGAS``
    adapts to every integral in turn, evaluating the whole batch each time, and does.

    torchquad is licensed under the GPL-3 and is not installed with this package:
    ``pip install 'torch_mlcalc[torchquad]'``.

    Args:
        integrator: An integrator such as ``torchquad.Simpson()``.
        n: Number of points in all, torchquad's ``N``; grids use no more, and warn if
            they use less.
        sampler: For Monte Carlo and VEGAS: ``torchquad.RNG``, the default, or
            ``torchquad.Sobol``, the class itself.
        seed: For Monte Carlo and VEGAS: seed of the sampler.

    Raises:
        ImportError: If torchquad is not installed.
        TypeError: If ``integrator`` is not an integrator of torchquad, ``n`` or
            ``seed`` not an integer, or ``sampler`` not a class.
        ValueError: If ``n`` is less than 2, ``seed`` is negative, or ``sampler`` or
            ``seed`` is given to an integrator that draws nothing.

    Example:
        >>> import torch, torchquad, torch_mlcalc as mlc
        >>> rule = mlc.Torchquad(torchquad.GaussLegendre(), n=64)
        >>> box = mlc.Box(0.0, 1.0, dimension=2)
        >>> mlc.integrate(lambda x: torch.exp(x.sum(-1)), box, rule)
        tensor(2.9525)

    References:
        P. Gomez, H. H. Toftevaag, G. Meoni, "torchquad: numerical integration in
        arbitrary dimensions with PyTorch", J. Open Source Softw. 6 (2021),
        https://doi.org/10.21105/joss.03439
    """

    integrator: Any
    n: int
    sampler: type | None
    seed: int

    def __new__(
        cls,
        integrator: Any = None,  # noqa: ANN401
        n: int = 0,
        sampler: type | None = None,
        seed: int = 0,
    ) -> Torchquad:
        """Choose what kind of rule the integrator makes."""
        if cls is not Torchquad:
            return super().__new__(cls)
        torchquad = _library()
        if not isinstance(integrator, torchquad.BaseIntegrator):
            raise TypeError(
                f"integrator is a {type(integrator).__name__}; an integrator of "
                "torchquad is wanted, for example torchquad.Simpson()."
            )
        check_count("n", n, 2)
        check_count("seed", seed, 0)
        if not _draws(integrator) and (sampler is not None or seed):
            raise ValueError(
                f"sampler and seed have no effect with {type(integrator).__name__}, "
                "which draws nothing; leave them out."
            )
        if sampler is not None and not isinstance(sampler, type):
            raise TypeError(
                f"sampler is a {type(sampler).__name__}; a class is wanted: "
                "torchquad.RNG or torchquad.Sobol."
            )
        adaptive = isinstance(integrator, torchquad.VEGAS)
        return super().__new__(TorchquadVegas if adaptive else TorchquadNodes)

    def __init__(
        self,
        integrator: Any,  # noqa: ANN401
        n: int,
        sampler: type | None = None,
        seed: int = 0,
    ) -> None:
        """Keep the settings, which ``__new__`` has checked."""
        settings = {"integrator": integrator, "n": n, "sampler": sampler, "seed": seed}
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """The integrator by its name."""
        shown = [f"{type(self.integrator).__name__}()", f"n={self.n}"]
        if self.sampler is not None:
            shown.append(f"sampler={self.sampler.__name__}")
        if self.seed:
            shown.append(f"seed={self.seed}")
        return f"Torchquad({', '.join(shown)})"

    def options(self, seed: int) -> dict[str, Any]:
        """Arguments of ``integrate`` besides the problem; a sampler is used once."""
        if not _draws(self.integrator):
            return {}
        torchquad = _library()
        sampler, kept = self.sampler or torchquad.RNG, {}
        if "torch_save_state" in inspect.signature(sampler).parameters:
            # Else it draws from the global generator.
            kept = {"torch_save_state": True}
        return {"rng": sampler("torch", seed=seed % 2**63, **kept)}


def _library() -> ModuleType:
    try:
        import torchquad
    except ImportError:
        raise ImportError(
            "Torchquad needs torchquad, which is not installed: "
            "pip install 'torch_mlcalc[torchquad]'"
        ) from None
    return torchquad


def _draws(integrator: Any) -> bool:  # noqa: ANN401
    return "rng" in inspect.signature(integrator.integrate).parameters


@final
class TorchquadNodes(Torchquad, FixedCubature):
    """Grids and Monte Carlo, whose nodes do not depend on the integrand."""

    def nodes(self, chart: Chart) -> RecordedNodes:
        """Nodes and weights on the unit cube."""
        nodes, weights, closed = _table(self, chart.dimension)
        kind = getattr(chart, "kind", None)
        infinite = kind is not None and readable(kind) and (kind != FINITE).any()
        if closed and infinite:
            raise ValueError(
                f"{self} has nodes on the faces of the box, of which some are infinite "
                "here; use an open rule such as GaussLegendre."
            )
        return RecordedNodes(chart.dimension, nodes, weights)

    def count(self, dimension: int) -> int:
        """How many nodes the integrator asks for."""
        return len(_table(self, dimension)[1])


@lru_cache(maxsize=16)
def _recorded(rule: Torchquad, dimension: int) -> tuple[Tensor, Tensor, bool]:
    options = partial(rule.options, rule.seed)
    recorded = record(rule.integrator, dimension, rule.n, options)
    closed = bool(((recorded.nodes == 0) | (recorded.nodes == 1)).any())
    with torch.inference_mode(False):
        nodes, weights = map(torch.from_numpy, (recorded.nodes, recorded.weights))
    return nodes, weights, closed


def _table(rule: Torchquad, dimension: int) -> tuple[Tensor, Tensor, bool]:
    """Nodes, weights, and whether there are nodes on the faces of the cube."""
    return _recorded(rule, dimension)


# The compiler cannot trace what torchquad does; see also host.py.
_table._dynamo_marked_constant = True  # type: ignore[attr-defined]


@final
class TorchquadVegas(Torchquad, RandomRule):
    """VEGAS, which adapts to one integrand after another."""

    def run(self, sampler: Sampler) -> Outcome:
        """Run it for every integral, and take nodes and weights from the runs."""
        check_budget(self, self.n * sampler.elements, sampler.max_evals)
        seed = sampler.seed() + self.seed
        if self.n < _LEAST:
            raise ValueError(
                f"{self} has n={self.n}; torchquad's VEGAS needs at least {_LEAST}."
            )
        runs = [self._run_one(sampler, seed, e) for e in range(sampler.elements)]
        value = np.array([[run.value] for run in runs])
        error = np.array([[run.error] for run in runs])
        parts = np.stack([value, value])
        status, error, detail = judge(sampler, parts, value, error)
        nodes = _padded(runs, sampler)
        n_evals = np.full(sampler.elements, sum(run.n_evals for run in runs))
        return Outcome(nodes, value, error, status, n_evals, detail)

    def _run_one(self, sampler: Sampler, seed: int, element: int) -> Run:
        factor = special.ndtri((1 + CONFIDENCE) / 2)

        def options() -> dict[str, Any]:
            made = self.options(seed)
            wanted = sampler.tolerance
            if wanted is None:
                return made
            relative = max(wanted.rtol, wanted.atol) if sampler.log else wanted.rtol
            made["eps_rel"] = relative / factor
            made["eps_abs"] = 0.0 if sampler.log else wanted.atol / factor
            return made

        integrand = _Seen(sampler, element)
        recorded = record(
            self.integrator, sampler.dimension, self.n, options, integrand
        )
        values = np.concatenate(integrand.values)[recorded.used]
        weights = recorded.weights
        error = factor * recorded.deviation
        if sampler.log:
            value = special.logsumexp(values, b=weights)
            error = error * np.exp(integrand.top - value)
        else:
            value = weights @ values
        return Run(recorded, float(value), float(error), len(recorded.used))


class Run(NamedTuple):
    """One integral by VEGAS."""

    recorded: Recorded
    value: float
    error: float
    n_evals: int


class _Seen:
    """One of the integrands of a batch, as torchquad gets it; it keeps the values."""

    def __init__(self, sampler: Sampler, element: int) -> None:
        self._sampler = sampler
        self._element = element
        self.values: list[Array] = []
        self.top = 0.0

    def __call__(self, points: Array) -> Array:
        values = self._sampler.shared_values(points)[:, self._element]
        if values.shape[1:] != (1,) or np.iscomplexobj(values):
            raise ValueError(
                "torchquad's VEGAS takes integrands with one real value; got "
                f"{values.shape[1]} values of dtype {self._sampler.dtype} at each "
                "point. Use Vegas."
            )
        values = values[:, 0]
        if self._sampler.log:
            if not self.values:
                self.top = float(np.nan_to_num(values.max(), neginf=0.0))
            # It only guides the search; squares of larger values would overflow.
            guide = np.exp(np.minimum(values - self.top, 300.0))
        else:
            guide = values
        self.values.append(values)
        return guide


def _padded(runs: list[Run], sampler: Sampler) -> RecordedNodes:
    """Nodes of all integrals, with weights of 0 where one has fewer."""
    n = max(len(run.recorded.weights) for run in runs)
    nodes = np.full((len(runs), n, sampler.dimension), 0.5)
    weights = np.zeros((len(runs), n))
    for i, run in enumerate(runs):
        count = len(run.recorded.weights)
        nodes[i, :count] = run.recorded.nodes
        weights[i, :count] = run.recorded.weights
    batch, lead = sampler.integrand.batch_shape, sampler.lead

    def tensor(array: Array) -> Tensor:
        array = array.reshape((*lead, *batch, *array.shape[1:]))
        array = np.moveaxis(array, len(lead) + len(batch), len(lead))
        with torch.inference_mode(False):
            return write(array.copy(), sampler.mark, sampler.integrand.device)

    return RecordedNodes(sampler.dimension, tensor(nodes), tensor(weights))


@final
@dataclass(frozen=True, eq=False)
class RecordedNodes(UnitNodes):
    """Nodes ``(n, d)`` or ``(n, *batch, d)`` and weights that an integrator used."""

    dimension: int
    nodes: Tensor
    weights: Tensor

    @property
    def n(self) -> int:  # type: ignore[override]
        """How many."""
        return len(self.weights)

    def unit(
        self, start: int, stop: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Nodes and weights ``start`` to ``stop``."""
        nodes, weights = self.nodes[start:stop], self.weights[start:stop]
        return (
            nodes.to(dtype=dtype, device=device),
            weights.to(dtype=dtype, device=device),
        )

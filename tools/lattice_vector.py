"""Build the generating vector of `mlc.Lattice`, component by component.

    python tools/lattice_vector.py

writes `torch_mlcalc/quadrature/cubature/lattice_vector.json` (about 5 minutes). The
construction is greedy: fewer dimensions give the beginning of the same vector.

The vector is good for every number of points n = 2^m, 2^6 <= n <= 2^20, at once, and
the points of one n are among those of the next. In every dimension it takes the
component for which the largest of the ratios

    worst-case error at n of this vector / that of the best greedy vector for n alone

is smallest (Cools, Kuo, Nuyens, SIAM J. Sci. Comput. 28 (2006), section 4). The error
is that of randomly shifted lattices in the unanchored weighted Sobolev space,

    e_n(z)^2 = -1 + 1/n sum_k prod_j (1 + gamma_j B_2({k z_j / n})),
    B_2(x) = x^2 - x + 1/6,

for all candidates at once by FFT (Nuyens, Cools, Math. Comp. 75 (2006), and J.
Complexity 22 (2006) for powers of two). The weights are gamma_j = 1 / j^2: the slowest
decay by a power at which e_n is O(n^(-1 + delta)) for every delta > 0 with constants
that do not depend on the dimension (Kuo, J. Complexity 19 (2003)). Five others - 1/j,
6/j^2 and 2 pi^2 over j, j^2, j^3 - were tried on seven integrands in 3, 6, 10 and 100
dimensions at n = 2^12; none was better throughout, and those with a factor of 2 pi^2
were up to 15 times worse in 100 dimensions.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

Array = npt.NDArray[Any]

LOWEST, HIGHEST, DIMENSIONS = 6, 20, 1024
TARGET = Path(__file__).parents[1] / (
    "torch_mlcalc/quadrature/cubature/lattice_vector.json"
)


def weights(dimensions: int) -> Array:
    """The weight of each coordinate."""
    return 1.0 / np.arange(1, dimensions + 1) ** 2


def bernoulli(x: Array) -> Array:
    """The second Bernoulli polynomial."""
    return x * x - x + 1 / 6


def squared_error(vector: Sequence[int], n: int) -> float:
    """Squared worst-case error of ``n`` points, straight from its definition."""
    k = np.arange(n)
    product = np.ones(n)
    for gamma, z in zip(weights(len(vector)), vector, strict=True):
        product *= 1 + gamma * bernoulli(k * z % n / n)
    return float(product.mean() - 1)


class Orbits:
    """The points k / 2^m of one component, grouped so that sums are convolutions.

    Reduced fractions u / 2^l, u odd, are permuted by every candidate. Up to sign, which
    B_2 does not see, the odd numbers below 2^l are the powers of 5, of which there are
    2^(l - 2). In this order multiplying by 5^a is a rotation by a.
    """

    def __init__(self, log2_n: int) -> None:
        """Tabulate B_2 over every orbit, and its transform."""
        self.values = [bernoulli(powers_of_five(m) / 2**m) for m in range(log2_n + 1)]
        self.transforms = [fft.rfft(v) for v in self.values]

    def sums(self, product: list[Array]) -> list[Array]:
        """For each orbit, the sum of product times B_2 for every candidate 5^a."""
        correlated = [
            fft.irfft(t * np.conj(fft.rfft(p)), p.size)
            for t, p in zip(self.transforms, product, strict=True)
        ]
        # Orbits up to sign stand for two points each, but for 0 and 1/2.
        return [(1 if m < 2 else 2) * s for m, s in enumerate(correlated)]

    def multiply(self, product: list[Array], a: int, gamma: float) -> None:
        """Take the component 5^a into the product."""
        for p, v in zip(product, self.values, strict=True):
            p *= 1 + gamma * np.roll(v, -(a % v.size))


def powers_of_five(m: int) -> Array:
    """The powers of 5 modulo 2^m, all 2^(m - 2) of them; below m = 2 just one."""
    if m == 0:
        return np.zeros(1, dtype=np.int64)
    powers, factor = np.ones(1, dtype=np.int64), 5
    while powers.size < 2 ** (m - 2):
        powers = np.concatenate([powers, powers * factor % 2**m])
        factor = factor * factor % 2**m
    return powers


def construct(
    log2_n: int, dimensions: int, best: dict[int, Array]
) -> tuple[list[int], Array]:
    """Vector, and its squared errors ``(dimensions, log2_n + 1)`` for every n = 2^m.

    Args:
        log2_n: Logarithm of the largest n.
        dimensions: Length of the vector.
        best: For each m that counts, the squared errors to compare with.

    Returns:
        The components and the errors.
    """
    orbits = Orbits(log2_n)
    product = [np.ones_like(v) for v in orbits.values]
    errors, error = np.zeros((dimensions, log2_n + 1)), np.zeros(log2_n + 1)
    vector = []
    for j, gamma in enumerate(weights(dimensions)):
        total, worst, gains = np.zeros(1), np.zeros(1), []
        for m, part in enumerate(orbits.sums(product)):
            total = np.tile(total, part.size // total.size) + part
            gains.append(gamma * total / 2**m)
            if m in best:
                ratio = (error[m] + gains[m]) / best[m][j]
                worst = np.maximum(np.tile(worst, ratio.size // worst.size), ratio)
        a = int(np.argmin(worst)) if j else 0
        error = error + [g[a % g.size] for g in gains]
        errors[j] = error
        orbits.multiply(product, a, float(gamma))
        z = pow(5, a, 2**log2_n)
        vector.append(min(z, 2**log2_n - z))
    return vector, errors


def build(
    log2_n: int = HIGHEST, dimensions: int = DIMENSIONS, lowest: int = LOWEST
) -> tuple[list[int], Array]:
    """Vector for every n from ``2**lowest`` to ``2**log2_n``.

    Args:
        log2_n: Logarithm of the largest n.
        dimensions: Length of the vector.
        lowest: Logarithm of the smallest n.

    Returns:
        The components, and for each n the ratio of its error to that of the best greedy
        vector for this n alone, in the dimension in which it is largest.
    """
    best = {}
    for m in range(lowest, log2_n + 1):
        alone = {m: np.ones(dimensions)}
        best[m] = construct(m, dimensions, alone)[1][:, m]
    vector, errors = construct(log2_n, dimensions, best)
    ratios = [np.sqrt(errors[:, m] / best[m]).max() for m in best]
    return vector, np.array(ratios)


def main() -> None:
    """Build the vector and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimensions", type=int, default=DIMENSIONS)
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()
    start = time.perf_counter()
    vector, ratios = build(dimensions=options.dimensions)
    options.target.write_text(json.dumps(vector) + "\n")
    for m, ratio in enumerate(ratios, LOWEST):
        print(f"n = 2^{m}: {ratio:.3f} times the error of the best vector for n alone")
    print(f"{len(vector)} components in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

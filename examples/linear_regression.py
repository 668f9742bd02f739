"""Linear regression by gradient descent, to the last certified digit.

The 11 linear data sets of the NIST Statistical Reference Datasets come with certified
coefficients of 15 digits. The number of steps that gradient descent needs grows with
the condition number of the columns, here up to 1e15. Three old ideas turn that into
dozens of steps (2200 for Longley) and leave nothing to rounding:

1. Columns that are nearly orthogonal: a polynomial is fitted as a Chebyshev series on
   [-1, 1], several predictors are centred and scaled, and the weights are mapped back.
2. The optimal heavy ball [1]: if the eigenvalues of the loss's Hessian lie between mu
   and L, SGD is fastest with

       lr = (2 / (sqrt(L) + sqrt(mu)))^2
       momentum = ((sqrt(L) - sqrt(mu)) / (sqrt(L) + sqrt(mu)))^2.

3. Iterative refinement [2]: train on what the last round has left over, with that
   residual computed exactly (in the standard library's fractions), and add up.

The certified values are compared with at the end and used for nothing else.

    python examples/linear_regression.py                    # all data sets
    python examples/linear_regression.py --dataset Filip    # one of them

References:
    [1] B. T. Polyak, "Some methods of speeding up the convergence of iteration
        methods", 1964, https://doi.org/10.1016/0041-5553(64)90137-5
    [2] A. Bjorck, "Numerical Methods for Least Squares Problems", 1996, section 2.9,
        https://doi.org/10.1137/1.9781611971484
    Data: NIST/ITL StRD, https://www.itl.nist.gov/div898/strd/lls/lls.shtml
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from linear_regression_picture import save_picture
from torch import Tensor, nn
from tqdm import tqdm

import torch_mlcalc as mlc

HERE = Path(__file__).resolve().parent

# A round shrinks the error of the weights by GAIN, or by as much as float64 allows. The
# second round reaches every digit of every data set; the third shows that it did.
GAIN = 1e-14
ROUNDS = 3

Exact = npt.NDArray[np.object_]  # an array of Fractions


# --- The data, in columns that are nearly orthogonal ----------------------------------


@dataclass(frozen=True)
class Problem:
    """Fit ``target`` by ``raw @ coefficients``, which is ``features @ weights``."""

    name: str
    raw: (
        Exact  # the columns of the model as published: 1, x, x^2, ... or 1, x1, x2, ...
    )
    target: Exact
    basis: Exact  # features = raw @ basis, so coefficients = basis @ weights
    features: Exact
    certified: Exact  # the coefficients according to NIST
    powers: (
        range | None
    )  # of x in each raw column; None if there are several predictors


def load_problems() -> dict[str, Problem]:
    """Read the data without rounding: 0.1 is 1/10, not the float next to it."""
    path = HERE / "data" / "nist_strd_linear.json"
    data = json.loads(path.read_text(), parse_float=Fraction, parse_int=Fraction)
    problems = {}
    for name, entry in data["datasets"].items():
        predictors = [np.array(column) for column in entry["predictors"].values()]
        if len(predictors) == 1:
            powers = range(0 if entry["intercept"] else 1, int(entry["degree"]) + 1)
            raw = np.stack([predictors[0] ** k for k in powers], axis=1)
        else:
            powers = None
            raw = np.stack([predictors[0] ** 0, *predictors], axis=1)
        if entry["intercept"] and powers:
            basis = chebyshev(raw)
        else:
            basis = standardised(raw, entry["intercept"])
        problems[name] = Problem(
            name=name,
            raw=raw,
            target=np.array(entry["response"]),
            basis=basis,
            features=raw @ basis,
            certified=np.array(entry["certified"]),
            powers=powers,
        )
    return problems


def chebyshev(raw: Exact) -> Exact:
    """Chebyshev polynomials on the range of x, by T[k+1] = 2 t T[k] - T[k-1]."""
    x, degree = raw[:, 1], raw.shape[1] - 1
    centre, radius = (x.max() + x.min()) / 2, (x.max() - x.min()) / 2

    def times_t(polynomial: Exact) -> Exact:  # t = (x - centre) / radius
        return np.asarray((np.roll(polynomial, 1) - centre * polynomial) / radius)

    one = np.array([Fraction(k == 0) for k in range(degree + 1)])
    columns = [one, times_t(one)]
    for _ in range(degree - 1):
        columns.append(2 * times_t(columns[-1]) - columns[-2])
    return np.stack(columns, axis=1)


def standardised(raw: Exact, intercept: bool) -> Exact:
    """Columns of mean square 1, and of mean 0 where an intercept absorbs the shift."""
    basis = np.diag([Fraction(1)] * raw.shape[1])
    for j in range(intercept, raw.shape[1]):
        shift = raw[:, j].mean() if intercept else Fraction(0)
        # The root may be rounded: the same fraction maps the weights back.
        scale = Fraction(math.sqrt(np.mean((raw[:, j] - shift) ** 2)))
        basis[0, j] = -shift / scale
        basis[j, j] = 1 / scale
    return basis


def to_tensor(fractions: Exact) -> Tensor:
    """Round to the nearest floats."""
    return torch.from_numpy(fractions.astype(np.float64))


def to_fractions(tensor: Tensor) -> Exact:
    """A float is a fraction: nothing is rounded here."""
    return np.array([Fraction(value) for value in tensor.tolist()])


# --- Training -------------------------------------------------------------------------


@dataclass(frozen=True)
class HeavyBall:
    """SGD's optimal settings for one matrix of features."""

    lr: float
    momentum: float
    steps: int
    condition: float  # of the features


def heavy_ball(features: Tensor) -> HeavyBall:
    """The settings that make SGD fastest on ``mean((features @ w - y)^2)``."""
    singular_values = torch.linalg.svdvals(features)
    # The Hessian of mean((X w - y)^2) is (2/n) X'X; these are its eigenvalues' roots.
    roots = math.sqrt(2 / len(features)) * singular_values
    largest, smallest = roots[0].item(), roots[-1].item()
    rate = (largest - smallest) / (largest + smallest)
    # With both settings optimal the iteration has a double eigenvalue of modulus rate,
    # so after k steps the error is about k rate^k.
    steps = 1
    while steps * rate**steps > GAIN:
        steps += 1
    lr = (2 / (largest + smallest)) ** 2
    return HeavyBall(lr, rate**2, steps, largest / smallest)


def train(
    features: Tensor, target: Tensor, slope: Tensor, ball: HeavyBall, bar: tqdm[None]
) -> Tensor:
    """Minimise ``MSE(features @ w, target) - slope @ w`` and return w at every step."""
    model = nn.Linear(features.shape[1], 1, bias=False, dtype=features.dtype)
    nn.init.zeros_(model.weight)
    criterion = mlc.MSELoss()
    optimizer = mlc.SGD(model.parameters(), lr=ball.lr, momentum=ball.momentum)

    path = [model.weight.detach().clone()]
    for _ in range(ball.steps):
        optimizer.zero_grad()
        loss = criterion(model(features), target) - model(slope).squeeze()
        loss.backward()
        optimizer.step()
        path.append(model.weight.detach().clone())
        bar.update()
    return torch.cat(path)


@dataclass(frozen=True)
class Fit:
    """What training has found."""

    problem: Problem
    ball: HeavyBall
    path: Tensor  # the weights during the first round, (steps + 1, columns)
    rounds: list[Exact]  # the weights after each round

    @property
    def weights(self) -> Exact:
        """The final weights of the features."""
        return self.rounds[-1]

    @property
    def coefficients(self) -> Exact:
        """The final coefficients of the raw columns."""
        return np.asarray(self.problem.basis @ self.weights)

    @property
    def digits(self) -> list[float]:
        """Of the coefficients, after each round."""
        basis, certified = self.problem.basis, self.problem.certified
        return [correct_digits(basis @ weights, certified) for weights in self.rounds]

    @property
    def lstsq_digits(self) -> float:
        """What numpy's least squares gets from the raw columns, in float64."""
        raw, target = self.problem.raw, self.problem.target
        solution = np.linalg.lstsq(raw.astype(np.float64), target.astype(np.float64))[0]
        return correct_digits(map(Fraction, solution.tolist()), self.problem.certified)


def fit(problem: Problem, bar: tqdm[None]) -> Fit:
    """Train on the target, then on what is left of it, ``ROUNDS`` times in all."""
    bar.set_description(problem.name)
    n, columns = problem.features.shape
    features, target = to_tensor(problem.features), to_tensor(problem.target)[:, None]
    ball = heavy_ball(features)

    path = train(features, target, features.new_zeros(columns), ball, bar)
    rounds = [to_fractions(path[-1])]
    for _ in range(ROUNDS - 1):
        # The target is now the residual r, nearly all of it noise, whose gradient is 0
        # but for rounding; and rounding then drowns the little that is left to learn
        # (Wampler5 stops at 9 digits). So expand the square,
        #     mean((X w - r)^2) = mean((X w)^2) - slope @ w + mean(r^2),
        # where r matters only in slope = (2/n) X'r, which is computed exactly.
        residual = problem.target - problem.features @ rounds[-1]
        slope = to_tensor(2 * (residual @ problem.features) / n)
        correction = train(features, torch.zeros_like(target), slope, ball, bar)[-1]
        rounds.append(rounds[-1] + to_fractions(correction))
    return Fit(problem, ball, path, rounds)


# --- The report -----------------------------------------------------------------------


def correct_digits(coefficients: Iterable[Fraction], certified: Exact) -> float:
    """-log10 of the largest relative error, from 0 to the 15 digits NIST certifies."""
    error = max(
        abs(a - b) / abs(b) for a, b in zip(coefficients, certified, strict=True)
    )
    return 15.0 if error < Fraction(1, 10**15) else max(0.0, -math.log10(error))


def print_table(fits: list[Fit]) -> None:
    """One row per data set; the last column is the result."""
    rounds = "".join(f"{f'round {k + 1}':>9}" for k in range(ROUNDS))
    print("            condition number           correct digits of the coefficients")
    print(f"data set        raw    basis   steps    lstsq{rounds}")
    for result in fits:
        raw_condition = np.linalg.cond(result.problem.raw.astype(np.float64))
        print(
            f"{result.problem.name:<10}{raw_condition:>9.1e}"
            f"{result.ball.condition:>9.2f}{result.ball.steps:>8}"
            f"{result.lstsq_digits:>9.1f}"
            + "".join(f"{digits:>9.1f}" for digits in result.digits)
        )
    print("steps are per round; lstsq is numpy.linalg.lstsq on the raw columns;")
    print("digits are -log10 of the largest relative error, at most 15 (as certified)")


def print_coefficients(result: Fit) -> None:
    """Side by side with the certified ones."""
    print(f"\n{'coefficient':>22}{'certified':>24}")
    for found, certified in zip(
        result.coefficients, result.problem.certified, strict=True
    ):
        print(f"{float(found):>22.14e}{float(certified):>24.14e}")


def main() -> None:
    """Fit the data sets asked for, print the table, save the picture."""
    problems = load_problems()
    parser = argparse.ArgumentParser(description="Certified regressions by SGD.")
    parser.add_argument(
        "--dataset",
        choices=list(problems),
        metavar="NAME",
        help=f"fit only one of {', '.join(problems)}",
    )
    parser.add_argument(
        "--output", type=Path, default=HERE / "output", help="folder for the picture"
    )
    arguments = parser.parse_args()
    if arguments.dataset:
        problems = {arguments.dataset: problems[arguments.dataset]}

    steps = sum(heavy_ball(to_tensor(p.features)).steps for p in problems.values())
    with tqdm(total=ROUNDS * steps, unit="step") as bar:
        fits = [fit(problem, bar) for problem in problems.values()]

    print_table(fits)
    if arguments.dataset:
        print_coefficients(fits[0])
    print(f"\nPicture: {save_picture(fits, arguments.output)}")


if __name__ == "__main__":
    main()

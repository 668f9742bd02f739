"""Whether an installed wheel works: run by ``make wheel`` and by ``test_wheel``.

It uses a little of every part of the package, and what the package has on disk.

    python wheel_smoke.py FOLDER
"""

from __future__ import annotations

import math
import sys
from importlib.metadata import version
from pathlib import Path

import torch

import torch_mlcalc as mlc


def check(what: str, found: float, wanted: float) -> None:
    if abs(found - wanted) > 1e-5 * abs(wanted):
        raise SystemExit(f"{what} is {found}, {wanted} is wanted.")


def main(folder: Path) -> None:
    """Complain unless the package is in a folder and does what it should."""
    package = Path(mlc.__file__).resolve().parent
    if folder.resolve() not in package.parents:
        raise SystemExit(f"the package is in {package}, not in {folder}.")
    if not (package / "py.typed").is_file():
        raise SystemExit("py.typed is missing: type checkers will not look at it.")

    box = mlc.Box(0.0, 1.0, dimension=3)
    check(
        "an integral", float(mlc.integrate(torch.exp, mlc.Interval(0, 1))), math.e - 1
    )
    # The rule that reads its generating vector from a file.
    lattice = mlc.integrate(lambda x: x.prod(-1), box, mlc.Lattice(4096))
    check("an integral by a lattice", float(lattice), 1 / 8)
    normal = torch.distributions.Normal(0.0, 1.0)
    check("an expectation", float(mlc.expectation(torch.exp, normal)), math.exp(0.5))
    density = mlc.NormalizedDensity(lambda x: -x.abs(), mlc.RealLine())
    check("a normaliser", float(density.log_normalizer), math.log(2))

    weight = torch.tensor([3.0], requires_grad=True)
    optimizer = mlc.SGD([weight], lr=0.5)
    mlc.MSELoss()(weight, torch.tensor([1.0])).backward()
    optimizer.step()
    check("a step", weight.item(), 1.0)
    mlc.testing.check_gradients(mlc.huber_loss, (weight, torch.tensor([0.5])))
    print(f"torch_mlcalc {version('torch_mlcalc')} works from {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

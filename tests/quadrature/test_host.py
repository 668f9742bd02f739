"""Products on the host, which are torch's from a size on."""

import numpy as np
import pytest
import torch

from torch_mlcalc.quadrature.host import SMALL, contract


@pytest.mark.parametrize("columns", [3, SMALL], ids=["small", "large"])
@pytest.mark.parametrize("dtype", [float, complex])
def test_sums_are_those_of_numpy(columns: int, dtype: type) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(2, 5))
    rows.setflags(write=False)
    values = generator.normal(size=(5, columns, 2)).astype(dtype)
    if dtype is complex:
        values += 1j * generator.normal(size=values.shape)
    expected = np.einsum("rk,kce->rce", rows, values)
    np.testing.assert_allclose(contract(rows, values), expected, atol=1e-14)


def test_the_default_device_does_not_matter() -> None:
    rows, values = np.ones((1, 5)), np.ones((5, SMALL))
    with torch.device("meta"):
        found = contract(rows, values)
    assert found.tolist() == [[5.0] * SMALL]

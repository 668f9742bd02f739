"""Products on the host, which are torch's from a size on."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature.alone import integrate_alone
from torch_mlcalc.quadrature.host import SMALL, contract, kept


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


def test_the_short_way_of_a_single_integral_is_not_taken_to_another_device() -> None:
    call = (torch.exp, q.Interval(0, 1).extent, None, None, "warn")
    value = integrate_alone(*call)
    assert value is not None
    torch.testing.assert_close(value, torch.tensor(1.0).expm1())
    with torch.device("meta"):
        assert integrate_alone(*call) is None


def test_a_table_is_not_of_the_mode_of_its_first_caller() -> None:
    made = []

    @kept(2)
    def table(n: int) -> Tensor:
        made.append(n)
        return torch.ones(n)

    with FakeTensorMode():
        assert isinstance(table(3), FakeTensor)
    with torch.inference_mode():
        assert not table(3).is_inference()
    assert type(table(3)) is Tensor
    with FakeTensorMode():
        assert isinstance(table(3), FakeTensor)
    assert made == [3, 3, 3]
    for n in (4, 5, 3):
        table(n)
    assert made[3:] == [4, 5, 3]

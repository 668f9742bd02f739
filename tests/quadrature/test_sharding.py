"""Integrals that two and three gloo processes share equal those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import run_in_processes

import torch_mlcalc as mlc

PROGRAM = Path(__file__).with_name("sharded_integrals.py")

#: The names of its table of cases; a test says that none is missing.
NAMES = (
    "fixed",
    "fixed, one node",
    "fixed, uneven",
    "fixed, breakpoints",
    "fixed, numbers",
    "fixed, log",
    "fixed, half",
    "long sum",
    "search",
    "search, log",
    "search, whole batch",
    "search, singular",
    "search, complex",
    "estimates",
    "modes",
    "modes, 3 nodes",
    "product",
    "sparse",
    "regions",
    "regions, log",
    "tensor",
    "plan",
    "lattice",
    "lattice, blocks",
    "Sobol, log",
    "Monte Carlo",
    "torchquad",
    "VEGAS",
    "VEGAS, log",
    "VEGAS, complex",
    "mean",
    "mean, blocks",
    "mean, own rule",
    "mean, one node",
    "mean, vector",
    "mean, log",
    "mean, kink",
    "mean, kink, log",
    "mean, counted",
    "mean, listed",
    "mean, mixture",
    "mean, plane",
    "mean, support",
    "mean, simplex",
    "mean, other rule",
    "mean, product",
    "mean, layer",
    "mean, log layer",
)
MODELS = ("fixed", "fixed, one node", "long sum", "search", "log", "mean")

#: Rounding of the dtype in which a case is summed, and of its backward pass.
COARSE = {"fixed, half": 2**-8}

BROKEN = "ZeroDivisionError: the integrand is broken"
FAILED = (
    "RuntimeError: rank {} of process_group failed, so that no rank has the integral. "
    "It says: "
)
DIFFER = "ValueError: the ranks of process_group do not integrate the same. Rank 0: "
VALUES = "ValueError: limits or args have other values on rank 1 of process_group"
NOT_HERE = "ValueError: process_group talks to other processes, which torch.func"

#: What is said on rank 0 and on rank 1, by the fault.
FAULTS = {
    "integrand": (FAILED.format(1) + BROKEN, BROKEN),
    "integrand, first rank": (BROKEN, FAILED.format(0) + BROKEN),
    "integrand, in a search": (FAILED.format(1) + BROKEN, BROKEN),
    "integrand, with gradients": (FAILED.format(1) + BROKEN, BROKEN),
    "integrand, at the mode": (FAILED.format(1) + BROKEN, BROKEN),
    "integrand, in VEGAS": (FAILED.format(1) + BROKEN, BROKEN),
    "argument": (
        FAILED.format(1) + "ValueError: rtol is -1.0; a finite number",
        "ValueError: rtol is -1.0; a finite number",
    ),
    "shape": (DIFFER, DIFFER),
    "rule": (DIFFER, DIFFER),
    "args": (VALUES, VALUES),
    "limits": (VALUES, VALUES),
    "generator": (DIFFER, DIFFER),
    "no convergence": ("IntegrationError: 1 of 1", "IntegrationError: 1 of 1"),
    "grad_rtol": ("ValueError: grad_rtol looks at",) * 2,
    "vmap": (NOT_HERE, NOT_HERE),
    "forward mode": (NOT_HERE, NOT_HERE),
    "mean": (FAILED.format(1) + BROKEN, BROKEN),
    "mean, check": (FAILED.format(1) + BROKEN, BROKEN),
    "mean, support": (FAILED.format(1) + BROKEN, BROKEN),
    "mean, search": (FAILED.format(1) + BROKEN, BROKEN),
    "mean, distribution": (VALUES, VALUES),
    "mean, kind": (DIFFER, DIFFER),
    "mean, no distribution": (
        FAILED.format(1) + "TypeError: distribution is a str",
        "TypeError: distribution is a str",
    ),
    "mean, density": ("ValueError: process_group shares the points of one",) * 2,
    "mean, no convergence": ("IntegrationError: 2 of 2", "IntegrationError: 2 of 2"),
}

Results = dict[str, Any]


@pytest.fixture(scope="module")
def all_results(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """Run everything in three processes, which take long to start."""
    return run_in_processes(PROGRAM, 3, tmp_path_factory.mktemp("gloo"))


@pytest.fixture
def pair(all_results: list[Results]) -> list[Results]:
    """What two of them did together."""
    return [each["pair"] for each in all_results[:2]]


@pytest.fixture
def three(all_results: list[Results]) -> list[Results]:
    """What all of them did together."""
    return [each["three"] for each in all_results]


def assert_near(found: list[float], alone: list[float], rtol: float = 1e-13) -> None:
    # The order of summation differs, and so does the size of what is added up.
    both = [torch.tensor(numbers, dtype=torch.float64) for numbers in (found, alone)]
    atol = rtol * float(both[1].abs().max())
    torch.testing.assert_close(*both, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one(name: str, pair: list[Results]) -> None:
    first, second = (each["shared"][name] for each in pair)
    assert first == second  # every bit of it
    alone, rtol = pair[0]["alone"][name], COARSE.get(name, 1e-13)
    assert_near(first["value"], alone["value"], rtol)
    assert_near(first["gradient"], alone["gradient"], rtol)
    assert any(alone["gradient"])


def test_every_case_is_looked_at(pair: list[Results]) -> None:
    assert tuple(pair[0]["shared"]) == NAMES
    assert tuple(pair[0]["faults"]) == tuple(FAULTS)
    assert tuple(pair[0]["trained"]) == MODELS


def test_processes_share_the_work(pair: list[Results]) -> None:
    first, second = (each["points"] for each in pair)
    for name, (shared, alone) in first.items():
        other, _ = second[name]
        # One point more where the value of an idle rank only tells a shape, fewer where
        # a process alone looks at levels ahead, or at parts beside the whole.
        least = {"singular": 0.3, "search": 0.2}.get(name, 1) * alone
        assert least <= shared + other <= alone + 1, name
        assert abs(shared - other) <= 0.1 * alone + 1, name


def test_a_sum_is_gathered_once_and_so_is_an_iteration(pair: list[Results]) -> None:
    for each in pair:
        counts = each["collectives"]
        # Before the numbers goes a header that says what each rank is doing.
        assert counts["fixed"] == 2
        assert counts["5 iterations"] - counts["3 iterations"] == 2 * 2


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_right_under_ddp(name: str, pair: list[Results]) -> None:
    first, second = (each["trained"][name] for each in pair)
    assert first == second
    # Ranks have losses of their own; the last layer is used beside the integral too.
    assert_near(first, pair[0]["trained alone"][name])


def test_second_derivatives_are_right(pair: list[Results]) -> None:
    for each in pair:
        assert_near(*each["second order"])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_on_every_rank(fault: str, pair: list[Results]) -> None:
    for each, wanted in zip(pair, FAULTS[fault], strict=True):
        error, area = each["faults"][fault]
        assert error.startswith(wanted)
        # Nobody waits for anybody, or is one step behind.
        assert area == pytest.approx(0.8414709848, rel=1e-6)


def test_what_differs_is_said(pair: list[Results]) -> None:
    faults = {name: error for name, (error, _) in pair[0]["faults"].items()}
    assert "Simpson(n=9)" in faults["rule"]
    assert "Simpson(n=11)" in faults["rule"]
    assert "a part of shape (2,), torch.float64" in faults["shape"]
    assert "a part of shape (3,), torch.float64" in faults["shape"]
    assert "drawn from generator" in faults["generator"]
    assert "leave it out, or integrate outside" in faults["vmap"]


def test_rounding_of_args_is_no_difference(pair: list[Results]) -> None:
    first, second = (each["noise"] for each in pair)
    assert first == second


def test_layers_keep_their_group_in_copies(pair: list[Results]) -> None:
    for each in pair:
        assert each["copies"] == [[True, True, True]] * 2


def test_a_group_of_one_works_and_strangers_are_refused(
    all_results: list[Results],
) -> None:
    alone, *strangers = (each["first"] for each in all_results)
    assert alone == "nothing"
    for stranger in strangers:
        assert stranger.startswith("ValueError: this process does not belong to")


def test_a_group_that_is_gone_is_refused(all_results: list[Results]) -> None:
    for each in all_results:
        assert each["destroyed"].startswith("ValueError: process_group is not in use")


def test_three_processes_equal_one(pair: list[Results], three: list[Results]) -> None:
    first, *others = (each["shared"] for each in three)
    assert all(other == first for other in others)
    for name, found in first.items():
        alone = pair[0]["alone"][name]
        assert_near(found["value"], alone["value"])
        assert_near(found["gradient"], alone["gradient"])


def test_a_fault_ends_on_all_three(three: list[Results]) -> None:
    for fault in three[0]["faults"]:
        errors = [each["faults"][fault] for each in three]
        wanted = (*FAULTS[fault], FAULTS[fault][0])
        for (error, area), start in zip(errors, wanted, strict=True):
            assert error.startswith(start)
            assert area == pytest.approx(0.8414709848, rel=1e-6)


def test_compiled_code_is_told_to_stay_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = torch.distributed.ProcessGroup(0, 2)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with pytest.raises(ValueError, match="leave it out, or integrate outside"):
        mlc.integrate(torch.exp, mlc.Interval(0, 1), process_group=group)


def test_what_is_not_a_group_is_refused() -> None:
    with pytest.raises(TypeError, match="process_group is a str; a group of torch"):
        mlc.integrate(torch.exp, mlc.Interval(0, 1), process_group="world")


def test_without_processes_the_world_is_nobody() -> None:
    world = torch.distributed.group.WORLD  # None until init_process_group
    value = mlc.integrate(torch.exp, mlc.Interval(0, 1), process_group=world)
    assert value == mlc.integrate(torch.exp, mlc.Interval(0, 1))


def test_a_build_without_processes_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(ValueError, match="which this build of torch lacks"):
        mlc.integrate(torch.exp, mlc.Interval(0, 1), process_group="world")

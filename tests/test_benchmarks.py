"""The instruments of the benchmark; a wrong result has no time."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import scipy

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def instruments(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("timing", "figures", "run", "sgd")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        sys.modules.pop(name, None)


def test_median_is_of_calls_in_turns(instruments: dict[str, ModuleType]) -> None:
    calls: list[str] = []

    def clock(name: str, seconds: list[float]) -> object:
        times = iter(seconds)

        def timed(count: int) -> float:
            calls.append(name)
            return next(times)

        return timed

    # The first, of 9 s, tells that one call is a burst; then one for each round.
    found = instruments["timing"].medians(
        {
            "a": clock("a", [9.0, 1.0, 3.0, 2.0]),
            "b": clock("b", [9.0, 5.0, 4.0, 90.0]),
        },
        rounds=3,
    )
    assert found == {"a": 2.0, "b": 5.0}
    assert calls == ["a", "b", *"ababab"]


def test_what_is_far_slower_is_timed_once(instruments: dict[str, ModuleType]) -> None:
    calls: list[str] = []

    def clock(name: str, seconds: float) -> object:
        def timed(count: int) -> float:
            calls.append(name)
            return seconds

        return timed

    timers = {"slow": clock("slow", 30.0), "fast": clock("fast", 2.0)}
    assert instruments["timing"].medians(timers, 2) == {"slow": 30.0, "fast": 2.0}
    assert calls == ["slow", "fast", "fast", "fast"]


def test_steps_are_compared_in_pairs(
    instruments: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    sgd, now, order = instruments["sgd"], [0.0], []

    def step(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            order.append(name)
            now[0] += seconds

        return call

    monkeypatch.setattr(sgd.time, "perf_counter", lambda: now[0])
    ratio = sgd.Ratio.of(step("ours", 3.0), step("theirs", 2.0), 3)
    assert str(ratio) == "1.50 (1.50 to 1.50)"
    assert ratio.inverse.median == pytest.approx(2 / 3)
    # Two calls to see how long one takes; then three, of which the first is not timed.
    a, b = ["ours"], ["theirs"]
    assert order == [*2 * a, *2 * b, *3 * a, *3 * b, *3 * b, *3 * a, *3 * a, *3 * b]


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the kernel keeps no high water"
)
def test_memory_of_a_call_is_seen_though_it_is_freed(
    instruments: dict[str, ModuleType],
) -> None:
    def call() -> None:
        bytearray(100 << 20)

    high_water = instruments["timing"].high_water
    assert high_water(call) == pytest.approx(100, abs=5)
    # Neither an earlier peak nor memory that was there before is counted.
    held = bytearray(50 << 20)
    assert high_water(lambda: bytearray(20 << 20)) == pytest.approx(20, abs=5)
    assert len(held) == 50 << 20


def test_time_of_a_wrong_result_does_not_count(
    instruments: dict[str, ModuleType],
) -> None:
    timed = instruments["figures"].Timed(
        {"ours": 1.0, "wrong": 1e-3, "slow": 5.0},
        {"ours": 1e-9, "wrong": 1.0, "slow": 1e-9},
        tolerance=1e-6,
    )
    assert timed.fastest_right("ours") == "slow"
    row = timed.ratio("x", "slow", "ours", least=4)
    assert row["met"] is True
    assert row["reached"] == "5.00"
    assert "wrong 1 ms, WRONG: error 1e+00" in row["how"]
    for method in ("ours", "wrong"):
        assert timed.ratio("x", method, "slow", most=1).get("met") is (method == "ours")


def test_missed_figures_are_shown_as_missed(
    instruments: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    section = ModuleType("missed")
    row = instruments["figures"].figure("speed", "at most 1", "2|3", False, "trial")
    section.rows = lambda: [row]
    monkeypatch.setitem(sys.modules, "missed", section)
    *_, found = instruments["run"]._section("missed", quick=True)
    assert not found.ended_early
    text = str(found)
    assert "## Missed" in text
    assert "0 of 1 figures are reached" in text
    assert "| 1 | speed | at most 1 | 2\\|3 | **no** |" in text
    assert "1. trial" in text


def test_section_that_fails_says_so_after_its_rows(
    instruments: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def rows() -> Iterator[dict[str, object]]:
        yield instruments["figures"].figure("first", "", "1", None, "trial")
        raise RuntimeError("the peer has gone")

    section = ModuleType("broken")
    section.rows = rows
    monkeypatch.setitem(sys.modules, "broken", section)
    *_, found = instruments["run"]._section("broken", quick=True)
    assert found.ended_early
    text = str(found)
    assert "| 1 | first |" in text
    row = "| 2 | **ended early** |  | RuntimeError('the peer has gone') | **no** |"
    assert row in text
    assert "the peer has gone" in capfd.readouterr().err


def test_section_that_cannot_be_imported_is_a_failure(
    instruments: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", "--quick", "absent"])
    monkeypatch.setattr(instruments["run"], "SECTIONS", ("absent",))
    assert instruments["run"].main() == 1
    said = capfd.readouterr()
    assert "No module named 'absent'" in said.err
    assert "0 of 1 figures are reached" in said.out
    assert "* Absent: **ended early**" in said.out


def test_report_says_what_was_reached_and_with_which_versions(
    instruments: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    figure, run = instruments["figures"].figure, instruments["run"]
    section = ModuleType("speeds")
    section.TITLE = "Speeds"
    met = {"fast": True, "slow": False, "for comparison": None}
    section.rows = lambda: [
        figure(name, "at most 1", "2", m, "") for name, m in met.items()
    ]
    monkeypatch.setitem(sys.modules, "speeds", section)
    monkeypatch.setattr(run, "SECTIONS", ("speeds",))
    monkeypatch.setattr(run, "PEERS", ("scipy", "nowhere"))
    monkeypatch.setattr(sys, "argv", ["run.py", "--output", str(tmp_path / "out.md")])
    assert run.main() == 0
    text = (tmp_path / "out.md").read_text()
    assert "1 of 2 figures are reached" in text
    assert "* Speeds: slow: 2 (at most 1)\n" in text
    assert "Unfinished" not in text
    assert f"scipy {scipy.__version__}, no nowhere" in text
    assert "quadax" in text


def test_a_run_that_is_stopped_leaves_its_rows(
    instruments: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    figure, run = instruments["figures"].figure, instruments["run"]
    for name in ("done", "stopped", "to_come"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        sys.modules[name].rows = lambda name=name: [figure(name, "", "1", None, "")]

    def rows() -> Iterator[dict[str, object]]:
        yield figure("half", "", "1", None, "trial")
        raise KeyboardInterrupt

    sys.modules["stopped"].rows = rows
    monkeypatch.setattr(run, "SECTIONS", ("done", "stopped", "to_come"))
    monkeypatch.setattr(sys, "argv", ["run.py", "--output", str(tmp_path / "out.md")])
    with pytest.raises(KeyboardInterrupt):
        run.main()
    text = (tmp_path / "out.md").read_text()
    assert "| 1 | done |" in text
    assert "| 1 | half |" in text
    assert "**Unfinished: stopped, to_come.**" in text


def test_every_section_is_there(instruments: dict[str, ModuleType]) -> None:
    for name in instruments["run"].SECTIONS:
        assert "\ndef rows(" in (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")


def test_every_file_and_section_is_in_the_page(
    instruments: dict[str, ModuleType],
) -> None:
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)\.py`", page))
    assert named == {path.stem for path in BENCHMARKS.glob("*.py")}
    table = page.split("| section | against what |")[1]
    assert set(instruments["run"].SECTIONS) <= set(re.findall(r"`(\w+)\.py`", table))


def test_every_peer_has_its_version_in_the_results(
    instruments: dict[str, ModuleType],
) -> None:
    results = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    machine = results.splitlines()[2]
    for peer in (*instruments["run"].PEERS, *instruments["run"].JAX_PEERS):
        assert re.search(rf"(?<!no ){peer} \d", machine), peer

"""What a row of the results says: a figure asked for, the one reached, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Row = dict[str, object]


def figure(name: str, asked: str, reached: str, met: bool | None, how: str) -> Row:
    """A row; ``met`` is None where nothing was asked for."""
    return {"name": name, "asked": asked, "reached": reached, "met": met, "how": how}


@dataclass(frozen=True)
class Timed:
    """Seconds of several methods that took turns, and how wrong each of them is."""

    seconds: Mapping[str, float]
    errors: Mapping[str, float]
    tolerance: float

    def is_right(self, method: str) -> bool:
        """Whether its time counts."""
        return self.errors[method] <= self.tolerance

    def fastest_right(self, *but: str) -> str:
        """The fastest method whose time counts, except for some."""
        rivals = [m for m in self.seconds if m not in but and self.is_right(m)]
        return min(rivals, key=self.seconds.__getitem__)

    def ratio(
        self, name: str, above: str, below: str, *, least: float = 0, most: float = 0
    ) -> Row:
        """The time of one over that of another, to be at least or at most so much."""
        ratio = self.seconds[above] / self.seconds[below]
        right = self.is_right(above) and self.is_right(below)
        met = right and (ratio >= least if least else ratio <= most)
        return figure(
            f"{name}: {above} / {below}",
            f"at least {least}" if least else f"at most {most}",
            f"{ratio:.2f}" if right else "wrong, so no time counts",
            met,
            "; ".join(map(self.described, self.seconds)),
        )

    def described(self, method: str) -> str:
        """Time and error of a method."""
        time = f"{method} {as_time(self.seconds[method])}"
        verdict = "" if self.is_right(method) else " WRONG:"
        return f"{time},{verdict} error {self.errors[method]:.0e}"


def as_time(seconds: float) -> str:
    """Three digits, with a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"

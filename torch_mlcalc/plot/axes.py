"""Where to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axes_or_new(ax: Axes | None) -> Axes:
    """The Axes of the caller, or those of a new figure of pyplot."""
    if ax is None:
        # Not at the top: it chooses a backend, which is the caller's choice.
        from matplotlib import pyplot as plt

        return plt.subplots()[1]
    # What stands in for Axes, in other libraries, draws too.
    if not hasattr(ax, "plot"):
        raise TypeError(
            f"ax is a {type(ax).__name__}; one Axes of matplotlib is wanted, for "
            "example figure.subplots()."
        )
    return ax

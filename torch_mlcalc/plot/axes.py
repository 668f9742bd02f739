"""Where to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axes_or_new(ax: Axes | None) -> Axes:
    """The Axes of the caller, or those of a new figure of pyplot."""
    if ax is not None:
        return ax
    # Not at the top: it chooses a backend, which is the caller's choice.
    from matplotlib import pyplot as plt

    return plt.subplots()[1]

"""Pictures of what rules and optimisers do; needs the extra ``plot`` (matplotlib).

Import it as it is, ``from torch_mlcalc import plot``: the package itself does not.
Every function draws into ``ax``, or into a new figure of pyplot, and returns the Axes.
"""

try:
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        "torch_mlcalc.plot needs matplotlib, which is the extra plot: "
        "pip install 'torch_mlcalc[plot]'."
    ) from error

from torch_mlcalc.plot.densities import density
from torch_mlcalc.plot.errors import convergence
from torch_mlcalc.plot.maps import vegas_map
from torch_mlcalc.plot.meshes import mesh
from torch_mlcalc.plot.paths import descent

__all__ = ["convergence", "density", "descent", "mesh", "vegas_map"]

"""A single integral of a single number: the steps of a batch, in plain numbers.

It takes the same decisions as the batch and uses the same points; of those it evaluates
some ahead, as a call costs it more than a hundred points. An array of one
entry costs a hundred times as much as a number, and a level of one integral has some
fifty such operations besides those on its nodes: most of the time of a cheap integrand.
What is out of the ordinary - values that are complex, have events or are not finite, a
range that converges slowly - is handed to the batch where it stands.

``sampling`` evaluates, ``bisection`` is Gauss-Kronrod, of ``rows`` of cells, ``levels``
double-exponential, of ``runs`` of nodes, with ``tails`` beyond their ends; what has
``settled`` in the first call needs none of these.
"""

from torch_mlcalc.quadrature.single.bisection import bisect_single
from torch_mlcalc.quadrature.single.levels import refine_single
from torch_mlcalc.quadrature.single.sampling import ONE, Single

__all__ = ["ONE", "Single", "bisect_single", "refine_single"]

r"""Integrals in more than one dimension.

Every rule works on the unit cube. A domain is a smooth map of the cube, and an integral
ends in the same line as in one dimension:

.. math:: \int_D f(x)\,dx = \int_{[0, 1]^d} f(x(u))\,|x'(u)|\,du
    \approx V \sum_i w_i\, \rho(u_i)\, f(x(u_i))

Read in this order; imports never run back.

* ``box.py``: :class:`Box` (and in ``simplex.py`` :class:`Simplex`). A domain is a
  :class:`Solid`: it states ``dimension`` (that of the cube), ``coordinates`` (length of
  the last dimension of the points), and makes a :class:`Chart` for one call.
* ``chart.py``: a :class:`Chart` turns ``u`` of shape ``(n, d)`` or ``(n, *batch, d)``
  into points ``(n, *batch, d)`` and the density :math:`\rho` (or its log); the volume
  :math:`V` is a factor of the whole integral. Gradients of the limits flow through all
  three. ``tails.py`` is how it stretches infinite axes.
* ``nodes.py``: :class:`Nodes` are a fixed set of nodes and weights that is made block
  by block; :func:`apply_nodes` sums them, in linear or log form. A new set of nodes in
  the cube is a frozen dataclass below :class:`UnitNodes` with ``n``, ``dimension`` and
  ``unit(start, stop, dtype, device)``; its fields are all that a plan saves.
* ``cubature.py``: what rules are. A :class:`FixedCubature` gives ``nodes(chart)``.
  A :class:`RandomRule` gives ``run(sampler)``, which returns an :class:`Outcome`.
* ``sampler.py``: the :class:`Sampler` evaluates nodes without gradients and returns
  float64 arrays on the host, ``elements`` (the batch, the mapped dimensions of vmap in
  front) by ``events``: one sum per replicate, or all values.
* ``product.py``, ``sparse_grid.py``: fixed rules; ``known.py``: their nodes between
  numbers, which are placed once. ``lattice.py``, ``sobol.py``,
  ``monte_carlo.py``, ``vegas.py``: random ones. ``torchquad.py``: those of others.
* ``regions.py``, ``search.py``: adaptive rules divide the cube on the host, in float64;
  ``pulled.py`` has the integrand as they see it. ``tensor.py``, ``kinks.py``,
  ``genz_malik.py`` are what they do, ``automatic.py`` says in which order, and
  ``adaptive.py`` leads there from a problem and back to a plan.
* ``climbed.py``, ``single.py``, ``single_kinks.py``: the same for a single integral in
  plain numbers, and ``at_once.py`` from the public function to its value, where that is
  all there is to it.
* ``along.py``, ``symmetric.py``: before anything is divided, lines along the axes of a
  single integral show whether the rule of Genz and Malik, used already, is enough.
* ``grid.py``, ``fitted.py``: else it is tried by one tensor rule with as many nodes on
  each axis as the lines show to be needed, between the kinks that they show (there, in
  ``parts.py``, first by rules that need no lines). Its points
  ``(n, d)`` have their coordinates one after another in memory, which halves the time
  of most integrands.
* ``leap.py``: on the plane and in three dimensions a single integrand that the first
  rules find rough gets a larger one and lines in one call. ``meeting.py`` places a kink
  from these, and ``grown.py`` tells how large a rule has to be if there is none.
* ``modes.py``, ``whitened.py``, ``hermite.py``: grids in variables in which a density
  is about standard normal, for :class:`AdaptiveGaussHermite`; ``unimodal.py``: also by
  default, where a look elsewhere finds nothing.
* ``plan.py``, ``region_plan.py``: a random rule leaves the :class:`NodesPlan` of
  its nodes, a search a :class:`RegionPlan` of regions and the rule on each.
* ``engine.py``: from the public functions to all this; ``integrate.py`` calls it where
  the domain is a :class:`Solid`.

The integrand gets points ``(n, *batch, d)`` and returns ``(n, *batch, *event)``.
"""

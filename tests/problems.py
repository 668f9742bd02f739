"""One-dimensional integrals with exact values and exact parameter gradients.

``value`` and ``gradient`` are closed forms rounded to float64; ``test_problems.py``
holds the closed forms and checks every row against an independent quadrature. Limits
and constants are the float64 numbers written here: the integral over ``(0, math.pi)``
ends at the float, not at pi.

Between the limits, from 1e-300 off an end at zero up to 1e300 on an infinite range, an
integrand and its derivative in theta are finite, in reverse and in forward mode.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """An integral of ``integrand(x, theta)`` from ``lower`` to ``upper``."""

    name: str
    integrand: Callable[[Tensor, Tensor], Tensor]
    theta: float
    lower: float
    upper: float
    value: float
    # The derivative of ``value`` in theta; the limits do not move.
    gradient: float
    tags: frozenset[str]
    # The best relative accuracy, of value and gradient, that sums over float64 points
    # reach without extrapolation; 0 where nothing stands in the way.
    attainable: float = 0.0
    # Where a user would split the range.
    breakpoints: tuple[float, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class LogProblem:
    """The log of the integral of ``exp(log_integrand(x, theta))``."""

    name: str
    log_integrand: Callable[[Tensor, Tensor], Tensor]
    theta: float
    lower: float
    upper: float
    log_value: float
    log_gradient: float
    tags: frozenset[str]
    # In log units, that is, relative to the integral.
    attainable: float = 0.0
    breakpoints: tuple[float, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Divergent:
    """An integral of ``integrand(x)`` that does not exist."""

    name: str
    integrand: Callable[[Tensor], Tensor]
    lower: float
    upper: float
    # Where it fails.
    at: float


def by_tag(*tags: str) -> tuple[Problem, ...]:
    """The problems that carry every one of the tags."""
    return tuple(p for p in PROBLEMS if p.tags.issuperset(tags))


def _tags(words: str) -> frozenset[str]:
    return frozenset(words.split())


INF = math.inf
KAHANER = "Kahaner, Comparison of numerical quadrature formulas, 1971"
BAILEY = "Bailey, Jeyabalan, Li, Experimental Mathematics 14(3), 2005"
QUADPACK = "Piessens et al., QUADPACK, Springer 1983"


def _bose(x: Tensor, t: Tensor) -> Tensor:
    """u / (exp(u) - 1) for u = t x > 0."""
    u = t * x
    return u * torch.exp(-u) / -torch.expm1(-u)


def _log_sech(u: Tensor) -> Tensor:
    return math.log(2) - u.abs() - torch.log1p(torch.exp(-2 * u.abs()))


def _kahaner_18(x: Tensor, t: Tensor) -> Tensor:
    harmonics = 3 * x.sin() + 2 * (2 * x).cos() + 3 * (2 * x).sin() + 3 * (3 * x).cos()
    return (t * x.cos() + harmonics).cos()


def _kahaner_21(x: Tensor, t: Tensor) -> Tensor:
    wide = 2 * _log_sech(10 * t * (x - 0.2))
    middle = 4 * _log_sech(100 * t * (x - 0.4))
    narrow = 6 * _log_sech(1000 * t * (x - 0.6))
    return wide.exp() + middle.exp() + narrow.exp()


def _ahmed(x: Tensor, t: Tensor) -> Tensor:
    root = (2 + x * x).sqrt()
    return (t * root).atan() / ((1 + x * x) * root)


def _lorentzian(x: Tensor, t: Tensor) -> Tensor:
    return 1 / (1 + (x / t) ** 2)


def _gaussian(x: Tensor, centre: float, width: Tensor) -> Tensor:
    return torch.exp(_normal(x, centre, width))


def _normal(x: Tensor, centre: float | Tensor, width: float | Tensor) -> Tensor:
    # Farther out exp is 0 all the same, and z^2 would overflow, also in float32.
    z = ((x - centre) / width).clamp(-1e15, 1e15)
    return -0.5 * z * z


def _log_cauchy(x: Tensor) -> Tensor:
    """log(1 / (1 + x^2)) without forming x^2, which overflows at 1e154."""
    size = x.abs()
    far = torch.where(size > 1, size, 1.0)
    ratio = torch.where(size > 1, 1 / far, size)
    return -2 * far.log() - torch.log1p(ratio * ratio)


def _student(x: Tensor, t: Tensor) -> Tensor:
    return (t + 1) / 2 * _log_cauchy(x / t.sqrt())


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)); torch's own is cut off above 20, which costs 2e-9."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


def _planck(x: Tensor, t: Tensor) -> Tensor:
    # x^2 overflows long after the other factor has become 0.
    x = x.clamp(max=1e4)
    return x * x * _bose(x, t) / t


def _bessel_k(x: Tensor, t: Tensor) -> Tensor:
    """log of the integrand of K_0(t); beyond 80 its exp is 0, soon cosh overflows."""
    return -t * x.clamp(-80, 80).cosh()


def _log_both_ends(x: Tensor, t: Tensor) -> Tensor:
    """log(1 + t / x^2): t / x^2 overflows near 0, and 1 swallows it far out."""
    near = (x * x + t).log() - 2 * x.log()
    far = torch.log1p(t / x.clamp(min=1) ** 2)
    return torch.where(x < 1, near, far)


def _two_peaks(x: Tensor, t: Tensor) -> Tensor:
    return torch.logaddexp(_normal(x, 0.0, 1.0), _normal(x, 12.0, t))


def _gumbel(x: Tensor, t: Tensor) -> Tensor:
    # At -50 the density is exp(-5e21); further out exp(-z) would overflow.
    z = ((x + 500) / t).clamp(min=-50)
    return -z - torch.exp(-z)


def _double_well(x: Tensor, t: Tensor) -> Tensor:
    return -((x.clamp(-1e3, 1e3) ** 2 - t) ** 2)


def _log_four_factors(x: Tensor, t: Tensor) -> Tensor:
    return x**t * ((x * x - 1) * (x * x - 2)).abs().log()


# fmt: off
_KAHANER = (
    Problem("kahaner_01_exp", lambda x, t: (t * x).exp(),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("smooth"),
            value=1.7182818284590453, gradient=1.0, source=KAHANER),
    Problem("kahaner_02_step", lambda x, t: torch.where(x >= 0.3, t, 0.0),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("step"),
            value=0.7, gradient=0.7, breakpoints=(0.3,), source=KAHANER),
    Problem("kahaner_03_sqrt", lambda x, t: x**t,
            theta=0.5, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=0.6666666666666666, gradient=-0.4444444444444444, source=KAHANER),
    Problem("kahaner_04_cosh", lambda x, t: 0.92 * (t * x).cosh() - x.cos(),
            theta=1.0, lower=-1.0, upper=1.0, tags=_tags("smooth"),
            value=0.47942822668880175, gradient=0.6768981717554539, source=KAHANER),
    Problem("kahaner_05_quartic", lambda x, t: 1 / (x**4 + x**2 + t),
            theta=0.9, lower=-1.0, upper=1.0, tags=_tags("smooth"),
            value=1.5822329637296728, gradient=-1.3768963284544384, source=KAHANER),
    Problem("kahaner_06_power", lambda x, t: x**t,
            theta=1.5, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=0.4, gradient=-0.16, source=KAHANER),
    Problem("kahaner_07_inverse_sqrt", lambda x, t: x**t,
            theta=-0.5, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=2.0, gradient=-4.0, source=KAHANER),
    Problem("kahaner_08_rational", lambda x, t: 1 / (1 + t * x**4),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("smooth"),
            value=0.866972987339911, gradient=-0.09174324683497775, source=KAHANER),
    Problem("kahaner_09_periodic", lambda x, t: 2 / (t + (10 * math.pi * x).sin()),
            theta=2.0, lower=0.0, upper=1.0, tags=_tags("smooth oscillatory"),
            value=1.1547005383792515, gradient=-0.769800358919501, source=KAHANER),
    Problem("kahaner_10_reciprocal", lambda x, t: 1 / (t + x),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("smooth"),
            value=0.6931471805599453, gradient=-0.5, source=KAHANER),
    Problem("kahaner_11_logistic", lambda x, t: (-t * x).sigmoid(),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("smooth"),
            value=0.3798854930417225, gradient=-0.11094407167172736, source=KAHANER),
    Problem("kahaner_12_bose", _bose,
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("smooth"),
            value=0.7775046341122482, gradient=-0.19552792724292184, source=KAHANER),
    Problem("kahaner_13_sine_over_x",
            lambda x, t: (100 * math.pi * x).sin() / (math.pi * (x + t)),
            theta=0.0, lower=0.1, upper=1.0, tags=_tags("smooth oscillatory"),
            value=0.009098637539166843, gradient=-0.09970406022226978, source=KAHANER),
    Problem("kahaner_14_gaussian",
            lambda x, t: math.sqrt(50) * (-t * math.pi * x**2).exp(),
            theta=50.0, lower=0.0, upper=10.0, tags=_tags("narrow"),
            value=0.5, gradient=-0.005, source=KAHANER),
    Problem("kahaner_15_decay", lambda x, t: 25 * (-t * x).exp(),
            theta=25.0, lower=0.0, upper=10.0, tags=_tags("narrow"),
            value=1.0, gradient=-0.04, source=KAHANER),
    Problem("kahaner_16_lorentzian",
            lambda x, t: 50 / (math.pi * (t * x**2 + 1)),
            theta=2500.0, lower=0.0, upper=10.0, tags=_tags("narrow near_pole"),
            value=0.4993633810764567, gradient=-9.974535277011161e-05, source=KAHANER),
    Problem("kahaner_17_sinc_squared",
            lambda x, t: 50 * ((t * x).sin() / (50 * math.pi * x))**2,
            theta=50 * math.pi, lower=0.01, upper=1.0, tags=_tags("oscillatory"),
            value=0.1121393037416374, gradient=-0.0005761603971133768, source=KAHANER),
    Problem("kahaner_18_nested_cosines", _kahaner_18,
            theta=1.0, lower=0.0, upper=math.pi, tags=_tags("smooth oscillatory"),
            value=0.8386763426944297, gradient=-0.4336603770341115, source=KAHANER),
    Problem("kahaner_19_log", lambda x, t: x**t * x.log(),
            theta=0.0, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=-1.0, gradient=2.0, source=KAHANER),
    Problem("kahaner_20_near_pole", lambda x, t: 1 / (x**2 + t),
            theta=1.005, lower=-1.0, upper=1.0, tags=_tags("smooth"),
            value=1.5643964440690499, gradient=-1.2745784470064754, source=KAHANER),
    Problem("kahaner_21_three_peaks", _kahaner_21,
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("narrow multi_peak"),
            value=0.2108027355005493, gradient=-0.19667221041743835, source=KAHANER),
)

_BAILEY = (
    Problem("bailey_01_x_log1p", lambda x, t: x * torch.log1p(t * x),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("smooth"),
            value=0.25, gradient=0.19314718055994531, source=BAILEY),
    Problem("bailey_02_atan", lambda x, t: x**2 * (t * x).atan(),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("smooth"),
            value=0.210657251225807, gradient=0.15342640972002736, source=BAILEY),
    Problem("bailey_03_exp_cos", lambda x, t: x.exp() * (t * x).cos(),
            theta=1.0, lower=0.0, upper=math.pi / 2, tags=_tags("smooth"),
            value=1.905238690482676, gradient=-3.278140100075154, source=BAILEY),
    Problem("bailey_04_ahmed", _ahmed,
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("smooth"),
            value=0.5140418958900708, gradient=0.241549134679206, source=BAILEY),
    Problem("bailey_05_sqrt_log", lambda x, t: x**t * x.log(),
            theta=0.5, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=-0.4444444444444444, gradient=0.5925925925925926, source=BAILEY),
    Problem("bailey_06_semicircle", lambda x, t: ((1 - x) * (1 + x))**t,
            theta=0.5, lower=0.0, upper=1.0, tags=_tags("endpoint upper_end"),
            value=0.7853981633974483, gradient=-0.30339488175435275, source=BAILEY),
    # The mass of (2 s)^-1/2 within one spacing of 1 is 1.5e-8 of 1.2.
    Problem("bailey_07_sqrt_ratio", lambda x, t: x**t / ((1 - x) * (1 + x)).sqrt(),
            theta=0.5, lower=0.0, upper=1.0, tags=_tags("endpoint upper_end"),
            value=1.1981402347355923, gradient=-0.514246189763341, attainable=5e-8,
            source=BAILEY),
    Problem("bailey_08_log_squared", lambda x, t: (-x.log())**t,
            theta=2.0, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=2.0, gradient=1.8455686701969343, source=BAILEY),
    Problem("bailey_09_log_cos", lambda x, t: x.cos()**t * x.cos().log(),
            theta=0.0, lower=0.0, upper=math.pi / 2, tags=_tags("endpoint upper_end"),
            value=-1.0887930451517986, gradient=2.0466220244726507, source=BAILEY),
    # The mass of s^-1/2 within one spacing of pi / 2 is 2e-8 of 2.2, its log -36.
    Problem("bailey_10_sqrt_tan", lambda x, t: x.tan()**t,
            theta=0.5, lower=0.0, upper=math.pi / 2, tags=_tags("endpoint upper_end"),
            value=2.221441453428964, gradient=3.4894314842672705, attainable=6e-7,
            source=BAILEY),
    Problem("bailey_11_cauchy", lambda x, t: 1 / (t + x * x),
            theta=1.0, lower=0.0, upper=INF, tags=_tags("infinite heavy_tail"),
            value=1.5707963267948966, gradient=-0.7853981633974483, source=BAILEY),
    Problem("bailey_12_exp_over_sqrt", lambda x, t: (-t * x).exp() / x.sqrt(),
            theta=1.0, lower=0.0, upper=INF, tags=_tags("infinite endpoint"),
            value=1.772453850905516, gradient=-0.886226925452758, source=BAILEY),
    Problem("bailey_13_half_gaussian", lambda x, t: _gaussian(x, 0.0, t.rsqrt()),
            theta=1.0, lower=0.0, upper=INF, tags=_tags("infinite"),
            value=1.2533141373155003, gradient=-0.6266570686577502, source=BAILEY),
    Problem("bailey_14_damped_cosine", lambda x, t: (-x).exp() * (t * x).cos(),
            theta=1.0, lower=0.0, upper=INF, tags=_tags("infinite oscillatory"),
            value=0.5, gradient=-0.5, source=BAILEY),
)
_QUADPACK = (
    Problem("quadpack_power_log_-0.9", lambda x, t: -(x**t) * x.log(),
            theta=-0.9, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=100.00000000000004, gradient=-2000.0000000000014, source=QUADPACK),
    Problem("quadpack_power_log_-0.5", lambda x, t: -(x**t) * x.log(),
            theta=-0.5, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=4.0, gradient=-16.0, source=QUADPACK),
    Problem("quadpack_power_log_2.6", lambda x, t: -(x**t) * x.log(),
            theta=2.6, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=0.07716049382716049, gradient=-0.04286694101508916, source=QUADPACK),
    Problem("quadpack_lorentzian_3",
            lambda x, t: 4.0**-t / ((x - math.pi / 4)**2 + 16.0**-t),
            theta=3.0, lower=0.0, upper=1.0, tags=_tags("narrow near_pole"),
            value=3.0490199048211677, gradient=0.12797134530327015, source=QUADPACK),
    Problem("quadpack_lorentzian_6",
            lambda x, t: 4.0**-6 / ((x - math.pi / 4)**2 + t * 16.0**-6),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("narrow near_pole"),
            value=3.140144159971687, gradient=-1.5707963262940918, source=QUADPACK),
    Problem("quadpack_lorentzian_9",
            lambda x, t: 4.0**-9 / ((x - math.pi / 4)**2 + t * 16.0**-9),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("narrow near_pole"),
            value=3.141570020869187, gradient=-1.5707963267948948, source=QUADPACK),
    Problem("quadpack_cos_sin_3", lambda x, t: (torch.exp2(t) * x.sin()).cos(),
            theta=3.0, lower=0.0, upper=math.pi, tags=_tags("smooth oscillatory"),
            value=0.5392569146860977, gradient=-4.087526761509887, source=QUADPACK),
    Problem("quadpack_cos_sin_6", lambda x, t: (torch.exp2(t) * x.sin()).cos(),
            theta=6.0, lower=0.0, upper=math.pi, tags=_tags("oscillatory"),
            value=0.29088010217372584, gradient=-5.266838541129959, source=QUADPACK),
    Problem("quadpack_cos_sin_9", lambda x, t: (torch.exp2(t) * x.sin()).cos(),
            theta=9.0, lower=0.0, upper=math.pi, tags=_tags("oscillatory"),
            value=-0.07183462959513874, gradient=-29.90326956102043, source=QUADPACK),
    # The mass of |x - c|^-1/2 within one spacing of c is 3e-8, and its log is -37.
    Problem("quadpack_third_-0.5", lambda x, t: (x - 1 / 3).abs()**t,
            theta=-0.5, lower=0.0, upper=1.0, tags=_tags("interior_singularity"),
            value=2.7876937002347035, gradient=-7.506077350576149, attainable=5e-7,
            breakpoints=(1 / 3,),
            source=QUADPACK),
    Problem("quadpack_third_0.5", lambda x, t: (x - 1 / 3).abs()**t,
            theta=0.5, lower=0.0, upper=1.0, tags=_tags("kink"),
            value=0.4911874291211284, gradient=-0.6155484748605696,
            breakpoints=(1 / 3,), source=QUADPACK),
    Problem("quadpack_third_2.1", lambda x, t: (x - 1 / 3).abs()**t,
            theta=2.1, lower=0.0, upper=1.0, tags=_tags("kink"),
            value=0.10248595539042421, gradient=-0.0820341907606674,
            breakpoints=(1 / 3,), source=QUADPACK),
    Problem("quadpack_quarter_pi_-0.2", lambda x, t: (x - math.pi / 4).abs()**t,
            theta=-0.2, lower=0.0, upper=1.0, tags=_tags("interior_singularity"),
            value=1.395279265654225, gradient=-2.5546193511149187, attainable=2e-11,
            breakpoints=(math.pi / 4,),
            source=QUADPACK),
    Problem("quadpack_quarter_pi_1.3", lambda x, t: (x - math.pi / 4).abs()**t,
            theta=1.3, lower=0.0, upper=1.0, tags=_tags("kink"),
            value=0.26206646780960263, gradient=-0.19362001828411943,
            breakpoints=(math.pi / 4,), source=QUADPACK),
    # The mass of (2 s)^-1/2 within one spacing of either end, 1.5e-8, next to the pole.
    Problem("quadpack_chebyshev_pole_1",
            lambda x, t: 1 / ((1 + x + torch.exp2(-t)) * ((1 - x) * (1 + x)).sqrt()),
            theta=1.0, lower=-1.0, upper=1.0, tags=_tags("endpoint upper_end"),
            value=2.8099258924162904, gradient=1.168615325946444, attainable=8e-8,
            source=QUADPACK),
    Problem("quadpack_chebyshev_pole_5",
            lambda x, t: 1 / ((1 + x + torch.exp2(-t)) * ((1 - x) * (1 + x)).sqrt()),
            theta=5.0, lower=-1.0, upper=1.0,
            tags=_tags("endpoint upper_end near_pole"),
            value=12.469331551213347, gradient=4.388026250312202, attainable=3e-7,
            source=QUADPACK),
    Problem("quadpack_sine_power_0.1", lambda x, t: x.sin()**(t - 1),
            theta=0.1, lower=0.0, upper=math.pi / 2, tags=_tags("endpoint"),
            value=10.67672466624002, gradient=-100.15774413622847, source=QUADPACK),
    Problem("quadpack_sine_power_1.3", lambda x, t: x.sin()**(t - 1),
            theta=1.3, lower=0.0, upper=math.pi / 2, tags=_tags("endpoint"),
            value=1.3153149714389325, gradient=-0.6681949888363217, source=QUADPACK),
    # The mass of s^-1/2 within one spacing of 1 is 2e-8 of 1.8, and its log is -37.
    Problem("quadpack_log_power_0.5", lambda x, t: (-x.log())**(t - 1),
            theta=0.5, lower=0.0, upper=1.0, tags=_tags("endpoint upper_end"),
            value=1.772453850905516, gradient=-3.480230906913262, attainable=1e-6,
            source=QUADPACK),
    Problem("quadpack_log_power_1.6", lambda x, t: (-x.log())**(t - 1),
            theta=1.6, lower=0.0, upper=1.0, tags=_tags("endpoint upper_end"),
            value=0.8935153492876903, gradient=0.11262533379171634, source=QUADPACK),
    Problem("quadpack_growing_sine_4",
            lambda x, t: (20 * (x - 1)).exp() * (torch.exp2(t) * x).sin(),
            theta=4.0, lower=0.0, upper=1.0, tags=_tags("smooth oscillatory"),
            value=0.014580008208614796, gradient=-0.39337866562099255, source=QUADPACK),
    Problem("quadpack_growing_sine_9",
            lambda x, t: (20 * (x - 1)).exp() * (torch.exp2(t) * x).sin(),
            theta=9.0, lower=0.0, upper=1.0, tags=_tags("oscillatory"),
            value=0.0019500314882451991, gradient=0.026733104479869235,
            source=QUADPACK),
    Problem("quadpack_growing_cosine_6",
            lambda x, t: (torch.exp2(t) * (x - 1)).exp() * (torch.exp2(t) * x).cos(),
            theta=6.0, lower=0.0, upper=1.0, tags=_tags("oscillatory"),
            value=0.010249088036143286, gradient=-0.1901534864573487, source=QUADPACK),
    # The mass of s^-1/2 within one spacing of 1 is 2e-8.
    Problem("quadpack_chebyshev_cosine_2",
            lambda x, t: (torch.exp2(t) * x).cos() / (x * (1 - x)).sqrt(),
            theta=2.0, lower=0.0, upper=1.0,
            tags=_tags("endpoint upper_end oscillatory"),
            value=-0.2927067097686793, gradient=0.1586105581049029, attainable=1e-6,
            source=QUADPACK),
    Problem("quadpack_chebyshev_cosine_6",
            lambda x, t: (torch.exp2(t) * x).cos() / (x * (1 - x)).sqrt(),
            theta=6.0, lower=0.0, upper=1.0,
            tags=_tags("endpoint upper_end oscillatory"),
            value=0.36187608530535437, gradient=-3.760029986578056, attainable=1e-6,
            source=QUADPACK),
    Problem("quadpack_damped_cosine_0",
            lambda x, t: (-torch.exp2(-t) * x).exp() * x.cos() / x.sqrt(),
            theta=0.0, lower=0.0, upper=INF,
            tags=_tags("infinite endpoint oscillatory"),
            value=1.3769963318531535, gradient=0.13977759557635713, source=QUADPACK),
    Problem("quadpack_damped_cosine_3",
            lambda x, t: (-torch.exp2(-t) * x).exp() * x.cos() / x.sqrt(),
            theta=3.0, lower=0.0, upper=INF,
            tags=_tags("infinite endpoint oscillatory"),
            value=1.3236295639581783, gradient=-0.04278415557507905, source=QUADPACK),
    Problem("quadpack_x2_exp_0", lambda x, t: (x * (-torch.exp2(-t) * x / 2).exp())**2,
            theta=0.0, lower=0.0, upper=INF, tags=_tags("infinite"),
            value=2.0, gradient=4.1588830833596715, source=QUADPACK),
    Problem("quadpack_x2_exp_5", lambda x, t: (x * (-torch.exp2(-t) * x / 2).exp())**2,
            theta=5.0, lower=0.0, upper=INF, tags=_tags("infinite"),
            value=65536.0, gradient=136278.28087552972, source=QUADPACK),
    Problem("quadpack_rational_power_0.1", lambda x, t: x**(t - 1) / (1 + 10 * x)**2,
            theta=0.1, lower=0.0, upper=INF, tags=_tags("infinite endpoint heavy_tail"),
            value=7.267917988189313, gradient=-95.08271292463127, source=QUADPACK),
    Problem("quadpack_rational_power_1.9", lambda x, t: x**(t - 1) / (1 + 10 * x)**2,
            theta=1.9, lower=0.0, upper=INF, tags=_tags("infinite endpoint heavy_tail"),
            value=0.11518873742846907, gradient=0.976495704982626, source=QUADPACK),
    Problem("quadpack_log_factors", _log_four_factors,
            theta=3.0, lower=0.0, upper=3.0, tags=_tags("interior_singularity"),
            value=52.74074838347145, gradient=52.13735674038303,
            breakpoints=(1.0, math.sqrt(2)), source=QUADPACK),
    Problem("quadpack_log_lorentzian", lambda x, t: (x.log() / x) / (1 / x + t * x),
            theta=100.0, lower=0.0, upper=INF,
            tags=_tags("infinite endpoint heavy_tail"),
            value=-0.36168922062077324, gradient=0.001023047939706418, source=QUADPACK),
)

_SMOOTH = (
    Problem("constant", lambda x, t: t + 0 * x,
            theta=0.7, lower=-1.0, upper=2.0, tags=_tags("smooth"),
            value=2.0999999999999996, gradient=3.0),
    Problem("cubic", lambda x, t: (x - t)**3 + x,
            theta=0.5, lower=0.0, upper=2.0, tags=_tags("smooth"),
            value=3.25, gradient=-3.5),
    Problem("monomial_20", lambda x, t: (t * x)**20,
            theta=1.1, lower=-1.0, upper=1.0, tags=_tags("smooth"),
            value=0.6407142808881534, gradient=11.64935056160279),
    Problem("gaussian_finite", lambda x, t: (-t * x**2).exp(),
            theta=2.0, lower=-1.0, upper=1.0, tags=_tags("smooth"),
            value=1.1962880133226081, gradient=-0.2314043617123457),
    Problem("exp_cosine_period", lambda x, t: (t * x.cos()).exp(),
            theta=5.0, lower=0.0, upper=2 * math.pi, tags=_tags("smooth"),
            value=171.15316241152664, gradient=152.90534915022548),
    Problem("far_interval", lambda x, t: (-t * (x - 1000)).exp(),
            theta=0.8, lower=1000.0, upper=1002.0, tags=_tags("smooth"),
            value=0.9976293525066807, gradient=-0.7422953956467123),
    Problem("tiny_interval", lambda x, t: 1 / (t + x),
            theta=1.0, lower=1.0, upper=1.000001, tags=_tags("smooth"),
            value=4.999998749589084e-07, gradient=-2.499998749794959e-07),
    Problem("wide_interval", lambda x, t: 1 / (1 + t * x),
            theta=1.0, lower=0.0, upper=1e6, tags=_tags("narrow"),
            value=13.815511557963774, gradient=-12.815512557962775),
)

_ENDPOINT = (
    Problem("power_-0.75", lambda x, t: x**t,
            theta=-0.75, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=4.0, gradient=-16.0),
    Problem("power_-0.9", lambda x, t: x**t,
            theta=-0.9, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=10.000000000000002, gradient=-100.00000000000004),
    Problem("power_-0.95", lambda x, t: x**t,
            theta=-0.95, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=19.999999999999982, gradient=-399.9999999999993),
    Problem("power_0.1", lambda x, t: x**t,
            theta=0.1, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=0.9090909090909091, gradient=-0.8264462809917356),
    # The mass of s^-1/2 within one spacing of 1 is 2e-8 of 3.1, and its log is -37.
    Problem("beta_0.5_0.5", lambda x, t: (x * (1 - x))**(t - 1),
            theta=0.5, lower=0.0, upper=1.0, tags=_tags("endpoint upper_end"),
            value=3.141592653589793, gradient=-8.710344361214409, attainable=4e-7),
    Problem("beta_1.2_1.2", lambda x, t: (x * (1 - x))**(t - 1),
            theta=1.2, lower=0.0, upper=1.0, tags=_tags("endpoint upper_end"),
            value=0.6786786707060263, gradient=-1.2785506215100106),
    # Within one spacing e of 1, s^a has the mass e^(1 + a) / (1 + a).
    Problem("upper_power_-0.5", lambda x, t: (1 - x)**t,
            theta=-0.5, lower=0.0, upper=1.0, tags=_tags("endpoint upper_end"),
            value=2.0, gradient=-4.0, attainable=1e-6),
    Problem("upper_power_-0.75", lambda x, t: (1 - x)**t,
            theta=-0.75, lower=0.0, upper=1.0, tags=_tags("endpoint upper_end"),
            value=4.0, gradient=-16.0, attainable=4e-3),
    Problem("upper_power_0.25", lambda x, t: (1 - x)**t,
            theta=0.25, lower=0.0, upper=1.0, tags=_tags("endpoint upper_end"),
            value=0.8, gradient=-0.64),
    # The same at 5, where the spacing is 9e-16.
    Problem("shifted_power_-0.5", lambda x, t: (x - 5)**t,
            theta=-0.5, lower=5.0, upper=6.0, tags=_tags("endpoint shifted_end"),
            value=2.0, gradient=-4.0, attainable=2e-6),
    Problem("upper_log", lambda x, t: x**t * torch.log1p(-x),
            theta=0.5, lower=0.0, upper=1.0, tags=_tags("endpoint upper_end"),
            value=-0.853581537031184, gradient=0.24214918728729945),
    Problem("cosine_of_log", lambda x, t: (t * x.log()).cos(),
            theta=2.0, lower=0.0, upper=1.0, tags=_tags("endpoint oscillatory"),
            value=0.2, gradient=-0.16),
    Problem("essential_zero", lambda x, t: (-t / x - 2 * x.log()).exp(),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=0.36787944117144233, gradient=-0.7357588823428847),
    Problem("sophomores_dream", lambda x, t: x**(t * x),
            theta=-1.0, lower=0.0, upper=1.0, tags=_tags("endpoint"),
            value=1.2912859970626636, gradient=-0.33718771583892093),
)

_INFINITE = (
    Problem("gaussian_real_line", lambda x, t: _gaussian(x, 0.0, t),
            theta=1.5, lower=-INF, upper=INF, tags=_tags("infinite"),
            value=3.7599424119465006, gradient=2.5066282746310007),
    Problem("sech_real_line", lambda x, t: _log_sech(t * x).exp(),
            theta=2.0, lower=-INF, upper=INF, tags=_tags("infinite"),
            value=1.5707963267948966, gradient=-0.7853981633974483),
    Problem("exp_left_half_line", lambda x, t: (t * x).exp(),
            theta=0.5, lower=-INF, upper=0.0, tags=_tags("infinite"),
            value=2.0, gradient=-4.0),
    Problem("exp_left_shifted", lambda x, t: (t * (x - 2)).exp(),
            theta=3.0, lower=-INF, upper=2.0, tags=_tags("infinite shifted_end"),
            value=0.3333333333333333, gradient=-0.1111111111111111),
    Problem("exp_from_5", lambda x, t: (-t * x).exp(),
            theta=0.7, lower=5.0, upper=INF, tags=_tags("infinite shifted_end"),
            value=0.043139119174740725, gradient=-0.2773229089804761),
    Problem("exp_from_1000", lambda x, t: (-t * (x - 1000)).exp(),
            theta=2.0, lower=1000.0, upper=INF, tags=_tags("infinite shifted_end"),
            value=0.5, gradient=-0.25),
    Problem("slow_exp", lambda x, t: (-t * x).exp(),
            theta=1e-6, lower=0.0, upper=INF, tags=_tags("infinite"),
            value=1000000.0, gradient=-1000000000000.0001),
    Problem("fast_exp", lambda x, t: (-t * x).exp(),
            theta=1e6, lower=0.0, upper=INF, tags=_tags("infinite"),
            value=1e-06, gradient=-1e-12),
    Problem("planck", _planck,
            theta=1.0, lower=0.0, upper=INF, tags=_tags("infinite"),
            value=6.493939402266829, gradient=-25.975757609067315),
    Problem("softplus_tail", lambda x, t: torch.log1p((-t * x).exp()),
            theta=1.0, lower=0.0, upper=INF, tags=_tags("infinite"),
            value=0.8224670334241132, gradient=-0.8224670334241132),
    Problem("gamma_0.3", lambda x, t: ((t - 1) * x.log() - x).exp(),
            theta=0.3, lower=0.0, upper=INF, tags=_tags("infinite endpoint"),
            value=2.991568987687591, gradient=-10.47804284175852),
    Problem("gamma_5.5", lambda x, t: ((t - 1) * x.log() - x).exp(),
            theta=5.5, lower=0.0, upper=INF, tags=_tags("infinite"),
            value=52.34277778455352, gradient=84.32909066643127),
    Problem("bessel_k", lambda x, t: _bessel_k(x, t).exp(),
            theta=1.0, lower=0.0, upper=INF, tags=_tags("infinite"),
            value=0.42102443824070834, gradient=-0.6019072301972346),
    Problem("log_both_ends", _log_both_ends,
            theta=1.0, lower=0.0, upper=INF, tags=_tags("infinite endpoint heavy_tail"),
            value=3.141592653589793, gradient=1.5707963267948966),
    Problem("stretched_exp", lambda x, t: (-(x**t)).exp(),
            theta=0.5, lower=0.0, upper=INF, tags=_tags("infinite endpoint"),
            value=2.0, gradient=-7.382274680787737),
    Problem("damped_sinc", lambda x, t: (-x).exp() * (t * x).sin() / x,
            theta=3.0, lower=0.0, upper=INF, tags=_tags("infinite oscillatory"),
            value=1.2490457723982544, gradient=0.1),
    Problem("fourier_gaussian", lambda x, t: _gaussian(x, 0.0, t) * (4 * x).cos(),
            theta=1.0, lower=-INF, upper=INF, tags=_tags("infinite oscillatory"),
            value=0.0008408801081824545, gradient=-0.012613201622736818),
    # The derivatives of these two converge conditionally.
    Problem("fourier_lorentzian", lambda x, t: (t * x).cos() / (1 + x * x),
            theta=2.0, lower=-INF, upper=INF,
            tags=_tags("infinite oscillatory oscillatory_tail"),
            value=0.42516833158763634, gradient=-0.42516833158763634),
    Problem("sinc_squared", lambda x, t: ((t * x).sin() / x)**2,
            theta=1.0, lower=0.0, upper=INF,
            tags=_tags("infinite oscillatory oscillatory_tail"),
            value=1.5707963267948966, gradient=1.5707963267948966),
)

_FAR_PEAK = (
    Problem("far_gaussian_50", lambda x, t: _gaussian(x, 50.0, t),
            theta=1.0, lower=-INF, upper=INF, tags=_tags("infinite far_peak"),
            value=2.5066282746310007, gradient=2.5066282746310007),
    Problem("far_gaussian_1000", lambda x, t: _gaussian(x, 1000.0, t),
            theta=1.0, lower=-INF, upper=INF, tags=_tags("infinite far_peak"),
            value=2.5066282746310007, gradient=2.5066282746310007),
    Problem("far_gaussian_half_line", lambda x, t: _gaussian(x, 1000.0, t),
            theta=1.0, lower=0.0, upper=INF, tags=_tags("infinite far_peak"),
            value=2.5066282746310007, gradient=2.5066282746310007),
    Problem("far_gaussian_left_half_line", lambda x, t: _gaussian(x, -300.0, t),
            theta=1.0, lower=-INF, upper=0.0, tags=_tags("infinite far_peak"),
            value=2.5066282746310007, gradient=2.5066282746310007),
    Problem("far_gaussian_mean", lambda x, t: x * _normal(x, t, 1.0).exp(),
            theta=50.0, lower=-INF, upper=INF, tags=_tags("infinite far_peak"),
            value=125.33141373155003, gradient=2.5066282746310007),
    Problem("far_sech", lambda x, t: _log_sech(t * (x + 200)).exp(),
            theta=1.0, lower=-INF, upper=INF, tags=_tags("infinite far_peak"),
            value=3.141592653589793, gradient=-3.141592653589793),
    Problem("far_laplace", lambda x, t: (-(x - 300).abs() / t).exp(),
            theta=1.0, lower=-INF, upper=INF, tags=_tags("infinite far_peak kink"),
            value=2.0, gradient=2.0, breakpoints=(300.0,)),
    Problem("far_lorentzian", lambda x, t: 1 / (t + (x - 1e4) * (x - 1e4)),
            theta=1.0, lower=-INF, upper=INF,
            tags=_tags("infinite far_peak heavy_tail"),
            value=3.141592653589793, gradient=-1.5707963267948966),
    Problem("far_gamma",
            lambda x, t: ((t - 1) * x.log() - x - math.lgamma(200.0)).exp(),
            theta=200.0, lower=0.0, upper=INF, tags=_tags("infinite far_peak"),
            value=0.9999999999999726, gradient=5.295815283219766),
    Problem("far_needle", lambda x, t: _gaussian(x, 1000.0, t),
            theta=0.01, lower=-INF, upper=INF, tags=_tags("infinite far_peak narrow"),
            value=0.025066282746310006, gradient=2.5066282746310007),
    Problem("two_peaks_real_line", lambda x, t: _two_peaks(x, t).exp(),
            theta=1.0, lower=-INF, upper=INF,
            tags=_tags("infinite far_peak multi_peak"),
            value=5.013256549262001, gradient=2.5066282746310007),
)

_HEAVY_TAIL = (
    Problem("power_tail_1.05", lambda x, t: x**-t,
            theta=1.05, lower=1.0, upper=INF, tags=_tags("infinite heavy_tail"),
            value=19.999999999999982, gradient=-399.9999999999993),
    Problem("power_tail_1.1", lambda x, t: x**-t,
            theta=1.1, lower=1.0, upper=INF, tags=_tags("infinite heavy_tail"),
            value=9.999999999999991, gradient=-99.99999999999983),
    Problem("power_tail_1.5", lambda x, t: x**-t,
            theta=1.5, lower=1.0, upper=INF, tags=_tags("infinite heavy_tail"),
            value=2.0, gradient=-4.0),
    Problem("power_tail_left", lambda x, t: (-x)**-t,
            theta=2.5, lower=-INF, upper=-1.0, tags=_tags("infinite heavy_tail"),
            value=0.6666666666666666, gradient=-0.4444444444444444),
    Problem("cauchy_off_centre", lambda x, t: 1 / (t + (x - 3) * (x - 3)),
            theta=1.0, lower=-INF, upper=INF, tags=_tags("infinite heavy_tail"),
            value=3.141592653589793, gradient=-1.5707963267948966),
    Problem("quartic_tail", lambda x, t: 1 / (t + (x * x) * (x * x)),
            theta=1.0, lower=-INF, upper=INF, tags=_tags("infinite heavy_tail"),
            value=2.221441469079183, gradient=-1.6660811018093873),
    Problem("student_t_3", lambda x, t: _student(x, t).exp(),
            theta=3.0, lower=-INF, upper=INF, tags=_tags("infinite heavy_tail"),
            value=2.720699046351327, gradient=-0.07204550889633626),
    Problem("student_t_0.5", lambda x, t: _student(x, t).exp(),
            theta=0.5, lower=-INF, upper=INF, tags=_tags("infinite heavy_tail"),
            value=3.7081493546027438, gradient=-2.116598030814113),
    Problem("levy", lambda x, t: (-t / x - 1.5 * x.log()).exp(),
            theta=1.0, lower=0.0, upper=INF, tags=_tags("infinite heavy_tail"),
            value=1.772453850905516, gradient=-0.886226925452758),
    Problem("lognormal_3", lambda x, t: (_normal(x.log(), 0.0, t) - x.log()).exp(),
            theta=3.0, lower=0.0, upper=INF, tags=_tags("infinite heavy_tail endpoint"),
            value=7.519884823893001, gradient=2.5066282746310007),
    # Beyond the largest float, with the log 710, is 1 / 711 of the value and 8 / 711 of
    # the gradient.
    Problem("log_tail", lambda x, t: (1 + x.log())**-t / x,
            theta=2.0, lower=1.0, upper=INF, tags=_tags("infinite heavy_tail"),
            value=1.0, gradient=-1.0, attainable=3e-2),
)

_NARROW = (
    Problem("gaussian_1e-2", lambda x, t: _gaussian(x, 0.3, t),
            theta=1e-2, lower=0.0, upper=1.0, tags=_tags("narrow"),
            value=0.025066282746310006, gradient=2.5066282746310007),
    Problem("gaussian_1e-3", lambda x, t: _gaussian(x, 0.3, t),
            theta=1e-3, lower=0.0, upper=1.0, tags=_tags("narrow"),
            value=0.0025066282746310006, gradient=2.5066282746310007),
    Problem("gaussian_1e-4", lambda x, t: _gaussian(x, 0.3, t),
            theta=1e-4, lower=0.0, upper=1.0, tags=_tags("narrow needle"),
            value=0.00025066282746310007, gradient=2.5066282746310007),
    Problem("gaussian_wide_interval", lambda x, t: _gaussian(x, 37.0, t),
            theta=1.0, lower=-1000.0, upper=1000.0, tags=_tags("narrow needle"),
            value=2.5066282746310007, gradient=2.5066282746310007),
    Problem("gaussian_on_slope", lambda x, t: 1 + x + _gaussian(x, 0.3, t),
            theta=2e-2, lower=0.0, upper=1.0, tags=_tags("narrow"),
            value=1.55013256549262, gradient=2.5066282746310007),
    Problem("lorentzian_1e-3", _lorentzian,
            theta=1e-3, lower=-1.0, upper=1.0, tags=_tags("narrow near_pole"),
            value=0.0031395926542564594, gradient=3.1375926562564573),
    Problem("lorentzian_1e-4", _lorentzian,
            theta=1e-4, lower=-1.0, upper=1.0, tags=_tags("narrow near_pole"),
            value=0.000314139265359046, gradient=3.14119265359246),
    Problem("lorentzian_off_centre", lambda x, t: 1 / ((x - 0.3)**2 + t),
            theta=1e-6, lower=0.0, upper=1.0, tags=_tags("narrow near_pole"),
            value=3136.8307621453014, gradient=-1570796313.4775674),
    Problem("boundary_layer", lambda x, t: (-x / t).exp(),
            theta=1e-3, lower=0.0, upper=1.0, tags=_tags("narrow"),
            value=0.001, gradient=1.0),
    Problem("sharp_sigmoid", lambda x, t: ((x - t) / 1e-3).sigmoid(),
            theta=0.4137, lower=0.0, upper=1.0, tags=_tags("narrow"),
            value=0.5863, gradient=-1.0),
)

_OSCILLATORY = (
    Problem("cos_50", lambda x, t: (t * x).cos(),
            theta=50.0, lower=0.0, upper=1.0, tags=_tags("oscillatory"),
            value=-0.005247497074078576, gradient=0.01940427051132384),
    Problem("cos_1000", lambda x, t: (t * x).cos(),
            theta=1000.0, lower=0.0, upper=1.0, tags=_tags("oscillatory"),
            value=0.0008268795405320026, gradient=0.0005615521967501709),
    Problem("damped_cos_100", lambda x, t: (-t * x).exp() * (100 * x).cos(),
            theta=1.0, lower=0.0, upper=3.0, tags=_tags("oscillatory"),
            value=-0.00039759935099872515, gradient=0.001592947570504097),
    Problem("sine_squared_500", lambda x, t: (t * x).sin()**2,
            theta=500.0, lower=0.0, upper=1.0, tags=_tags("oscillatory"),
            value=0.499586560229734, gradient=-0.0005615521967501709),
    Problem("fresnel", lambda x, t: (t * x**2).cos(),
            theta=3.0, lower=0.0, upper=6.0, tags=_tags("oscillatory"),
            value=0.3874956562521251, gradient=0.3109269883916579),
    Problem("bessel_j5", lambda x, t: (5 * x - t * x.sin()).cos(),
            theta=30.0, lower=0.0, upper=math.pi, tags=_tags("oscillatory"),
            value=-0.45000266007877227, gradient=-0.09027560557570102),
    Problem("sine_of_reciprocal", lambda x, t: (t / x).sin(),
            theta=1.0, lower=0.02, upper=1.0, tags=_tags("oscillatory"),
            value=0.5036861726568906, gradient=-0.3430323092250845),
)

# "moving": theta moves the kink or the step. Differentiating a sum of values loses the
# jump term of a moving step; the derivative of a moving kink is a step or worse.
_KINK = (
    Problem("abs", lambda x, t: (x - t).abs(),
            theta=0.3, lower=0.0, upper=1.0, tags=_tags("kink moving_kink"),
            value=0.29, gradient=-0.4, breakpoints=(0.3,)),
    Problem("relu", lambda x, t: (x - t).relu(),
            theta=0.62, lower=0.0, upper=1.0, tags=_tags("kink moving_kink"),
            value=0.0722, gradient=-0.38, breakpoints=(0.62,)),
    Problem("relu_half_line", lambda x, t: (t - x).relu(),
            theta=1.7, lower=0.0, upper=INF, tags=_tags("kink moving_kink infinite"),
            value=1.4449999999999998, gradient=1.7, breakpoints=(1.7,)),
    Problem("abs_quadratic", lambda x, t: (x**2 - t).abs(),
            theta=0.5, lower=-1.0, upper=1.0, tags=_tags("kink moving_kink"),
            value=0.60947570824873, gradient=0.8284271247461901,
            breakpoints=(-math.sqrt(0.5), math.sqrt(0.5))),
    Problem("maximum", lambda x, t: torch.maximum(x**2, t * x),
            theta=0.4, lower=0.0, upper=1.0, tags=_tags("kink moving_kink"),
            value=0.34400000000000003, gradient=0.08000000000000002,
            breakpoints=(0.4,)),
    Problem("abs_sine", lambda x, t: (t * x).sin().abs(),
            theta=3.0, lower=0.0, upper=10.0,
            tags=_tags("kink moving_kink oscillatory"),
            value=6.3847504832958615, gradient=1.1651885858775854,
            breakpoints=tuple(k * math.pi / 3 for k in range(1, 10))),
    Problem("fixed_kink", lambda x, t: (x - 1 / 3).abs() * (t * x).exp(),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("kink"),
            value=0.551797574019164, gradient=0.3995737448387468, breakpoints=(1 / 3,)),
    Problem("laplace", lambda x, t: (-(x - 0.7).abs() / t).exp(),
            theta=2.0, lower=-INF, upper=INF, tags=_tags("kink infinite"),
            value=4.0, gradient=2.0, breakpoints=(0.7,)),
    # The derivative is |x - t|^-1/2, with a mass of 3e-8 within one spacing of t.
    Problem("cusp", lambda x, t: (x - t).abs().sqrt(),
            theta=0.37, lower=0.0, upper=1.0, tags=_tags("kink moving_kink"),
            value=0.4834061409414945, gradient=-0.18544914028955523, attainable=3e-7,
            breakpoints=(0.37,)),
)

_STEP = (
    Problem("step_exp", lambda x, t: torch.where(x >= 0.3, (t * x).exp(), 0.0),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("step"),
            value=1.3684230208830421, gradient=0.9449011653032022, breakpoints=(0.3,)),
    Problem("step_two_branches",
            lambda x, t: torch.where(x < 1 / math.pi, (t * x).exp(), (t * x).cos()),
            theta=1.0, lower=0.0, upper=1.0, tags=_tags("step"),
            value=0.9033114160394685, gradient=-0.2277157863942806,
            breakpoints=(1 / math.pi,)),
    Problem("staircase", lambda x, t: (t * (5 * x).floor()).exp(),
            theta=0.3, lower=0.0, upper=1.0, tags=_tags("step"),
            value=1.9903395283720018, gradient=5.130674686554812,
            breakpoints=(0.2, 0.4, 0.6, 0.8)),
    Problem("moving_step", lambda x, t: 0.5 + 0.5 * (t - x).sign(),
            theta=0.3, lower=0.0, upper=1.0, tags=_tags("step moving_step"),
            value=0.3, gradient=1.0, breakpoints=(0.3,)),
    Problem("moving_step_exp", lambda x, t: torch.where(x > t, x.exp(), 0 * t),
            theta=0.45, lower=0.0, upper=1.0, tags=_tags("step moving_step"),
            value=1.1499696429688764, gradient=-1.568312185490169, breakpoints=(0.45,)),
    Problem("moving_window", lambda x, t: 0.5 + 0.5 * (t - x.abs()).sign(),
            theta=1.3, lower=-INF, upper=INF, tags=_tags("step moving_step infinite"),
            value=2.6, gradient=2.0, breakpoints=(-1.3, 1.3)),
)

_NEAR_POLE = (
    Problem("runge", lambda x, t: 1 / (1 + t * x**2),
            theta=25.0, lower=-1.0, upper=1.0, tags=_tags("near_pole"),
            value=0.5493603067780063, gradient=-0.009448744597098588),
    Problem("reciprocal_1.001", lambda x, t: 1 / (t - x),
            theta=1.001, lower=0.0, upper=1.0, tags=_tags("near_pole"),
            value=6.9087547793153306, gradient=-999.0009990011091),
    Problem("inverse_sqrt_1.0001", lambda x, t: 1 / (t - x).sqrt(),
            theta=1.0001, lower=0.0, upper=1.0, tags=_tags("near_pole"),
            value=1.980099997500126, gradient=-99.00004999625583),
    Problem("tan", lambda x, t: (t * x).tan(),
            theta=1.0, lower=0.0, upper=1.57, tags=_tags("near_pole"),
            value=7.135501015707924, gradient=1964.4164776405319),
    Problem("interior_log", lambda x, t: (x - 0.4).abs()**t * (x - 0.4).abs().log(),
            theta=0.0, lower=0.0, upper=1.0, tags=_tags("interior_singularity"),
            value=-1.6730116670092565, gradient=3.838424506883451, breakpoints=(0.4,)),
)

PROBLEMS: tuple[Problem, ...] = (
    *_KAHANER, *_BAILEY, *_QUADPACK, *_SMOOTH, *_ENDPOINT, *_INFINITE, *_FAR_PEAK,
    *_HEAVY_TAIL, *_NARROW, *_OSCILLATORY, *_KINK, *_STEP, *_NEAR_POLE,
)

LOG_PROBLEMS: tuple[LogProblem, ...] = (
    LogProblem("logz_normal", lambda x, t: _normal(x, 0.0, t),
               theta=0.7, lower=-INF, upper=INF, tags=_tags("log_density infinite"),
               log_value=0.5622635892659403, log_gradient=1.4285714285714286),
    LogProblem("logz_normal_plus_1000", lambda x, t: _normal(x, 0.3, t) + 1000,
               theta=2.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite offset"),
               log_value=1001.6120857137646, log_gradient=0.5),
    LogProblem("logz_normal_minus_1000", lambda x, t: _normal(x, 0.3, t) - 1000,
               theta=2.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite offset"),
               log_value=-998.3879142862354, log_gradient=0.5),
    LogProblem("logz_normal_plus_1e5", lambda x, t: _normal(x, 0.3, t) + 1e5,
               theta=2.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite offset"),
               log_value=100001.61208571376, log_gradient=0.5),
    LogProblem("logz_normal_minus_1e5", lambda x, t: _normal(x, 0.3, t) - 1e5,
               theta=2.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite offset"),
               log_value=-99998.38791428624, log_gradient=0.5),
    LogProblem("logz_normal_at_50", lambda x, t: _normal(x, 50.0, t),
               theta=1.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite far_peak"),
               log_value=0.9189385332046728, log_gradient=1.0),
    LogProblem("logz_normal_at_1000", lambda x, t: _normal(x, 1000.0, t),
               theta=1.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite far_peak"),
               log_value=0.9189385332046728, log_gradient=1.0),
    LogProblem("logz_normal_at_1e4", lambda x, t: _normal(x, 1e4, t),
               theta=1.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite far_peak"),
               log_value=0.9189385332046728, log_gradient=1.0),
    LogProblem("logz_normal_at_-1e6", lambda x, t: _normal(x, -1e6, t),
               theta=1.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite far_peak"),
               log_value=0.9189385332046728, log_gradient=1.0),
    LogProblem("logz_normal_half_line_at_1e4", lambda x, t: _normal(x, 1e4, t),
               theta=1.0, lower=0.0, upper=INF,
               tags=_tags("log_density infinite far_peak"),
               log_value=0.9189385332046728, log_gradient=1.0),
    LogProblem("logz_truncated_normal", lambda x, t: _normal(x, t, 1.0),
               theta=0.5, lower=0.0, upper=INF, tags=_tags("log_density infinite"),
               log_value=0.5499921179160163, log_gradient=0.5091604338370335),
    LogProblem("logz_normal_tail_from_40", lambda x, t: _normal(x, t, 1.0),
               theta=0.0, lower=40.0, upper=INF,
               tags=_tags("log_density infinite shifted_end"),
               log_value=-803.6895034805491, log_gradient=40.02496884720726),
    LogProblem("logz_narrow_normal", lambda x, t: _normal(x, 0.3, t),
               theta=1e-3, lower=0.0, upper=1.0, tags=_tags("log_density narrow"),
               log_value=-5.988816745777465, log_gradient=1000.0),
    LogProblem("logz_student_t_2", _student,
               theta=2.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite heavy_tail"),
               log_value=1.0397207708399179, log_gradient=-0.05685281944005469),
    LogProblem("logz_student_t_plus_1000", lambda x, t: _student(x, t) + 1000,
               theta=5.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite heavy_tail offset"),
               log_value=1000.9686195890547, log_gradient=-0.009813847226611976),
    LogProblem("logz_cauchy_at_1e4", lambda x, t: _log_cauchy((x - 1e4) / t),
               theta=2.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite heavy_tail far_peak"),
               log_value=1.8378770664093456, log_gradient=0.5),
    LogProblem("logz_logistic", lambda x, t: 2 * _log_sech(x / (2 * t)),
               theta=1.3, lower=-INF, upper=INF, tags=_tags("log_density infinite"),
               log_value=1.6486586255873816, log_gradient=0.7692307692307692),
    LogProblem("logz_gumbel_at_-500", _gumbel,
               theta=2.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite far_peak"),
               log_value=0.6931471805599453, log_gradient=0.5),
    LogProblem("logz_laplace_at_1000", lambda x, t: -(x - 1000).abs() / t,
               theta=3.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite far_peak kink"),
               log_value=1.791759469228055, log_gradient=0.3333333333333333,
               breakpoints=(1000.0,)),
    LogProblem("logz_two_peaks", _two_peaks,
               theta=0.5, lower=-INF, upper=INF,
               tags=_tags("log_density infinite multi_peak"),
               log_value=1.324403641312837, log_gradient=0.6666666666666666),
    LogProblem("logz_double_well", _double_well,
               theta=9.0, lower=-INF, upper=INF,
               tags=_tags("log_density infinite multi_peak"),
               log_value=-0.5239031960207757, log_gradient=-0.056083171655219144),
    LogProblem("logz_quartic", lambda x, t: -((t * x.clamp(-1e4, 1e4))**4),
               theta=0.8, lower=-INF, upper=INF, tags=_tags("log_density infinite"),
               log_value=0.8180188954523419, log_gradient=-1.25),
    LogProblem("logz_bessel_k", _bessel_k,
               theta=2.0, lower=-INF, upper=INF, tags=_tags("log_density infinite"),
               log_value=-1.4793410244157645, log_gradient=-1.228036929818908),
    LogProblem("logz_binomial_logit", lambda x, t: t * x - 10 * _softplus(x),
               theta=3.0, lower=-INF, upper=INF, tags=_tags("log_density infinite"),
               log_value=-5.529429087511423, log_gradient=-0.95),
    LogProblem("logz_poisson_rate", lambda x, t: t * x - x.exp(),
               theta=30.0, lower=-INF, upper=INF, tags=_tags("log_density infinite"),
               log_value=71.25703896716801, log_gradient=3.384438132685525),
    LogProblem("logz_exponential_minus_1000", lambda x, t: -t * x - 1000,
               theta=2.5, lower=0.0, upper=INF,
               tags=_tags("log_density infinite offset"),
               log_value=-1000.9162907318741, log_gradient=-0.4),
    LogProblem("logz_gamma_0.3", lambda x, t: (t - 1) * x.log() - x,
               theta=0.3, lower=0.0, upper=INF,
               tags=_tags("log_density infinite endpoint"),
               log_value=1.0957979948180756, log_gradient=-3.502524222200133),
    LogProblem("logz_gamma_50", lambda x, t: (t - 1) * x.log() - x,
               theta=50.0, lower=0.0, upper=INF,
               tags=_tags("log_density infinite far_peak"),
               log_value=144.5657439463449, log_gradient=3.901989673427892),
    LogProblem("logz_gamma_1e4", lambda x, t: (t - 1) * x.log() - x,
               theta=1e4, lower=0.0, upper=INF,
               tags=_tags("log_density infinite far_peak"),
               log_value=82099.71749644238, log_gradient=9.210290371142849),
    LogProblem("logz_inverse_gamma", lambda x, t: -(t + 1) * x.log() - 1 / x,
               theta=1.5, lower=0.0, upper=INF,
               tags=_tags("log_density infinite heavy_tail"),
               log_value=-0.12078223763524522, log_gradient=0.03648997397857652),
    LogProblem("logz_weibull_0.7", lambda x, t: (t - 1) * x.log() - x**t,
               theta=0.7, lower=0.0, upper=INF,
               tags=_tags("log_density infinite endpoint"),
               log_value=0.35667494393873245, log_gradient=-1.4285714285714286),
    LogProblem("logz_lognormal", lambda x, t: _normal(x.log(), 0.0, t) - x.log(),
               theta=1.0, lower=0.0, upper=INF,
               tags=_tags("log_density infinite endpoint"),
               log_value=0.9189385332046728, log_gradient=1.0),
    # As for the Beta integral: the mass within one spacing of 1.
    LogProblem("logz_beta_0.5_0.5", lambda x, t: (t - 1) * (x.log() + torch.log1p(-x)),
               theta=0.5, lower=0.0, upper=1.0,
               tags=_tags("log_density endpoint upper_end"),
               log_value=1.1447298858494002, log_gradient=-2.772588722239781,
               attainable=4e-7),
    LogProblem("logz_beta_0.1_1", lambda x, t: (t - 1) * x.log(),
               theta=0.1, lower=0.0, upper=1.0, tags=_tags("log_density endpoint"),
               log_value=2.3025850929940455, log_gradient=-10.0),
    LogProblem("logz_beta_2_3", lambda x, t: (t - 1) * x.log() + 2 * torch.log1p(-x),
               theta=2.0, lower=0.0, upper=1.0, tags=_tags("log_density"),
               log_value=-2.4849066497880004, log_gradient=-1.0833333333333333),
    LogProblem("logz_beta_200_300",
               lambda x, t: (t - 1) * x.log() + 299 * torch.log1p(-x),
               theta=200.0, lower=0.0, upper=1.0, tags=_tags("log_density narrow"),
               log_value=-337.98011306546465, log_gradient=-0.9177924818690801),
    LogProblem("logz_von_mises_1", lambda x, t: t * x.cos(),
               theta=1.0, lower=-math.pi, upper=math.pi, tags=_tags("log_density"),
               log_value=2.073791424916524, log_gradient=0.4463899658965345),
    LogProblem("logz_von_mises_50", lambda x, t: t * x.cos(),
               theta=50.0, lower=-math.pi, upper=math.pi, tags=_tags("log_density"),
               log_value=48.96545256828115, log_gradient=0.9899489673784978),
    LogProblem("logz_von_mises_2000", lambda x, t: t * x.cos(),
               theta=2000.0, lower=-math.pi, upper=math.pi,
               tags=_tags("log_density narrow offset"),
               log_value=1997.1185498190669, log_gradient=0.9997499687343627),
    LogProblem("logz_exp_tilt_1000", lambda x, t: t * x,
               theta=1000.0, lower=-1.0, upper=1.0,
               tags=_tags("log_density narrow offset"),
               log_value=993.0922447210179, log_gradient=0.999),
)

DIVERGENT: tuple[Divergent, ...] = (
    Divergent("reciprocal_at_0", lambda x: 1 / x, 0.0, 1.0, at=0.0),
    Divergent("reciprocal_at_upper_end", lambda x: 1 / (1 - x), 0.0, 1.0, at=1.0),
    Divergent("power_-1.5_at_0", lambda x: x**-1.5, 0.0, 1.0, at=0.0),
    Divergent("interior_pole", lambda x: 1 / (x - 0.3), 0.0, 1.0, at=0.3),
    Divergent("interior_double_pole", lambda x: 1 / (x - 0.3)**2, 0.0, 1.0, at=0.3),
    # Odd: symmetric points cancel, yet neither half has an integral.
    Divergent("odd_pole", lambda x: 1 / x, -1.0, 1.0, at=0.0),
    Divergent("tan_through_pole", lambda x: x.tan(), 0.0, 3.0, at=math.pi / 2),
    Divergent("reciprocal_tail", lambda x: 1 / x, 1.0, INF, at=INF),
    Divergent("inverse_sqrt_tail", lambda x: x**-0.5, 1.0, INF, at=INF),
    Divergent("reciprocal_log_tail", lambda x: 1 / (x * x.log()), 2.0, INF, at=INF),
    Divergent("reciprocal_tails", lambda x: 1 / (1 + x.abs()), -INF, INF, at=INF),
    Divergent("odd_tails", lambda x: x / (1 + x.abs()) / (1 + x.abs()),
              -INF, INF, at=INF),
    Divergent("constant_half_line", torch.ones_like, 0.0, INF, at=INF),
    Divergent("constant_real_line", torch.ones_like, -INF, INF, at=INF),
    Divergent("identity_real_line", lambda x: x, -INF, INF, at=INF),
    Divergent("exp_half_line", lambda x: x.exp(), 0.0, INF, at=INF),
    Divergent("sin_real_line", lambda x: x.sin(), -INF, INF, at=INF),
    Divergent("cos_half_line", lambda x: x.cos(), 0.0, INF, at=INF),
    Divergent("sin_squared_half_line", lambda x: x.sin()**2, 0.0, INF, at=INF),
)
# fmt: on

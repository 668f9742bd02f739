"""The problem table is what it says: values, gradients, integrands."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from mpmath import mp, mpc, mpf
from problems import (
    DIVERGENT,
    LOG_PROBLEMS,
    PROBLEMS,
    Divergent,
    LogProblem,
    Problem,
    by_tag,
)

Number = Any  # an mpf or mpc: mpmath has no types


@dataclass(frozen=True)
class Exact:
    """A problem once more, in mpmath.

    Everything is analytic in a complex theta: at theta + ih, the real part of a result
    is the value and the imaginary part over h the derivative, to order h^2.
    """

    integrand: Callable[[Number, Number], Number]
    closed: Callable[[Number], Number]
    # d closed / d theta, where ``closed`` is known at the problem's theta only
    gradient: Callable[[Number], Number] | None = None
    # where the quadrature splits, besides the problem's breakpoints
    marks: Sequence[float] = ()
    # the outermost marks stand in for infinite limits: far out the integrand is the exp
    # of minus an exp, which takes mpmath for ever
    truncated: bool = False
    # integrate over log x: power singularities at 0 and power tails
    log_scale: bool = False
    # the integrand of an equal integral over (0, inf), where the first one oscillates
    # out to infinity or decays slower than any power
    transformed: Callable[[Number, Number], Number] | None = None
    dps: int = 22


def _sliver(a: Number, b: float) -> Number:
    """How much further a goes than the float b."""
    return a - mpf(b)


def _atan_root(a: Number, b: Number) -> Number:
    """Integral of 1 / (x^2 + a) from -b to b."""
    return 2 * mp.atan(b / mp.sqrt(a)) / mp.sqrt(a)


def _kahaner_05(t: Number) -> Number:
    root = mp.sqrt(mpc(1 - 4 * t))
    low, high = (1 - root) / 2, (1 + root) / 2
    # complex step and complex poles: the conjugate pair adds up analytically
    return (_atan_root(low, 1) - _atan_root(high, 1)) / (high - low)


def _debye(t: Number) -> Number:
    return (t * mp.log(1 - mp.exp(-t)) - mp.polylog(2, mp.exp(-t)) + mp.pi**2 / 6) / t


def _kahaner_13(t: Number) -> Number:
    w = 100 * mp.pi
    a, b = w * (mpf(0.1) + t), w * (1 + t)
    sine = mp.cos(w * t) * (mp.si(b) - mp.si(a))
    return (sine - mp.sin(w * t) * (mp.ci(b) - mp.ci(a))) / mp.pi


def _kahaner_17(t: Number) -> Number:
    def primitive(x: Number) -> Number:
        return t * mp.si(2 * t * x) - mp.sin(t * x) ** 2 / x

    return 50 * (primitive(mpf(1)) - primitive(mpf(0.01))) / (50 * mp.pi) ** 2


def _kahaner_18(x: Number, t: Number) -> Number:
    harmonics = 3 * mp.sin(x) + 2 * mp.cos(2 * x) + 3 * mp.sin(2 * x)
    return mp.cos(t * mp.cos(x) + harmonics + 3 * mp.cos(3 * x))


def _kahaner_18_by_gauss(t: Number) -> Number:
    """No closed form is known: another rule, on other panels, at higher precision."""
    panels = mp.linspace(0, mpf(math.pi), 6)
    return mp.quad(lambda x: _kahaner_18(x, t), panels, method="gauss-legendre")


def _sech_power(order: int, scale: Number, centre: float) -> Number:
    """Integral of sech(scale (x - centre))^order over (0, 1), order 2, 4 or 6."""

    def primitive(x: Number) -> Number:
        u = mp.tanh(scale * (x - mpf(centre)))
        return {2: u, 4: u - u**3 / 3, 6: u - 2 * u**3 / 3 + u**5 / 5}[order]

    return (primitive(mpf(1)) - primitive(mpf(0))) / scale


def _kahaner_21(t: Number) -> Number:
    peaks = ((2, 10, 0.2), (4, 100, 0.4), (6, 1000, 0.6))
    return sum(_sech_power(order, s * t, c) for order, s, c in peaks)


def _bailey_09(t: Number) -> Number:
    s = _sliver(mp.pi / 2, math.pi / 2)
    beta = mp.beta((t + 1) / 2, mpf(1) / 2) / 2
    full = beta * (mp.psi(0, (t + 1) / 2) - mp.psi(0, t / 2 + 1)) / 2
    return full - s ** (1 + t) * (mp.log(s) - 1 / (1 + t)) / (1 + t)


KAHANER = {
    "kahaner_01_exp": Exact(lambda x, t: mp.exp(t * x), lambda t: (mp.exp(t) - 1) / t),
    "kahaner_02_step": Exact(
        lambda x, t: t if x >= 0.3 else mpf(0), lambda t: t * (1 - mpf(0.3))
    ),
    "kahaner_03_sqrt": Exact(lambda x, t: x**t, lambda t: 1 / (1 + t), log_scale=True),
    "kahaner_04_cosh": Exact(
        lambda x, t: mpf(0.92) * mp.cosh(t * x) - mp.cos(x),
        lambda t: 2 * mpf(0.92) * mp.sinh(t) / t - 2 * mp.sin(1),
    ),
    "kahaner_05_quartic": Exact(lambda x, t: 1 / (x**4 + x**2 + t), _kahaner_05),
    "kahaner_06_power": Exact(lambda x, t: x**t, lambda t: 1 / (1 + t), log_scale=True),
    "kahaner_07_inverse_sqrt": Exact(
        lambda x, t: x**t, lambda t: 1 / (1 + t), log_scale=True
    ),
    "kahaner_08_rational": Exact(
        lambda x, t: 1 / (1 + t * x**4), lambda t: mp.hyp2f1(1, 0.25, 1.25, -t)
    ),
    "kahaner_09_periodic": Exact(
        lambda x, t: 2 / (t + mp.sin(10 * mp.pi * x)),
        lambda t: 2 / mp.sqrt(t**2 - 1),
        marks=(0.2, 0.4, 0.6, 0.8),
    ),
    "kahaner_10_reciprocal": Exact(
        lambda x, t: 1 / (t + x), lambda t: mp.log(1 + 1 / t)
    ),
    "kahaner_11_logistic": Exact(
        lambda x, t: 1 / (1 + mp.exp(t * x)),
        lambda t: 1 - mp.log((1 + mp.exp(t)) / 2) / t,
    ),
    "kahaner_12_bose": Exact(lambda x, t: t * x / mp.expm1(t * x), _debye),
    "kahaner_13_sine_over_x": Exact(
        lambda x, t: mp.sin(100 * mp.pi * x) / (mp.pi * (x + t)),
        _kahaner_13,
        marks=[k / 10 for k in range(2, 10)],
    ),
    "kahaner_14_gaussian": Exact(
        lambda x, t: mp.sqrt(50) * mp.exp(-t * mp.pi * x**2),
        lambda t: mp.sqrt(50 / t) / 2,
        marks=(0.2, 1),
    ),
    "kahaner_15_decay": Exact(
        lambda x, t: 25 * mp.exp(-t * x),
        lambda t: 25 * (1 - mp.exp(-10 * t)) / t,
        marks=(1,),
    ),
    "kahaner_16_lorentzian": Exact(
        lambda x, t: 50 / (mp.pi * (t * x**2 + 1)),
        lambda t: 50 * mp.atan(10 * mp.sqrt(t)) / (mp.pi * mp.sqrt(t)),
        marks=(0.02, 0.2),
    ),
    "kahaner_17_sinc_squared": Exact(
        lambda x, t: 50 * (mp.sin(t * x) / (50 * mp.pi * x)) ** 2,
        _kahaner_17,
        marks=[k / 10 for k in range(1, 10)],
    ),
    "kahaner_18_nested_cosines": Exact(
        _kahaner_18,
        _kahaner_18_by_gauss,
        marks=(math.pi / 4, math.pi / 2, 3 * math.pi / 4),
    ),
    "kahaner_19_log": Exact(
        lambda x, t: x**t * mp.log(x), lambda t: -1 / (1 + t) ** 2, log_scale=True
    ),
    "kahaner_20_near_pole": Exact(
        lambda x, t: 1 / (x**2 + t), lambda t: _atan_root(t, 1)
    ),
    "kahaner_21_three_peaks": Exact(
        lambda x, t: (
            mp.sech(10 * t * (x - 0.2)) ** 2
            + mp.sech(100 * t * (x - 0.4)) ** 4
            + mp.sech(1000 * t * (x - 0.6)) ** 6
        ),
        _kahaner_21,
        marks=(0.2, 0.36, 0.4, 0.44, 0.59, 0.6, 0.61),
    ),
}

BAILEY = {
    "bailey_01_x_log1p": Exact(
        lambda x, t: x * mp.log1p(t * x),
        lambda t: mp.log(1 + t) / 2 - (t / 2 - 1 + mp.log(1 + t) / t) / (2 * t),
    ),
    "bailey_02_atan": Exact(
        lambda x, t: x**2 * mp.atan(t * x),
        lambda t: mp.atan(t) / 3 - (1 - mp.log(1 + t**2) / t**2) / (6 * t),
    ),
    "bailey_03_exp_cos": Exact(
        lambda x, t: mp.exp(x) * mp.cos(t * x),
        lambda t: (
            (
                mp.exp(mpf(math.pi / 2))
                * (mp.cos(t * mpf(math.pi / 2)) + t * mp.sin(t * mpf(math.pi / 2)))
                - 1
            )
            / (1 + t**2)
        ),
    ),
    # Ahmed's integral; under the derivative it is elementary
    "bailey_04_ahmed": Exact(
        lambda x, t: mp.atan(t * mp.sqrt(2 + x**2)) / ((1 + x**2) * mp.sqrt(2 + x**2)),
        lambda t: 5 * mp.pi**2 / 96,
        gradient=lambda t: mp.pi / 8 - mp.pi / (12 * mp.sqrt(3)),
    ),
    "bailey_05_sqrt_log": Exact(
        lambda x, t: x**t * mp.log(x), lambda t: -1 / (1 + t) ** 2, log_scale=True
    ),
    "bailey_06_semicircle": Exact(
        lambda x, t: (1 - x**2) ** t, lambda t: mp.beta(mpf(1) / 2, t + 1) / 2
    ),
    "bailey_07_sqrt_ratio": Exact(
        lambda x, t: x**t / mp.sqrt(1 - x**2),
        lambda t: mp.beta((t + 1) / 2, mpf(1) / 2) / 2,
        dps=40,
    ),
    "bailey_08_log_squared": Exact(
        lambda x, t: (-mp.log(x)) ** t, lambda t: mp.gamma(t + 1), log_scale=True
    ),
    "bailey_09_log_cos": Exact(
        lambda x, t: mp.cos(x) ** t * mp.log(mp.cos(x)), _bailey_09
    ),
    # the integral to pi / 2, less that of s^-t from the float to pi / 2
    "bailey_10_sqrt_tan": Exact(
        lambda x, t: mp.tan(x) ** t,
        lambda t: (
            mp.pi / (2 * mp.cos(mp.pi * t / 2))
            - _sliver(mp.pi / 2, math.pi / 2) ** (1 - t) / (1 - t)
        ),
        dps=40,
    ),
    "bailey_11_cauchy": Exact(
        lambda x, t: 1 / (t + x**2), lambda t: mp.pi / (2 * mp.sqrt(t)), marks=(1,)
    ),
    "bailey_12_exp_over_sqrt": Exact(
        lambda x, t: mp.exp(-t * x) / mp.sqrt(x),
        lambda t: mp.sqrt(mp.pi / t),
        log_scale=True,
        marks=(1,),
    ),
    "bailey_13_half_gaussian": Exact(
        lambda x, t: mp.exp(-t * x**2 / 2), lambda t: mp.sqrt(mp.pi / (2 * t))
    ),
    "bailey_14_damped_cosine": Exact(
        lambda x, t: mp.exp(-x) * mp.cos(t * x), lambda t: 1 / (1 + t**2), marks=(8, 20)
    ),
}


def _power_log() -> Exact:
    return Exact(
        lambda x, t: -(x**t) * mp.log(x), lambda t: 1 / (1 + t) ** 2, log_scale=True
    )


def _scaled_lorentzian(power: int) -> Exact:
    centre, width = mpf(math.pi / 4), mpf(4) ** -power

    def closed(t: Number) -> Number:
        w = width * mp.sqrt(t)
        return (mp.atan((1 - centre) / w) + mp.atan(centre / w)) / mp.sqrt(t)

    return Exact(
        lambda x, t: width / ((x - centre) ** 2 + t * width**2),
        closed,
        marks=(math.pi / 4 - 0.01, math.pi / 4, math.pi / 4 + 0.01),
    )


def _cos_sin(waves: int) -> Exact:
    """cos(2^theta sin x) up to the float pi, which is short of pi by a sliver."""
    return Exact(
        lambda x, t: mp.cos(2**t * mp.sin(x)),
        lambda t: mp.pi * mp.besselj(0, 2**t) - _sliver(mp.pi, math.pi),
        marks=[k * math.pi / waves for k in range(1, waves)],
    )


def _abs_power(centre: float, dps: int = 22) -> Exact:
    c = mpf(centre)
    return Exact(
        lambda x, t: abs(x - c) ** t,
        lambda t: ((1 - c) ** (t + 1) + c ** (t + 1)) / (t + 1),
        dps=dps,
    )


def _chebyshev_pole() -> Exact:
    return Exact(
        lambda x, t: 1 / ((1 + x + 2**-t) * mp.sqrt(1 - x**2)),
        lambda t: mp.pi / mp.sqrt((1 + 2**-t) ** 2 - 1),
        marks=(-0.98, 0),
        dps=42,
    )


def _sine_power() -> Exact:
    return Exact(
        lambda x, t: mp.sin(x) ** (t - 1),
        lambda t: (
            2 ** (t - 2) * mp.gamma(t / 2) ** 2 / mp.gamma(t)
            - _sliver(mp.pi / 2, math.pi / 2)
        ),
        log_scale=True,
    )


def _growing_sine(t: Number) -> Number:
    w = 2**t
    return (20 * mp.sin(w) - w * mp.cos(w) + w * mp.exp(-20)) / (400 + w**2)


def _chebyshev_cosine(waves: int) -> Exact:
    return Exact(
        lambda x, t: mp.cos(2**t * x) / mp.sqrt(x * (1 - x)),
        lambda t: mp.pi * mp.cos(2**t / 2) * mp.besselj(0, 2**t / 2),
        marks=[k / waves for k in range(1, waves)],
        dps=40,
    )


def _damped_cosine(marks: Sequence[float]) -> Exact:
    return Exact(
        lambda x, t: mp.exp(-(2**-t) * x) * mp.cos(x) / mp.sqrt(x),
        lambda t: (
            mp.sqrt(mp.pi) * (1 + 4**-t) ** mpf(-0.25) * mp.cos(mp.atan(2**t) / 2)
        ),
        marks=marks,
        dps=40,
    )


def _x2_exp() -> Exact:
    return Exact(
        lambda x, t: x**2 * mp.exp(-(2**-t) * x),
        lambda t: 2 * 8**t,
        marks=(10, 100, 1000),
    )


def _rational_power() -> Exact:
    return Exact(
        lambda x, t: x ** (t - 1) / (1 + 10 * x) ** 2,
        lambda t: 10**-t * (1 - t) * mp.pi / mp.sin(mp.pi * t),
        log_scale=True,
    )


def _log_factors(t: Number, log_power: int = 0) -> Number:
    """Integral of x^3 log(x)^k log|(x^2 - 1) (x^2 - 2)| over (0, 3), k = 0 or 1.

    By parts in u = x^2, so that no logarithm of a zero is left.
    """

    def weight(u: Number) -> Number:
        # primitive of u log(u)^k; u = 0 is its limit
        if log_power == 0:
            return u**2 / 2
        return u**2 / 2 * mp.log(u) - u**2 / 4 if u else mpf(0)

    def factor(a: int) -> Number:
        edges = (weight(mpf(9)) - weight(mpf(a))) * mp.log(9 - a)
        edges -= (weight(mpf(0)) - weight(mpf(a))) * mp.log(a)
        rest = mp.quad(lambda u: (weight(u) - weight(mpf(a))) / (u - a), [0, a, 9])
        return edges - rest

    return (factor(1) + factor(2)) / (4 if log_power else 2)


QUADPACK = {
    "quadpack_power_log_-0.9": _power_log(),
    "quadpack_power_log_-0.5": _power_log(),
    "quadpack_power_log_2.6": _power_log(),
    "quadpack_lorentzian_3": Exact(
        lambda x, t: 4**-t / ((x - math.pi / 4) ** 2 + 16**-t),
        lambda t: (
            mp.atan((1 - mpf(math.pi / 4)) * 4**t) + mp.atan(mpf(math.pi / 4) * 4**t)
        ),
        marks=(math.pi / 4,),
    ),
    "quadpack_lorentzian_6": _scaled_lorentzian(6),
    "quadpack_lorentzian_9": _scaled_lorentzian(9),
    "quadpack_cos_sin_3": _cos_sin(2),
    "quadpack_cos_sin_6": _cos_sin(6),
    "quadpack_cos_sin_9": _cos_sin(24),
    "quadpack_third_-0.5": _abs_power(1 / 3, dps=40),
    "quadpack_third_0.5": _abs_power(1 / 3),
    "quadpack_third_2.1": _abs_power(1 / 3),
    "quadpack_quarter_pi_-0.2": _abs_power(math.pi / 4, dps=30),
    "quadpack_quarter_pi_1.3": _abs_power(math.pi / 4),
    "quadpack_chebyshev_pole_1": _chebyshev_pole(),
    "quadpack_chebyshev_pole_5": _chebyshev_pole(),
    "quadpack_sine_power_0.1": _sine_power(),
    "quadpack_sine_power_1.3": _sine_power(),
    "quadpack_log_power_0.5": Exact(
        lambda x, t: (-mp.log(x)) ** (t - 1), mp.gamma, marks=(0.5,), dps=42
    ),
    "quadpack_log_power_1.6": Exact(
        lambda x, t: (-mp.log(x)) ** (t - 1), mp.gamma, marks=(0.5,)
    ),
    "quadpack_growing_sine_4": Exact(
        lambda x, t: mp.exp(20 * (x - 1)) * mp.sin(2**t * x), _growing_sine
    ),
    "quadpack_growing_sine_9": Exact(
        lambda x, t: mp.exp(20 * (x - 1)) * mp.sin(2**t * x),
        _growing_sine,
        marks=[k / 16 for k in range(1, 16)],
    ),
    "quadpack_growing_cosine_6": Exact(
        lambda x, t: mp.exp(2**t * (x - 1)) * mp.cos(2**t * x),
        lambda t: (mp.cos(2**t) + mp.sin(2**t) - mp.exp(-(2**t))) / (2 * 2**t),
        marks=(0.25, 0.5, 0.75),
    ),
    "quadpack_chebyshev_cosine_2": _chebyshev_cosine(2),
    "quadpack_chebyshev_cosine_6": _chebyshev_cosine(6),
    "quadpack_damped_cosine_0": _damped_cosine((5, 10, 20, 40)),
    "quadpack_damped_cosine_3": _damped_cosine(range(20, 340, 20)),
    "quadpack_x2_exp_0": _x2_exp(),
    "quadpack_x2_exp_5": _x2_exp(),
    "quadpack_rational_power_0.1": _rational_power(),
    "quadpack_rational_power_1.9": _rational_power(),
    "quadpack_log_factors": Exact(
        lambda x, t: x**t * mp.log(abs((x**2 - 1) * (x**2 - 2))),
        lambda t: 61 * mp.log(2) + mpf(77) / 4 * mp.log(7) - 27,
        gradient=lambda t: _log_factors(t, log_power=1),
        dps=30,
    ),
    "quadpack_log_lorentzian": Exact(
        lambda x, t: mp.log(x) / (1 + t * x**2),
        lambda t: -mp.pi * mp.log(t) / (4 * mp.sqrt(t)),
        log_scale=True,
    ),
}

SMOOTH = {
    "constant": Exact(lambda x, t: t, lambda t: 3 * t),
    "cubic": Exact(
        lambda x, t: (x - t) ** 3 + x, lambda t: ((2 - t) ** 4 - t**4) / 4 + 2
    ),
    "monomial_20": Exact(lambda x, t: (t * x) ** 20, lambda t: 2 * t**20 / 21),
    "gaussian_finite": Exact(
        lambda x, t: mp.exp(-t * x**2),
        lambda t: mp.sqrt(mp.pi / t) * mp.erf(mp.sqrt(t)),
    ),
    # up to the float 2 pi, where the integrand is exp(theta)
    "exp_cosine_period": Exact(
        lambda x, t: mp.exp(t * mp.cos(x)),
        lambda t: (
            2 * mp.pi * mp.besseli(0, t) - mp.exp(t) * _sliver(2 * mp.pi, 2 * math.pi)
        ),
        marks=(math.pi,),
    ),
    "far_interval": Exact(
        lambda x, t: mp.exp(-t * (x - 1000)), lambda t: (1 - mp.exp(-2 * t)) / t
    ),
    "tiny_interval": Exact(
        lambda x, t: 1 / (t + x), lambda t: mp.log((t + mpf(1.000001)) / (t + 1))
    ),
    "wide_interval": Exact(
        lambda x, t: 1 / (1 + t * x),
        lambda t: mp.log(1 + 10**6 * t) / t,
        marks=(1, 10, 100, 10000),
    ),
}


def _power() -> Exact:
    return Exact(lambda x, t: x**t, lambda t: 1 / (1 + t), log_scale=True)


def _symmetric_beta() -> Exact:
    return Exact(
        lambda x, t: (x * (1 - x)) ** (t - 1),
        lambda t: mp.beta(t, t),
        marks=(0.5,),
        dps=42,
    )


def _upper_power(dps: int) -> Exact:
    return Exact(lambda x, t: (1 - x) ** t, lambda t: 1 / (1 + t), dps=dps)


ENDPOINT = {
    "power_-0.75": _power(),
    "power_-0.9": _power(),
    "power_-0.95": _power(),
    "power_0.1": _power(),
    "beta_0.5_0.5": _symmetric_beta(),
    "beta_1.2_1.2": _symmetric_beta(),
    "upper_power_-0.5": _upper_power(42),
    "upper_power_-0.75": _upper_power(84),
    "upper_power_0.25": _upper_power(22),
    "shifted_power_-0.5": Exact(
        lambda x, t: (x - 5) ** t, lambda t: 1 / (1 + t), dps=42
    ),
    "upper_log": Exact(
        lambda x, t: x**t * mp.log(1 - x),
        lambda t: -(mp.psi(0, t + 2) + mp.euler) / (t + 1),
        marks=(0.5,),
        dps=30,
    ),
    "cosine_of_log": Exact(
        lambda x, t: mp.cos(t * mp.log(x)), lambda t: 1 / (1 + t**2), log_scale=True
    ),
    "essential_zero": Exact(
        lambda x, t: mp.exp(-t / x) / x**2, lambda t: mp.exp(-t) / t, log_scale=True
    ),
    # Bernoulli's series
    "sophomores_dream": Exact(
        lambda x, t: x ** (t * x),
        lambda t: sum((-t) ** (n - 1) * mpf(n) ** -n for n in range(1, 60)),
    ),
}


def _gaussian(centre: float, width: float) -> Exact:
    """exp(-((x - centre) / theta)^2 / 2), which no limit cuts."""
    return Exact(
        lambda x, t: mp.exp(-(((x - mpf(centre)) / t) ** 2) / 2),
        lambda t: t * mp.sqrt(2 * mp.pi),
        marks=[centre + k * width for k in (-10, 0, 10)],
    )


def _exponential(start: int = 0, shift: int = 0, scale: float = 1) -> Exact:
    """exp(-theta (x - shift)) on (start, inf)."""
    return Exact(
        lambda x, t: mp.exp(-t * (x - shift)),
        lambda t: mp.exp(-t * (start - shift)) / t,
        marks=(start + 8 * scale, start + 40 * scale),
    )


def _gamma_integrand() -> Exact:
    return Exact(
        lambda x, t: x ** (t - 1) * mp.exp(-x), mp.gamma, log_scale=True, marks=(3, 20)
    )


INFINITE = {
    "gaussian_real_line": _gaussian(0.0, 1.5),
    "sech_real_line": Exact(
        lambda x, t: mp.sech(t * x), lambda t: mp.pi / t, marks=(0,)
    ),
    "exp_left_half_line": Exact(lambda x, t: mp.exp(t * x), lambda t: 1 / t),
    "exp_left_shifted": Exact(lambda x, t: mp.exp(t * (x - 2)), lambda t: 1 / t),
    "exp_from_5": _exponential(5),
    "exp_from_1000": _exponential(1000, 1000),
    "slow_exp": _exponential(scale=1e6),
    "fast_exp": _exponential(scale=1e-6),
    "planck": Exact(
        lambda x, t: x**3 / mp.expm1(t * x),
        lambda t: mp.pi**4 / (15 * t**4),
        marks=(5, 20),
    ),
    "softplus_tail": Exact(
        lambda x, t: mp.log1p(mp.exp(-t * x)), lambda t: mp.pi**2 / (12 * t)
    ),
    "gamma_0.3": _gamma_integrand(),
    "gamma_5.5": _gamma_integrand(),
    "bessel_k": Exact(
        lambda x, t: mp.exp(-t * mp.cosh(x)),
        lambda t: mp.besselk(0, t),
        marks=(3, 6),
        truncated=True,
    ),
    "log_both_ends": Exact(
        lambda x, t: mp.log1p(t / x**2), lambda t: mp.pi * mp.sqrt(t), log_scale=True
    ),
    "stretched_exp": Exact(
        lambda x, t: mp.exp(-(x**t)),
        lambda t: mp.gamma(1 + 1 / t),
        log_scale=True,
        marks=(100, 2000),
    ),
    "damped_sinc": Exact(
        lambda x, t: mp.exp(-x) * mp.sin(t * x) / x, mp.atan, marks=(5, 10, 20, 40)
    ),
    "fourier_gaussian": Exact(
        lambda x, t: mp.exp(-((x / t) ** 2) / 2) * mp.cos(4 * x),
        lambda t: t * mp.sqrt(2 * mp.pi) * mp.exp(-8 * t**2),
        marks=(-12, -6, -3, 0, 3, 6, 12),
        dps=30,
    ),
    "fourier_lorentzian": Exact(
        lambda x, t: mp.cos(t * x) / (1 + x**2),
        lambda t: mp.pi * mp.exp(-t),
        # 1 / (1 + x^2) is the integral of exp(-u (1 + x^2)) over u
        transformed=lambda u, t: mp.exp(-u - t**2 / (4 * u)) * mp.sqrt(mp.pi / u),
    ),
    "sinc_squared": Exact(
        lambda x, t: (mp.sin(t * x) / x) ** 2,
        lambda t: mp.pi * t / 2,
        # 1 / x^2 is the integral of u exp(-u x) over u
        transformed=lambda u, t: 2 * t**2 / (u**2 + 4 * t**2),
    ),
}

FAR_PEAK = {
    "far_gaussian_50": _gaussian(50.0, 1.0),
    "far_gaussian_1000": _gaussian(1000.0, 1.0),
    # the limit at 0 is 300 widths away or more
    "far_gaussian_half_line": _gaussian(1000.0, 1.0),
    "far_gaussian_left_half_line": _gaussian(-300.0, 1.0),
    "far_gaussian_mean": Exact(
        lambda x, t: x * mp.exp(-((x - t) ** 2) / 2),
        lambda t: t * mp.sqrt(2 * mp.pi),
        marks=(40, 50, 60),
    ),
    "far_sech": Exact(
        lambda x, t: mp.sech(t * (x + 200)),
        lambda t: mp.pi / t,
        marks=(-220, -200, -180),
    ),
    "far_laplace": Exact(
        lambda x, t: mp.exp(-abs(x - 300) / t), lambda t: 2 * t, marks=(280, 320)
    ),
    "far_lorentzian": Exact(
        lambda x, t: 1 / (t + (x - 10**4) ** 2),
        lambda t: mp.pi / mp.sqrt(t),
        marks=(9990, 10000, 10010),
    ),
    "far_gamma": Exact(
        lambda x, t: x ** (t - 1) * mp.exp(-x - mpf(math.lgamma(200.0))),
        lambda t: mp.gamma(t) * mp.exp(-mpf(math.lgamma(200.0))),
        marks=(100, 200, 350),
    ),
    "far_needle": _gaussian(1000.0, 0.01),
    "two_peaks_real_line": Exact(
        lambda x, t: mp.exp(-(x**2) / 2) + mp.exp(-(((x - 12) / t) ** 2) / 2),
        lambda t: (1 + t) * mp.sqrt(2 * mp.pi),
        marks=(-10, 0, 6, 12, 22),
    ),
}


def _power_tail() -> Exact:
    return Exact(lambda x, t: x**-t, lambda t: 1 / (t - 1), log_scale=True)


def _student(x: Number, t: Number) -> Number:
    return (1 + x**2 / t) ** (-(t + 1) / 2)


def _student_closed(t: Number) -> Number:
    return mp.sqrt(t * mp.pi) * mp.gamma(t / 2) / mp.gamma((t + 1) / 2)


HEAVY_TAIL = {
    "power_tail_1.05": _power_tail(),
    "power_tail_1.1": _power_tail(),
    "power_tail_1.5": _power_tail(),
    "power_tail_left": Exact(lambda x, t: (-x) ** -t, lambda t: 1 / (t - 1), dps=30),
    "cauchy_off_centre": Exact(
        lambda x, t: 1 / (t + (x - 3) ** 2),
        lambda t: mp.pi / mp.sqrt(t),
        marks=(0, 3, 6),
    ),
    "quartic_tail": Exact(
        lambda x, t: 1 / (t + x**4),
        lambda t: mp.pi / (mp.sqrt(2) * t ** mpf(0.75)),
        marks=(-1, 0, 1),
    ),
    "student_t_3": Exact(_student, _student_closed, marks=(-5, 0, 5)),
    "student_t_0.5": Exact(_student, _student_closed, marks=(-5, 0, 5), dps=48),
    "levy": Exact(
        lambda x, t: mp.exp(-t / x) * x ** mpf(-1.5),
        lambda t: mp.sqrt(mp.pi / t),
        log_scale=True,
    ),
    "lognormal_3": Exact(
        lambda x, t: mp.exp(-((mp.log(x) / t) ** 2) / 2) / x,
        lambda t: t * mp.sqrt(2 * mp.pi),
        log_scale=True,
    ),
    "log_tail": Exact(
        lambda x, t: (1 + mp.log(x)) ** -t / x,
        lambda t: 1 / (t - 1),
        # in u, the log of x
        transformed=lambda u, t: (1 + u) ** -t,
    ),
}


def _clipped_gaussian(width: float) -> Exact:
    """Width theta around 0.3 on (0, 1): beyond 30 widths nothing is left."""

    def closed(t: Number) -> Number:
        inside = mp.erf((1 - mpf(0.3)) / (t * mp.sqrt(2)))
        inside += mp.erf(mpf(0.3) / (t * mp.sqrt(2)))
        return t * mp.sqrt(mp.pi / 2) * inside

    return Exact(
        lambda x, t: mp.exp(-(((x - mpf(0.3)) / t) ** 2) / 2),
        closed,
        marks=(0.3 - 8 * width, 0.3, 0.3 + 8 * width),
    )


def _centred_lorentzian(width: float) -> Exact:
    return Exact(
        lambda x, t: 1 / (1 + (x / t) ** 2),
        lambda t: 2 * t * mp.atan(1 / t),
        marks=(-10 * width, 0, 10 * width),
    )


NARROW = {
    "gaussian_1e-2": _clipped_gaussian(1e-2),
    "gaussian_1e-3": _clipped_gaussian(1e-3),
    "gaussian_1e-4": _clipped_gaussian(1e-4),
    "gaussian_wide_interval": _gaussian(37.0, 1.0),
    "gaussian_on_slope": Exact(
        lambda x, t: 1 + x + _clipped_gaussian(1).integrand(x, t),
        lambda t: mpf(3) / 2 + _clipped_gaussian(1).closed(t),
        marks=(0.1, 0.3, 0.5),
    ),
    "lorentzian_1e-3": _centred_lorentzian(1e-3),
    "lorentzian_1e-4": _centred_lorentzian(1e-4),
    "lorentzian_off_centre": Exact(
        lambda x, t: 1 / ((x - mpf(0.3)) ** 2 + t),
        lambda t: (
            (mp.atan((1 - mpf(0.3)) / mp.sqrt(t)) + mp.atan(mpf(0.3) / mp.sqrt(t)))
            / mp.sqrt(t)
        ),
        marks=(0.29, 0.3, 0.31),
    ),
    "boundary_layer": Exact(
        lambda x, t: mp.exp(-x / t), lambda t: t * (1 - mp.exp(-1 / t)), marks=(0.02,)
    ),
    "sharp_sigmoid": Exact(
        lambda x, t: 1 / (1 + mp.exp((t - x) / mpf(1e-3))),
        lambda t: (
            mpf(1e-3)
            * (mp.log1p(mp.exp((1 - t) / mpf(1e-3))) - mp.log1p(mp.exp(-t / mpf(1e-3))))
        ),
        marks=(0.4, 0.4137, 0.43),
    ),
}


def _cosine(pieces: int) -> Exact:
    return Exact(
        lambda x, t: mp.cos(t * x),
        lambda t: mp.sin(t) / t,
        marks=[k / pieces for k in range(1, pieces)],
    )


def _fresnel(t: Number) -> Number:
    return mp.sqrt(mp.pi / (2 * t)) * mp.fresnelc(6 * mp.sqrt(2 * t / mp.pi))


def _sine_of_reciprocal(t: Number) -> Number:
    a = mpf(0.02)
    edges = mp.sin(t) - a * mp.sin(t / a)
    return edges + t * (mp.ci(t / a) - mp.ci(t))


OSCILLATORY = {
    "cos_50": _cosine(4),
    "cos_1000": _cosine(40),
    "damped_cos_100": Exact(
        lambda x, t: mp.exp(-t * x) * mp.cos(100 * x),
        lambda t: (
            (t + mp.exp(-3 * t) * (100 * mp.sin(300) - t * mp.cos(300)))
            / (10**4 + t**2)
        ),
        marks=[k / 4 for k in range(1, 12)],
    ),
    "sine_squared_500": Exact(
        lambda x, t: mp.sin(t * x) ** 2,
        lambda t: mpf(1) / 2 - mp.sin(2 * t) / (4 * t),
        marks=[k / 40 for k in range(1, 40)],
    ),
    "fresnel": Exact(
        lambda x, t: mp.cos(t * x**2),
        _fresnel,
        marks=[math.sqrt(3 * k) for k in range(1, 12)],
    ),
    # up to the float pi, where the integrand is cos(5 pi)
    "bessel_j5": Exact(
        lambda x, t: mp.cos(5 * x - t * mp.sin(x)),
        lambda t: mp.pi * mp.besselj(5, t) + _sliver(mp.pi, math.pi),
        marks=[k * math.pi / 4 for k in range(1, 4)],
    ),
    "sine_of_reciprocal": Exact(
        lambda x, t: mp.sin(t / x),
        _sine_of_reciprocal,
        marks=(0.025, 0.03, 0.04, 0.06, 0.1, 0.2),
    ),
}


def _abs(x: Number) -> Number:
    """|x| along the real line, analytic on either side of 0."""
    return x if mp.re(x) > 0 else -x


def _abs_sine(t: Number) -> Number:
    # nine whole arches and what is left of the tenth
    return (18 + 1 - mp.cos(10 * t - 9 * mp.pi)) / t


def _fixed_kink(t: Number) -> Number:
    c = mpf(1 / 3)

    def primitive(x: Number) -> Number:
        return mp.exp(t * x) * ((x - c) / t - 1 / t**2)

    return primitive(mpf(1)) + primitive(mpf(0)) - 2 * primitive(c)


KINK = {
    "abs": Exact(lambda x, t: _abs(x - t), lambda t: (t**2 + (1 - t) ** 2) / 2),
    "relu": Exact(
        lambda x, t: x - t if mp.re(x - t) > 0 else mpf(0), lambda t: (1 - t) ** 2 / 2
    ),
    "relu_half_line": Exact(
        lambda x, t: t - x if mp.re(t - x) > 0 else mpf(0), lambda t: t**2 / 2
    ),
    "abs_quadratic": Exact(
        lambda x, t: _abs(x**2 - t),
        lambda t: 8 * t ** mpf(1.5) / 3 + mpf(2) / 3 - 2 * t,
    ),
    "maximum": Exact(
        lambda x, t: x**2 if mp.re(x - t) > 0 else t * x,
        lambda t: mpf(1) / 3 + t**3 / 6,
    ),
    "abs_sine": Exact(lambda x, t: _abs(mp.sin(t * x)), _abs_sine),
    "fixed_kink": Exact(lambda x, t: abs(x - mpf(1 / 3)) * mp.exp(t * x), _fixed_kink),
    "laplace": Exact(lambda x, t: mp.exp(-abs(x - mpf(0.7)) / t), lambda t: 2 * t),
    "cusp": Exact(
        lambda x, t: mp.sqrt(_abs(x - t)),
        lambda t: 2 * (t ** mpf(1.5) + (1 - t) ** mpf(1.5)) / 3,
        dps=42,
    ),
}

STEP = {
    "step_exp": Exact(
        lambda x, t: mp.exp(t * x) if x > mpf(0.3) else mpf(0),
        lambda t: (mp.exp(t) - mp.exp(t * mpf(0.3))) / t,
    ),
    "step_two_branches": Exact(
        lambda x, t: mp.exp(t * x) if x < mpf(1 / math.pi) else mp.cos(t * x),
        lambda t: (
            (mp.expm1(t * mpf(1 / math.pi)) + mp.sin(t) - mp.sin(t * mpf(1 / math.pi)))
            / t
        ),
    ),
    "staircase": Exact(
        lambda x, t: mp.exp(t * mp.floor(5 * x)),
        lambda t: sum(mp.exp(k * t) for k in range(5)) / 5,
    ),
    "moving_step": Exact(lambda x, t: mpf(x < mp.re(t)), lambda t: t),
    "moving_step_exp": Exact(
        lambda x, t: mp.exp(x) if x > mp.re(t) else mpf(0),
        lambda t: mp.e - mp.exp(t),
    ),
    "moving_window": Exact(lambda x, t: mpf(abs(x) < mp.re(t)), lambda t: 2 * t),
}

NEAR_POLE = {
    "runge": Exact(
        lambda x, t: 1 / (1 + t * x**2),
        lambda t: 2 * mp.atan(mp.sqrt(t)) / mp.sqrt(t),
        marks=(0,),
    ),
    "reciprocal_1.001": Exact(
        lambda x, t: 1 / (t - x), lambda t: mp.log(t / (t - 1)), marks=(0.99,)
    ),
    "inverse_sqrt_1.0001": Exact(
        lambda x, t: 1 / mp.sqrt(t - x),
        lambda t: 2 * (mp.sqrt(t) - mp.sqrt(t - 1)),
        marks=(0.99,),
    ),
    "tan": Exact(
        lambda x, t: mp.tan(t * x),
        lambda t: -mp.log(mp.cos(mpf(1.57) * t)) / t,
        marks=(1.4, 1.55),
    ),
    "interior_log": Exact(
        lambda x, t: abs(x - mpf(0.4)) ** t * mp.log(abs(x - mpf(0.4))),
        lambda t: sum(
            c ** (t + 1) * (mp.log(c) / (t + 1) - 1 / (t + 1) ** 2)
            for c in (mpf(0.4), 1 - mpf(0.4))
        ),
        dps=30,
    ),
}


def _normal(centre: float, width: float, offset: float = 0) -> Exact:
    """log of the Gaussian of width theta around centre, which no limit cuts."""
    return Exact(
        lambda x, t: offset - ((x - mpf(centre)) / t) ** 2 / 2,
        lambda t: offset + mp.log(t * mp.sqrt(2 * mp.pi)),
        marks=[centre + k * width for k in (-10, 0, 10)],
    )


def _gamma_density(marks: Sequence[float]) -> Exact:
    return Exact(
        lambda x, t: (t - 1) * mp.log(x) - x, mp.loggamma, log_scale=True, marks=marks
    )


def _beta_density(beta: int, marks: Sequence[float] = (), dps: int = 22) -> Exact:
    return Exact(
        lambda x, t: (t - 1) * mp.log(x) + (beta - 1) * mp.log(1 - x),
        lambda t: mp.log(mp.beta(t, beta)),
        marks=marks,
        dps=dps,
    )


def _von_mises(width: float) -> Exact:
    return Exact(
        lambda x, t: t * mp.cos(x),
        lambda t: mp.log(2 * mp.pi * mp.besseli(0, t)),
        marks=(-8 * width, 0, 8 * width),
    )


def _double_well(t: Number) -> Number:
    v = t**2 / 2
    bessel = mp.besseli(-0.25, v) + mp.besseli(0.25, v)
    return mp.log(mp.pi / 2 * mp.sqrt(t) * bessel) - v


LOG = {
    "logz_normal": _normal(0.0, 0.7),
    "logz_normal_plus_1000": _normal(0.3, 2.0, 1000),
    "logz_normal_minus_1000": _normal(0.3, 2.0, -1000),
    "logz_normal_plus_1e5": _normal(0.3, 2.0, 10**5),
    "logz_normal_minus_1e5": _normal(0.3, 2.0, -(10**5)),
    "logz_normal_at_50": _normal(50.0, 1.0),
    "logz_normal_at_1000": _normal(1000.0, 1.0),
    "logz_normal_at_1e4": _normal(1e4, 1.0),
    "logz_normal_at_-1e6": _normal(-1e6, 1.0),
    "logz_normal_half_line_at_1e4": _normal(1e4, 1.0),
    "logz_truncated_normal": Exact(
        lambda x, t: -((x - t) ** 2) / 2,
        lambda t: mp.log(mp.sqrt(mp.pi / 2) * mp.erfc(-t / mp.sqrt(2))),
    ),
    "logz_normal_tail_from_40": Exact(
        lambda x, t: -((x - t) ** 2) / 2,
        lambda t: mp.log(mp.sqrt(mp.pi / 2) * mp.erfc((40 - t) / mp.sqrt(2))),
        marks=(40.2, 41, 45),
    ),
    "logz_narrow_normal": _normal(0.3, 1e-3),
    "logz_student_t_2": Exact(
        lambda x, t: mp.log(_student(x, t)),
        lambda t: mp.log(_student_closed(t)),
        marks=(-5, 0, 5),
    ),
    "logz_student_t_plus_1000": Exact(
        lambda x, t: 1000 + mp.log(_student(x, t)),
        lambda t: 1000 + mp.log(_student_closed(t)),
        marks=(-5, 0, 5),
    ),
    "logz_cauchy_at_1e4": Exact(
        lambda x, t: -mp.log1p(((x - 10**4) / t) ** 2),
        lambda t: mp.log(mp.pi * t),
        marks=(9980, 10000, 10020),
    ),
    "logz_logistic": Exact(
        lambda x, t: 2 * mp.log(mp.sech(x / (2 * t))),
        lambda t: mp.log(4 * t),
        marks=(-10, 0, 10),
    ),
    "logz_gumbel_at_-500": Exact(
        lambda x, t: -(x + 500) / t - mp.exp(-(x + 500) / t),
        mp.log,
        marks=(-520, -510, -500, -480, -300),
        truncated=True,
    ),
    "logz_laplace_at_1000": Exact(
        lambda x, t: -abs(x - 1000) / t, lambda t: mp.log(2 * t), marks=(960, 1040)
    ),
    "logz_two_peaks": Exact(
        lambda x, t: mp.log(mp.exp(-(x**2) / 2) + mp.exp(-(((x - 12) / t) ** 2) / 2)),
        lambda t: mp.log((1 + t) * mp.sqrt(2 * mp.pi)),
        marks=(-10, 0, 6, 12, 22),
    ),
    "logz_double_well": Exact(
        lambda x, t: -((x**2 - t) ** 2), _double_well, marks=(-5, -3, 0, 3, 5)
    ),
    "logz_quartic": Exact(
        lambda x, t: -((t * x) ** 4),
        lambda t: mp.log(2 * mp.gamma(mpf(5) / 4) / t),
        marks=(-3, 0, 3),
    ),
    "logz_bessel_k": Exact(
        lambda x, t: -t * mp.cosh(x),
        lambda t: mp.log(2 * mp.besselk(0, t)),
        marks=(-6, -3, 0, 3, 6),
        truncated=True,
    ),
    "logz_binomial_logit": Exact(
        lambda x, t: t * x - 10 * mp.log1p(mp.exp(x)),
        lambda t: mp.log(mp.beta(t, 10 - t)),
        marks=(-8, 0, 8),
    ),
    "logz_poisson_rate": Exact(
        lambda x, t: t * x - mp.exp(x),
        mp.loggamma,
        marks=(-4, 1, 3.4, 5, 8),
        truncated=True,
    ),
    "logz_exponential_minus_1000": Exact(
        lambda x, t: -t * x - 1000, lambda t: -1000 - mp.log(t), marks=(4, 20)
    ),
    "logz_gamma_0.3": _gamma_density((3, 20)),
    "logz_gamma_50": _gamma_density((20, 50, 100)),
    "logz_gamma_1e4": _gamma_density((9000, 10000, 11000)),
    "logz_inverse_gamma": Exact(
        lambda x, t: -(t + 1) * mp.log(x) - 1 / x, mp.loggamma, log_scale=True
    ),
    "logz_weibull_0.7": Exact(
        lambda x, t: (t - 1) * mp.log(x) - x**t, lambda t: -mp.log(t), log_scale=True
    ),
    "logz_lognormal": Exact(
        lambda x, t: -((mp.log(x) / t) ** 2) / 2 - mp.log(x),
        lambda t: mp.log(t * mp.sqrt(2 * mp.pi)),
        log_scale=True,
    ),
    "logz_beta_0.5_0.5": Exact(
        lambda x, t: (t - 1) * mp.log(x * (1 - x)),
        lambda t: mp.log(mp.beta(t, t)),
        marks=(0.5,),
        dps=42,
    ),
    "logz_beta_0.1_1": Exact(
        lambda x, t: (t - 1) * mp.log(x), lambda t: -mp.log(t), log_scale=True
    ),
    "logz_beta_2_3": _beta_density(3),
    "logz_beta_200_300": _beta_density(300, (0.2, 0.4, 0.6)),
    "logz_von_mises_1": _von_mises(0.25),
    "logz_von_mises_50": _von_mises(0.14),
    "logz_von_mises_2000": _von_mises(0.0224),
    "logz_exp_tilt_1000": Exact(
        lambda x, t: t * x, lambda t: mp.log(2 * mp.sinh(t) / t), marks=(0.9, 0.99)
    ),
}

EXACT = (
    KAHANER
    | BAILEY
    | QUADPACK
    | SMOOTH
    | ENDPOINT
    | INFINITE
    | FAR_PEAK
    | HEAVY_TAIL
    | NARROW
    | OSCILLATORY
    | KINK
    | STEP
    | NEAR_POLE
    | LOG
)


def exact_literals(problem: Problem | LogProblem) -> tuple[float, float]:
    """Value and gradient from the closed form, rounded once."""
    exact = EXACT[problem.name]
    with mp.workdps(50):
        step = mpf(10) ** -20
        result = exact.closed(mpc(problem.theta, step))
        slope = result.imag / step
        if exact.gradient is not None:
            slope = exact.gradient(mpf(problem.theta))
        return float(result.real), float(slope)


def _integrand(
    problem: Problem | LogProblem, theta: Number
) -> Callable[[Number], Number]:
    """f(x), and for a LogProblem its density exp(log f - log_value)."""
    function = EXACT[problem.name].integrand
    if isinstance(problem, LogProblem):
        return lambda x: mp.exp(function(x, theta) - problem.log_value)
    return lambda x: function(x, theta)


def _split_points(problem: Problem | LogProblem) -> list[Number]:
    exact = EXACT[problem.name]
    points = {mpf(p) for p in (*exact.marks, *problem.breakpoints)}
    points = {p for p in points if problem.lower < p < problem.upper}
    limits = {mpf(problem.lower), mpf(problem.upper)}
    return sorted(points | {p for p in limits if mp.isfinite(p) or not exact.truncated})


def _log_points(points: list[Number]) -> list[Number]:
    # beyond exp(-800) and exp(800), x^-0.95 and x^-1.05 have less than exp(-40)
    ends = {mpf(0): mpf(-800), mp.inf: mpf(800)}
    placed = {ends[p] if p in ends else mp.log(p) for p in points}
    inner = {mpf(s) for s in (-100, -10, 0, 10, 100)}
    placed |= {s for s in inner if min(placed) < s < max(placed)}
    return sorted(placed)


def _quadrature(problem: Problem | LogProblem) -> tuple[Number, Number]:
    """Value and gradient by tanh-sinh; for a LogProblem, of the density."""
    exact = EXACT[problem.name]
    with mp.workdps(exact.dps):
        step = mpf(10) ** -10 * (abs(problem.theta) or 1)
        theta = mpc(problem.theta, step)
        integrand, points = _integrand(problem, theta), _split_points(problem)
        if exact.transformed is not None:
            transformed = exact.transformed
            result = mp.quad(lambda u: transformed(u, theta), [0, mp.inf])
        elif exact.log_scale:
            result = mp.quad(
                lambda s: mp.exp(s) * integrand(mp.exp(s)), _log_points(points)
            )
        else:
            result = mp.quad(integrand, points)
        return result.real, result.imag / step


def _moving_step_gradient(problem: Problem) -> Number:
    """Central difference; the breakpoints are proportional to theta."""
    step = mpf(10) ** -8

    def integral(scale: Number) -> Number:
        breakpoints = [mpf(b) * scale for b in problem.breakpoints]
        points = [problem.lower, *breakpoints, problem.upper]
        return mp.quad(_integrand(problem, problem.theta * scale), points)

    with mp.workdps(30):
        return (integral(1 + step) - integral(1 - step)) / (2 * step * problem.theta)


ALL = (*PROBLEMS, *LOG_PROBLEMS)
by_name = pytest.mark.parametrize("problem", ALL, ids=lambda p: p.name)


@by_name
def test_value_and_gradient_are_the_closed_form_rounded(
    problem: Problem | LogProblem,
) -> None:
    if isinstance(problem, LogProblem):
        literals = problem.log_value, problem.log_gradient
    else:
        literals = problem.value, problem.gradient
    assert literals == exact_literals(problem)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda p: p.name)
def test_value_and_gradient_agree_with_quadrature(problem: Problem) -> None:
    value, gradient = _quadrature(problem)
    if "moving_step" in problem.tags:
        gradient = _moving_step_gradient(problem)
    assert float(value) == pytest.approx(problem.value, rel=1e-12, abs=0)
    assert float(gradient) == pytest.approx(problem.gradient, rel=1e-10, abs=0)


@pytest.mark.parametrize("problem", LOG_PROBLEMS, ids=lambda p: p.name)
def test_log_value_and_gradient_agree_with_quadrature(problem: LogProblem) -> None:
    ratio, gradient = _quadrature(problem)
    # one rounding of log_value is 1e-16 of it
    assert float(ratio) == pytest.approx(1, abs=1e-15 * (1000 + abs(problem.log_value)))
    assert float(gradient) == pytest.approx(problem.log_gradient, rel=1e-10, abs=0)


FAR = (1e-10, 0.3, 2.7, 40.0, 1e3, 1e10, 1e100, 1e300)


def _sample_points(problem: Problem | LogProblem) -> list[float]:
    """Points all over the range, next to its ends and far out."""
    lower, upper = problem.lower, problem.upper
    points = [
        *EXACT[problem.name].marks,
        *(m + 0.37 for m in EXACT[problem.name].marks),
    ]
    if math.isfinite(lower) and math.isfinite(upper):
        points += [
            lower + f * (upper - lower) for f in (1e-9, 0.013, 0.17, 0.83, 0.991)
        ]
    if math.isinf(upper):
        points += [max(lower, 0.0) + f for f in FAR]
    if math.isinf(lower):
        points += [min(upper, 0.0) - f for f in FAR]
    points += [1e-300, 1e-100] if lower == 0 else [math.nextafter(lower, math.inf)]
    points += [-1e-300, -1e-100] if upper == 0 else [math.nextafter(upper, -math.inf)]
    inside = {p for p in points if lower < p < upper and abs(p) < 1e301}
    return sorted(inside - set(problem.breakpoints))


def _is_truncated_at(problem: Problem | LogProblem, x: float) -> bool:
    exact = EXACT[problem.name]
    beyond = x > max(exact.marks, default=x) and math.isinf(problem.upper)
    below = x < min(exact.marks, default=x) and math.isinf(problem.lower)
    return exact.truncated and (beyond or below)


def _reference(problem: Problem | LogProblem, x: float) -> tuple[float, float]:
    """Value and derivative in theta at x."""
    with mp.workdps(60):
        # theta x stays near theta x: an oscillating integrand would grow without bound
        step = mpf(10) ** -20 / max(1, abs(x))
        value = _integrand(problem, mpc(problem.theta, step))(mpf(x))
        return float(mp.re(value)), float(mp.im(value) / step)


def _values(
    problem: Problem | LogProblem, x: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    if isinstance(problem, LogProblem):
        return (problem.log_integrand(x, t) - problem.log_value).exp()
    return problem.integrand(x, t)


def _values_and_gradients(
    problem: Problem | LogProblem, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, and their derivatives in theta in reverse and in forward mode."""
    theta = torch.full_like(x, problem.theta)

    def values(t: torch.Tensor) -> torch.Tensor:
        return _values(problem, x, t)

    theta.requires_grad_()
    result = values(theta)
    (reverse,) = torch.autograd.grad(result.sum(), theta)
    _, forward = torch.func.jvp(values, (theta.detach(),), (torch.ones_like(x),))
    return result.detach(), reverse, forward


# torch's own forward mode scripts its formulas on first use
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@by_name
def test_torch_and_mpmath_integrands_are_the_same_function(
    problem: Problem | LogProblem,
) -> None:
    points = _sample_points(problem)
    x = torch.tensor(points, dtype=torch.float64)
    assert len(points) >= 5
    computed = torch.stack((x, *_values_and_gradients(problem, x)), dim=1).tolist()
    for point, value, reverse, forward in computed:
        assert all(map(math.isfinite, (value, reverse, forward))), point
        if _is_truncated_at(problem, point):
            assert max(abs(value), abs(reverse), abs(forward)) < 1e-40, point
            continue
        expected, slope = _reference(problem, point)
        # rounding x at 1e6 or log f at 1e5 moves log f by 1e-10
        assert value == pytest.approx(expected, rel=1e-9, abs=1e-11), point
        assert reverse == pytest.approx(slope, rel=1e-9, abs=1e-11), point
        assert forward == pytest.approx(slope, rel=1e-9, abs=1e-11), point


@by_name
def test_integrands_are_elementwise_and_keep_the_dtype(
    problem: Problem | LogProblem,
) -> None:
    x = torch.tensor(_sample_points(problem), dtype=torch.float64)[:, None]
    theta = problem.theta * torch.tensor([1.0, 1.001], dtype=torch.float64)
    values = _values(problem, x, theta)
    assert values.shape == (len(x), 2)
    for column, t in enumerate(theta):
        torch.testing.assert_close(values[:, column], _values(problem, x[:, 0], t))


@by_name
def test_float32_is_finite_with_a_finite_gradient(
    problem: Problem | LogProblem,
) -> None:
    middle = [p for p in _sample_points(problem) if p == 0 or 1e-8 < abs(p) < 1e8]
    x = torch.tensor(middle, dtype=torch.float32)
    x = x[(x > problem.lower) & (x < problem.upper)]
    value, gradient, _ = _values_and_gradients(problem, x)
    assert value.dtype == gradient.dtype == torch.float32
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def _mass_within_one_spacing(problem: Problem | LogProblem) -> float:
    """Share of value or gradient nearer to the fixed points than any float.

    The fixed points are the limits and breakpoints other than 0; around 0 the floats
    are as dense as it takes.
    """
    fixed = {problem.lower, problem.upper, *problem.breakpoints} - {0.0}
    lost = [mpf(0), mpf(0)]
    with mp.workdps(45):
        for place in filter(math.isfinite, fixed):
            for spacing in (math.ulp(place), -math.ulp(place)):
                if problem.lower <= place + spacing <= problem.upper:
                    mass = _mass_between(problem, place, spacing)
                    lost = [a + abs(b) for a, b in zip(lost, mass, strict=True)]
    if isinstance(problem, LogProblem):
        return float(max(lost[0], lost[1] / abs(problem.log_gradient)))
    return float(max(lost[0] / abs(problem.value), lost[1] / abs(problem.gradient)))


def _mass_between(
    problem: Problem | LogProblem, place: float, spacing: float
) -> tuple[Number, Number]:
    step = mpf(10) ** -20
    integrand = _integrand(problem, mpc(problem.theta, step))

    def scaled(u: Number) -> Number:
        with mp.workdps(130):
            return spacing * integrand(place + spacing * u)

    mass = mp.quad(scaled, [0, 1])
    return mass.real, mass.imag / step


@pytest.mark.parametrize(
    "problem",
    [p for p in ALL if p.tags & {"upper_end", "shifted_end", "interior_singularity"}]
    + list(by_tag("kink")),
    ids=lambda p: p.name,
)
def test_attainable_covers_what_falls_between_floats(
    problem: Problem | LogProblem,
) -> None:
    lost = _mass_within_one_spacing(problem)
    if problem.attainable:
        assert lost < problem.attainable < 5 * lost
    else:
        assert lost < 1e-12


def test_attainable_covers_what_lies_beyond_the_largest_float() -> None:
    (problem,) = (p for p in PROBLEMS if p.name == "log_tail")
    rest = 1 / (1 + math.log(sys.float_info.max))
    # theta = 2: the integrals of (1 + u)^-2 and log(1 + u) (1 + u)^-2 from log(max) on
    lost = max(rest, rest * (1 - math.log(rest)))
    assert lost < problem.attainable < 5 * lost


def test_only_explained_problems_have_limited_accuracy() -> None:
    explained = {"upper_end", "shifted_end", "interior_singularity", "moving_kink"}
    limited = [p for p in ALL if p.attainable and not p.tags & explained]
    assert [p.name for p in limited] == ["log_tail"]


@pytest.mark.parametrize("divergent", DIVERGENT, ids=lambda d: d.name)
def test_divergent_mass_is_not_summable(divergent: Divergent) -> None:
    shells = []
    for k in range(4, 40):
        inner = torch.linspace(1, 2, 4001, dtype=torch.float64) * 2.0**k
        if math.isfinite(divergent.at):
            side = 1.0 if divergent.at < divergent.upper else -1.0
            inner = divergent.at + side / inner
        values = divergent.integrand(inner).abs()
        shells.append(k * torch.trapezoid(values, inner).abs().item())
    # shells that fall no faster than 1 / k have an infinite sum
    assert min(shells) > 0.4 * shells[0] > 0


@pytest.mark.parametrize("divergent", DIVERGENT, ids=lambda d: d.name)
def test_divergent_fails_within_its_range(divergent: Divergent) -> None:
    assert divergent.lower <= divergent.at <= divergent.upper


FAMILIES = {
    "smooth": 15,
    "endpoint": 25,
    "upper_end": 12,
    "shifted_end": 4,
    "interior_singularity": 3,
    "infinite": 50,
    "far_peak": 10,
    "heavy_tail": 15,
    "narrow": 15,
    "near_pole": 10,
    "multi_peak": 2,
    "needle": 2,
    "oscillatory": 20,
    "oscillatory_tail": 2,
    "kink": 10,
    "moving_kink": 6,
    "step": 5,
    "moving_step": 3,
}


def test_every_family_is_represented() -> None:
    assert set().union(*(p.tags for p in PROBLEMS)) == set(FAMILIES)
    for tag, least in FAMILIES.items():
        assert len(by_tag(tag)) >= least, tag
    assert len(PROBLEMS) >= 150
    assert len(LOG_PROBLEMS) >= 35
    assert {p.name for p in by_tag("far_peak", "kink")} == {"far_laplace"}


def test_names_are_unique() -> None:
    names = [p.name for p in (*ALL, *DIVERGENT)]
    assert len(set(names)) == len(names)
    assert set(EXACT) == {p.name for p in ALL}

"""CRPS in exact arithmetic: closed forms in mpmath, and the integral that they are."""

from __future__ import annotations

from collections.abc import Callable

import mpmath as mp

Number = mp.mpf
Formula = Callable[..., Number]


def lower_gamma(a: Number, x: Number) -> Number:
    """P by its series, whose terms are all positive; DLMF 8.7.1."""
    if x <= 0:
        return mp.mpf(0)
    if x > 10 * a + 300:  # but for less than e^-250
        return mp.mpf(1)
    term = total = mp.mpf(1)
    n = 0
    while term > total * mp.eps:
        n += 1
        term *= x / (a + n)
        total += term
    return total * mp.exp(a * mp.log(x) - x - mp.loggamma(a + 1))


def lower_beta(a: Number, b: Number, x: Number) -> Number:
    """I by the series of positive terms, on the shorter side; DLMF 8.17.8."""
    if x <= 0 or x >= 1:
        return mp.mpf(x >= 1)
    if 2 * x > 1:
        return 1 - lower_beta_series(b, a, 1 - x, x)
    return lower_beta_series(a, b, x, 1 - x)


def lower_beta_series(a: Number, b: Number, x: Number, y: Number) -> Number:
    term = total = mp.mpf(1)
    n = 0
    while term > total * mp.eps * y:
        term *= (a + b + n) / (a + n + 1) * x
        total += term
        n += 1
    log = a * mp.log(x) + b * mp.log(y) + mp.loggamma(a + b)
    return total * mp.exp(log - mp.loggamma(a + 1) - mp.loggamma(b))


def student_cdf(df: Number, t: Number) -> Number:
    if mp.isinf(df):
        return mp.ncdf(t)
    # Both parts of the argument, or 1 - x loses the digits of a small t.
    near, far = t * t / (df + t * t), df / (df + t * t)
    half = mp.mpf(1) / 2
    if t == 0:
        return half
    if near > half:
        tail = lower_beta_series(df / 2, half, far, near) / 2
    else:
        tail = (1 - lower_beta_series(half, df / 2, near, far)) / 2
    return tail if t < 0 else 1 - tail


def absolute_moment(d: Number, s: Number) -> Number:
    return d * mp.erf(d / s / mp.sqrt(2)) + 2 * s * mp.npdf(d / s)


def normal(loc: Number, scale: Number, y: Number) -> Number:
    return absolute_moment(y - loc, scale) - scale / mp.sqrt(mp.pi)


def logistic(loc: Number, scale: Number, y: Number) -> Number:
    z = abs(y - loc) / scale
    return scale * (z + 2 * mp.log1p(mp.exp(-z)) - 1)


def laplace(loc: Number, scale: Number, y: Number) -> Number:
    z = abs(y - loc) / scale
    return scale * (z + mp.exp(-z) - mp.mpf(3) / 4)


def student_t(df: Number, loc: Number, scale: Number, y: Number) -> Number:
    if df == 1:  # a removable singularity
        h = mp.mpf(10) ** (-mp.mp.dps // 4)
        return (student_t(1 + h, loc, scale, y) + student_t(1 - h, loc, scale, y)) / 2
    z, half = (y - loc) / scale, mp.mpf(1) / 2
    with mp.extradps(20):
        density = mp.exp(
            mp.loggamma((df + 1) / 2)
            - mp.loggamma(df / 2)
            - mp.log(mp.pi * df) / 2
            - (df + 1) / 2 * mp.log1p(z * z / df)
        )
        spread = mp.sqrt(df) * mp.beta(half, df - half) / mp.beta(half, df / 2) ** 2
        bend = 2 / (df - 1) * (density * (df + z * z) - spread)
        return scale * (z * (2 * student_cdf(df, z) - 1) + bend)


def log_normal(loc: Number, scale: Number, y: Number) -> Number:
    mean, root = mp.exp(loc + scale**2 / 2), mp.sqrt(2)
    if y <= 0:
        return mean * mp.erfc(scale / 2) - y
    z = (mp.log(y) - loc) / scale
    upper = mp.erfc((scale - z) / root)
    return y * mp.erf(z / root) + mean * (mp.erfc(scale / 2) - upper)


def gamma(a: Number, rate: Number, y: Number) -> Number:
    p, q = lower_gamma(a, rate * y), lower_gamma(a + 1, rate * y)
    spread = 1 / (rate * mp.beta(mp.mpf(1) / 2, a))
    return y * (2 * p - 1) - a / rate * (2 * q - 1) - spread


def exponential(rate: Number, y: Number) -> Number:
    return gamma(mp.mpf(1), rate, y)


def beta(a: Number, b: Number, y: Number) -> Number:
    p, q = lower_beta(a, b, y), lower_beta(a + 1, b, y)
    spread = 2 * mp.beta(2 * a, 2 * b) / (a * mp.beta(a, b) ** 2)
    return y * (2 * p - 1) + a / (a + b) * (1 - 2 * q - spread)


def uniform(low: Number, high: Number, y: Number) -> Number:
    inside = max(low, min(y, high))
    t, third = (inside - low) / (high - low), mp.mpf(1) / 3
    return abs(y - inside) + (high - low) * (t * t - t + third)


def poisson(rate: Number, y: Number) -> Number:
    spread = (
        rate * mp.exp(-2 * rate) * (mp.besseli(0, 2 * rate) + mp.besseli(1, 2 * rate))
    )
    if y < 0:
        return rate - y - spread
    k = mp.floor(y)
    share = 1 - lower_gamma(k + 1, rate)
    density = mp.exp(k * mp.log(rate) - rate - mp.loggamma(k + 1))
    return (y - rate) * (2 * share - 1) + 2 * rate * density - spread


def negative_binomial(r: Number, p: Number, y: Number) -> Number:
    rest = 1 - p
    mean = r * p / rest
    spread = mean / rest * mp.hyp2f1(r + 1, 0.5, 2, -4 * p / rest**2)
    if y < 0:
        return mean - y - spread
    k = mp.floor(y)
    share, less = lower_beta(r, k + 1, rest), lower_beta(r + 1, k, rest) if k else 0
    return y * (2 * share - 1) - mean * (2 * less - 1) - spread


def truncated_normal(m: Number, s: Number, a: Number, b: Number, y: Number) -> Number:
    """The closed form, from the tail in which less cancels, with digits to spare."""
    if a + b > 2 * m:
        m, a, b, y = -m, -b, -a, -y
    with mp.workdps(100):
        at, low, high = ((x - m) / s for x in (max(a, min(y, b)), a, b))
        below, above = mp.ncdf(low), mp.ncdf(high)

        def density(x: Number) -> Number:
            return mp.npdf(x) if mp.isfinite(x) else mp.mpf(0)

        distance = at * (2 * mp.ncdf(at) - below - above)
        distance += 2 * density(at) - density(low) - density(high)
        share = above - below
        half = mp.ncdf(mp.sqrt(2) * high) - mp.ncdf(mp.sqrt(2) * low)
        # By parts, (F - below) (above - F) being 0 at both limits.
        mean = (density(low) - density(high)) * (below + above)
        cross = 2 * (density(low) * below - density(high) * above)
        spread = cross - mean + half / mp.sqrt(mp.pi)
        return abs(y - max(a, min(y, b))) + s * (distance / share - spread / share**2)


def normal_mixture(parts: list[tuple[Number, ...]], y: Number) -> Number:
    near = sum(p * absolute_moment(y - m, s) for p, m, s in parts)
    spread = sum(
        p * q * absolute_moment(m - n, mp.sqrt(s**2 + t**2))
        for p, m, s in parts
        for q, n, t in parts
    )
    return near - spread / 2


def integral(cdf: Formula, y: Number, *edges: Number) -> Number:
    """The definition of the CRPS, split at the observation and at the edges."""
    below = [e for e in (-mp.inf, *edges) if e < y] + [y]
    above = [y] + [e for e in (*edges, mp.inf) if e > y]
    return mp.quad(lambda x: cdf(x) ** 2, below) + mp.quad(
        lambda x: (1 - cdf(x)) ** 2, above
    )


def steps(cdf: Formula, y: Number) -> Number:
    """The same for counts: a sum, until nothing is left."""
    total, k = max(-y, mp.mpf(0)), 0
    while k <= y or cdf(mp.mpf(k)) < 1 - mp.mpf(10) ** -12:
        share = cdf(mp.mpf(k))
        below = min(max(y - k, mp.mpf(0)), mp.mpf(1))
        total += below * share**2 + (1 - below) * (1 - share) ** 2
        k += 1
    return total

"""Losses as device functions: (value, slope) at a margin, as in losses.py. To add one: a function here, its name in ``of``.

``p`` is the parameter of the loss (epsilon, quantile, power), 0 where it has none. Literals are made of the type of the
kernel: a plain 1.0 is a float64 for Numba and would take the whole expression with it.
"""

from __future__ import annotations

import math
from typing import Any

from gdfast.backends.cuda.device import REALS, divide, inline


def of(real: str) -> dict[str, Any]:
    """name -> function (z, y, p) -> (value, slope), for numbers of that type: every loss of one output."""
    kind, quotient = REALS[real], divide[real]
    zero, half, one, two, four = (kind(v) for v in (0.0, 0.5, 1.0, 2.0, 4.0))

    @inline
    def squared_error(z, y, p):
        r = z - y
        return half * r * r, r

    @inline
    def log_loss(z, y, p):
        e = math.exp(-abs(z))
        top = one if z >= zero else e
        return max(z, zero) - y * z + math.log1p(e), quotient(top, one + e) - y

    @inline
    def huber(z, y, p):
        r = z - y
        a = abs(r)
        return half * r * r if a <= p else p * a - half * p * p, min(max(r, -p), p)

    @inline
    def hinge(z, y, p):
        s = two * y - one
        m = one - s * z
        return max(m, zero), -s if m > zero else zero

    @inline
    def perceptron(z, y, p):
        s = two * y - one
        m = -s * z
        return max(m, zero), -s if m >= zero else zero

    @inline
    def squared_hinge(z, y, p):
        s = two * y - one
        m = max(one - s * z, zero)
        return m * m, -two * s * m

    @inline
    def modified_huber(z, y, p):
        s = two * y - one
        m = max(one - s * z, zero)
        far = s * z < -one
        return -four * s * z if far else m * m, -s * (four if far else two * m)

    @inline
    def epsilon_insensitive(z, y, p):
        r = z - y
        m = abs(r) - p
        sign = one if r > zero else -one
        return max(m, zero), sign if m > zero else zero

    @inline
    def squared_epsilon_insensitive(z, y, p):
        r = z - y
        m = max(abs(r) - p, zero)
        return m * m, two * m if r > zero else -two * m

    @inline
    def pinball(z, y, p):
        r = y - z
        slope = -p if r > zero else one - p
        return max(p * r, (p - one) * r), slope if r != zero else zero

    @inline
    def poisson(z, y, p):
        mean = math.exp(z)
        return mean - y * z, mean - y

    @inline
    def gamma(z, y, p):
        ratio = y * math.exp(-z)
        return z + ratio, one - ratio

    @inline
    def tweedie(z, y, p):
        a, b = two - p, one - p
        mean = math.exp(a * z)
        weighted = y * math.exp(b * z) if y > zero else zero
        return quotient(mean, a) - quotient(weighted, b), mean - weighted

    functions = (
        squared_error, log_loss, huber, hinge, perceptron, squared_hinge, modified_huber, epsilon_insensitive,
        squared_epsilon_insensitive, pinball, poisson, gamma, tweedie,
    )  # fmt: skip
    return {getattr(f, "py_func", getattr(f, "fn", f)).__name__: f for f in functions}

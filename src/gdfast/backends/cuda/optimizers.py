"""Optimizers as device functions: the step of one parameter, as in optimizers.py. To add one: a function here, its name in
``of``.

step(i, w, g, lr, l1, factor, slots, size, p, c, at) -> (where w goes, threshold of the proximal step). slots: flat,
slot s of parameter i at s * size + i, changed in place; p: constants of the rule; c: coefficients, those of this step from at.
"""

from __future__ import annotations

import math
from typing import Any

from gdfast.backends.cuda.device import REALS, inline


def of(real: str) -> dict[str, Any]:
    """name of the kernel -> its step, for numbers of that type."""
    kind = REALS[real]
    zero, one = kind(0.0), kind(1.0)

    @inline
    def sgd(i, w, g, lr, l1, factor, slots, size, p, c, at):
        return w - lr * g, lr * l1

    @inline
    def momentum(i, w, g, lr, l1, factor, slots, size, p, c, at):
        v = p[0] * slots[i] + c[at] * g
        slots[i] = v
        move = g + p[0] * v if p[1] != zero else v
        return w - lr * move, lr * c[at + 1] * l1

    @inline
    def adagrad(i, w, g, lr, l1, factor, slots, size, p, c, at):
        a = slots[i] + g * g
        slots[i] = a
        scale = lr / (math.sqrt(a + p[0]) + p[1])
        return w - scale * g, scale * l1

    @inline
    def adadelta(i, w, g, lr, l1, factor, slots, size, p, c, at):
        fresh = one - p[0]
        v = slots[i] + fresh * (g * g - slots[i])
        u = slots[size + i]
        scale = math.sqrt((u + p[1]) / (v + p[1]))
        move = scale * g
        slots[i] = v
        slots[size + i] = u + fresh * (move * move - u)
        return w - lr * move, lr * scale * l1

    def rmsprop(centered: bool, moving: bool) -> Any:
        last = 2 if centered else 1  # the slot of the velocity

        @inline
        def step(i, w, g, lr, l1, factor, slots, size, p, c, at):
            fresh = one - p[0]
            v = slots[i] + fresh * (g * g - slots[i])
            slots[i] = v
            if centered:
                mean = slots[size + i] + fresh * (g - slots[size + i])
                slots[size + i] = mean
                v = max(v - mean * mean, zero)
            scale = one / (math.sqrt(v + p[2]) + p[3])
            move = scale * g
            if moving:
                move += p[1] * slots[last * size + i]
                slots[last * size + i] = move
            return w - lr * move, lr * c[at] * scale * l1

        return step

    def adam(amsgrad: bool) -> Any:
        @inline
        def step(i, w, g, lr, l1, factor, slots, size, p, c, at):
            m = slots[i] + (one - p[0]) * (g - slots[i])
            v = slots[size + i] + (one - p[1]) * (g * g - slots[size + i])
            slots[i] = m
            slots[size + i] = v
            if amsgrad:
                v = max(v, slots[2 * size + i])
                slots[2 * size + i] = v
            scale = lr / (math.sqrt(c[at + 1] * v) + c[at + 2])
            return w - scale * (c[at] * m), scale * l1

        return step

    @inline
    def nadam(i, w, g, lr, l1, factor, slots, size, p, c, at):
        m = slots[i] + (one - p[0]) * (g - slots[i])
        v = slots[size + i] + (one - p[1]) * (g * g - slots[size + i])
        slots[i] = m
        slots[size + i] = v
        scale = lr / (math.sqrt(c[at + 2] * v) + p[2])
        return w - scale * (c[at] * m + c[at + 1] * g), scale * c[at + 3] * l1

    @inline
    def adamax(i, w, g, lr, l1, factor, slots, size, p, c, at):
        m = slots[i] + (one - p[0]) * (g - slots[i])
        u = max(p[1] * slots[size + i], abs(g) + p[2])
        slots[i] = m
        slots[size + i] = u
        scale = lr / (u + p[3])
        return w - scale * (c[at] * m), scale * l1

    @inline
    def lion(i, w, g, lr, l1, factor, slots, size, p, c, at):
        m = slots[i]
        d = m + (one - p[0]) * (g - m)
        slots[i] = m + (one - p[1]) * (g - m)
        held = l1 > zero and abs(d) <= l1
        move = lr if d > zero else -lr
        return w if held or d == zero else w - move, lr if held else zero

    @inline
    def ftrl(i, w, g, lr, l1, factor, slots, size, p, c, at):
        n = slots[size + i] + g * g
        slots[size + i] = n
        metric = p[0] + math.sqrt(n) + lr * p[2] * factor
        z = slots[i] + lr * g - metric * w
        edge = lr * p[1] * factor
        held = min(max(z, -edge), edge)
        slots[i] = held
        return (held - z) / metric, lr / metric * l1

    return {
        "sgd": sgd,
        "sgd-momentum": momentum,
        "adagrad": adagrad,
        "adadelta": adadelta,
        "rmsprop": rmsprop(False, False),
        "rmsprop-centered": rmsprop(True, False),
        "rmsprop-momentum": rmsprop(False, True),
        "rmsprop-centered-momentum": rmsprop(True, True),
        "adam": adam(False),
        "adam-amsgrad": adam(True),
        "nadam": nadam,
        "adamax": adamax,
        "lion": lion,
        "ftrl": ftrl,
    }

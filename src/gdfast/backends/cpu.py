"""The native core: packs plan and data into one call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gdfast import _core
from gdfast.clipping import Clipping
from gdfast.layouts import Features, shape_of
from gdfast.losses import Loss
from gdfast.optimizers import Optimizer
from gdfast.order import keys_of
from gdfast.penalties import Bounds, ElasticNet, of_each
from gdfast.plan import WHOLE, EpochReport, Examples, Member, NewtonSystem, Part, Plan, State

Array = np.ndarray[Any, Any]


def margins(X: Features, w: Array, threads: int = 1) -> Array:
    z = np.empty((shape_of(X)[0], w.shape[1]), dtype=w.dtype)
    _core.margins(X, w, z, threads)
    return z


def _pass(
    examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int, H: Array | None
) -> tuple[float, Array]:
    g = np.empty(w.shape, dtype=np.float64)
    value = _core.gradient(
        examples.X, examples.y, examples.weight, w, g, H, loss.name, loss.parameters(), fit_intercept, threads
    )
    return value, g


def gradient(examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int = 1) -> tuple[float, Array]:
    return _pass(examples, loss, w, fit_intercept, threads, None)


def hessian(
    examples: Examples, loss: Loss, w: Array, fit_intercept: bool, threads: int = 1
) -> tuple[float, Array, Array]:
    H = np.empty((len(w), len(w)), dtype=np.float64)
    value, g = _pass(examples, loss, w, fit_intercept, threads, H)
    return value, g, H


def rule_of(
    optimizer: Optimizer,
    coefficients: Array,
    penalty: ElasticNet,
    clipping: Clipping | None,
    bounds: Bounds | None,
    n_penalized: int,
    dtype: Any,
) -> _core.Rule:
    """What all steps share, as the core takes it; coefficients: rows from the optimizer, one a step."""

    def typed(values: float | Array) -> float | Array:
        return np.asarray(values, dtype=dtype) if isinstance(values, np.ndarray) else values

    lower, upper = bounds.of_each(n_penalized) if bounds else (-np.inf, np.inf)
    min_norm, max_norm = clipping.norm_range if clipping else (0.0, np.inf)
    return _core.Rule(
        optimizer=optimizer.kernel,
        parameters=optimizer.parameters(),
        coefficients=coefficients,
        l1=penalty.l1,
        l2=penalty.l2,
        decay=optimizer.weight_decay,
        factor=1.0 if penalty.factors is None else typed(of_each("factors", penalty.factors, n_penalized)),
        lower=typed(lower),
        upper=typed(upper),
        min_norm=min_norm,
        max_norm=max_norm,
        clip_value=clipping.limit if clipping else np.inf,
    )


def hessian_product(examples: Examples, loss: Loss, w: Array, p: Array, fit_intercept: bool, threads: int = 1) -> Array:
    Hp = np.empty(w.shape, dtype=np.float64)
    _core.hessian_product(
        examples.X, examples.y, examples.weight, w, p, Hp, loss.name, loss.parameters(), fit_intercept, threads
    )
    return Hp


def gradient_at(
    examples: Examples, loss: Loss, z: Array, fit_intercept: bool, threads: int = 1
) -> tuple[float, Array, Array]:
    g, h = np.empty(examples.d + 1, dtype=np.float64), np.empty_like(z)
    value = _core.gradient_at(
        examples.X, examples.y, examples.weight, z, g, h, loss.name, loss.parameters(), fit_intercept, threads
    )
    return value, g, h


def conjugate_gradients(
    examples: Examples, h: Array, system: NewtonSystem, fit_intercept: bool, threads: int = 1
) -> tuple[Array, Array, float, int]:
    s, margins = np.empty(examples.d + 1, dtype=np.float64), np.empty_like(h)
    fall, products = _core.conjugate_gradients(
        examples.X, h, system.g, system.diagonal, examples.total_weight, system.l2, system.share, system.most, s, margins,
        fit_intercept, threads,
    )  # fmt: skip
    return s, margins, fall, products


def epoch(
    examples: Examples,
    plan: Plan,
    state: State,
    rates: Array,
    threads: int = 1,
    seconds: float = math.inf,
    part: Part = WHOLE,
) -> EpochReport:
    return epochs(examples, [Member(plan, state, rates)], threads, seconds, part)[0]


def epochs(
    examples: Examples,
    members: Sequence[Member],
    threads: int = 1,
    seconds: float = math.inf,
    part: Part = WHOLE,
) -> list[EpochReport]:
    plan, epoch_number, steps = members[0].plan, members[0].state.epoch, len(members[0].rates)
    records = [(np.zeros(steps), np.zeros(steps)) for _ in members]
    results = _core.epoch(
        X=examples.X,
        y=examples.y,
        weight=examples.weight,
        fold=examples.fold,
        models=[_model(member, *record) for member, record in zip(members, records, strict=True)],
        loss=plan.loss.name,
        loss_parameters=plan.loss.parameters(),
        steps=steps,
        seconds=seconds,
        keys=keys_of(plan.seed, epoch_number, part.block) if plan.shuffle else None,
        block=min(plan.block, examples.n),
        batch=plan.rows_per_step,
        intercept=plan.fit_intercept,
        held_only=plan.optimizer.lazy,
        threads=threads,
        first=part.first,
    )
    reports = []
    for member, (loss, made, finite), (norms, losses) in zip(members, results, records, strict=True):
        member.state.step += made
        member.state.epoch += bool(finite and part.last)
        reports.append(EpochReport(loss, made, finite, norms, losses))
    return reports


def _model(member: Member, norms: Array, losses: Array) -> _core.Model:
    plan, state = member.plan, member.state
    w, coefficients = state.w, plan.optimizer.coefficients_of(state.step, len(member.rates))
    return _core.Model(
        w=w,
        slots=state.slots,
        average=state.average,
        rule=rule_of(
            plan.optimizer, coefficients, plan.penalty, plan.clipping, plan.bounds, w.size - w.shape[1], w.dtype
        ),
        rates=member.rates,
        norms=norms,
        losses=losses,
        first_step=state.step,
        average_from=plan.average_from,
        mean_weight=plan.mean_weight,
        held_out=member.held_out,
    )

"""The one judge of compare.py: the objective in float64, and the lowest value of it that a slow, careful solver finds.

`best` is Newton's method in float64: an exact Hessian where d is small, conjugate gradients elsewhere; with an L1 part
proximal Newton on a working set. It shares no code with gdfast.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy import linalg, sparse
from scipy.special import expit, log_softmax, softmax
from sets import Problem

Array = np.ndarray[Any, Any]

ROWS = 65_536  # held in float64 at a time
LARGEST_HESSIAN = 1000


def _parts(problem: Problem) -> list[slice]:
    return [slice(i, min(i + ROWS, problem.n)) for i in range(0, problem.n, ROWS)]


def _targets(problem: Problem) -> Array:
    """(n, k): values, 0/1, or one column a class."""
    if problem.loss == "squared_error":
        return problem.y[:, None].astype(np.float64)
    codes = np.searchsorted(np.unique(problem.y), problem.y)
    if problem.loss == "log_loss":
        return codes[:, None].astype(np.float64)
    return (codes[:, None] == np.arange(codes.max() + 1)).astype(np.float64)


def _values(loss: str, z: Array, y: Array) -> Array:
    if loss == "squared_error":
        return 0.5 * (z - y) ** 2
    if loss == "log_loss":
        return np.logaddexp(0, z) - y * z
    return -(log_softmax(z, axis=1) * y).sum(axis=1)


def _mean(loss: str, z: Array) -> Array:
    return z if loss == "squared_error" else expit(z) if loss == "log_loss" else softmax(z, axis=1)


def objective(problem: Problem, coef: Any, intercept: Any) -> float:
    """The objective in float64; coef: (d,), (1, d) or (k, d). Infinity where it is no number."""
    W = np.atleast_2d(np.asarray(coef, dtype=np.float64)).T
    b = np.broadcast_to(np.asarray(intercept, dtype=np.float64).ravel(), (W.shape[1],))
    y, total = _targets(problem), 0.0
    with np.errstate(all="ignore"):
        for part in _parts(problem):
            total += float(_values(problem.loss, problem.X[part].astype(np.float64) @ W + b, y[part]).sum())
        l2, l1 = problem.alpha * (1 - problem.l1_ratio), problem.alpha * problem.l1_ratio
        f = total / problem.n + 0.5 * l2 * float((W * W).sum()) + l1 * float(np.abs(W).sum())
    return f if np.isfinite(f) else np.inf


class _Smooth:
    """The objective without its L1 part, of w (d + 1, k), intercept last."""

    def __init__(self, problem: Problem) -> None:
        self.problem, self.y = problem, _targets(problem)
        self.l2 = problem.alpha * (1 - problem.l1_ratio)
        small = problem.sparse or problem.numbers < 0.5 * problem.n * problem.d
        X = sparse.csr_array(problem.X, dtype=np.float64) if small else problem.X
        self.parts = [(X[part].astype(np.float64, copy=False), part) for part in _parts(problem)] if small else None

    def _rows(self) -> Any:
        X = self.problem.X
        yield from self.parts or ((X[part].astype(np.float64), part) for part in _parts(self.problem))

    def value(self, w: Array) -> float:
        return self.margins_and_gradient(w)[0]

    def margins_and_gradient(self, w: Array) -> tuple[float, Array, list[Array]]:
        f, g, means = 0.0, np.zeros_like(w), []
        for X, part in self._rows():
            z = X @ w[:-1] + w[-1]
            mean = _mean(self.problem.loss, z)
            f += float(_values(self.problem.loss, z, self.y[part]).sum())
            g[:-1] += X.T @ (mean - self.y[part])
            g[-1] += (mean - self.y[part]).sum(axis=0)
            means.append(mean)
        g /= self.problem.n
        g[:-1] += self.l2 * w[:-1]
        return f / self.problem.n + 0.5 * self.l2 * float((w[:-1] ** 2).sum()), g, means

    def _curvature(self, mean: Array) -> Array:
        return np.ones_like(mean) if self.problem.loss == "squared_error" else mean * (1 - mean)

    def hessian(self, means: list[Array], columns: Array) -> Array:
        """Of output 0, for these columns and the intercept."""
        p = len(columns)
        H = np.zeros((p + 1, p + 1))
        for (X, _), mean in zip(self._rows(), means, strict=True):
            A, h = X[:, columns], self._curvature(mean)[:, 0]
            scaled = A.multiply(h[:, None]).tocsr() if sparse.issparse(A) else A * h[:, None]
            gram = A.T @ scaled
            H[:p, :p] += gram.toarray() if sparse.issparse(gram) else gram
            H[p, :p] += A.T @ h
            H[p, p] += h.sum()
        H[:p, p] = H[p, :p]
        H /= self.problem.n
        H[np.arange(p), np.arange(p)] += self.l2
        return H

    def times(self, means: list[Array], v: Array) -> Array:
        """H v, v: (d + 1, k)."""
        out = np.zeros_like(v)
        for (X, _), mean in zip(self._rows(), means, strict=True):
            u = X @ v[:-1] + v[-1]
            if self.problem.loss == "softmax":
                u = mean * (u - (mean * u).sum(axis=1, keepdims=True))
            else:
                u *= self._curvature(mean)
            out[:-1] += X.T @ u
            out[-1] += u.sum(axis=0)
        out /= self.problem.n
        out[:-1] += self.l2 * v[:-1]
        return out

    def diagonal(self, means: list[Array]) -> Array:
        out = np.zeros((self.problem.d + 1, self.y.shape[1]))
        for (X, _), mean in zip(self._rows(), means, strict=True):
            h = self._curvature(mean)
            out[:-1] += (X.multiply(X) if sparse.issparse(X) else X * X).T @ h
            out[-1] += h.sum(axis=0)
        out /= self.problem.n
        out[:-1] += self.l2
        return np.maximum(out, 1e-300)


def _newton(smooth: _Smooth, tol: float) -> Array:
    problem = smooth.problem
    w = np.zeros((problem.d + 1, smooth.y.shape[1]))
    exact = problem.d <= LARGEST_HESSIAN and w.shape[1] == 1
    f, g, means = smooth.margins_and_gradient(w)
    for _ in range(200):
        if exact:
            H = smooth.hessian(means, np.arange(problem.d))
            scale = 1 / np.sqrt(np.diag(H))
            H *= scale[:, None] * scale
            H[np.diag_indices(len(H))] += 1e-14
            step = (scale * linalg.cho_solve(linalg.cho_factor(H), scale * g[:, 0]))[:, None]
        else:
            step = _conjugate_gradients(smooth, means, g)
        decrement = float(np.vdot(g, step))
        if decrement < 2 * tol * abs(f):
            return w - step
        t = 1.0
        while (trial := smooth.margins_and_gradient(w - t * step))[0] > f - 1e-4 * t * decrement and t > 1e-8:
            t /= 2
        if t <= 1e-8:
            return w
        w, (f, g, means) = w - t * step, trial
    return w


def _conjugate_gradients(smooth: _Smooth, means: list[Array], g: Array) -> Array:
    """H^-1 g, as exact as the outer iteration can use (Nash and Sofer 1990), preconditioned by the diagonal."""
    inverse = 1 / smooth.diagonal(means)
    x, r = np.zeros_like(g), g.copy()
    p = z = inverse * r
    rz, q = float(np.vdot(r, z)), 0.0
    for k in range(1, 1000):
        Hp = smooth.times(means, p)
        a = rz / float(np.vdot(p, Hp))
        x, r = x + a * p, r - a * Hp
        q_new = -0.5 * float(np.vdot(x, r + g))
        if k * (q - q_new) <= 0.02 * -q_new:
            break
        q, z = q_new, inverse * r
        rz, previous = float(np.vdot(r, z)), rz
        p = z + rz / previous * p
    return x


def _proximal_newton(smooth: _Smooth, tol: float) -> Array:
    """The model over the working set is a lasso in disguise, which scikit-learn's coordinate descent solves."""
    from sklearn.linear_model import Lasso

    l1 = smooth.problem.alpha * smooth.problem.l1_ratio
    w = np.zeros((smooth.problem.d + 1, 1))
    f, g, means = smooth.margins_and_gradient(w)
    for _ in range(100):
        work = np.flatnonzero((w[:-1, 0] != 0) | (np.abs(g[:-1, 0]) > l1))
        H = smooth.hessian(means, work)
        # the intercept is free: eliminated from the model, and given back below
        row, corner = H[-1, :-1], H[-1, -1]
        G = H[:-1, :-1] - np.outer(row, row) / corner
        L = linalg.cholesky(G + 1e-13 * np.trace(G) / len(G) * np.eye(len(G)), lower=True)
        now = w[work, 0]
        target = L.T @ now - linalg.solve_triangular(L, g[work, 0] - row * g[-1, 0] / corner, lower=True)
        p = len(work)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            lasso = Lasso(
                alpha=l1, fit_intercept=False, precompute=p * (L @ L.T), tol=1e-12, max_iter=500, warm_start=True
            )
            lasso.coef_ = now.copy()
            lasso.fit(np.sqrt(p) * L.T, np.sqrt(p) * target)
        step = np.zeros_like(w)
        step[work, 0] = lasso.coef_ - now
        step[-1, 0] = -(g[-1, 0] + row @ step[work, 0]) / corner
        total, t = f + l1 * np.abs(w[:-1]).sum(), 1.0
        fall = float(np.vdot(g, step)) + l1 * float(np.abs((w + step)[:-1]).sum() - np.abs(w[:-1]).sum())
        while True:
            trial = smooth.margins_and_gradient(w + t * step)
            if trial[0] + l1 * np.abs((w + t * step)[:-1]).sum() <= total + 1e-4 * t * fall or t < 1e-6:
                break
            t /= 2
        w, (f, g, means) = w + t * step, trial
        if -fall < tol * total:
            break
    return w


def best(problem: Problem) -> float:
    """The lowest objective, right to about 1e-9; kept in a file of the system's temporary folder."""
    head = problem.X[:1000] if problem.sparse else np.ascontiguousarray(problem.X[:1000])
    content = hashlib.sha256((head.data if problem.sparse else head).tobytes() + problem.y.tobytes()).hexdigest()
    shape = [*problem.X.shape, problem.loss, problem.alpha, problem.l1_ratio]
    key = f"{'-'.join(map(str, shape))}-{content[:16]}"
    file = Path(tempfile.gettempdir()) / "gdfast-bench-best.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    if key not in known:
        smooth = _Smooth(problem)
        w = _proximal_newton(smooth, 1e-9) if problem.l1_ratio else _newton(smooth, 1e-10)
        known[key] = objective(problem, w[:-1].T, w[-1])
        file.write_text(json.dumps(known, indent=1))
    return float(known[key])

"""Who takes part in compare.py: one small function each, and the list of them.

A function fits with a setting and a number of threads, and returns a function that reads the result: (coef, intercept,
passes over the data as text, "" where the peer does not tell). The first is timed, the second is not. Settings go from
loose to tight. A peer whose packages are not installed is named and left out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from sets import Problem

Array = np.ndarray[Any, Any]
Result = tuple[Any, Any, str]
Read = Callable[[], Result]

LARGEST_HESSIAN = 1000  # columns; methods that form d x d matrices from more are left out
LARGEST_CATEGORICAL = 5000
LARGEST_TEXT = 20_000_000  # numbers that are written out for a peer that reads text
WEAK = 1e3  # C from which a penalty on scaled columns is as good as one on the columns
CONSTANT = 11650396  # the hash of the intercept in Vowpal Wabbit
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)


@dataclass(frozen=True)
class Peer:
    """``prepare`` lends the data as the peer reads them, untimed: for those that read nothing but files of text."""

    name: str
    needs: tuple[str, ...]
    handles: Callable[[Problem], bool]
    settings: tuple[Any, ...]
    fit: Callable[[Any, Any, int], Read]
    prepare: Callable[[Problem], AbstractContextManager[Any]] = nullcontext

    def missing(self) -> list[str]:
        return [module for module in self.needs if find_spec(module) is None]


def _ridge(p: Problem) -> bool:
    return p.loss == "squared_error"


def _smooth(p: Problem) -> bool:
    return not _ridge(p) and p.l1_ratio == 0


def _binary(p: Problem) -> bool:
    return p.loss == "log_loss"


def _binary_smooth(p: Problem) -> bool:
    return _binary(p) and p.l1_ratio == 0


def _result(model: Any, passes: str = "") -> Read:
    return lambda: (model.coef_, model.intercept_, passes)


def gdfast(p: Problem, tol: float, threads: int) -> Read:
    import gdfast as gd

    if _ridge(p):
        model = gd.Ridge(alpha=p.alpha * p.n, tol=tol, n_jobs=threads).fit(p.X, p.y)
    else:
        model = gd.LogisticRegression(C=p.C, l1_ratio=p.l1_ratio, tol=tol, max_iter=1000, n_jobs=threads)
        model.fit(p.X, p.y)
    return _result(model, str(model.fit_report_.get("passes", "")))


def sklearn(solver: str, p: Problem, tol: float, threads: int) -> Read:
    from sklearn.linear_model import LogisticRegression

    free = {"intercept_scaling": 1e3} if solver == "liblinear" else {}  # else its intercept is penalised
    model = LogisticRegression(C=p.C, solver=solver, tol=tol, max_iter=2000, **free).fit(p.X, p.y)
    return _result(model, f">= {np.max(model.n_iter_)}")


def sklearn_scaled(p: Problem, tol: float, threads: int) -> Read:
    """What its users are told to do about columns of unlike scales; with a weak penalty it is the same optimum."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler()
    X = scaler.fit_transform(p.X)
    model = LogisticRegression(C=p.C, solver="newton-cholesky", tol=tol).fit(X, p.y)

    def read() -> Result:
        coef = model.coef_.astype(np.float64) / scaler.scale_
        return coef, model.intercept_ - coef @ scaler.mean_, f">= {np.max(model.n_iter_)}"

    return read


def sklearn_saga(p: Problem, epochs: int, threads: int) -> Read:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=p.C, l1_ratio=p.l1_ratio, solver="saga", tol=1e-12, max_iter=epochs).fit(p.X, p.y)
    return _result(model, str(np.max(model.n_iter_)))


def sklearn_sgd(p: Problem, setting: tuple[int, float], threads: int) -> Read:
    """Averaged, at a constant rate: (epochs, rate)"""
    from sklearn.linear_model import SGDClassifier

    epochs, rate = setting
    penalty: dict[str, Any] = {"penalty": "elasticnet", "l1_ratio": p.l1_ratio, "alpha": p.alpha}
    model = SGDClassifier("log_loss", **penalty, learning_rate="constant", eta0=rate, average=True, max_iter=epochs,
                          tol=None, random_state=0).fit(p.X, p.y)  # fmt: skip
    return _result(model, str(epochs))


def sklearn_ridge(p: Problem, setting: tuple[str, float], threads: int) -> Read:
    from sklearn.linear_model import Ridge

    solver, tol = setting
    return _result(Ridge(alpha=p.alpha * p.n, solver=solver, tol=tol).fit(p.X, p.y))


def sklearnex(p: Problem, tol: float, threads: int) -> Read:
    import daal4py
    from sklearnex.linear_model import LogisticRegression, Ridge

    daal4py.daalinit(threads)
    if _ridge(p):
        return _result(Ridge(alpha=p.alpha * p.n, tol=tol).fit(p.X, p.y))
    model = LogisticRegression(C=p.C, tol=tol, max_iter=2000).fit(p.X, p.y)
    return _result(model, f">= {np.max(model.n_iter_)}")


def glum(p: Problem, tol: float, threads: int) -> Read:
    from glum import GeneralizedLinearRegressor

    family = "normal" if _ridge(p) else "binomial"
    model = GeneralizedLinearRegressor(alpha=p.alpha, l1_ratio=p.l1_ratio, family=family, gradient_tol=tol)
    model.fit(p.X, p.y)
    return _result(model, f">= {model.n_iter_}")


def _csr_matrix(p: Problem) -> Any:
    """For those that know SciPy's older class only; the same memory."""
    from scipy import sparse

    return sparse.csr_matrix(p.X) if p.sparse else p.X


def snapml(dual: bool, p: Problem, tol: float, threads: int) -> Read:
    """Its intercept is one more column of ones, penalised like the others."""
    from snapml import LinearRegression, LogisticRegression

    kind = LinearRegression if _ridge(p) else LogisticRegression
    model = kind(regularizer=p.alpha * p.n, tol=tol, max_iter=1000, n_jobs=threads, fit_intercept=True, random_state=0,
                 dual=dual)  # fmt: skip
    model.fit(_csr_matrix(p), p.y)
    return _result(model)


def liblinear(p: Problem, eps: float, threads: int) -> Read:
    from liblinear.liblinearutil import train

    kind = f"-s 11 -p 0 -c {0.5 / (p.alpha * p.n)}" if _ridge(p) else f"-s 0 -c {p.C}"
    model = train(p.y.astype(np.float64), _csr_matrix(p), f"{kind} -B 1 -R -e {eps} -m {threads} -q")

    def read() -> Result:
        coef, intercept = model.get_decfun()
        sign = 1 if _ridge(p) or model.get_labels()[0] == p.y.max() else -1
        return sign * np.array(coef), sign * intercept, ""

    return read


def skglm(p: Problem, tol: float, threads: int) -> Read:
    import numba
    from skglm import GeneralizedLinearEstimator
    from skglm.datafits import Logistic
    from skglm.penalties import L1_plus_L2
    from skglm.solvers import ProxNewton

    numba.set_num_threads(threads)
    solver = ProxNewton(tol=tol, max_iter=100)
    return _result(GeneralizedLinearEstimator(Logistic(), L1_plus_L2(p.alpha, p.l1_ratio), solver).fit(p.X, p.y))


def torch_lbfgs(p: Problem, iterations: int, threads: int) -> Read:
    import torch

    loss_of, w, b = _torch_model(p, threads)
    optimizer = torch.optim.LBFGS([w, b], max_iter=iterations, max_eval=10**9, tolerance_grad=0, tolerance_change=0,
                                  line_search_fn="strong_wolfe")  # fmt: skip

    def closure() -> Any:
        optimizer.zero_grad()
        loss = loss_of(slice(None))
        loss.backward()
        return loss

    optimizer.step(closure)
    evaluations = optimizer.state[w]["func_evals"]
    return lambda: (w.detach().numpy().T, b.detach().numpy(), str(evaluations))


def torch_adam(p: Problem, setting: tuple[int, float], threads: int) -> Read:
    """Batches of 4,096 rows in order: (epochs, rate)"""
    import torch

    epochs, rate = setting
    loss_of, w, b = _torch_model(p, threads)
    optimizer = torch.optim.Adam([w, b], lr=rate, fused=True)
    for _ in range(epochs):
        for start in range(0, p.n, 4096):
            optimizer.zero_grad()
            loss_of(slice(start, start + 4096)).backward()
            optimizer.step()
    return lambda: (w.detach().numpy().T, b.detach().numpy(), str(epochs))


def _torch_model(p: Problem, threads: int) -> tuple[Callable[[slice], Any], Any, Any]:
    """(objective of some rows, w, b)"""
    import torch
    from torch.nn import functional

    torch.set_num_threads(threads)
    X = torch.from_numpy(p.X)
    classes, codes = (p.y, p.y) if _ridge(p) else np.unique(p.y, return_inverse=True)
    k = len(classes) if p.loss == "softmax" else 1
    y = torch.from_numpy(codes) if k > 1 else torch.from_numpy(codes).to(X.dtype)
    w, b = torch.zeros((p.d, k), dtype=X.dtype), torch.zeros(k, dtype=X.dtype)

    def loss_of(rows: slice) -> Any:
        z = X[rows] @ w + b
        if p.loss == "softmax":
            mean = functional.cross_entropy(z, y[rows])
        elif _ridge(p):
            mean = 0.5 * functional.mse_loss(z[:, 0], y[rows])
        else:
            mean = functional.binary_cross_entropy_with_logits(z[:, 0], y[rows])
        return mean + 0.5 * p.alpha * (w * w).sum()

    return loss_of, w.requires_grad_(), b.requires_grad_()


@contextmanager
def _as_text(p: Problem) -> Iterator[tuple[Problem, Path]]:
    """The problem, and the folder of its file as Vowpal Wabbit reads it."""
    from scipy import sparse

    X = sparse.csr_array(p.X)
    codes = p.y if _ridge(p) else np.where(p.y == p.y.max(), 1, -1)
    with tempfile.TemporaryDirectory() as name, open(Path(name) / "data", "w") as file:
        for i, label in enumerate(codes.tolist()):
            row = slice(X.indptr[i], X.indptr[i + 1])
            pairs = zip(X.indices[row].tolist(), X.data[row].tolist(), strict=True)
            file.write(f"{label} | {' '.join([f'{j}:{x:.8g}' for j, x in pairs])}\n")
        file.flush()
        yield p, Path(name)


def vowpal_wabbit(options: str, text: tuple[Problem, Path], passes: int, threads: int) -> Read:
    """Its time includes the parsing of the text, not its writing. It learns with one thread, whatever it is given."""
    from vowpalwabbit import Workspace

    p, folder = text
    cache = folder / "cache"
    cache.unlink(missing_ok=True)
    bits = max(18, int(p.d - 1).bit_length())
    strength = {"l1": p.alpha * p.l1_ratio, "l2": p.alpha * (1 - p.l1_ratio)}
    strength = {name: value * (p.n if "bfgs" in options else 1) for name, value in strength.items()}
    penalty = " ".join(f"--{name} {value}" for name, value in strength.items() if value)
    loss = "squared" if _ridge(p) else "logistic"
    vw = Workspace(f"-d {folder / 'data'} --cache_file {cache} --passes {passes} -b {bits} --quiet "
                   f"--holdout_off --loss_function {loss} {penalty} {options}")  # fmt: skip

    def read() -> Result:
        coef = np.array([vw.get_weight(j) for j in range(p.d)])
        intercept = vw.get_weight(CONSTANT & (2**bits - 1))
        vw.finish()
        return coef, intercept, str(passes)

    return read


def _readable(p: Problem) -> bool:
    return p.loss != "softmax" and p.numbers <= LARGEST_TEXT


def _dense(p: Problem) -> bool:
    return not p.sparse and p.l1_ratio == 0


def _one_output(p: Problem) -> bool:
    return p.loss != "softmax" and p.l1_ratio == 0


SGD = ((1, 0.01), (1, 0.1), (5, 0.01), (20, 0.01), (20, 0.001))
SK, TORCH, VW = ("sklearn",), ("torch",), ("vowpalwabbit",)
ALL = [
    Peer("gdfast", ("gdfast",), lambda p: True, TOLERANCES, gdfast),
    Peer("scikit-learn lbfgs", SK, _smooth, TOLERANCES, partial(sklearn, "lbfgs")),
    Peer("scikit-learn newton-cg", SK, _smooth, TOLERANCES, partial(sklearn, "newton-cg")),
    Peer("scikit-learn newton-cholesky", SK, lambda p: _smooth(p) and not p.sparse and p.d * len(set(p.y)) <= 2000,
         TOLERANCES, partial(sklearn, "newton-cholesky")),
    Peer("StandardScaler + newton-cholesky", SK, lambda p: _binary_smooth(p) and not p.sparse and p.C >= WEAK,
         TOLERANCES, sklearn_scaled),
    Peer("scikit-learn liblinear", SK, _binary_smooth, TOLERANCES, partial(sklearn, "liblinear")),
    Peer("scikit-learn saga", SK, lambda p: not _ridge(p), (5, 20, 100, 500), sklearn_saga),
    Peer("scikit-learn SGD", SK, _binary, SGD, sklearn_sgd),
    Peer("scikit-learn Ridge", SK, _ridge, (("auto", 1e-4), ("cholesky", 0), ("lsqr", 1e-6), ("lsqr", 1e-10)),
         sklearn_ridge),
    Peer("scikit-learn-intelex", ("sklearnex",), lambda p: p.l1_ratio == 0 and not p.sparse, TOLERANCES, sklearnex),
    Peer("glum", ("glum",), lambda p: p.loss != "softmax" and p.d <= LARGEST_CATEGORICAL, TOLERANCES, glum),
    Peer("Snap ML dual", ("snapml",), _one_output, TOLERANCES, partial(snapml, True)),
    Peer("Snap ML primal", ("snapml",), _one_output, TOLERANCES, partial(snapml, False)),
    Peer("liblinear-multicore", ("liblinear",), _one_output, TOLERANCES, liblinear),
    Peer("skglm", ("skglm",), lambda p: p.l1_ratio > 0, TOLERANCES, skglm),
    Peer("torch L-BFGS", TORCH, _dense, (10, 30, 100, 300, 1000), torch_lbfgs),
    Peer("torch Adam", TORCH, _dense, ((1, 0.01), (5, 0.01), (20, 0.001)), torch_adam),
    Peer("Vowpal Wabbit", VW, _readable, (1, 5, 20), partial(vowpal_wabbit, ""), _as_text),
    Peer("Vowpal Wabbit bfgs", VW, lambda p: _readable(p) and p.l1_ratio == 0, (10, 30, 100, 300),
         partial(vowpal_wabbit, "--bfgs --no_bias_regularization --termination 0"), _as_text),
]  # fmt: skip


def few_rows(p: Problem) -> Problem:
    """Some rows of all classes, to load and compile what a peer needs before its first fit is timed."""
    if p.n <= 600:
        return p
    rows = np.arange(0, p.n, p.n // 300)
    return replace(p, X=p.X[rows], y=p.y[rows])

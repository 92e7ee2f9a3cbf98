"""Writes docs/scikit-learn.md: every public name of scikit-learn's estimators, and what it is here."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import sklearn
from sklearn import linear_model as theirs
from sklearn.base import is_classifier

import gdfast as ours

PAGE = Path(__file__).parent / "scikit-learn.md"
NAMES = (
    "LogisticRegression",
    "LogisticRegressionCV",
    "LinearRegression",
    "Ridge",
    "RidgeCV",
    "SGDClassifier",
    "SGDRegressor",
)
NOT_DOCUMENTED = ("param", "loss_functions")  # left over from the bodies of scikit-learn's classes
NO_EFFECT = "accepted, without effect: "
REFUSED = {
    "rank_": "not there: no singular value decomposition is made",
    "singular_": "not there: no singular value decomposition is made",
    "positive": "`True` is refused for least squares; `SGDRegressor(positive=True)` has it",
    "set_callbacks": "not there: the solvers have no epochs; `verbose` prints them",
}
SAME_RESULT = {
    "dual": NO_EFFECT + "the optimum is the same",
    "intercept_scaling": NO_EFFECT + "the intercept is never penalised",
    "copy_X": NO_EFFECT + "X is never written to",
    "gcv_mode": NO_EFFECT + "the result is the same",
    "random_state": NO_EFFECT + "the solvers draw nothing",
}


def rows(name: str) -> list[tuple[str, str, str]]:
    """(kind, public name, what it is here)"""
    peer, model = getattr(theirs, name)(), getattr(ours, name)()
    X = np.random.default_rng(0).standard_normal((60, 3))
    y = (X[:, 0] > 0).astype(int) if is_classifier(peer) else X[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.fit(X, y)
        model.fit(X, y)
    found = []
    for member in sorted({*dir(peer), *peer.get_params()}):
        if member.startswith("_") or member in NOT_DOCUMENTED:
            continue
        parameter, attribute = member in peer.get_params(), member.endswith("_")
        kind = "parameter" if parameter else "attribute" if attribute else "method"
        here = hasattr(model, member)
        what = "same" if here else REFUSED[member]
        if here and parameter and not name.startswith("SGD"):
            what = SAME_RESULT.get(member, what)
        if parameter and member == "positive":
            what = REFUSED[member]
        found.append((kind, member, what))
    return sorted(found, key=lambda row: (("parameter", "attribute", "method").index(row[0]), row[1]))


def page() -> str:
    lines = [
        "# scikit-learn's names",
        "",
        f"Written by `python docs/scikit_learn_table.py` from scikit-learn {sklearn.__version__}; a test compares it.",
    ]
    for name in NAMES:
        lines += ["", f"## {name}", "", "| | name | here |", "|---|---|---|"]
        lines += [f"| {kind} | `{member}` | {what} |" for kind, member, what in rows(name)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())

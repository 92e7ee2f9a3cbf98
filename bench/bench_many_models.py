"""Twenty models in one pass (4 penalties, 5 folds) against the same twenty fitted one after the other."""

from __future__ import annotations

import numpy as np
import problems
import pytest

from gdfast import Adam, SGDClassifier, grid, runtime

PENALTIES = [0.0, 1e-6, 1e-4, 1e-2]
FOLDS = 5


def classifier(shuffle: bool, alpha: float = 0.0) -> SGDClassifier:
    return SGDClassifier(
        "log_loss",
        optimizer=Adam(0.001),
        batch_size=1024,
        max_iter=3,
        tol=None,
        shuffle=shuffle,
        alpha=alpha,
        random_state=0,
    )


@pytest.mark.parametrize("shuffle", [True, False], ids=["shuffled", "in order"])
def bench_twenty_models(race, shuffle):
    n, d = (2000, 10) if race.small else (500_000, 100)
    examples = problems.logistic(n, d)
    X, y = examples.X, examples.y
    fold = np.arange(n) * FOLDS // n
    kept = [(fold != f).astype(np.float32) for f in range(FOLDS)]

    def together():
        return grid(classifier(shuffle), X, y, {"alpha": PENALTIES}, cv=fold, scoring="accuracy", refit=False)

    def one_by_one():
        scores = np.empty((len(PENALTIES), FOLDS))
        for i, alpha in enumerate(PENALTIES):
            for f in range(FOLDS):
                rows = slice(*np.searchsorted(fold, [f, f + 1]))
                model = classifier(shuffle, alpha).fit(X, y, sample_weight=kept[f])
                scores[i, f] = model.score(X[rows], y[rows])
        return scores

    np.testing.assert_allclose(together().scores["accuracy"], one_by_one(), atol=2e-3)
    order = "shuffled" if shuffle else "in order"
    medians = race(
        f"20 models of {n} x {d} float32, 3 epochs of Adam, 1,024 rows a batch, {order}, {runtime.cores()} cores",
        {"gdfast.grid": together, "20 fits of gdfast": one_by_one},
        rounds=5,
    )
    race.note(f"one pass for all is {medians['20 fits of gdfast'] / medians['gdfast.grid']:.1f} times faster")

"""gdfast beside other users of OpenMP: imported before, between and behind them, all of them used, the same model each time."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import pytest

USES = {
    "gdfast": """
clf = gdfast.LogisticRegression(n_jobs=2).fit(X, y)
print("model", clf.coef_.tobytes().hex(), gdfast.SGDClassifier(random_state=0, n_jobs=2).fit(X, y).coef_.tobytes().hex())
""",
    "sklearn": """
from sklearn.ensemble import HistGradientBoostingClassifier
HistGradientBoostingClassifier(max_iter=3).fit(X, y)
""",
    "torch": """
a = torch.ones(500, 500, requires_grad=True)
(a @ a).exp().mean().backward()
""",
    "xgboost": "xgboost.XGBClassifier(n_estimators=3).fit(X, y)\n",
    "lightgbm": "lightgbm.train({'objective': 'binary', 'verbosity': -1}, lightgbm.Dataset(X, y), 3)\n",
}
OTHERS = tuple(name for name in USES if name != "gdfast")
DATA = """
import numpy as np
X = np.random.default_rng(0).standard_normal((60_000, 8)).astype(np.float32)
y = (X[:, 0] + np.random.default_rng(1).standard_normal(60_000) > 0).astype(int)
"""


@cache
def models(order: tuple[str, ...]) -> str:
    """What gdfast learns in a process that imports these in this order, and uses them in it."""
    code = "".join(f"import {name}\n" for name in order) + DATA + "".join(USES[name] for name in order)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    (model,) = [line for line in done.stdout.splitlines() if line.startswith("model")]
    return model


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("first", [True, False], ids=["gdfast first", "gdfast last"])
def test_one_other_library(other: str, first: bool) -> None:
    if find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    assert models(("gdfast", other) if first else (other, "gdfast")) == models(("gdfast",))


@pytest.mark.long
def test_all_other_libraries_around_it() -> None:
    here = [name for name in OTHERS if find_spec(name)]
    half = len(here) // 2
    for others in (here, here[::-1]):
        assert models((*others[:half], "gdfast", *others[half:])) == models(("gdfast",))

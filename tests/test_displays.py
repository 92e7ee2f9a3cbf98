"""Pictures: what they show, in scikit-learn's habits."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from gdfast import HistoryDisplay, LearningRateDisplay, LogisticRegression, SGDClassifier, lr_find

mpl.use("Agg")
from matplotlib import pyplot as plt

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    plt.close("all")


def fitted(**options: Any) -> tuple[SGDClassifier, Array, Array]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 4))
    y = X[:, 0] + 0.5 * rng.standard_normal(400) > 0
    return SGDClassifier("log_loss", optimizer="adam", learning_rate="auto", random_state=0, **options).fit(X, y), X, y


def test_a_history_is_drawn_as_it_is() -> None:
    model, *_ = fitted()
    _, ax = plt.subplots()
    display = HistoryDisplay.from_estimator(model, ax=ax)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    x, values = display.line_.get_data()
    np.testing.assert_array_equal(x, model.history_.epoch)
    np.testing.assert_array_equal(values, model.history_.objective)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "objective")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["SGDClassifier"]
    assert display.ax_score_ is None


@pytest.mark.parametrize("number", ["loss", "gradient_norm", "learning_rate", "seconds", "rows_per_second"])
def test_every_number_can_be_drawn(number: str) -> None:
    model, *_ = fitted()
    display = HistoryDisplay.from_estimator(model, number=number, name="mine", color="black")
    np.testing.assert_array_equal(display.line_.get_ydata(), getattr(model.history_, number))
    assert display.line_.get_color() == "black"
    assert display.ax_.get_yscale() == ("log" if number in ("gradient_norm", "learning_rate") else "linear")
    assert display.figure_ is not plt.figure()  # each on a figure of its own


def test_a_validation_score_has_an_axis_of_its_own_and_its_best_is_marked() -> None:
    model, *_ = fitted(early_stopping=True)
    display = HistoryDisplay.from_estimator(model)
    scores = model.history_.validation_score
    np.testing.assert_array_equal(display.line_score_.get_ydata(), scores)
    mark = display.ax_score_.lines[1]
    assert mark.get_xdata() == [int(np.argmax(scores)) + 1]
    alone = HistoryDisplay.from_estimator(model, number="validation_score")
    np.testing.assert_array_equal(alone.line_.get_ydata(), scores)
    assert alone.ax_score_ is None


def test_a_range_test_is_drawn_with_its_suggestion() -> None:
    model, X, y = fitted()
    found = lr_find(model, X, y)
    display = found.plot()
    np.testing.assert_array_equal(display.line_.get_xdata(), found.learning_rate)
    np.testing.assert_array_equal(display.line_.get_ydata(), found.smoothed)
    assert display.ax_.get_xscale() == "log"
    assert f"suggestion: {found.suggestion:.2g}" in [text.get_text() for text in display.ax_.get_legend().get_texts()]
    _, ax = plt.subplots()
    other = LearningRateDisplay.from_estimator(model, X, y, ax=ax, start=1e-4, end=1.0)
    assert other.ax_ is ax
    assert other.test.learning_rate[0] == pytest.approx(1e-4)


def test_what_cannot_be_drawn_is_refused() -> None:
    model, X, y = fitted()
    with pytest.raises(ValueError, match=r"number must be one of 'loss', .*; got 'accuracy'"):
        HistoryDisplay.from_estimator(model, number="accuracy")
    with pytest.raises(ValueError, match="holds no validation_score: fit with early_stopping=True"):
        HistoryDisplay.from_estimator(model, number="validation_score")
    for other in (LogisticRegression().fit(X, y), SGDClassifier()):
        with pytest.raises(TypeError, match="without history_: expected a fitted SGDClassifier or SGDRegressor"):
            HistoryDisplay.from_estimator(other)


def test_without_matplotlib_the_error_says_what_to_install() -> None:
    code = """
        import sys
        sys.modules["matplotlib"] = None
        import numpy as np
        from gdfast import HistoryDisplay, SGDRegressor
        model = SGDRegressor(max_iter=1, tol=None).fit(np.ones((4, 1)), np.ones(4))
        try:
            HistoryDisplay.from_estimator(model)
        except ModuleNotFoundError as error:
            print(error)
    """
    code = "\n".join(line[8:] for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == 'pictures need matplotlib, which is not installed: pip install "gdfast[plot]"', (
        done.stderr
    )

"""Pictures of training, in scikit-learn's habits: a display holds the numbers, ``plot`` draws them and keeps ``ax_`` and
``figure_``. The one file that knows matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gdfast.estimators.lr_find import LearningRateTest
    from gdfast.solvers.stopping import History

Array = np.ndarray[Any, Any]

NUMBERS = ("loss", "objective", "gradient_norm", "learning_rate", "validation_score", "seconds", "rows_per_second")
BLUE, RED, GREY = "#30638e", "#d1495b", "0.6"


def _matplotlib(module: str) -> Any:
    """The module of this name. Raises ModuleNotFoundError where matplotlib is missing."""
    try:
        from importlib import import_module

        import matplotlib  # noqa: F401
    except ImportError as error:
        what = "pictures need matplotlib, which is not installed"
        raise ModuleNotFoundError(f'{what}: pip install "gdfast[plot]"', name="matplotlib") from error
    return import_module(f"matplotlib.{module}")


def new_figure(**options: Any) -> Any:
    """A figure that no window shows, for files."""
    return _matplotlib("figure").Figure(**options)


def _axes(ax: Any) -> Any:
    return _matplotlib("pyplot").subplots(layout="constrained")[1] if ax is None else ax


def tidy(ax: Any) -> None:
    """The look that pictures of gdfast share."""
    ax.grid(color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


class HistoryDisplay:
    """One number of a fit, epoch by epoch, and the validation score on an axis of its own where there is one.

    ``plot`` leaves ``ax_``, ``figure_``, ``line_``, and with a validation score ``ax_score_`` and ``line_score_``.
    """

    ax_: Any
    figure_: Any
    line_: Any
    ax_score_: Any = None
    line_score_: Any = None

    def __init__(self, history: History, *, number: str = "objective", name: str | None = None) -> None:
        if number not in NUMBERS:
            raise ValueError(f"number must be one of {', '.join(map(repr, NUMBERS))}; got {number!r}")
        if not getattr(history, number):
            raise ValueError(f"the history holds no {number}: fit with early_stopping=True or X_val and y_val")
        self.history, self.number, self.name = history, number, name

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, number: str = "objective", ax: Any = None, name: str | None = None, **line: Any
    ) -> HistoryDisplay:
        """Draw the ``history_`` of a fitted SGDClassifier or SGDRegressor. ``number``: a list of ``History``; ``line``:
        options of matplotlib for the line. Raises TypeError for an estimator without ``history_``."""
        if not hasattr(estimator, "history_"):
            kind = type(estimator).__name__
            raise TypeError(f"estimator is {kind} without history_: expected a fitted SGDClassifier or SGDRegressor")
        display = cls(estimator.history_, number=number, name=name or type(estimator).__name__)
        return display.plot(ax, **line)

    def plot(self, ax: Any = None, **line: Any) -> HistoryDisplay:
        """Draw on ``ax``, or on a figure of its own."""
        history, ax = self.history, _axes(ax)
        values = getattr(history, self.number)
        options = {"color": BLUE, "marker": "." if len(values) < 40 else "", "label": self.name, **line}
        (self.line_,) = ax.plot(history.epoch, values, **options)
        ax.set(xlabel="epoch", ylabel=self.number.replace("_", " "))
        tidy(ax)
        if self.number in ("gradient_norm", "learning_rate") and min(values) > 0:
            ax.set_yscale("log")
        self.ax_, self.figure_ = ax, ax.figure
        if history.validation_score and self.number != "validation_score":
            self._plot_score(ax.twinx())
        elif self.name:
            ax.legend(frameon=False)
        return self

    def _plot_score(self, ax: Any) -> None:
        scores = self.history.validation_score
        (self.line_score_,) = ax.plot(self.history.epoch, scores, color=RED, label="validation score")
        best = int(np.argmax(scores))
        mark = ax.plot(self.history.epoch[best], scores[best], "o", color=RED, fillstyle="none", label="best, kept")
        ax.set_ylabel("validation score", color=RED)
        ax.spines["top"].set_visible(False)
        ax.legend(handles=[self.line_, self.line_score_, *mark], frameon=False, loc="center right")
        self.ax_score_ = ax


class LearningRateDisplay:
    """Loss against learning rate, from ``lr_find``. ``plot`` leaves ``ax_``, ``figure_``, ``line_``."""

    ax_: Any
    figure_: Any
    line_: Any

    def __init__(self, test: LearningRateTest, *, name: str | None = None) -> None:
        self.test, self.name = test, name

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, ax: Any = None, name: str | None = None, **options: Any
    ) -> LearningRateDisplay:
        """Run ``lr_find(estimator, X, y, **options)`` and draw it."""
        from gdfast.estimators.lr_find import lr_find

        return cls(lr_find(estimator, X, y, **options), name=name or type(estimator).__name__).plot(ax)

    def plot(self, ax: Any = None, **line: Any) -> LearningRateDisplay:
        """Draw on ``ax``, or on a figure of its own."""
        test, ax = self.test, _axes(ax)
        ax.plot(test.learning_rate, test.loss, color=GREY, linewidth=0.6, label="each batch")
        options = {"color": BLUE, "linewidth": 2, "label": self.name or "smoothed", **line}
        (self.line_,) = ax.plot(test.learning_rate, test.smoothed, **options)
        low, high = test.smoothed.min(), test.smoothed[: max(1, len(test.smoothed) // 10)].mean()
        ax.set(
            xscale="log",
            xlabel="learning rate",
            ylabel="loss of a batch",
            ylim=(low - 0.15 * abs(high - low), high + 0.5 * abs(high - low) + 1e-12),
        )
        if test.suggestion is not None:
            ax.axvline(test.suggestion, color=RED, linestyle=(0, (4, 3)), label=f"suggestion: {test.suggestion:.2g}")
        ax.legend(frameon=False)
        tidy(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self

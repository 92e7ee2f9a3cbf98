"""scikit-learn's callback protocol (1.9 and later): a fit is a task, every epoch of it a subtask.

Where scikit-learn has no protocol, the names below do nothing, and estimators have no ``set_callbacks``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """No protocol."""

    def with_callbacks(method: Any) -> Any:
        """The method itself."""
        return method


Array = np.ndarray[Any, Any]

__all__ = ["CallbackSupportMixin", "Tasks", "with_callbacks"]


class Tasks:
    """The root task of a fit that is inside ``with_callbacks``, and one subtask an epoch.

    data: X, y and metadata as scikit-learn's hooks take them; fitted: the attributes of the estimator as if it had been
    stopped now.
    """

    def __init__(self, estimator: Any, epochs: int, data: dict[str, Any], fitted: Callable[[], dict[str, Any]]) -> None:
        self._options = {"estimator": estimator, **data}
        self._fitted = fitted
        self._root = None
        if getattr(estimator, "_skl_callbacks", None):
            self._root = estimator._init_callback_context(max_subtasks=epochs)
            self._root.call_on_fit_task_begin(**self._options)

    def epoch(self, epoch: object) -> bool:
        """A callback of the loop: begins and ends the task of an epoch that is over. True: stop."""
        if self._root is None:
            return False
        task = self._root.subcontext(task_name="epoch")
        task.call_on_fit_task_begin(**self._options)
        return bool(task.call_on_fit_task_end(**self._options, reconstruction_attributes=self._fitted))

    def end(self) -> None:
        if self._root is not None:
            self._root.call_on_fit_task_end(**self._options, reconstruction_attributes=self._fitted)

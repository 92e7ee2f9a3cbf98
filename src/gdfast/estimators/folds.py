"""What estimators with cross-validation inside share: splits, scorers, and to whom metadata goes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn import get_config
from sklearn.base import is_classifier
from sklearn.metrics import get_scorer, make_scorer
from sklearn.model_selection import check_cv
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing

Array = np.ndarray[Any, Any]
Split = tuple[Array, Array]  # numbers of the rows to train on, and to score


class CrossValidated:
    """Mixin: ``cv`` and ``scoring`` as scikit-learn means them; metadata goes to both where routing is enabled."""

    cv: Any
    scoring: Any
    _scored_by = "accuracy"  # where ``scoring`` is None

    def get_metadata_routing(self) -> Any:
        """Who asks for which metadata (scikit-learn's protocol)."""
        fit_and_score = MethodMapping().add(caller="fit", callee="score").add(caller="score", callee="score")
        router = MetadataRouter(owner=self).add_self_request(self)
        router = router.add(splitter=self.cv, method_mapping=MethodMapping().add(caller="fit", callee="split"))
        return router.add(scorer=self._scorer(), method_mapping=fit_and_score)

    def _scorer(self) -> Any:
        if self.scoring is not None and not callable(self.scoring) and not isinstance(self.scoring, str):
            raise ValueError(f"scoring must be None, the name of a metric or a callable, got {self.scoring!r}")
        return get_scorer(self._scored_by if self.scoring is None else self.scoring)

    def _routed(
        self, method: str, sample_weight: Any, params: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """(metadata for the splitter, metadata for the scorer)"""
        given = dict(params) if sample_weight is None else {**params, "sample_weight": sample_weight}
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, method, **given)
            return dict(routed.splitter.get("split", {})) if method == "fit" else {}, dict(routed.scorer["score"])
        if params:
            unknown = ", ".join(sorted(params))
            raise ValueError(
                f"{type(self).__name__}.{method} does not take {unknown}; metadata for the splitter or the scorer needs "
                "sklearn.set_config(enable_metadata_routing=True)"
            )
        return {}, given

    def _splits(self, y: Array, metadata: Mapping[str, Any]) -> list[Split]:
        """The folds; scikit-learn's splitters look at the number of rows of X only."""
        splitter = check_cv(self.cv, y, classifier=is_classifier(self))
        return [(np.asarray(a), np.asarray(b)) for a, b in splitter.split(np.empty((len(y), 0)), y, **metadata)]


def rows_of(metadata: Mapping[str, Any], rows: Array, n: int) -> dict[str, Any]:
    """Those rows of every entry that has one a row."""
    arrays = {key: np.asarray(value) for key, value in metadata.items()}
    return {key: a[rows] if a.ndim > 0 and len(a) == n else metadata[key] for key, a in arrays.items()}


def knowing_classes(scorer: Any, classes: Array) -> Any:
    """A scorer that is told all labels: a fold may lack some."""
    metric = getattr(scorer, "_score_func", None)
    accepted = {} if metric is None else inspect.signature(metric).parameters
    if "labels" not in accepted:
        return scorer
    options = {"labels": classes, **scorer._kwargs}
    if len(classes) == 2 and "pos_label" in accepted:
        options.setdefault("pos_label", classes[1])
    better = scorer._sign > 0
    return make_scorer(metric, greater_is_better=better, response_method=scorer._response_method, **options)

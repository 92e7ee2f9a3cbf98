"""A fitted estimator in the terms of others: as scikit-learn's estimator, and as an ONNX graph."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from sklearn.base import is_classifier

from gdfast import __version__
from gdfast.estimators.linear import dense_coefficients
from gdfast.losses import named

Array = np.ndarray[Any, Any]

# scikit-learn's name of the loss with the same labels, where it does not have ours
_NEAREST = {"softmax": "log_loss", "pinball": "epsilon_insensitive"}
_FITTED = (
    "C_",
    "alpha_",
    "best_score_",
    "classes_",
    "l1_ratio_",
    "feature_names_in_",
    "n_features_in_",
    "n_iter_",
    "solver_",
    "t_",
)
_OPSET, _IR = 17, 8  # of 2022: old runtimes read them


def to_sklearn(model: Any) -> Any:
    """See ``to_sklearn`` of the estimators."""
    coef, intercept = dense_coefficients(model), np.asarray(model.intercept_)
    if is_classifier(model) or coef.ndim == 1 or type(model).__name__ != "SGDRegressor":
        return _fitted(_peer(model), model, coef, intercept[()])
    from sklearn.multioutput import MultiOutputRegressor

    several = MultiOutputRegressor(_peer(model))
    several.estimators_ = [
        _fitted(_peer(model), model, w, np.atleast_1d(b)) for w, b in zip(coef, intercept, strict=True)
    ]
    several.n_features_in_ = model.n_features_in_
    if hasattr(model, "feature_names_in_"):
        several.feature_names_in_ = model.feature_names_in_
    return several


def _peer(model: Any) -> Any:
    """scikit-learn's estimator that predicts as this one, not fitted; with the parameters that both have."""
    from sklearn import linear_model as theirs

    name, loss = type(model).__name__, getattr(model, "loss", None)
    l1_ratio = {"l1": 1.0, "elasticnet": model.l1_ratio}.get(model.penalty, 0.0) if loss is not None else 0.0
    l2 = model.alpha * (1 - l1_ratio) if loss is not None and model.penalty is not None else 0.0
    if loss in ("poisson", "gamma", "tweedie"):
        options = {"alpha": l2, "fit_intercept": model.fit_intercept}
        if loss == "tweedie":
            return theirs.TweedieRegressor(power=model.power, link="log", **options)
        return (theirs.PoissonRegressor if loss == "poisson" else theirs.GammaRegressor)(**options)
    if loss == "pinball" and not is_classifier(model):
        alpha = model.alpha * l1_ratio if model.penalty is not None else 0.0
        return theirs.QuantileRegressor(quantile=model.quantile, alpha=alpha, fit_intercept=model.fit_intercept)
    if loss == "softmax" and len(model.classes_) > 2:
        return theirs.LogisticRegression(fit_intercept=model.fit_intercept, class_weight=model.class_weight)
    peer = getattr(theirs, name)()
    mine = model.get_params(deep=False)
    shared = {key: mine[key] for key in peer.get_params(deep=False) if key in mine}
    if loss is not None:
        shared["loss"] = _NEAREST.get(loss, loss)
        if not isinstance(model.learning_rate, str) or model.learning_rate == "auto":
            del shared["learning_rate"]
        if not isinstance(model.shuffle, (bool, np.bool_)):
            shared["shuffle"] = True
    if shared.get("solver") == "lbfgs" and name == "Ridge":  # there for positive=True only
        shared["solver"] = "auto"
    if name == "LogisticRegression":
        penalty = model._elastic_net(1.0)
        solver = {"newton": "newton-cholesky"}.get(model.solver, model.solver)
        if solver in ("auto", "liblinear"):  # one against the rest is not what the weights are
            solver = "lbfgs"
        shared |= {"solver": "saga" if penalty.l1 > 0 else solver, "dual": False, "n_jobs": None}
        if model.penalty is None:
            shared["C"] = np.inf
        if peer.penalty == "deprecated":  # scikit-learn 1.8 and later
            ratio = penalty.l1 / penalty.alpha if penalty.alpha > 0 else 0.0
            shared |= {"penalty": "deprecated", "l1_ratio": ratio}
        else:
            ratio = penalty.l1 / penalty.alpha if penalty.alpha > 0 else None
            kind = {None: None, 0.0: "l2", 1.0: "l1"}.get(ratio, "elasticnet")
            shared |= {"penalty": kind, "l1_ratio": ratio if kind == "elasticnet" else None}
    if name == "LogisticRegressionCV":
        ratios = model._settings()[1]
        solver = {"auto": "lbfgs", "liblinear": "lbfgs", "newton": "newton-cholesky"}.get(model.solver, model.solver)
        shared |= {"solver": "saga" if ratios.any() else solver, "dual": False, "l1_ratios": tuple(ratios.tolist())}
        shared["penalty"] = "deprecated" if peer.penalty == "deprecated" else "elasticnet" if ratios.any() else "l2"
    return peer.set_params(**shared)


def _fitted(peer: Any, model: Any, coef: Array, intercept: Any) -> Any:
    peer.coef_, peer.intercept_ = coef.copy(), intercept.copy()
    for name in _FITTED:
        if hasattr(model, name):
            setattr(peer, name, getattr(model, name))
    if hasattr(peer, "_get_loss"):  # generalised linear models ask the loss for the link
        peer._base_loss = peer._get_loss()
    return peer


def to_onnx(model: Any) -> Any:
    """See ``to_onnx`` of the estimators."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError('to_onnx needs the package onnx: pip install "gdfast[onnx]"') from error
    from onnx import helper, numpy_helper

    w = model._weights(dense_coefficients(model).dtype)
    graph = _Graph(w.dtype)
    z = graph.add("Gemm", "X", graph.constant(w[:-1]), graph.constant(w[-1]))
    n, d, kind = "rows", w.shape[0] - 1, graph.kind
    outputs = []
    if is_classifier(model):
        codes, second = _class_codes(graph, z, w.shape[1]), _probabilities(graph, model, z, w.shape[1])
        labels = np.asarray(model.classes_)
        labels = labels if labels.dtype.kind in "biuf" else labels.astype(object)
        table = numpy_helper.from_array(labels, "classes")
        graph.initializers.append(table)
        graph.add("Gather", "classes", codes, name="label", axis=0)
        outputs.append(helper.make_tensor_value_info("label", table.data_type, [n]))
        if second is None:
            shape = [n] if w.shape[1] == 1 else [n, w.shape[1]]
            graph.add("Reshape", z, graph.constant(np.array([-1, *shape[1:]])), name="decision")
            outputs.append(helper.make_tensor_value_info("decision", kind, shape))
        else:
            graph.add("Identity", second, name="probabilities")
            outputs.append(helper.make_tensor_value_info("probabilities", kind, [n, len(labels)]))
    else:
        if hasattr(model, "loss") and named(model.loss).link == "exp":
            z = graph.add("Exp", z)
        shape = [n, *np.shape(model.coef_)[:-1]]
        graph.add("Reshape", z, graph.constant(np.array([-1, *shape[1:]])), name="prediction")
        outputs.append(helper.make_tensor_value_info("prediction", kind, shape))
    inputs = [helper.make_tensor_value_info("X", kind, [n, d])]
    whole = helper.make_graph(graph.nodes, type(model).__name__, inputs, outputs, graph.initializers)
    made = helper.make_model(
        whole,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="gdfast",
        producer_version=__version__,
    )
    if hasattr(model, "feature_names_in_"):
        helper.set_model_props(made, {"feature_names": json.dumps([str(name) for name in model.feature_names_in_])})
    onnx.checker.check_model(made, full_check=True)
    return made


class _Graph:
    """Nodes and constants, each with a name of its own. Numbers are of one dtype, that of the weights."""

    def __init__(self, dtype: Any) -> None:
        from onnx import helper

        self.dtype, self.kind = dtype, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def constant(self, value: Any) -> str:
        """An array as it is; a float in the dtype of the graph."""
        from onnx import numpy_helper

        name = f"constant{len(self.initializers)}"
        array = np.ascontiguousarray(value) if isinstance(value, np.ndarray) else np.asarray(value, self.dtype)
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        """The name of the output of a new node."""
        from onnx import helper

        output = name or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output


def _class_codes(graph: _Graph, z: str, k: int) -> str:
    from onnx import TensorProto

    if k > 1:
        return graph.add("ArgMax", z, axis=1, keepdims=0)
    positive = graph.add("Reshape", graph.add("Greater", z, graph.constant(0.0)), graph.constant(np.array([-1])))
    return graph.add("Cast", positive, to=TensorProto.INT64)


def _probabilities(graph: _Graph, model: Any, z: str, k: int) -> str | None:
    """As ``predict_proba``; None where the loss has none."""
    loss = getattr(model, "loss", "softmax")
    if not hasattr(model, "predict_proba"):
        return None
    if loss == "softmax" and k > 1:
        return graph.add("Softmax", z, axis=1)
    if loss == "modified_huber":
        inside = graph.add("Clip", z, graph.constant(-1.0), graph.constant(1.0))
        p = graph.add("Div", graph.add("Add", inside, graph.constant(1.0)), graph.constant(2.0))
    else:
        p = graph.add("Sigmoid", z)
    if k == 1:
        return graph.add("Concat", graph.add("Sub", graph.constant(1.0), p), p, axis=1)
    total = graph.add("ReduceSum", p, graph.constant(np.array([1])), keepdims=1)
    some = graph.add("Greater", total, graph.constant(0.0))
    divisor = graph.add("Where", some, total, graph.constant(1.0))
    return graph.add("Where", some, graph.add("Div", p, divisor), graph.constant(1.0 / k))

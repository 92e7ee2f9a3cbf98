"""models.py: a loaded estimator predicts, refits and goes on training as the saved one, and foreign files are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from rules import every_kernel
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError

import gdfast
from gdfast import Adam, ExponentialDecay, LinearRegression, LogisticRegression, Ridge, SGDClassifier, SGDRegressor
from gdfast.checkpoint import CheckpointError, load_arrays, save_arrays
from gdfast.models import load, read, save
from gdfast.optimizers import SGD
from gdfast.schedules import InverseScaling

N, D = 120, 5
FAST = {"max_iter": 4, "tol": None, "random_state": 3}
DECAY = ExponentialDecay(0.1, decay_steps=10, decay_rate=0.9, staircase=True)
MODELS: dict[str, Any] = {
    "logistic": LogisticRegression(C=0.5, class_weight="balanced", n_jobs=1),
    "logistic, no penalty": LogisticRegression(C=np.inf, tol=1e-2),
    "logistic, l1": LogisticRegression(C=0.2, l1_ratio=1.0, tol=1e-2, max_iter=1000),
    "linear": LinearRegression(),
    "linear, no intercept": LinearRegression(fit_intercept=False),
    "ridge": Ridge(alpha=0.5, random_state=np.random.RandomState(0)),
    "sgd classifier": SGDClassifier(loss="log_loss", **FAST),
    "sgd classifier, softmax": SGDClassifier(loss="softmax", optimizer=Adam(DECAY, beta_1=0.8), batch_size=16, **FAST),
    "sgd classifier, mean": SGDClassifier(loss="modified_huber", average=True, learning_rate="constant", **FAST),
    "sgd regressor": SGDRegressor(optimizer=SGD(InverseScaling(0.01), momentum=0.9, nesterov=True), **FAST),
    "sgd regressor, exp": SGDRegressor(loss="poisson", optimizer="adam", clip_norm=1.0, average=3, **FAST),
}
# 0 targets: a 1-d y
CASES = [(name, count) for name, model in MODELS.items() for count in ((2, 3) if is_classifier(model) else (0, 1, 3))]
LABELS: dict[str, Any] = {
    "int64": np.array([7, -2, 2**60]),
    "int32": np.array([1, 2, 3], np.int32),
    "uint8": np.array([0, 255, 9], np.uint8),
    "uint64": np.array([2**64 - 1, 0, 5], np.uint64),
    "float32": np.array([1.0, 2.0, -3.0], np.float32),
    "bool": np.array([True, False]),
    "text": np.array(["été", "b", "a longer one"]),
    "objects": np.array(["x", "y", "zebra"], dtype=object),
}


def features(dtype: Any, n: int = N) -> Any:
    return np.random.default_rng(0).normal(size=(n, D)).astype(dtype)


def labels(values: Any, count: int) -> Any:
    noise = np.random.default_rng(2).normal(size=(N, D))
    return values[:count][np.argmax((features(float) + noise)[:, : len(values[:count])], axis=1)]


def counts(targets: int) -> Any:
    y = np.random.default_rng(1).poisson(2.0, size=(N, max(targets, 1))).astype(float)
    return y if targets else y[:, 0]


def through_a_file(model: Any, tmp_path: Path) -> Any:
    save(model, tmp_path / "m.gdfast")
    return load(tmp_path / "m.gdfast")


def assert_same_model(a: Any, b: Any, X: Any) -> None:
    assert type(a) is type(b)
    for name in ("predict", "decision_function", "predict_proba", "predict_log_proba"):
        assert hasattr(a, name) == hasattr(b, name)
        if hasattr(a, name):
            first, second = getattr(a, name)(X), getattr(b, name)(X)
            assert (first.dtype, first.shape) == (second.dtype, second.shape)
            assert first.tobytes() == second.tobytes() or first.dtype == object
            assert_array_equal(first, second)
    for name in ("coef_", "intercept_"):
        first, second = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
        assert (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())
    assert a.n_features_in_ == b.n_features_in_
    assert_array_equal(a.n_iter_, b.n_iter_)
    assert type(a.n_iter_) is type(b.n_iter_)


# What comes back


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "targets"), CASES)
def test_predictions_are_bit_equal(name: str, targets: int, dtype: Any, tmp_path: Path) -> None:
    model, X = clone(MODELS[name]), features(dtype)
    y = labels(np.array(["no", "yes", "maybe"]), targets) if is_classifier(model) else counts(targets)
    model.fit(X, y)
    assert_same_model(model, through_a_file(model, tmp_path), X)


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("model", [LogisticRegression(), SGDClassifier(optimizer="adam", **FAST)])
def test_labels_of_every_sort_come_back(model: Any, kind: str, tmp_path: Path) -> None:
    X, values = features(float), LABELS[kind]
    model = clone(model).fit(X, labels(values, len(values)))
    loaded = through_a_file(model, tmp_path)
    assert_array_equal(loaded.classes_, model.classes_)
    assert loaded.classes_.dtype.kind == model.classes_.dtype.kind
    assert loaded.predict(X).tolist() == model.predict(X).tolist()


def test_names_of_features_come_back(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas", reason="needs data frames with names")
    frame = pd.DataFrame(features(float), columns=list("abcdé"))
    model = Ridge().fit(frame, counts(0))
    loaded = through_a_file(model, tmp_path)
    assert loaded.feature_names_in_.tolist() == list("abcdé")
    assert loaded.feature_names_in_.dtype == object
    assert_array_equal(loaded.predict(frame), model.predict(frame))
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame[list("édcba")])


@pytest.mark.parametrize("name", MODELS)
def test_parameters_come_back_and_a_loaded_model_is_cloned_and_refitted(name: str, tmp_path: Path) -> None:
    model, X = clone(MODELS[name]), features(float)
    y = labels(np.array(["no", "yes"]), 2) if is_classifier(model) else counts(0)
    loaded = through_a_file(model.fit(X, y), tmp_path)
    expected = model.get_params()
    if isinstance(expected.get("random_state"), np.random.RandomState):
        expected["random_state"] = None
    assert loaded.get_params() == expected
    assert {k: type(v) for k, v in loaded.get_params().items()} == {k: type(v) for k, v in expected.items()}
    assert not hasattr(clone(loaded), "coef_")
    assert_same_model(clone(loaded).fit(X, y), clone(model).fit(X, y), X)
    assert_same_model(loaded.fit(X, y), model, X)


@pytest.mark.parametrize(
    "class_weight", [{"no": 2.0, "yes": 0.5}, {np.str_("no"): np.float32(2)}, "balanced", None], ids=str
)
def test_class_weights_come_back(class_weight: Any, tmp_path: Path) -> None:
    model = LogisticRegression(class_weight=class_weight).fit(features(float), labels(np.array(["no", "yes"]), 2))
    assert through_a_file(model, tmp_path).class_weight == class_weight


@pytest.mark.parametrize("keys", [(7, -2), (True, False), (1.0, 2.0)])
def test_class_weights_with_keys_of_other_kinds(keys: Any, tmp_path: Path) -> None:
    model = LogisticRegression(class_weight={keys[0]: 3, keys[1]: 1}).fit(features(float), labels(np.array(keys), 2))
    found = through_a_file(model, tmp_path).class_weight
    assert found == {keys[0]: 3, keys[1]: 1}
    assert [type(key) for key in found] == [type(key) for key in keys]


@pytest.mark.parametrize("alpha", [[0.1, 2.0], np.array([0.1, 2.0]), np.float32(3.0), 3])
def test_alpha_of_every_sort_comes_back(alpha: Any, tmp_path: Path) -> None:
    loaded = through_a_file(Ridge(alpha=alpha).fit(features(float), counts(2)), tmp_path)
    assert_array_equal(loaded.alpha, alpha)
    assert loaded.solver_ == "newton"


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("sgd")])
def test_training_goes_on_where_it_stood(name: str, tmp_path: Path) -> None:
    model, X = clone(MODELS[name]), features(np.float32)
    y = labels(np.array([0, 1, 2]), 3) if is_classifier(model) else counts(0)
    first: dict[str, Any] = {"classes": [0, 1, 2]} if is_classifier(model) else {}
    model.partial_fit(X, y, **first).partial_fit(X, y)
    loaded = through_a_file(model, tmp_path)
    assert_same_model(loaded.partial_fit(X, y), model.partial_fit(X, y), X)
    assert loaded.t_ == model.t_


def test_extra_comes_back(tmp_path: Path) -> None:
    model, extra = Ridge().fit(features(float), counts(0)), {"columns": [["a", None]], "n": 3}
    save(model, tmp_path / "m.gdfast", extra=extra)
    assert read(tmp_path / "m.gdfast")[1] == extra
    save(model, tmp_path / "m.gdfast")
    assert read(tmp_path / "m.gdfast")[1] == {}


def test_in_another_process(tmp_path: Path) -> None:
    X = features(np.float32)
    model = LogisticRegression().fit(X, labels(np.array(["a", "b", "c"]), 3))
    gdfast.save(model, tmp_path / "m.gdfast")
    np.save(tmp_path / "X.npy", X)
    code = (
        "import sys, numpy as np, gdfast; "
        "np.save(sys.argv[3], gdfast.load(sys.argv[1]).predict_proba(np.load(sys.argv[2])))"
    )
    files = [str(tmp_path / name) for name in ("m.gdfast", "X.npy", "p.npy")]
    subprocess.run([sys.executable, "-c", code, *files], check=True, timeout=60)
    assert np.load(files[2]).tobytes() == model.predict_proba(X).tobytes()


def test_equal_models_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(SGDRegressor(**FAST).fit(features(float), counts(0)), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# What cannot be saved


class Own(Ridge):
    """A subclass that another program would not have."""


@pytest.mark.parametrize("model", [object(), 3, None, Own(), Ridge])
def test_only_models_of_gdfast_are_saved(model: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"model is .*, expected one of gdfast's own: LinearRegression, "):
        save(model, tmp_path / "m.gdfast")
    assert not list(tmp_path.iterdir())


def test_an_estimator_of_the_same_name_is_not_ours(tmp_path: Path) -> None:
    from sklearn.linear_model import Ridge as Theirs

    with pytest.raises(TypeError, match=r"model is sklearn\.linear_model\._ridge\.Ridge"):
        save(Theirs().fit(features(float), counts(0)), tmp_path / "m.gdfast")


def test_an_unfitted_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError):
        save(Ridge(), tmp_path / "m.gdfast")


@pytest.mark.parametrize("value", [{1, 2}, print, (print,), b"x", 1j, np.zeros((2, 2)), np.array([None]), {"a": print}])
def test_a_parameter_that_json_cannot_express_is_named(value: Any, tmp_path: Path) -> None:
    model = Ridge().fit(features(float), counts(0)).set_params(alpha=value)
    with pytest.raises(TypeError, match=r"parameter alpha is .*, which a model file cannot hold; expected "):
        save(model, tmp_path / "m.gdfast")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kernel", every_kernel(DECAY))
def test_every_optimizer_goes_on_from_a_file(kernel: str, tmp_path: Path) -> None:
    X, y = features(float), labels(np.array(["no", "yes"]), 2)
    optimizer = every_kernel(DECAY, weight_decay=0.1)[kernel]
    model = SGDClassifier(loss="log_loss", optimizer=optimizer, batch_size=16, random_state=0)
    model.partial_fit(X, y, classes=np.unique(y))
    save(model, tmp_path / "model.gdfast")
    again = load(tmp_path / "model.gdfast")
    assert again.optimizer == optimizer
    for m in (model, again):
        m.partial_fit(X, y)
    assert np.array_equal(again.coef_, model.coef_)
    assert np.array_equal(again._state.slots, model._state.slots)


def test_a_field_of_an_optimizer_is_named(tmp_path: Path) -> None:
    model = SGDRegressor(**FAST).fit(features(float), counts(0))
    model.set_params(optimizer=Adam(ExponentialDecay(0.1, decay_steps=np.array([[3]]), decay_rate=0.5)))
    with pytest.raises(TypeError, match=r"parameter optimizer\.learning_rate\.decay_steps is ndarray"):
        save(model, tmp_path / "m.gdfast")


# What is not loaded


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        ({}, "holds None, expected a model written by gdfast.save"),
        ({"kind": "checkpoint"}, "holds 'checkpoint', expected a model"),
        (
            {"kind": "model"},
            "holds the class None, expected one of LinearRegression, .*; it was written by gdfast None",
        ),
        ({"kind": "model", "class": ["Ridge"]}, "holds the class"),
        ({"kind": "model", "class": "LinearModel", "gdfast": "9.9"}, "holds the class 'LinearModel'.*by gdfast 9.9"),
        ({"kind": "model", "class": "os.system"}, "holds the class 'os.system'"),
        ({"kind": "model", "class": "Ridge"}, "is no whole Ridge of gdfast None: KeyError: 'parameters'"),
    ],
)
def test_files_of_another_kind(meta: Any, sentence: str, tmp_path: Path) -> None:
    save_arrays(tmp_path / "m", {"coef_": np.ones(3)}, meta)
    with pytest.raises(CheckpointError, match=sentence):
        load(tmp_path / "m")


def test_a_pickle_and_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"\x80\x04N.")
    with pytest.raises(CheckpointError, match="is a pickle"):
        load(tmp_path / "m")
    with pytest.raises(CheckpointError, match=r"cannot read .*absent"):
        load(tmp_path / "absent")


DEEP: Any = 1
for _ in range(50):
    DEEP = [DEEP]
FORGED: dict[str, tuple[tuple[str, ...], Any]] = {
    "unknown parameter": (("parameters", "colour"), 1),
    "unknown attribute": (("attributes", "predict"), 1),
    "unknown tag": (("parameters", "C"), {"code": "print()"}),
    "empty tag": (("parameters", "C"), {}),
    "parameters of no kind": (("parameters",), 3),
    "unknown optimizer": (("parameters", "C"), {"optimizer": "Popen", "fields": {}}),
    "unknown schedule": (("parameters", "C"), {"schedule": "Popen", "fields": {}}),
    "unknown field": (("parameters", "C"), {"optimizer": "adam", "fields": {"colour": 1}}),
    "optimizer out of range": (("parameters", "C"), {"optimizer": "adam", "fields": {"beta_1": 2.0}}),
    "pairs of three": (("parameters", "C"), {"pairs": [[1, 2, 3]]}),
    "a key that is a list": (("parameters", "C"), {"pairs": [[[1], 2]]}),
    "float of text": (("parameters", "C"), {"float": "one"}),
    "objects": (("attributes", "classes_"), {"array": "object", "values": [[], {}]}),
    "objects of numbers": (("attributes", "classes_"), {"array": "object", "values": [1, 2]}),
    "records": (("attributes", "classes_"), {"array": "V1000000000", "values": [0, 1]}),
    "overflow": (("attributes", "classes_"), {"array": "int8", "values": [1, 1000]}),
    "ragged": (("attributes", "classes_"), {"array": "int64", "values": [1, [2]]}),
    "two dimensions": (("attributes", "classes_"), {"array": "int64", "values": [[1], [2]]}),
    "wide text": (("attributes", "classes_"), {"array": "U99999999", "values": list("abc")}),
    "negative text": (("attributes", "classes_"), {"array": "U-1", "values": list("abc")}),
    "text of no width": (("attributes", "classes_"), {"array": "U", "values": list("abc")}),
    "one class": (("attributes", "classes_"), {"array": "int64", "values": [1]}),
    "three classes": (("attributes", "classes_"), {"array": "int64", "values": [1, 2, 3]}),
    "classes that are a number": (("attributes", "classes_"), 2),
    "other features": (("attributes", "n_features_in_"), 10**12),
    "deep features": (("attributes", "n_features_in_"), DEEP),
    "fewer names": (("attributes", "feature_names_in_"), {"array": "object", "values": ["a"]}),
    "extra is a list": (("extra",), [1]),
    "no attributes": (("attributes",), {}),
}
ARRAYS: dict[str, dict[str, Any]] = {
    "no coef_": {"coef_": None},
    "no intercept_": {"intercept_": None},
    "three dimensions": {"coef_": np.ones((1, 1, D))},
    "no dimension": {"coef_": np.ones(())},
    "one dimension": {"coef_": np.ones(D)},
    "integers": {"coef_": np.ones((1, D), np.int64)},
    "NaN": {"coef_": np.full((1, D), np.nan)},
    "two intercepts": {"intercept_": np.ones(2)},
    "infinite intercept": {"intercept_": np.array([np.inf])},
    "state of another shape": {"state_w": np.ones((3, 1))},
    "state of another type": {"state_w": np.ones((D + 1, 1), np.float32)},
    "slots of another shape": {"state_slots": np.ones((1, D, 1))},
    "a mean of another shape": {"state_average": np.ones((1, 1))},
    "no slots": {"state_slots": None},
}


@pytest.fixture
def forged(tmp_path: Path) -> Any:
    path = tmp_path / "m.gdfast"
    save(SGDClassifier(**FAST).fit(features(float), labels(np.array(["no", "yes"]), 2)), path)
    arrays, meta = load_arrays(path)
    meta["parameters"]["C"] = 1.0  # replaced, or refused: SGDClassifier has none
    del meta["parameters"]["C"]
    return path, arrays, meta


@pytest.mark.parametrize(("where", "value"), FORGED.values(), ids=FORGED.keys())
def test_forged_descriptions_are_refused(forged: Any, where: tuple[str, ...], value: Any) -> None:
    path, arrays, meta = forged
    inner = meta
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1] if where[-1] != "C" else "alpha"] = value
    save_arrays(path, arrays, json.loads(json.dumps(meta)))
    with pytest.raises(CheckpointError, match="is no whole SGDClassifier of gdfast"):
        load(path)


@pytest.mark.parametrize("changes", ARRAYS.values(), ids=ARRAYS.keys())
def test_forged_arrays_are_refused(forged: Any, changes: dict[str, Any]) -> None:
    path, arrays, meta = forged
    save_arrays(path, {k: v for k, v in {**arrays, **changes}.items() if v is not None}, meta)
    with pytest.raises(CheckpointError, match="is no whole SGDClassifier of gdfast"):
        load(path)


def test_the_file_that_is_forged_loads_as_it_is(forged: Any) -> None:
    path, arrays, meta = forged
    save_arrays(path, arrays, meta)
    assert load(path).classes_.tolist() == ["no", "yes"]


def test_forged_slots_are_refused_when_training_goes_on(forged: Any) -> None:
    path, arrays, meta = forged
    save_arrays(path, {**arrays, "state_slots": np.ones((1, D + 1, 1))}, meta)
    with pytest.raises((ValueError, TypeError), match="slots"):
        load(path).partial_fit(features(float), labels(np.array(["no", "yes"]), 2))


def test_no_code_can_be_loaded() -> None:
    text = Path(sys.modules["gdfast.models"].__file__ or "").read_text(encoding="utf-8")
    for word in ("import pickle", "eval(", "exec(", "import_module", "__import__", "joblib"):
        assert word not in text

"""Programs written for scikit-learn, run as they are and with nothing but the import changed: both work, and agree."""

from __future__ import annotations

import textwrap
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
from sklearn.exceptions import ConvergenceWarning


@dataclass(frozen=True)
class Program:
    """What it ends with: `scores`, a dict of numbers. They agree within `tolerance`: accuracies 0.03, R2 0.01, ..."""

    text: str
    tolerance: float
    # warnings that the program gives with either package, as it stops early on purpose
    warns: type[Warning] | None = None

    def run(self, package: str) -> dict[str, float]:
        text = textwrap.dedent(self.text)
        assert "from sklearn.linear_model import" in text
        text = text.replace("from sklearn.linear_model import", f"from {package} import")
        space: dict[str, Any] = {"__name__": "program"}
        exec(compile(text, f"<{package}>", "exec"), space)
        return {key: float(value) for key, value in space["scores"].items()}


PROGRAMS = {
    "digits, one against all of the classes at once": Program(
        """
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import accuracy_score, log_loss
        from sklearn.model_selection import train_test_split

        X, y = load_digits(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(X / 16.0, y, test_size=0.3, random_state=42, stratify=y)
        clf = LogisticRegression(penalty="l2", C=0.5, solver="saga", max_iter=1000, tol=1e-4, random_state=42, n_jobs=2)
        clf.fit(X_train, y_train)
        assert clf.coef_.shape == (10, 64) and clf.intercept_.shape == (10,) and clf.n_iter_[0] <= 1000
        scores = {
            "accuracy": accuracy_score(y_test, clf.predict(X_test)),
            "log_loss": log_loss(y_test, clf.predict_proba(X_test)),
            "log_proba": -clf.predict_log_proba(X_test)[range(len(y_test)), y_test].mean(),
        }
        """,
        0.01,
    ),
    "cancer, liblinear and balanced classes": Program(
        """
        from sklearn.datasets import load_breast_cancer
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import roc_auc_score
        from sklearn.model_selection import StratifiedKFold, cross_val_score
        from sklearn.pipeline import Pipeline
        from sklearn.preprocessing import StandardScaler

        data = load_breast_cancer()
        pipe = Pipeline([
            ("scale", StandardScaler()),
            ("clf", LogisticRegression(solver="liblinear", class_weight="balanced", C=1.0, random_state=1)),
        ])
        folds = StratifiedKFold(n_splits=5, shuffle=True, random_state=1)
        auc = cross_val_score(pipe, data.data, data.target, cv=folds, scoring="roc_auc")
        accuracy = cross_val_score(pipe, data.data, data.target, cv=folds)
        pipe.fit(data.data, data.target)
        strongest = abs(pipe.named_steps["clf"].coef_[0]).argmax()
        assert data.feature_names[strongest]
        scores = {"auc": auc.mean(), "accuracy": accuracy.mean(), "margin": (pipe.decision_function(data.data) > 0).mean()}
        """,
        0.02,
    ),
    "iris, grid search over a pipeline": Program(
        """
        from sklearn.datasets import load_iris
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, train_test_split
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        X, y = load_iris(return_X_y=True, as_frame=True)
        X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
        pipe = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cg", max_iter=200))
        grid = {"logisticregression__C": [0.01, 0.1, 1, 10], "logisticregression__fit_intercept": [True, False]}
        search = GridSearchCV(pipe, grid, cv=5, n_jobs=1, return_train_score=True)
        search.fit(X_train, y_train)
        assert list(search.best_estimator_.feature_names_in_) == list(X.columns)
        scores = {
            "best": search.best_score_,
            "C": search.best_params_["logisticregression__C"],
            "test": search.score(X_test, y_test),
            "worst": search.cv_results_["mean_test_score"].min(),
        }
        """,
        0.03,
    ),
    "text labels and a column transformer": Program(
        """
        import numpy as np
        import pandas as pd
        from sklearn.compose import make_column_transformer
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import classification_report, confusion_matrix
        from sklearn.model_selection import train_test_split
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder, StandardScaler

        rng = np.random.default_rng(0)
        frame = pd.DataFrame({
            "age": rng.integers(18, 80, 2000),
            "fare": rng.gamma(2, 20, 2000),
            "class": rng.choice(["first", "second", "third"], 2000, p=[0.2, 0.3, 0.5]),
        })
        risk = 0.03 * (frame["age"] - 40) - 0.02 * frame["fare"] + frame["class"].map({"first": -1, "second": 0, "third": 1})
        frame["fate"] = np.where(risk + rng.logistic(size=2000) > 0, "lost", "saved")
        train, test = train_test_split(frame, test_size=0.25, random_state=0)
        columns = ["age", "fare", "class"]
        prepare = make_column_transformer(
            (StandardScaler(), ["age", "fare"]), (OneHotEncoder(sparse_output=False), ["class"])
        )
        model = make_pipeline(prepare, LogisticRegression(class_weight={"lost": 1.0, "saved": 2.0}))
        model.fit(train[columns], train["fate"])
        report = classification_report(test["fate"], model.predict(test[columns]), output_dict=True)
        table = confusion_matrix(test["fate"], model.predict(test[columns]), labels=model.classes_)
        scores = {
            "accuracy": report["accuracy"],
            "recall": report["saved"]["recall"],
            "lost": table[0, 0] / table[0].sum(),
            "weight": model[-1].coef_[0, 0],
        }
        """,
        0.01,
    ),
    "choosing columns with an L1 penalty": Program(
        """
        from sklearn.datasets import make_classification
        from sklearn.feature_selection import SelectFromModel
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        X, y = make_classification(800, 40, n_informative=5, n_redundant=0, shuffle=False, random_state=3)
        X = StandardScaler().fit_transform(X)
        chooser = SelectFromModel(LogisticRegression(l1_ratio=1, C=0.05, solver="saga", max_iter=5000)).fit(X, y)
        kept = chooser.get_support()
        final = LogisticRegression(l1_ratio=0.5, C=0.1, solver="saga", max_iter=5000).fit(X[:, kept], y)
        scores = {"kept": kept.sum(), "informative": kept[:5].sum(), "accuracy": final.score(X[:, kept], y)}
        """,
        0.01,
    ),
    "wine, SGD with an adaptive rate": Program(
        """
        from sklearn.datasets import load_wine
        from sklearn.linear_model import SGDClassifier
        from sklearn.metrics import log_loss
        from sklearn.model_selection import train_test_split
        from sklearn.preprocessing import StandardScaler

        X, y = load_wine(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0)
        scaler = StandardScaler().fit(X_train)
        X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)
        clf = SGDClassifier(
            loss="log_loss", alpha=1e-2, learning_rate="adaptive", eta0=0.05, max_iter=500, tol=1e-4, random_state=0
        )
        clf.fit(X_train, y_train)
        scores = {"train": clf.score(X_train, y_train), "test": clf.score(X_test, y_test)}
        scores["log_loss"] = log_loss(y_test, clf.predict_proba(X_test))
        """,
        0.03,
    ),
    "out of core, partial_fit over chunks": Program(
        """
        import numpy as np
        from sklearn.datasets import make_classification
        from sklearn.linear_model import SGDClassifier
        from sklearn.preprocessing import StandardScaler

        X, y = make_classification(6000, 20, n_informative=10, n_classes=3, class_sep=1.5, random_state=0)
        X_test, y_test = X[5000:], y[5000:]
        scaler = StandardScaler()
        for chunk in np.array_split(np.arange(5000), 50):
            scaler.partial_fit(X[chunk])
        clf = SGDClassifier(loss="hinge", penalty="l2", alpha=1e-3, random_state=0)
        progress = []
        for epoch in range(3):
            for chunk in np.array_split(np.arange(5000), 50):
                clf.partial_fit(scaler.transform(X[chunk]), y[chunk], classes=np.unique(y))
            progress.append(clf.score(scaler.transform(X_test), y_test))
        assert clf.t_ == 15001
        scores = {"accuracy": np.mean(progress)}
        """,
        0.03,
    ),
    "SGD losses and rates side by side": Program(
        """
        from sklearn.datasets import make_blobs
        from sklearn.linear_model import SGDClassifier
        from sklearn.model_selection import train_test_split
        from sklearn.preprocessing import StandardScaler

        X, y = make_blobs(1500, n_features=6, centers=3, cluster_std=4.0, random_state=2)
        X_train, X_test, y_train, y_test = train_test_split(StandardScaler().fit_transform(X), y, random_state=0)
        scores = {}
        for loss in ["hinge", "log_loss", "modified_huber", "squared_hinge", "huber", "squared_error"]:
            for rate in ["constant", "invscaling", "adaptive"]:
                clf = SGDClassifier(loss=loss, learning_rate=rate, eta0=0.005, power_t=0.25, epsilon=0.2, average=True,
                                    max_iter=40, tol=None, random_state=0)
                scores[loss + " " + rate] = clf.fit(X_train, y_train).score(X_test, y_test)
        for penalty in ["l1", "elasticnet", None]:
            clf = SGDClassifier(penalty=penalty, alpha=1e-3, l1_ratio=0.3, learning_rate="constant", eta0=0.005,
                                average=10, max_iter=60, tol=None, random_state=0)
            scores[str(penalty)] = clf.fit(X_train, y_train).score(X_test, y_test)
        """,
        0.03,
    ),
    "SGD with early stopping": Program(
        """
        from sklearn.datasets import load_breast_cancer
        from sklearn.linear_model import SGDClassifier
        from sklearn.model_selection import cross_val_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        X, y = load_breast_cancer(return_X_y=True)
        clf = make_pipeline(
            StandardScaler(),
            SGDClassifier(loss="log_loss", early_stopping=True, validation_fraction=0.2, n_iter_no_change=10,
                          class_weight="balanced", max_iter=500, random_state=5),
        )
        accuracy = cross_val_score(clf, X, y, cv=5)
        assert clf.fit(X, y)[-1].n_iter_ < 500
        scores = {"accuracy": accuracy.mean()}
        """,
        0.03,
    ),
    "a calibrated SVM by SGD": Program(
        """
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.datasets import load_digits
        from sklearn.linear_model import SGDClassifier
        from sklearn.metrics import log_loss
        from sklearn.model_selection import train_test_split

        X, y = load_digits(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=1)
        svm = SGDClassifier(alpha=1e-4, max_iter=200, average=True, random_state=1)
        model = CalibratedClassifierCV(svm, cv=3).fit(X_train, y_train)
        scores = {"accuracy": model.score(X_test, y_test), "log_loss": log_loss(y_test, model.predict_proba(X_test)) / 10}
        """,
        0.02,
    ),
    "diabetes, plain regression": Program(
        """
        import numpy as np
        from sklearn.datasets import load_diabetes
        from sklearn.linear_model import LinearRegression
        from sklearn.metrics import mean_squared_error, r2_score

        X, y = load_diabetes(return_X_y=True)
        X = X[:, np.newaxis, 2]
        regr = LinearRegression()
        regr.fit(X[:-20], y[:-20])
        y_pred = regr.predict(X[-20:])
        line = regr.coef_[0] * 0.05 + regr.intercept_
        scores = {
            "mse": mean_squared_error(y[-20:], y_pred) / 2548.07,
            "r2": r2_score(y[-20:], y_pred),
            "line": line / 200,
            "weighted": LinearRegression(fit_intercept=False, n_jobs=2).fit(X, y, np.arange(1, 443)).score(X, y) / 10,
        }
        """,
        1e-6,
    ),
    "ridge of many targets and a search for alpha": Program(
        """
        import numpy as np
        from sklearn.datasets import load_diabetes, make_regression
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import GridSearchCV, train_test_split

        X, y = load_diabetes(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
        search = GridSearchCV(Ridge(solver="svd"), {"alpha": np.logspace(-4, 2, 13)}, cv=5).fit(X_train, y_train)
        path = [Ridge(alpha=a, solver=s).fit(X_train, y_train).coef_ for a in (0.1, 10) for s in ("cholesky", "lsqr", "sag")]
        X2, Y2 = make_regression(200, 10, n_targets=3, noise=5, random_state=0)
        many = Ridge(alpha=[0.1, 1.0, 10.0]).fit(X2, Y2)
        assert many.predict(X2).shape == (200, 3)
        column = Ridge(solver="cholesky").fit(X_train, y_train[:, None])
        scores = {
            "alpha": np.log10(search.best_params_["alpha"]),
            "r2": search.score(X_test, y_test),
            "norm": np.linalg.norm(path[0]) / 1000,
            "sag": np.linalg.norm(path[5]) / 1000,
            "many": many.score(X2, Y2),
            "shape": column.coef_.ndim + column.predict(X_test).ndim,
        }
        """,
        2e-3,
    ),
    "regression by SGD": Program(
        """
        import numpy as np
        from sklearn.datasets import make_regression
        from sklearn.linear_model import SGDRegressor
        from sklearn.model_selection import train_test_split
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        X, y = make_regression(1000, 15, n_informative=8, noise=3.0, random_state=0)
        y = (y - y.mean()) / y.std()
        X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
        scores = {}
        for loss in ["squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"]:
            reg = make_pipeline(StandardScaler(), SGDRegressor(loss=loss, penalty="elasticnet", alpha=1e-4, max_iter=1000,
                                                               tol=1e-4, epsilon=0.01, random_state=0))
            scores[loss] = reg.fit(X_train, y_train).score(X_test, y_test)
        stopped = SGDRegressor(early_stopping=True, random_state=0, max_iter=2000).fit(X_train, y_train)
        online = SGDRegressor(learning_rate="constant", eta0=0.005, random_state=0)
        for start in range(0, 700, 35):
            for _ in range(5):
                online.partial_fit(X_train[start : start + 35], y_train[start : start + 35])
        scores["early stopping"] = stopped.score(X_test, y_test)
        scores["online"] = online.score(X_test, y_test)
        """,
        0.01,
    ),
    "a warm start, epoch by epoch": Program(
        """
        from sklearn.base import clone
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression, SGDClassifier
        from sklearn.model_selection import train_test_split

        X, y = load_digits(return_X_y=True)
        X_train, X_val, y_train, y_val = train_test_split(X / 16, y, random_state=0)
        sgd = SGDClassifier(loss="log_loss", max_iter=1, tol=None, warm_start=True, learning_rate="constant", eta0=0.01,
                            random_state=0)
        best, best_model = 0.0, None
        for epoch in range(30):
            sgd.fit(X_train, y_train)
            score = sgd.score(X_val, y_val)
            if score > best:
                best, best_model = score, clone(sgd)
        path = []
        model = LogisticRegression(warm_start=True, max_iter=500)
        for C in (0.01, 0.1, 1.0):
            path.append(model.set_params(C=C).fit(X_train, y_train).score(X_val, y_val))
        assert not hasattr(best_model, "coef_")
        scores = {"sgd": best, "last": sgd.score(X_val, y_val), "strong": path[0], "weak": path[2]}
        """,
        0.02,
    ),
    "saving and loading": Program(
        """
        import os
        import pickle
        import tempfile
        import joblib
        import numpy as np
        from sklearn.datasets import load_iris
        from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier

        X, y = load_iris(return_X_y=True)
        scores = {}
        for model in (LogisticRegression(max_iter=1000), Ridge(), SGDClassifier(random_state=0, max_iter=2000)):
            name = type(model).__name__
            model.fit(X, y)
            again = pickle.loads(pickle.dumps(model))
            with tempfile.TemporaryDirectory() as folder:
                joblib.dump(model, os.path.join(folder, "model.joblib"))
                loaded = joblib.load(os.path.join(folder, "model.joblib"))
            assert np.array_equal(again.predict(X), model.predict(X)) and np.array_equal(loaded.coef_, model.coef_)
            if name != "SGDClassifier":
                scores[name] = again.score(X, y)
        """,
        0.01,
    ),
    "meta-estimators": Program(
        """
        from sklearn.datasets import load_iris
        from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
        from sklearn.feature_selection import RFE
        from sklearn.inspection import permutation_importance
        from sklearn.linear_model import LogisticRegression, SGDClassifier
        from sklearn.model_selection import cross_val_predict, learning_curve
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.tree import DecisionTreeClassifier

        X, y = load_iris(return_X_y=True)
        X = StandardScaler().fit_transform(X)
        log, sgd = LogisticRegression(), SGDClassifier(loss="log_loss", random_state=0, average=True)
        tree = DecisionTreeClassifier(max_depth=3, random_state=0)
        ranked = RFE(LogisticRegression(C=0.1), n_features_to_select=2).fit(X, y)
        sizes, _, test = learning_curve(log, X, y, cv=5, train_sizes=[0.5, 1.0], shuffle=True, random_state=0)
        scores = {
            "vote": VotingClassifier([("log", log), ("sgd", sgd), ("tree", tree)], voting="soft").fit(X, y).score(X, y),
            "stack": StackingClassifier([("sgd", sgd), ("tree", tree)], final_estimator=log).fit(X, y).score(X, y),
            "bag": BaggingClassifier(log, n_estimators=5, random_state=0).fit(X, y).score(X, y),
            "rest": OneVsRestClassifier(log).fit(X, y).score(X, y),
            "ranked": ranked.support_ @ [1, 2, 4, 8],
            "predicted": (cross_val_predict(log, X, y, cv=5, method="predict_proba").argmax(axis=1) == y).mean(),
            "curve": test.mean(axis=1)[-1],
            "importance": permutation_importance(log.fit(X, y), X, y, random_state=0).importances_mean.argmax(),
        }
        """,
        0.03,
    ),
    "a budget of iterations": Program(
        """
        from sklearn.datasets import load_digits
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import train_test_split

        X, y = load_digits(return_X_y=True)
        X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
        clf = LogisticRegression(max_iter=3).fit(X_train, y_train)
        scores = {"accuracy": clf.score(X_test, y_test) > 0.85}
        """,
        0.0,
        ConvergenceWarning,
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_works_with_nothing_but_its_import_changed(name: str) -> None:
    program = PROGRAMS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, about its own future
        before = program.run("sklearn.linear_model")
    if program.warns is None:
        after = program.run("gdfast")
    else:
        with pytest.warns(program.warns):
            after = program.run("gdfast")
    assert after == pytest.approx(before, rel=0, abs=program.tolerance)

"""The table of scikit-learn's names is that of the estimators."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import sklearn

PATH = Path(__file__).parent.parent / "docs" / "scikit_learn_table.py"
spec = importlib.util.spec_from_file_location("scikit_learn_table", PATH)
assert spec is not None
assert spec.loader is not None
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)


def test_the_page_is_what_the_estimators_have() -> None:
    text = table.PAGE.read_text()
    if f"scikit-learn {sklearn.__version__};" not in text:
        pytest.skip("the page was written for another version of scikit-learn")
    assert text == table.page()


@pytest.mark.parametrize("name", table.NAMES)
def test_every_name_is_there_or_has_its_reason(name: str) -> None:
    found = table.rows(name)  # raises KeyError for a name that is neither
    assert len(found) >= 15
    assert {"fit", "predict", "score", "coef_", "intercept_", "set_fit_request"} <= {member for _, member, _ in found}

"""compare.py as a bench: gdfast against its peers, set by set."""

from __future__ import annotations

import json

import compare
import pytest
import sets
from click.testing import CliRunner


@pytest.mark.parametrize("one", sets.ALL, ids=lambda one: one.name)
def bench_compare(race, one):
    if missing := one.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    limits = {"small": True, "rounds": 1, "max_seconds": compare.SMALL_SECONDS} if race.small else {}
    table = race.benchmark.pedantic(compare.compare, args=(one,), kwargs=limits, rounds=1)
    race.lines.extend([] if race.small else table.lines())
    own = table.entries[0]
    race.benchmark.extra_info.update(table.as_json())
    if "sparse input is not supported" in own.note:
        pytest.skip("gdfast takes no sparse input yet")
    assert own.closest <= one.target, f"gdfast ends {own.closest:.1e} above the best objective known {own.note}"


def bench_compare_command(tmp_path):
    """The command line: its figures and its picture."""
    table, picture = tmp_path / "table.json", tmp_path / "picture.png"
    options = [
        "--small",
        "--sets",
        "H",
        "--peers",
        "scikit-learn newton-cholesky",
        "--json",
        table,
        "--picture",
        picture,
    ]
    result = CliRunner().invoke(compare.main, [str(option) for option in options])
    assert result.exit_code == 0, result.output
    assert "best objective known" in result.output
    fits = json.loads(table.read_text())["sets"]["H"]["peers"]["scikit-learn newton-cholesky"]["fits"]
    assert fits[0]["median"] > 0
    assert picture.stat().st_size > 0

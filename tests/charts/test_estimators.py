"""Error against compute: every arm is a line, the wanted error a rule."""

import polars as pl

from headflow.charts.estimators import error_against_compute


def test_every_arm_is_drawn_in_order_of_cost_with_the_wanted_error_as_a_rule():
    rows = [("ridge", 100, 0, 100.0, 0.2), ("ridge", 400, 0, 400.0, 0.1), ("prior", 32, 8, 53.6, 1e-9), ("prior", 16, 4, 26.8, 0.09)]
    curves = pl.DataFrame(rows, schema=["arm", "masks", "corners", "forwards", "error"], orient="row").with_columns(model=pl.lit("a model"))
    chart = error_against_compute(curves, wanted=0.07).to_dict()
    lines, rule = chart["spec"]["layer"]
    data = chart["datasets"][chart["data"]["name"]]
    assert [row["drawn"] for row in data] == [0.09, 0.001, 0.2, 0.1] and data[1]["error"] == 1e-9
    assert chart["facet"]["field"] == "model"
    assert [row["arm"] for row in data] == ["prior", "prior", "ridge", "ridge"]
    assert [row["forwards"] for row in data] == [26.8, 53.6, 100.0, 400.0]
    assert lines["encoding"]["x"]["scale"]["type"] == lines["encoding"]["y"]["scale"]["type"] == "log"
    assert "masked forwards" in lines["encoding"]["x"]["title"]
    assert rule["encoding"]["y"]["field"] == "wanted" and {row["wanted"] for row in data} == {0.07}

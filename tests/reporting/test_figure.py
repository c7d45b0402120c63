"""Pictures of charts: few colours, none of them another than the chart's to the eye."""

import io

import altair as alt
import numpy as np
import polars as pl
import vl_convert
from PIL import Image

from headflow.reporting.figure import LARGEST_PNG, VERSION, png


def test_a_chart_of_many_colours_keeps_them_to_the_eye() -> None:
    places = pl.DataFrame({"x": [i % 40 for i in range(1600)], "y": [i // 40 for i in range(1600)], "z": np.linspace(-1, 1, 1600)})
    spec = alt.Chart(places).mark_rect().encode(x="x:O", y="y:O", color=alt.Color("z:Q", scale=alt.Scale(scheme="redblue"))).properties(title="many").to_dict()
    with Image.open(io.BytesIO(vl_convert.vegalite_to_png(spec, vl_version=VERSION, scale=2.0))) as whole, Image.open(io.BytesIO(png(spec))) as few:
        true, found = (np.asarray(image.convert("RGB")).astype(int) for image in (whole, few))
        assert few.mode == "P" and len(png(spec)) < LARGEST_PNG
    away = np.abs(true - found).max(-1)
    assert (found[(true == 255).all(-1)] == 255).all() and (true == 255).all(-1).mean() > 0.1
    assert away.mean() < 1 and np.percentile(away, 99) < 12, (away.mean(), np.percentile(away, 99))

"""What does the model say when the picture is closed to the tokens that it generates, to the prompt's text, or to both, and in which layers?"""

from pathlib import Path

import polars as pl

from headflow.analysis.knockout_plan import Closing, knockout_plan
from headflow.execution.said import Saying, Speaker, say
from headflow.execution.store import ResultStore
from headflow.files import write_json
from headflow.models.speech import Speech, spoken
from headflow.params import Params
from headflow.progress import progress
from headflow.tables.descriptions import KNOCKED_OUT
from headflow.tables.knockouts import KNOCKOUT_PLAN
from stages import paths
from stages.door import enter
from stages.pictures import Pictures, sampling


def main(params: Params, key: str) -> None:
    settings, describing, pictures = params.knockout, params.describing, Pictures(params, key)
    model = pictures.model
    closings, plan = knockout_plan(
        model.layers, settings.routes, settings.last_position, width=settings.width, stride=settings.stride,
        image_layers=model.image_layers, decoder_layers=model.decoder_layers,
    )  # fmt: skip
    speakers = (Speaker(picture.id, picture.context, picture.capture) for picture in pictures)
    rows, heard = [], {}
    with ResultStore(Path(params.ablation.store)) as store, progress(f"knock out attention ({key})", len(pictures) * len(closings), "descriptions") as bar:

        def done(computed: int, found: int) -> None:
            bar.skip(found)
            bar.advance(computed)

        options = {"max_new_tokens": describing.max_new_tokens, "sampling": sampling(describing), "batch_size": params.ablation.batch_size, "done": done}
        for row, sayings in zip(pictures.rows.iter_rows(named=True), say(store, speakers, closings, model.layers, **options), strict=True):
            for number, (closing, saying) in enumerate(zip(closings, sayings, strict=True)):
                tokens = tuple(saying.tokens)
                if tokens not in heard:  # many knockouts leave a description as it is
                    heard[tokens] = spoken(model, saying.tokens)
                rows.append(knocked_out(row, number, closing, saying, heard[tokens]))
    # Column by column: rows that hold lists take polars far longer.
    said = pl.DataFrame({name: [row[name] for row in rows] for name in KNOCKED_OUT.columns}, schema={n: c.dtype for n, c in KNOCKED_OUT.columns.items()})
    folder = paths.knockouts_dir(key)
    KNOCKED_OUT.write(said, folder / "descriptions.parquet")
    KNOCKOUT_PLAN.write(plan, folder / "plan.parquet")
    tokens = said["tokens"].list.len()
    write_json(
        paths.metrics("knock_out_attention", key),
        {
            "pictures": len(pictures),
            "knockouts": len(closings),
            "descriptions": len(said),
            "ended": float(said["ended"].mean()),
            "mean_tokens": float(tokens.mean()),
            "most_tokens": int(tokens.max()),
            "all_layers_closed": everywhere(said, plan, model.layers),
        },
    )


def knocked_out(row: dict, number: int, closing: Closing, saying: Saying, speech: Speech) -> dict:
    """One row of the knocked-out descriptions."""
    knockout = closing.knockout
    return {
        "id": row["id"], "scene": row["scene"], "knockout": number, "route": knockout.route, "first": knockout.first, "stop": knockout.stop,
        "outside": knockout.outside, "last_position": closing.last_position, "description": speech.text, "tokens": speech.tokens,
        "starts": speech.starts, "stops": speech.stops, "ended": saying.ended,
    }  # fmt: skip


def everywhere(said: pl.DataFrame, plan: pl.DataFrame, layers: int) -> dict:
    """How long descriptions are, and how many end, with a route closed in all layers: route → last position."""
    found: dict = {}
    for row in plan.filter(pl.col("kind") == "upward", pl.col("closed") == layers).iter_rows(named=True):
        part = said.filter(pl.col("knockout") == row["knockout"])
        numbers = {"ended": float(part["ended"].mean()), "mean_tokens": float(part["tokens"].list.len().mean())}
        found.setdefault(row["route"], {})[row["last_position"]] = numbers
    return found


if __name__ == "__main__":
    enter(main)

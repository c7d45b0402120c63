"""What does the model say when the picture is closed to the tokens that it generates, to the prompt's text, or to both, and in which layers?"""

from typing import Any

import polars as pl

from headflow.analysis.knockout_plan import Closing, knockout_plan
from headflow.execution.described import Speaker
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.said import say
from headflow.files import write_json
from headflow.models.prepared import PreparedModel
from headflow.models.speech import spoken
from headflow.params import Params
from headflow.tables.descriptions import KNOCKED_OUT
from headflow.tables.knockouts import KNOCKOUT_PLAN
from stages import paths
from stages.door import enter
from stages.pictures import Pictures, runs_of, sampling
from stages.workers import at_work

# Descriptions of one unit of work, about. A few run on to the last token, and each step costs nearly the same for one as for many.
_AT_ONCE = 1024


def main(params: Params, key: str) -> None:
    pictures = Pictures(params, key)
    closings, plan = closed(params, pictures.prepared)
    batch, described = params.ablation.batch_size, pictures.rows.iter_rows(named=True)
    units = runs_of(len(pictures), max(1, (_AT_ONCE if batch == "auto" else max(batch, _AT_ONCE)) // len(closings)))
    rows = []
    with at_work("stages.knock_out_attention:KnockedOut", params, key, "knock out attention", len(pictures) * len(closings), "descriptions") as run:
        for one in run(units):
            for which, ended in zip(one["which"], one["ended"], strict=True):
                row = next(described)
                for number, (closing, at, end) in enumerate(zip(closings, which, ended, strict=True)):
                    rows.append(knocked_out(row, number, closing, one["heard"][at], end))
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
            "all_layers_closed": everywhere(said, plan, pictures.prepared.layers),
        },
    )


def closed(params: Params, prepared: PreparedModel) -> tuple[list[Closing], pl.DataFrame]:
    """The knockouts of a run and their plan: driver and workers make them alike."""
    settings = params.knockout
    return knockout_plan(
        prepared.layers, settings.routes, settings.last_position, width=settings.width, stride=settings.stride,
        image_layers=prepared.image_layers, decoder_layers=prepared.decoder_layers,
    )  # fmt: skip


class KnockedOut:
    """What a worker does: what the model says about some pictures under every knockout."""

    def __init__(self, params: str, key: str) -> None:
        self.params = Params.model_validate_json(params)
        self.pictures = Pictures(self.params, key)
        self.closings, _ = closed(self.params, self.pictures.prepared)

    def __call__(self, unit: dict[str, int], store: Records, count: Count) -> Result:
        some, describing = (self.pictures[place] for place in range(unit["start"], unit["stop"])), self.params.describing
        speakers = (Speaker(picture.id, picture.context, picture.capture) for picture in some)
        options = {"max_new_tokens": describing.max_new_tokens, "sampling": sampling(describing), "batch_size": self.params.ablation.batch_size}
        said = list(say(store, speakers, self.closings, self.pictures.prepared.layers, done=count, **options))
        # Many knockouts leave a description as it is: each is told once.
        places: dict[tuple[int, ...], int] = {}
        which = [[places.setdefault(tuple(saying.tokens), len(places)) for saying in sayings] for sayings in said]
        heard = [vars(spoken(self.pictures.model, tokens)) for tokens in places]
        return {"heard": heard, "which": which, "ended": [[saying.ended for saying in sayings] for sayings in said]}


def knocked_out(row: dict, number: int, closing: Closing, speech: dict[str, Any], ended: bool) -> dict:
    """One row of the knocked-out descriptions."""
    knockout = closing.knockout
    return {
        "id": row["id"], "scene": row["scene"], "knockout": number, "route": knockout.route, "first": knockout.first, "stop": knockout.stop,
        "outside": knockout.outside, "last_position": closing.last_position, "description": speech["text"], "tokens": speech["tokens"],
        "starts": speech["starts"], "stops": speech["stops"], "ended": ended,
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

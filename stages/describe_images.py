"""What the untouched model says about every picture."""

import polars as pl

from headflow.execution.described import Speaker, describe
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.files import write_json
from headflow.models.speech import spoken
from headflow.params import Params
from headflow.tables.descriptions import DESCRIPTIONS
from stages import paths
from stages.door import enter
from stages.pictures import Pictures, runs_of, sampling
from stages.workers import at_work

# Captures are held in memory while their pictures are described.
_PICTURES_AT_ONCE = 8


def main(params: Params, key: str) -> None:
    pictures = Pictures(params, key)
    ids, scenes = pictures.rows["id"].to_list(), pictures.rows["scene"].to_list()
    with at_work("stages.describe_images:Descriptions", params, key, "describe images", len(pictures), "pictures") as run:
        spoken_rows = [row for one in run(runs_of(len(pictures), _PICTURES_AT_ONCE)) for row in one["rows"]]
    rows = [{"id": id, "scene": scene, **row} for id, scene, row in zip(ids, scenes, spoken_rows, strict=True)]
    said = pl.DataFrame(rows, schema={name: column.dtype for name, column in DESCRIPTIONS.columns.items()})
    DESCRIPTIONS.write(said, paths.descriptions_dir(key) / "descriptions.parquet")
    tokens = said["tokens"].list.len()
    write_json(
        paths.metrics("describe_images", key),
        {"pictures": len(said), "ended": float(said["ended"].mean()), "mean_tokens": float(tokens.mean()), "most_tokens": int(tokens.max())},
    )


class Descriptions:
    """What a worker does: what the model says about some pictures."""

    def __init__(self, params: str, key: str) -> None:
        read = Params.model_validate_json(params)
        self.settings, self.pictures = read.describing, Pictures(read, key)

    def __call__(self, unit: dict[str, int], store: Records, count: Count) -> Result:
        some = [self.pictures[place] for place in range(unit["start"], unit["stop"])]
        speakers = [Speaker(picture.id, picture.context, picture.capture) for picture in some]
        options = {"max_new_tokens": self.settings.max_new_tokens, "sampling": sampling(self.settings), "done": count}
        rows = []
        for saying in describe(store, speakers, **options):
            said = spoken(self.pictures.model, saying.tokens)
            rows.append({"description": said.text, "tokens": said.tokens, "starts": said.starts, "stops": said.stops, "ended": saying.ended})
        return {"rows": rows}


if __name__ == "__main__":
    enter(main)

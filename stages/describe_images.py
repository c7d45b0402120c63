"""What the untouched model says about every picture."""

import polars as pl

from headflow.decoding import decode
from headflow.files import write_json
from headflow.models.speech import spoken
from headflow.params import Params
from headflow.progress import progress
from headflow.tables.descriptions import DESCRIPTIONS
from stages import paths
from stages.door import enter
from stages.pictures import Pictures, sampling

# Captures are held in memory while their pictures are described.
_PICTURES_AT_ONCE = 8


def main(params: Params, key: str) -> None:
    settings, pictures, rows = params.describing, Pictures(params, key), []
    with progress(f"describe images ({key})", len(pictures), "pictures") as bar:
        waiting = list(pictures)
        for some in (waiting[at : at + _PICTURES_AT_ONCE] for at in range(0, len(waiting), _PICTURES_AT_ONCE)):
            captures = [picture.capture() for picture in some]
            options = {"max_new_tokens": settings.max_new_tokens, "sampling": sampling(settings), "examples": [picture.id for picture in some]}
            for picture, [tokens] in zip(some, decode(captures, **options), strict=True):
                said = spoken(pictures.model, tokens)
                rows.append(
                    {
                        "id": picture.id, "scene": picture.row["scene"], "description": said.text, "tokens": said.tokens,
                        "starts": said.starts, "stops": said.stops, "ended": len(tokens) < settings.max_new_tokens,
                    }
                )  # fmt: skip
                bar.advance()
    said = pl.DataFrame(rows, schema={name: column.dtype for name, column in DESCRIPTIONS.columns.items()})
    DESCRIPTIONS.write(said, paths.descriptions_dir(key) / "descriptions.parquet")
    tokens = said["tokens"].list.len()
    write_json(
        paths.metrics("describe_images", key),
        {"pictures": len(said), "ended": float(said["ended"].mean()), "mean_tokens": float(tokens.mean()), "most_tokens": int(tokens.max())},
    )


if __name__ == "__main__":
    enter(main)

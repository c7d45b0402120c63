"""Where do the tokens of a description look: at the picture, at the rest of the prompt, or at what has been said?"""

import numpy as np
import polars as pl

from headflow.analysis import sharing
from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.execution.looked import StoredLook, code_version
from headflow.files import write_csv, write_json
from headflow.params import Params
from headflow.tables.descriptions import DESCRIPTIONS
from headflow.tables.sharing import (
    ATTENTION_MAPS,
    GROUPS,
    SHARE_FRACTIONS,
    SHARE_HEADS,
    SHARE_MEANS,
    SHARE_PICTURES,
    SHARES,
    SPREAD,
    SPREAD_CONTRAST,
    SPREAD_MEANS,
)
from stages import paths
from stages.door import enter
from stages.pictures import Pictures, aligned
from stages.workers import at_work


def main(params: Params, key: str) -> None:
    """Write shares of attention by picture, layer and head, attention maps and their spread, and metrics of model ``key``."""
    settings, pictures = params.sharing, Pictures(params, key)
    ids, scenes, said = pictures.rows["id"].to_list(), pictures.rows["scene"].to_list(), read_said(key)
    if strangers := set(ids) - set(said):
        raise HeadflowError(f"{paths.descriptions_dir(key)}: made from other pictures than {paths.EXAMPLES} ({min(strangers)}); run `dvc repro`")
    places = [place for place, id in enumerate(ids) if said[id]]  # a description without a word has nobody who looks
    units = [{"picture": place, "boxes": number < settings.shown} for number, place in enumerate(places)]
    looked, maps = [], []
    with at_work("stages.share_attention:Looks", params, key, "share attention", len(units), "pictures") as run:
        for place, one in zip(places, run(units), strict=True):
            boxes = one.pop("boxes", None)
            one = {name: aligned(value) if isinstance(value, np.ndarray) else value for name, value in one.items()}
            looked.append(sharing.Looked(ids[place], scenes[place], **{**one, "tokens": tuple(one["tokens"])}))
            if boxes is not None:
                maps.append(sharing.map_rows(looked[-1], boxes))

    shares, each, means = sharing.share_rows(looked), sharing.picture_rows(looked), sharing.layer_means(looked, settings.confidence)
    fractions, heads = sharing.fractions(each, settings.confidence), sharing.head_means(looked, settings.confidence)
    spread = sharing.spread_rows(looked, settings.top)
    spread_means, contrast = sharing.spread_means(spread, settings.confidence), sharing.spread_contrast(spread, settings.confidence)
    folder = paths.sharing_dir(key)
    SHARES.write(shares, folder / "shares.parquet")
    SHARE_PICTURES.write(each, folder / "pictures.parquet")
    SHARE_MEANS.write(means, folder / "layers.parquet")
    SHARE_HEADS.write(heads, folder / "heads.parquet")
    SHARE_FRACTIONS.write(fractions, folder / "fractions.parquet")
    SPREAD.write(spread, folder / "spread.parquet")
    SPREAD_MEANS.write(spread_means, folder / "spread_layers.parquet")
    SPREAD_CONTRAST.write(contrast, folder / "spread_contrast.parquet")
    ATTENTION_MAPS.write(pl.concat(maps) if maps else sharing.no_maps(), folder / "maps.parquet")
    write_csv(plotted(means), paths.plot("sharing", key))
    write_json(
        paths.metrics("share_attention", key),
        {
            "pictures": len(looked),
            "without_words": len(pictures) - len(looked),
            "mean_tokens": sum(one.tokens[2] for one in looked) / len(looked) if looked else None,
            "fractions": by(fractions, ("layers", "group"), ("token_share", "even", "share", "share_low", "share_high")),
            "spread": by(contrast, ("measure",), ("early", "middle", "late", "difference", "low", "high", "p")),
        },
    )


def read_said(key: str) -> dict[str, list[int]]:
    """The tokens of each description, by picture."""
    return dict(DESCRIPTIONS.read(paths.descriptions_dir(key) / "descriptions.parquet").select("id", "tokens").iter_rows())


class Looks:
    """What a worker does: where the tokens of one description look, and where the picture's keys lie on it if a map is to be drawn."""

    def __init__(self, params: str, key: str) -> None:
        self.pictures, self.said, self.version = Pictures(Params.model_validate_json(params), key), read_said(key), code_version()

    def __call__(self, unit: dict[str, int], store: Records, count: Count) -> Result:
        picture = self.pictures[unit["picture"]]
        try:
            stored = StoredLook(store, picture.context, self.version, self.said[picture.id], picture.capture)
            found = stored.look(picture.id, picture.row["scene"])
            result: Result = {name: getattr(found, name) for name in ("shares", "even", "maps", "image_tokens")}
            result |= {"tokens": list(found.tokens), "reading": list(found.reading)}
            if unit["boxes"]:
                result["boxes"] = stored.boxes()
        except HeadflowError as error:
            raise HeadflowError(f"picture {picture.id}: {error}") from error
        count(1, 0)
        return result


def plotted(means: pl.DataFrame) -> pl.DataFrame:
    """Shares by layer for `dvc plots`: a row a layer, a column a group."""
    wide = means.pivot("group", index="layer", values="mean", maintain_order=True)
    return wide.select("layer", *(pl.col(name) if name in wide.columns else pl.lit(None, pl.Float64).alias(name) for name in GROUPS))


def by(frame: pl.DataFrame, keys: tuple[str, ...], values: tuple[str, ...]) -> dict:
    """Rows as nested dictionaries."""
    found: dict = {}
    for row in frame.iter_rows(named=True):
        place = found
        for key in keys:
            place = place.setdefault(row[key], {})
        place.update({name: row[name] for name in values})
    return found


if __name__ == "__main__":
    enter(main)

"""Does the token that names an object look at that object? Its attention, and what image tokens do to it, against the object's mask."""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

from headflow.analysis import localisation_tables as tables
from headflow.analysis.localisation import Mask, Naming, namings
from headflow.analysis.localisation_effects import stored_effects
from headflow.errors import HeadflowError
from headflow.execution.store import ResultStore
from headflow.files import write_json
from headflow.judging.match import choose_vocabulary, mentions, name_of
from headflow.judging.vocabulary import Vocabulary
from headflow.models.baselines import blank_baseline, closed_baseline
from headflow.models.places import boxes_on_picture
from headflow.models.spoken_attention import all_fed, image_attention_of
from headflow.params import LocalisingParams, Params
from headflow.progress import progress
from headflow.tables.descriptions import DESCRIPTIONS
from headflow.tables.localising import LOCALISED, LOCALISED_HEADS, LOCALISED_LAYERS, LOCALISED_MAPS, NAMINGS
from headflow.tracing.image_tables import _mask
from stages import paths
from stages.door import enter
from stages.pictures import Picture, Pictures


def main(params: Params, key: str) -> None:
    """Write the mentions of model ``key``, how its maps fit the objects' masks by mention, layer and head, some maps, and metrics."""
    settings, pictures = params.localising, Pictures(params, key)
    said = {row["id"]: row for row in DESCRIPTIONS.read(paths.descriptions_dir(key) / "descriptions.parquet").iter_rows(named=True)}
    names = pictures.rows["objects"].explode().struct.field("name").drop_nulls().unique().sort().to_list()
    vocabulary = choose_vocabulary(params.judging.words, params.examples.source, names)
    found, unknown, unplaced = [], [], set()
    with ResultStore(Path(params.ablation.store)) as store, progress(f"localise objects ({key})", len(pictures), "pictures") as bar:
        for picture in pictures:
            if picture.id not in said:
                raise HeadflowError(f"{paths.descriptions_dir(key)}: has no description of {picture.id}; run `dvc repro`")
            row = said[picture.id]
            known, missing = namings(
                row["description"], mentions(row["description"], vocabulary), row["starts"], row["stops"], masks(picture.row["objects"], vocabulary)
            )
            unknown += [(picture.id, row["scene"], name) for name in missing]
            if known:
                try:
                    localised, reason = localise(store, picture, row["tokens"], known, settings, params.ablation.batch_size)
                except HeadflowError as error:
                    raise HeadflowError(f"example {picture.id}: {error}") from error
                found += localised
                unplaced |= {reason} - {""}
            bar.advance()
    if unplaced:
        print(f"note: where image tokens lie on the picture is not known: {min(unplaced)}; statistics are left out", file=sys.stderr)

    folder, reading, lead = paths.localisation_dir(key), reading_layers(pictures), tables.LEADING[settings.position]
    layers = tables.layers_table(found, reading, settings.confidence)
    best = {what: row["layer"] for what in tables.WHAT if (row := tables.best_layer(layers, what)) is not None}
    NAMINGS.write(tables.namings_table(found, unknown), folder / "namings.parquet")
    LOCALISED.write(tables.localised_table(found, reading), folder / "localised.parquet")
    LOCALISED_LAYERS.write(layers, folder / "layers.parquet")
    LOCALISED_HEADS.write(tables.heads_table(found, reading, settings.confidence), folder / "heads.parquet")
    drawn = tables.maps_table(found, reading, (lead, best[lead]) if lead in best else None, settings.shown)
    LOCALISED_MAPS.write(drawn, folder / "maps.parquet")
    write_json(
        paths.metrics("localise_objects", key),
        {
            "pictures": len(pictures),
            "mentions": len(found),
            "mentions_of_several_objects": sum(one.naming.objects > 1 for one in found),
            "mentions_without_mask": len(unknown),
            "places_unknown": min(unplaced, default=None),
            "all_layers": {what: numbers(layers, what, None) for what in tables.WHAT},
            "best_layer": {what: {"layer": layer, **numbers(layers, what, layer)} for what, layer in best.items()},
            "layers_above_chance": {what: tables.above_chance(layers, what, settings.confidence).height for what in best},
        },
    )  # fmt: skip


def localise(
    store: ResultStore, picture: Picture, tokens: list[int], known: list[Naming], settings: LocalisingParams, batch_size: int | str
) -> tuple[list[tables.Localised], str]:  # fmt: skip
    """All mentions of one picture, and why its image tokens have no place, where they have none."""
    capture = picture.capture(all_fed(tokens))
    boxes, reason = boxes_on_picture(capture)
    order = sorted(tables.LEADING, key=lambda position: position != settings.position)
    weights = image_attention_of(capture, [naming.token - (position == "before") for naming in known for position in order]).numpy()
    attention = [dict(zip((tables.LEADING[position] for position in order), some, strict=True)) for some in np.split(weights, len(known))]
    twins = cache(lambda: blank_baseline(capture) if settings.baseline == "blank" else closed_baseline())
    localised = []
    for naming, looked in zip(known, attention, strict=True):
        upto, effects = tokens[: naming.token + 1], None
        if settings.corners:
            effects = stored_effects(
                store, picture.context, upto, lambda upto=upto: (picture.capture(upto), twins()), baseline=settings.baseline,
                corners=settings.corners, seed=settings.seed, batch_size=batch_size,
            )  # fmt: skip
        localised.append(tables.localise(picture.id, picture.row["scene"], naming, boxes, looked, effects))
    return localised, reason


def masks(objects: list[dict] | None, vocabulary: Vocabulary) -> dict[str, list[Mask]]:
    """The masks of a picture's known objects, by what the vocabulary calls them; by their own name where it has none, so that no text names them."""
    found: dict[str, list[Mask]] = {}
    for entry in objects or ():
        if entry["name"] is None or entry["mask"] is None:
            continue
        found.setdefault(name_of(entry["name"], vocabulary) or entry["name"], []).append(_mask(entry["mask"]))
    return found


def reading_layers(pictures: Pictures) -> list[int]:
    """Decoder layers that read the picture."""
    return list(pictures.model.image_layers or range(pictures.model.decoder_layers))


def numbers(layers: pl.DataFrame, what: str, layer: int | None) -> dict:
    """What one layer, or all together, gives: against → statistic → numbers."""
    found: dict = {}
    for row in layers.filter(pl.col("what") == what, pl.col("layer").eq_missing(pl.lit(layer, pl.Int64))).iter_rows(named=True):
        found.setdefault(row["against"], {})[row["statistic"]] = {name: row[name] for name in ("mean", "low", "high", "chance", "over", "p_holm")}
    return found


if __name__ == "__main__":
    enter(main)

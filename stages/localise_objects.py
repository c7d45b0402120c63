"""Does the token that names an object look at that object? Its attention, and what image tokens do to it, against the object's mask."""

import sys
from functools import cache

import numpy as np
import polars as pl

from headflow.analysis import localisation_tables as tables
from headflow.analysis.localisation import Mask, Naming, namings
from headflow.analysis.localisation_effects import stored_effects
from headflow.errors import HeadflowError
from headflow.execution.executors.jobs import Count, Records, Result
from headflow.files import write_json
from headflow.judging.match import choose_vocabulary, mentions, name_of
from headflow.judging.vocabulary import Vocabulary
from headflow.models.baselines import blank_baseline, closed_baseline
from headflow.models.places import boxes_on_picture
from headflow.models.prepared import PreparedModel
from headflow.models.spoken_attention import all_fed, image_attention_of
from headflow.params import LocalisingParams, Params
from headflow.tables.descriptions import DESCRIPTIONS
from headflow.tables.localising import LOCALISED, LOCALISED_HEADS, LOCALISED_LAYERS, LOCALISED_MAPS, NAMINGS
from headflow.tracing.image_tables import _mask
from stages import paths
from stages.door import enter
from stages.pictures import Picture, Pictures, aligned
from stages.workers import at_work


def main(params: Params, key: str) -> None:
    """Write the mentions of model ``key``, how its maps fit the objects' masks by mention, layer and head, some maps, and metrics."""
    settings, pictures = params.localising, Pictures(params, key)
    named = Named(params, key, pictures)
    each = [named[place] for place in range(len(pictures))]
    unknown = [(row["id"], row["scene"], name) for row, _, missing in each for name in missing]
    places = [place for place, (_, known, _) in enumerate(each) if known]
    found, unplaced = [], set()
    with at_work("stages.localise_objects:LocalisedPictures", params, key, "localise objects", len(places), "pictures") as run:
        for place, one in zip(places, run([{"picture": place} for place in places]), strict=True):
            row, known, _ = each[place]
            found += [unpacked(row, naming, one, number) for number, naming in enumerate(known)]
            unplaced |= {one["reason"]} - {""}
    if unplaced:
        print(f"note: where image tokens lie on the picture is not known: {min(unplaced)}; statistics are left out", file=sys.stderr)

    folder, reading, lead = paths.localisation_dir(key), reading_layers(pictures.prepared), tables.LEADING[settings.position]
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


class Named:
    """The objects that the descriptions name: driver and workers find them alike."""

    def __init__(self, params: Params, key: str, pictures: Pictures) -> None:
        self.folder, self.rows = paths.descriptions_dir(key), pictures.rows
        self.said = {row["id"]: row for row in DESCRIPTIONS.read(self.folder / "descriptions.parquet").iter_rows(named=True)}
        names = self.rows["objects"].explode().struct.field("name").drop_nulls().unique().sort().to_list()
        self.vocabulary = choose_vocabulary(params.judging.words, params.examples.source, names)

    def __getitem__(self, place: int) -> tuple[dict, list[Naming], list[str]]:
        """The description of the picture at ``place``, the first mention of each known object, and the names of others.

        Raises:
            HeadflowError: the picture has no description.
        """
        picture = self.rows.row(place, named=True)
        if picture["id"] not in self.said:
            raise HeadflowError(f"{self.folder}: has no description of {picture['id']}; run `dvc repro`")
        row, words = self.said[picture["id"]], self.vocabulary
        known, missing = namings(row["description"], mentions(row["description"], words), row["starts"], row["stops"], masks(picture["objects"], words))
        return row, known, missing


class LocalisedPictures:
    """What a worker does: all mentions of one picture."""

    def __init__(self, params: str, key: str) -> None:
        self.params = Params.model_validate_json(params)
        self.pictures = Pictures(self.params, key)
        self.named = Named(self.params, key, self.pictures)

    def __call__(self, unit: dict[str, int], store: Records, count: Count) -> Result:
        picture, (row, known, _) = self.pictures[unit["picture"]], self.named[unit["picture"]]
        try:
            localised, reason = localise(store, picture, row["tokens"], known, self.params.localising, self.params.ablation.batch_size)
        except HeadflowError as error:
            raise HeadflowError(f"example {picture.id}: {error}") from error
        result: Result = {"reason": reason, "boxes": np.asarray(localised[0].boxes)}
        for number, one in enumerate(localised):
            result |= {f"{number} map {what}": values for what, values in one.maps.items()}
            result |= {f"{number} statistics {what}/{against}": values for (what, against), values in one.statistics.items()}
            result |= {f"{number} heads": one.heads, f"{number} even": one.even, f"{number} most": list(one.most)}
        count(1, 0)
        return result


def unpacked(row: dict, naming: Naming, result: Result, number: int) -> tables.Localised:
    """One mention of a picture out of what the worker gives."""

    def part(name: str) -> dict[str, np.ndarray]:
        start = f"{number} {name} "
        return {key.removeprefix(start): aligned(values) for key, values in result.items() if key.startswith(start)}

    statistics = {tuple(key.split("/")): values for key, values in part("statistics").items()}
    even, most = result[f"{number} even"], tuple(result[f"{number} most"])
    return tables.Localised(row["id"], row["scene"], naming, part("map"), statistics, aligned(result[f"{number} heads"]), even, most, aligned(result["boxes"]))


def localise(
    store: Records, picture: Picture, tokens: list[int], known: list[Naming], settings: LocalisingParams, batch_size: int | str
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


def reading_layers(prepared: PreparedModel) -> list[int]:
    """Decoder layers that read the picture."""
    return list(prepared.image_layers or range(prepared.decoder_layers))


def numbers(layers: pl.DataFrame, what: str, layer: int | None) -> dict:
    """What one layer, or all together, gives: against → statistic → numbers."""
    found: dict = {}
    for row in layers.filter(pl.col("what") == what, pl.col("layer").eq_missing(pl.lit(layer, pl.Int64))).iter_rows(named=True):
        found.setdefault(row["against"], {})[row["statistic"]] = {name: row[name] for name in ("mean", "low", "high", "chance", "over", "p_holm")}
    return found


if __name__ == "__main__":
    enter(main)

"""Examples from pictures with COCO annotations: what is the main object?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from headflow.datasets.faults import Fault, Faults, shown
from headflow.datasets.pictures import Picture, Size, fit, fit_mask, inside, object_entry, png, read_picture
from headflow.datasets.selection import Asked, Examples, Selection, Shown, drawing_order, make_table, settle
from headflow.errors import HeadflowError

NUMBERING = "numbered by their place in the file's list of images"
QUESTION = "What is the main object in the image? Answer with one word."
MOST_MASK_PIXELS = 2_000_000_000
"""Annotations × pixels of one picture: what can be unpacked in some seconds."""

MOST_BYTES = 2_000_000_000
"""Size of an annotations file; that of COCO 2017's training pictures takes a quarter."""

LABELS = ("meaning_name", "meaning_category")


@dataclass(frozen=True)
class Instance:
    """One annotated object; ``crowd`` marks a region of many."""

    category: int
    segmentation: Any
    crowd: bool


@dataclass
class Entry:
    """One image of the annotations file; ``row`` is its place in the list of images, from 1."""

    row: int
    id: str
    file: str
    size: Size
    instances: list[Instance] = field(default_factory=list)


@dataclass(frozen=True)
class Category:
    """What an instance is, and what kind of thing that is."""

    name: str
    parent: str | None


def read_coco(
    path: str | Path, *, annotations: str = "annotations/instances.json", images: str = "images", question: str = QUESTION, least_share: float = 0.1,
    rival_share: float = 0.5, selection: Selection | None = None,
) -> Examples:  # fmt: skip
    """Ask what the main object is, of pictures where that can be told.

    The main object is the largest instance that is no crowd. A picture is drawn if it takes at least ``least_share`` of the picture and
    every other instance of any category, crowds included, is smaller than ``rival_share`` of it; both are measured by the exact masks, after
    the picture is cut to ``selection.picture_size``. Only pictures that are drawn are opened.

    Args:
        path: the folder that holds both of the following.
        annotations: instances file (JSON). Annotations of pictures that it does not list are ignored.
        images: folder of the pictures, whose names are those of the file.
        question: asked of every picture; the answer is the category's name.
        least_share, rival_share: see above, 0..1.
        selection: how many pictures, how they are kept, and what happens to faulty ones.

    Returns:
        Labels: ``meaning_name`` = category, ``meaning_category`` = supercategory; ``objects`` holds every instance with its mask.

    Raises:
        HeadflowError: pycocotools is not installed, the file is no instances file, faulty images or annotations, or too few pictures.
    """
    folder, selection = Path(path), selection or Selection()
    try:
        import pycocotools.mask  # noqa: F401  (before any work is done)
    except ImportError:
        raise HeadflowError("examples.source coco needs the package `pycocotools`: pip install 'headflow[coco]'") from None
    where = str(folder / annotations)
    faults = Faults(where, NUMBERING, selection.on_bad_example, unit="image")
    content, pictures = _read_json(folder, annotations), folder / images
    if not pictures.is_dir():
        raise HeadflowError(f"{pictures}: there is no such folder (examples.coco.images)")
    categories = _categories(content["categories"], where)
    entries = _entries(content, categories, faults, selection.max_pixels)
    faults.settle(len(content["images"]))
    looked_at: dict[str, Shown] = {}

    def usable(id: str) -> bool:
        entry = entries[id]
        try:
            shown = _shown(entry, pictures, categories, question, least_share, rival_share, selection)
        except Fault as fault:
            faults.add(entry.row, id, f"{shown_name(entry)} {fault}")
            return False
        if shown is not None:
            looked_at[id] = shown
        return shown is not None

    candidates = [id for id, entry in entries.items() if entry.row not in faults and any(not instance.crowd for instance in entry.instances)]
    chosen = settle(drawing_order(candidates, selection.seed, "coco"), selection, usable, faults.settle)
    faults.warn()
    return Examples(make_table(chosen, lambda id, split: looked_at[id], LABELS, selection, where), faults.table())


def shown_name(entry: Entry) -> str:
    return f"{shown(entry.file)} (id {entry.id})"


def _shown(
    entry: Entry, folder: Path, categories: Mapping[int, Category], question: str, least_share: float, rival_share: float, selection: Selection
) -> Shown | None:
    """The picture with its question, or None if its main object cannot be told."""
    from pycocotools import mask as coco

    width, height = entry.size
    if len(entry.instances) * width * height > MOST_MASK_PIXELS:
        raise Fault(f"has {len(entry.instances):,} annotations on {width} × {height} pixels, which are too many to unpack")
    try:
        runs = [run_lengths(instance.segmentation, entry.size) for instance in entry.instances]
    except Fault as fault:
        raise Fault(f"has an annotation whose segmentation {fault}") from None
    crowds = [instance.crowd for instance in entry.instances]
    if selection.picture_size is None and _main([int(area) for area in coco.area(runs)], crowds, width * height, least_share, rival_share) is None:
        return None
    picture = read_picture(inside(folder, entry.file), selection.max_pixels)
    image = fit(picture.image, selection.picture_size)
    areas, objects = [], []
    for instance, run in zip(entry.instances, runs, strict=True):  # one at a time: masks are large
        kind = categories[instance.category]
        mask = fit_mask(_like(picture, coco.decode(run).astype(bool), entry.size), selection.picture_size)
        areas.append(int(mask.sum()))
        objects.append(object_entry(mask, name=kind.name, main=False, category=kind.parent) if mask.any() else None)
    main = _main(areas, crowds, image.width * image.height, least_share, rival_share)
    if main is None:
        return None
    objects[main]["main"] = True
    by_size = sorted((index for index in range(len(areas)) if areas[index]), key=lambda index: (index != main, -areas[index]))
    kind = categories[entry.instances[main].category]
    labels = dict(zip(LABELS, (kind.name, kind.parent), strict=True))
    return Shown(png(image), [Asked(entry.row, entry.id, question, kind.name, labels, [objects[index] for index in by_size])])


def _main(areas: Sequence[int], crowds: Sequence[bool], pixels: int, least_share: float, rival_share: float) -> int | None:
    """Index of the instance that is the main object, if there is one."""
    main = max((index for index, crowd in enumerate(crowds) if not crowd), key=lambda index: areas[index])
    rival = max((area for index, area in enumerate(areas) if index != main), default=0)
    return main if areas[main] >= least_share * pixels and rival < rival_share * areas[main] else None


def _like(picture: Picture, mask: Bool[np.ndarray, "height width"], size: Size) -> Bool[np.ndarray, "height width"]:
    """A mask turned as the picture was: COCO annotates the pixels as they are stored."""
    if size == picture.stored:
        return picture.turned(mask)
    if size == picture.image.size:  # annotated upright
        return mask
    raise Fault(f"has {picture.stored[0]} × {picture.stored[1]} pixels, the annotations say {size[0]} × {size[1]}")


def run_lengths(segmentation: Any, size: Size) -> dict[str, Any]:
    """The run lengths, as pycocotools takes them, of polygons, of run lengths, or of compressed ones.

    All is checked before pycocotools sees it: its C code trusts its input, and reads or leaves memory as it was where it should not.

    Raises:
        Fault: it is none of these, or does not fit the picture.
    """
    from pycocotools import mask as coco

    width, height = size
    if isinstance(segmentation, list):
        polygons = [_polygon(polygon, size) for polygon in segmentation]
        if not polygons:
            raise Fault("is empty")
        return coco.merge(coco.frPyObjects(polygons, height, width))
    if not isinstance(segmentation, dict):
        raise Fault("is neither polygons nor run lengths")
    counts, stated = segmentation.get("counts"), segmentation.get("size")
    if stated is not None and stated != [height, width]:
        raise Fault(f"is of the size {shown(stated, 40)} (height, width), not {height} × {width}")
    if isinstance(counts, str):
        counts = _uncompressed(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != width * height:
        raise Fault(f"has run lengths that do not add up to {width} × {height}")
    return coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)


def _polygon(polygon: Any, size: Size) -> list[float]:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise Fault("has a polygon that is no list of at least three x, y pairs")
    if not all(type(number) in (int, float) and -1e6 < number < 1e6 for number in polygon):  # NaN is not either
        raise Fault("has a polygon with something other than coordinates")
    points = np.asarray(polygon, float).reshape(-1, 2)
    if (points < -np.array(size)).any() or (points > 2 * np.array(size)).any():
        raise Fault("has a polygon that lies far outside the picture")
    if np.abs(np.diff(points, axis=0)).max(1).sum() > MOST_MASK_PIXELS / 1000:
        raise Fault("has a polygon whose outline is too long")
    return points.ravel().tolist()


def _uncompressed(text: str) -> list[int]:
    """Run lengths of COCO's compressed form: groups of five bits, low ones first, the sixth saying that more follow; from the third on, differences."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise Fault("has compressed run lengths that are damaged")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise Fault("has compressed run lengths that end too early")
    return counts


def _read_json(folder: Path, annotations: str) -> dict[str, list]:
    """The file, with lists of images, annotations and categories."""
    if not folder.is_dir():
        raise HeadflowError(f"{folder}: there is no such folder (examples.path)")
    where = folder / annotations
    try:
        file = inside(folder, annotations)
        if (size := file.stat().st_size) > MOST_BYTES:
            raise ValueError(f"{size:,} bytes are more than {MOST_BYTES:,}: divide it")
        content = json.loads(file.read_bytes())
    except Fault as fault:
        raise HeadflowError(f"{folder}: annotations {fault} (examples.coco.annotations)") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise HeadflowError(f"{where}: not readable as JSON ({' '.join(str(error).split()) or type(error).__name__})") from None
    for name in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise HeadflowError(f"{where}: no instances file of COCO: it has no list {name!r}")
        for place, item in enumerate(content[name], 1):
            if not isinstance(item, dict):
                raise HeadflowError(f"{where}: entry {place} of {name!r} is {shown(item, 40)}, not an object")
    return content


def _categories(items: Sequence[Mapping[str, Any]], where: str) -> dict[int, Category]:
    found: dict[int, Category] = {}
    for place, item in enumerate(items, 1):
        name, parent = item.get("name"), item.get("supercategory")
        if type(item.get("id")) is not int or item["id"] in found or not _is_text(name) or not (parent is None or isinstance(parent, str)):
            raise HeadflowError(f"{where}: category {place} is {shown(dict(item))}; it needs a number `id` of its own and a text `name`")
        found[item["id"]] = Category(name.strip(), parent.strip() if parent and _is_text(parent) else None)
    return found


def _entries(content: Mapping[str, list], categories: Mapping[int, Category], faults: Faults, max_pixels: int) -> dict[str, Entry]:
    """Images by id, with their instances."""
    found: dict[str, Entry] = {}
    for row, item in enumerate(content["images"], 1):
        id, file, size = item.get("id"), item.get("file_name"), (item.get("width"), item.get("height"))
        if type(id) not in (int, str) or not _is_text(str(id)):
            faults.add(row, None, f"its id is {shown(id, 40)}, not a number or text")
            continue
        id = str(id)
        if not _is_text(file):
            faults.add(row, id, f"its file_name is {shown(file, 40)}, not the name of a file")
        elif not all(type(side) is int and side > 0 for side in size):
            faults.add(row, id, f"its width and height are {shown(size[0], 20)} and {shown(size[1], 20)}, not numbers of pixels")
        elif size[0] * size[1] > max_pixels:
            faults.add(row, id, f"{size[0]} × {size[1]} pixels are more than examples.max_pixels, {max_pixels:,}")
        elif id in found:
            faults.add(row, id, f"the id {id} is that of image {found[id].row} too")
        else:
            found[id] = Entry(row, id, file, size)
    for place, item in enumerate(content["annotations"], 1):
        entry = found.get(str(item.get("image_id")))
        if entry is None:
            continue
        if type(item.get("category_id")) is not int or item["category_id"] not in categories:
            faults.add(entry.row, entry.id, f"its annotation {place} has the unknown category_id {shown(item.get('category_id'), 40)}")
        elif item.get("iscrowd", 0) not in (0, 1):
            faults.add(entry.row, entry.id, f"its annotation {place} has iscrowd {shown(item['iscrowd'], 40)}, not 0 or 1")
        else:
            entry.instances.append(Instance(item["category_id"], item.get("segmentation"), bool(item.get("iscrowd", 0))))
    return found


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(value.strip()) and bool(value.encode())
    except ValueError:  # half of a surrogate pair
        return False

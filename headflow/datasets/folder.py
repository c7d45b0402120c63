"""Examples from a folder of pictures with a manifest: one row for each question about a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from headflow.datasets.faults import Fault, Faults, shown
from headflow.datasets.manifests import read_manifest
from headflow.datasets.pictures import Size, fit, inside, png, read_mask, read_picture
from headflow.datasets.records import Record, check_id, choose, find_columns, of_split, read_record
from headflow.datasets.selection import Examples, Selection, Shown, drawing_order, make_table
from headflow.errors import HeadflowError
from headflow.progress import progress


def read_folder(
    path: str | Path, *, manifest: str = "manifest.csv", columns: Mapping[str, str] | None = None, meaning: Sequence[str] = (),
    looks: Sequence[str] = (), selection: Selection | None = None,
) -> Examples:  # fmt: skip
    """Read a folder of pictures.

    Every row and every picture of the manifest is checked, whether it is drawn or not. All questions about a picture stay together, and a
    picture's draw depends on the seed and on its name alone.

    Args:
        path: the folder; no picture may lie outside it.
        manifest: .csv, .jsonl or .parquet file in it, with the columns image, question, answer and, if wanted, id, category, style,
            mask, split, and labels whose names begin with ``meaning_`` or ``looks_``.
        columns: role → name of the column where it is called otherwise.
        meaning, looks: further label columns.
        selection: how many pictures, how they are kept, and what happens to faulty rows.

    Raises:
        HeadflowError: no folder or manifest, wrong columns, faulty rows (all are listed), or too few pictures.
    """
    folder, selection = Path(path), selection or Selection()
    if not folder.is_dir():
        raise HeadflowError(f"{folder}: there is no such folder (examples.path)")
    try:
        file = inside(folder, manifest)
    except Fault as fault:
        raise HeadflowError(f"{folder}: manifest {fault} (examples.folder.manifest)") from None
    where = str(folder / manifest)
    table = read_manifest(file)
    found = find_columns(table.columns, columns, meaning, looks, where, only_known=True)
    faults = Faults(where, table.numbering, selection.on_bad_example)
    for row, reason in table.faults:
        faults.add(row, None, reason)

    records = [read_record(row, cells, found, faults) for row, cells in table.rows]
    pictures = _pictures(folder, records, faults, selection.max_pixels)
    ids: dict[str, int] = {}
    for record in records:
        check_id(record, ids, faults)
    faults.settle(len(table.rows) + len(table.faults))
    faults.warn()
    by_picture: dict[str, list[Record]] = {}
    for record in records:
        if record.row not in faults:
            by_picture.setdefault(pictures[record.row], []).append(record)

    def show(name: str, split: str) -> Shown:
        picture = read_picture(folder / name, selection.max_pixels).image
        masks = {record.row: _mask(folder, record, picture.size, selection.max_pixels) for record in by_picture[name]}
        asked = [record.asked(masks[record.row], selection.picture_size) for record in of_split(by_picture[name], split)]
        return Shown(png(fit(picture, selection.picture_size)), asked)

    chosen = choose(by_picture, drawing_order(by_picture, selection.seed, "folder"), selection)
    return Examples(make_table(chosen, show, list(found.labels), selection, where), faults.table())


def _pictures(folder: Path, records: Sequence[Record], faults: Faults, max_pixels: int) -> dict[int, str]:
    """Open every picture and mask; the picture's name in the folder for each row, and an id for each row without one."""
    root, names, asked = folder.resolve(), {}, {}
    sizes: dict[str, Size | Fault] = {}
    with progress("check pictures", len(records), "rows") as bar:
        for record in records:
            try:
                named = _named(record.image, "image")
                name = inside(folder, named).relative_to(root).as_posix()
                names[record.row] = name
                asked[name] = asked.get(name, 0) + 1
                record.id = record.id or (name if asked[name] == 1 else f"{name}#{asked[name]}")
                if name not in sizes:
                    try:
                        sizes[name] = read_picture(root / name, max_pixels).image.size
                    except Fault as fault:
                        sizes[name] = Fault(f"{shown(named)} {fault}")
                if isinstance(sizes[name], Fault):
                    raise sizes[name]
                _mask(folder, record, sizes[name], max_pixels)
            except Fault as fault:
                faults.add(record.row, record.id or (record.image if isinstance(record.image, str) else None), str(fault))
            bar.advance()
    return names


def _mask(folder: Path, record: Record, size: Size, max_pixels: int) -> Bool[np.ndarray, "height width"] | None:
    """The row's mask, or None if it has none."""
    if record.mask is None or record.mask == "":
        return None
    named = _named(record.mask, "mask")
    file = inside(folder, named)
    try:
        return read_mask(file, size, max_pixels)
    except Fault as fault:
        raise Fault(f"mask {shown(named)} {fault}") from None


def _named(value: object, role: str) -> str:
    if value is None or value == "":
        raise Fault(f"the {role} is empty")
    if not isinstance(value, str):
        raise Fault(f"the {role} is {shown(value, 40)}, not the name of a file")
    return value.strip()

"""Any bytes in what headflow reads give a result or a HeadflowError: never another exception, and never a hang.

Manifests, COCO annotations and pictures are fuzzed in tests/datasets too; here are the larger profile (HEADFLOW_FUZZ, docs/security.md) and the rest:
params, the result store, tables, tensors, JSON of the stages.
"""

import json
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headflow.attribution.masks import mask_table, unpack
from headflow.cli.stored import StoreView
from headflow.datasets import Selection, read_coco, read_folder
from headflow.datasets.faults import Fault
from headflow.datasets.pictures import read_mask, read_picture
from headflow.errors import HeadflowError
from headflow.execution.runs import run_example
from headflow.execution.store import ResultStore
from headflow.files import read_json
from headflow.models.baselines import Baseline
from headflow.models.prepared import FILE, read_prepared
from headflow.params import Params, read_params
from headflow.tables.ablations import ATTRIBUTIONS, MASKS
from tests.security.profile import fuzz

ROOT = Path(__file__).resolve().parents[2]
PIECES = st.one_of(st.binary(max_size=4), st.sampled_from([b"\xff" * 8, bytes(8), b"[", b"{", b'"', b"\\"]))
CHANGES = st.lists(st.tuples(st.floats(0, 1), PIECES), min_size=1, max_size=4)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from([2**70, -1, 1e400, "mean", "\ud800", "../x", "", "a\0b"]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=4) | st.sampled_from(["id", "image", "seed", "count"]), part, max_size=3),
    max_leaves=5,
)


def changed(content: bytes, changes: list[tuple[float, bytes]], cut: float) -> bytes:
    """``content`` with some bytes put over others, and cut off at a share of it."""
    for place, new in changes:
        start = int(place * len(content))
        content = content[:start] + new + content[start + len(new) :]
    return content[: int(cut * len(content))]


CUT = st.sampled_from([1.0, 1.0, 1.0, 0.9, 0.5, 0.1, 0.0])


def fine_or_told(read: Callable[[], object]) -> object:
    """What ``read`` gives, or None where it says in words why it gives nothing."""
    try:
        return read()
    except (HeadflowError, Fault) as error:
        assert str(error).strip() and "Traceback" not in str(error)
        return None


# ---------------------------------------------------------------------------------------------------------------- params

WHOLE = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))

EXCERPT = yaml.safe_dump({"models": {"a": {"id": "x/y"}}, **{name: WHOLE[name] for name in ("features", "masks", "keeping")}}).encode()


def keys(group: dict, above: tuple = ()) -> list[tuple]:
    return [path for name, value in group.items() for path in ((*above, name), *(keys(value, (*above, name)) if isinstance(value, dict) else ()))]


@fuzz(60)
@given(path=st.sampled_from(keys(WHOLE)), value=JSON, name=st.none() | st.text(max_size=6))
def test_any_value_under_any_key_of_the_params(path, value, name, tmp_path):
    # Its group alone: the whole file takes long to write and read.
    content = json.loads(json.dumps({"models": {"a": {}}, path[0]: WHOLE[path[0]]}))
    at = content
    for part in path[:-1]:
        at = at[part]
    at[path[-1] if name is None else name] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert isinstance(fine_or_told(lambda: read_params(tmp_path / "params.yaml")), Params | None)


@fuzz(60)
@given(content=st.one_of(st.binary(max_size=60), st.text("abc:-[]{}&*!|>%@`'\"#? \n\t019.~", max_size=60).map(str.encode)), changes=CHANGES, cut=CUT)
def test_any_bytes_in_the_params(content, changes, cut, tmp_path):
    for text in (content, b"models: {a: {}}\n" + content, changed(EXCERPT, changes, cut)):
        (tmp_path / "params.yaml").write_bytes(text)
        fine_or_told(lambda: read_params(tmp_path / "params.yaml"))


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    "text",
    [
        "examples: {seed: 2001-13-45}", "x: !!bool maybe", "x: !!timestamp x", "x: !!int ''", "x: !!python/object/apply:os.system [ls]", "[" * 20_000,
        "x: " + "9" * 5000, "masks: {count: 0x" + "f" * 9000 + "}", "? [a]\n: b", "&a [*a]", "models: &m {a: *m}", "1: 2", "masks: {1: 2, null: 3}",
        LAUGHS + "models: {a: *a11}", LAUGHS + "masks: *a11", "models: {a: {}}\n" + LAUGHS, "\ufeffmodels: {a: {}}", "report: {title: \"\\ud800\"}",
        "---\n---\n", "%YAML 9.9", "models: {a: {}}\nreport: {title: \"\\u0000\\u001b[2J\"}",
    ],
)  # fmt: skip
def test_yaml_that_breaks_readers(text, tmp_path):
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    params = fine_or_told(lambda: read_params(tmp_path / "params.yaml"))
    assert params is None or set(params.models) == {"a"}


# ---------------------------------------------------------------------------------------------------------------- the result store


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> bytes:
    """The bytes of a store with some records."""
    path = tmp_path_factory.mktemp("store") / "results.sqlite"
    with ResultStore(path) as store:
        store.put([(number.to_bytes(16, "big"), np.full(64, number, np.float32)) for number in range(200)])
    return path.read_bytes()


UNITS = [number.to_bytes(16, "big") for number in range(200)]


@fuzz(40)
@given(changes=CHANGES, cut=CUT, log=st.none() | st.binary(max_size=80))
def test_any_bytes_in_the_store(changes, cut, log, store, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / "results.sqlite"
    path.write_bytes(changed(store, changes, cut))
    if log is not None:
        Path(f"{path}-wal").write_bytes(log)

    def view() -> dict:
        with StoreView(path) as one:
            return one.get(UNITS)

    def use() -> dict:
        with ResultStore(path) as one:
            found = one.get(UNITS)
            one.put([(bytes(16), np.ones(3, np.float32))])
            return found

    for found in (fine_or_told(view), fine_or_told(use)):
        for unit, values in (found or {}).items():  # what is given is what was put
            assert np.array_equal(values, np.full(64, int.from_bytes(unit, "big"), np.float32))


CELL = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.text(max_size=5), st.binary(max_size=300))


@fuzz(40)
@given(unit=st.sampled_from(UNITS[:3]) | st.binary(max_size=20), checksum=CELL, targets=CELL, right=st.booleans())
def test_any_record_in_the_store(unit, checksum, targets, right, tmp_path_factory):
    """Of whatever kind its cells are; also with a checksum that fits."""
    path = tmp_path_factory.mktemp("any") / "results.sqlite"
    with ResultStore(path) as one:
        one.put([(UNITS[5], np.ones(64, np.float32))])
    if right and isinstance(targets, bytes):
        checksum = zlib.crc32(unit + targets)
    with sqlite3.connect(path) as connection:
        try:
            connection.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (unit, checksum, targets))
        except sqlite3.IntegrityError:
            return
    connection.close()
    masks = np.ones((1, 1, 2), bool)
    with StoreView(path) as view, ResultStore(path) as one:
        for found in (view.get([unit, UNITS[5]]), one.get([unit, UNITS[5]])):
            assert len(found[UNITS[5]]) == 64 or unit == UNITS[5]
            assert all(values.dtype == np.float32 for values in found.values())
        # A record of another length than its unit is computed anew.
        from headflow.execution.fingerprint import unit_key

        one.put([(unit_key("c", masks), np.zeros(7, np.float32))])
        with pytest.raises(RuntimeError, match="computed"):
            run_example(one, "c", masks, lambda: (_ for _ in ()).throw(RuntimeError("computed")))


# ---------------------------------------------------------------------------------------------------------------- artifacts


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> dict[str, bytes]:
    """The bytes of each kind of file that one stage leaves to another."""
    folder = tmp_path_factory.mktemp("artifacts")
    MASKS.write(mask_table(2, 3, count=8, held_out=20), folder / "masks.parquet")
    grid = [{"id": f"e{n}", "layer": n % 2, "head": 0} for n in range(2)]
    pl.DataFrame(grid).write_parquet(folder / "other.parquet")
    Baseline("mean", [torch.ones(2, 3, 4)], [torch.ones(2, 3, 4)], "layout", 3).save(folder / "baseline.safetensors")
    prepared = {
        "key": "a", "id": "x/y", "source": None, "revision": None, "dtype": "float32", "architecture": "A", "attn": "auto", "quantization": None, "layers": 2,
        "heads": 3, "kv_heads": 3, "decoder_layers": 2, "image_layers": None, "trust_remote_code": False, "fingerprint": "f",
    }  # fmt: skip
    (folder / FILE).write_text(json.dumps(prepared))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@fuzz(60)
@given(changes=CHANGES, cut=CUT, raw=st.none() | st.binary(max_size=60))
@pytest.mark.parametrize("name", ["masks.parquet", "other.parquet"])
def test_any_bytes_in_a_table(name, changes, cut, raw, artifacts, tmp_path):
    (tmp_path / name).write_bytes(changed(artifacts[name], changes, cut) if raw is None else raw)
    table = fine_or_told(lambda: (MASKS if name == "masks.parquet" else ATTRIBUTIONS).read(tmp_path / name))
    if table is not None:
        fine_or_told(lambda: unpack(table["bits"].to_list(), 2, 3))


@fuzz(60)
@given(changes=CHANGES, cut=CUT, raw=st.none() | st.binary(max_size=60))
def test_any_bytes_in_a_tensor_file(changes, cut, raw, artifacts, tmp_path):
    (tmp_path / "b.safetensors").write_bytes(changed(artifacts["baseline.safetensors"], changes, cut) if raw is None else raw)
    fine_or_told(lambda: Baseline.load(tmp_path / "b.safetensors", torch.device("cpu"), torch.float32))


@fuzz(60)
@given(
    metadata=JSON | st.dictionaries(st.sampled_from(["kind", "layout", "pictures"]), JSON, min_size=3),
    shapes=st.lists(st.sampled_from([(), (0,), (2, 3, 4)]), max_size=2),
)
def test_any_metadata_of_a_tensor_file(metadata, shapes, tmp_path):
    from safetensors.torch import save_file

    tensors = dict(zip(("keys", "values"), (torch.ones(shape) for shape in shapes), strict=False))
    save_file(tensors, tmp_path / "b.safetensors", {"baseline": json.dumps(metadata)})
    fine_or_told(lambda: Baseline.load(tmp_path / "b.safetensors", torch.device("cpu"), torch.float32))


@fuzz(60)
@given(changes=CHANGES, cut=CUT, value=JSON, key=st.sampled_from(["key", "layers", "image_layers", "source", "trust_remote_code", "x"]))
def test_any_description_of_a_model(changes, cut, value, key, artifacts, tmp_path):
    for content in (changed(artifacts[FILE], changes, cut), json.dumps({**json.loads(artifacts[FILE]), key: value}).encode(), b"[" * 20_000):
        (tmp_path / FILE).write_bytes(content)
        fine_or_told(lambda: read_prepared(tmp_path))
        fine_or_told(lambda: read_json(tmp_path / FILE))


# ---------------------------------------------------------------------------------------------------------------- data sets


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    for number in range(3):
        Image.fromarray(np.full((8, 9, 3), 40 * number + 7, np.uint8)).save(folder / "images" / f"{number}.png")
    rows = pl.DataFrame({"image": [f"images/{n}.png" for n in range(3)], "question": ["what?"] * 3, "answer": ["a", "b", "c"], "looks_x": ["p", "q", None]})
    rows.write_csv(folder / "m.csv")
    rows.write_ndjson(folder / "m.jsonl")
    rows.write_parquet(folder / "m.parquet")
    images = [{"id": n, "file_name": f"{n}.png", "width": 9, "height": 8} for n in range(3)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "segmentation": [[0, 0, 6, 0, 6, 6, 0, 6]]} for n in range(3)]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}))
    return folder


@fuzz(25)
@given(changes=CHANGES, cut=CUT, on_bad=st.sampled_from(["stop", "skip"]))
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "m.parquet", "instances.json"])
def test_any_bytes_in_a_list_of_pictures(name, changes, cut, on_bad, data):
    place = data / f"any{Path(name).suffix}"
    place.write_bytes(changed((data / name).read_bytes(), changes, cut))
    selection = Selection(count=2, references=2, on_bad_example=on_bad)
    if name == "instances.json":
        fine_or_told(lambda: read_coco(data, annotations=place.name, selection=selection))
    else:
        fine_or_told(lambda: read_folder(data, manifest=place.name, selection=selection))


@fuzz(25)
@given(changes=CHANGES, cut=CUT)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_any_bytes_in_a_picture_or_a_mask(kind, changes, cut, tmp_path):
    place = tmp_path / "picture"
    try:
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(place, kind)
    except (KeyError, OSError):
        return  # this build of Pillow does not write it
    content = changed(place.read_bytes(), changes, cut)
    place.write_bytes(content)
    for source in (content, place):
        fine_or_told(lambda source=source: read_picture(source, 10_000))
        fine_or_told(lambda source=source: read_mask(source, (12, 9), 10_000))

"""The result store on disks and files that misbehave."""

import multiprocessing
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from headflow.errors import HeadflowError
from headflow.execution.store import ResultStore


def unit(number: int) -> bytes:
    return number.to_bytes(16, "little")


def values(number: int, length: int = 64) -> np.ndarray:
    return np.arange(number, number + length, dtype=np.float32)


def test_what_is_put_is_got(tmp_path):
    path = tmp_path / "deep" / "folder" / "results.sqlite"
    with ResultStore(path) as store:
        store.put((unit(i), values(i)) for i in range(1200))  # more than one question's worth
        assert len(store) == 1200
    with ResultStore(path) as store:
        found = store.get([unit(i) for i in range(0, 2400, 2)])
        assert set(found) == {unit(i) for i in range(0, 1200, 2)}
        assert all(np.array_equal(found[unit(i)], values(i)) for i in range(0, 1200, 2))
        assert store.get([]) == {}


def test_numbers_survive_to_the_last_bit(tmp_path):
    special = np.array([-0.0, 1e-45, -3.4e38, 0.1], np.float32)
    with ResultStore(tmp_path / "r") as store:
        store.put([(unit(1), special)])
        assert store.get([unit(1)])[unit(1)].tobytes() == special.tobytes()


def test_putting_again_replaces(tmp_path):
    with ResultStore(tmp_path / "r") as store:
        store.put([(unit(1), values(1))])
        store.put([(unit(1), values(9))])
        assert np.array_equal(store.get([unit(1)])[unit(1)], values(9)) and len(store) == 1


def test_a_put_that_fails_leaves_nothing_of_it(tmp_path):
    with ResultStore(tmp_path / "r") as store:
        store._connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON results WHEN hex(NEW.unit) LIKE '02%' BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(HeadflowError, match="cannot be used \\(no\\)"):
            store.put([(unit(1), values(1)), (unit(2), values(2))])
        assert len(store) == 0
        store.put([(unit(1), values(1))])
        assert len(store) == 1


@pytest.mark.parametrize("what", ["targets", "checksum", "unit"])
def test_a_flipped_bit_is_noticed_and_the_record_dropped(tmp_path, what):
    with ResultStore(tmp_path / "r") as store:
        store.put((unit(i), values(i)) for i in range(3))
        data = {"targets": values(1).tobytes()[:-1] + b"\x01", "checksum": 5, "unit": unit(77)}[what]
        store._connection.execute(f"UPDATE results SET {what} = ? WHERE unit = ?", (data, unit(1)))
        assert set(store.get([unit(i) for i in (0, 1, 2, 77)])) == {unit(0), unit(2)}
        assert len(store) == 2


def test_a_byte_flipped_in_the_file(tmp_path):
    path = tmp_path / "results.sqlite"
    with ResultStore(path) as store:
        store.put((unit(i), values(1000 + i)) for i in range(3))
    content = path.read_bytes()
    at = content.index(values(1001).tobytes()[:64]) + 10
    path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
    with ResultStore(path) as store:
        found = store.get([unit(i) for i in range(3)])
        assert len(found) in (1, 2)  # the flipped bytes may lie in a value that two records share
        for name, data in found.items():
            assert np.array_equal(data, values(1000 + int.from_bytes(name, "little")))


@pytest.mark.parametrize(
    "content", [b"this is no database, only a text that is long enough to look at" * 20, b"SQLite format 3\x00" + b"\xff" * 5000], ids=["text", "torn header"]
)
def test_a_file_that_is_no_store_is_explained_and_left_alone(tmp_path, content):
    path = tmp_path / "results.sqlite"
    path.write_bytes(content)
    with pytest.raises(HeadflowError, match=r"results.sqlite: the result store cannot be used .*move the file away"):
        ResultStore(path)
    assert path.read_bytes() == content


def test_a_truncated_store_is_explained(tmp_path):
    path = tmp_path / "results.sqlite"
    with ResultStore(path) as store:
        store.put((unit(i), values(i)) for i in range(300))
    path.write_bytes(path.read_bytes()[: 5 * 4096 + 100])
    with pytest.raises(HeadflowError, match="cannot be used"), ResultStore(path) as store:
        store.get([unit(i) for i in range(300)])


def test_a_database_of_something_else_is_explained(tmp_path):
    path = tmp_path / "results.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE results (name TEXT)")
    other.close()
    with pytest.raises(HeadflowError, match="cannot be used"), ResultStore(path) as store:
        store.put([(unit(1), values(1))])


def test_a_folder_in_place_of_the_file_is_explained(tmp_path):
    with pytest.raises(HeadflowError, match="cannot be used"):
        ResultStore(tmp_path)


def test_a_file_in_place_of_the_folder_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadflowError, match="cannot be used"):
        ResultStore(tmp_path / "file" / "results.sqlite")


def in_a_process(script: str, *arguments: object, **options: object) -> str:
    """Output of a script that prints the error it meets; a process of its own, so that limits end with it."""
    imports = "import sys, numpy as np\nfrom pathlib import Path\nfrom headflow.errors import HeadflowError\nfrom headflow.execution.store import ResultStore\n"
    script = imports + script
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, cwd=Path(__file__).parents[2], **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


WRITE = """
try:
    with ResultStore(Path(sys.argv[1])) as store:
        for i in range(1000, 1400):
            store.put([(i.to_bytes(16, "little"), np.arange(64, dtype=np.float32))])
    print("written")
except HeadflowError as error:
    print(error)
"""


def test_a_folder_that_may_not_be_written():
    """As an ordinary user: the superuser may write everywhere."""
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    try:
        with ResultStore(folder / "results.sqlite") as store:
            store.put([(unit(1), values(1))])
        (folder / "results.sqlite").chmod(0o444)
        folder.chmod(0o555)
        as_nobody = "import os\nif os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n" + WRITE
        said = in_a_process(as_nobody, folder / "results.sqlite")
        assert "results.sqlite: the result store cannot be used" in said and said.count("\n") == 1
        assert "cannot be used" in in_a_process(as_nobody, folder / "new" / "results.sqlite")
        folder.chmod(0o755)
        with ResultStore(folder / "results.sqlite") as store:
            assert np.array_equal(store.get([unit(1)])[unit(1)], values(1))
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def full_disk(tmp_path: Path, size: int) -> Path | None:
    """A tiny file system of its own, where this process may mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    if (
        os.geteuid() == 0
        and shutil.which("mount")
        and subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode == 0
    ):
        return folder
    return None


def test_a_full_disk_is_explained_and_keeps_what_was_there(tmp_path):
    folder = full_disk(tmp_path, 96 * 1024)
    try:
        path = (folder or tmp_path) / "results.sqlite"
        with ResultStore(path) as store:
            store.put([(unit(1), values(1))])
        limit = {} if folder else {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (48 * 1024,) * 2)}
        said = in_a_process(WRITE, path, **limit)
        assert "results.sqlite: the result store cannot be used" in said and said.count("\n") == 1
        if folder:
            assert "free some space and run again; finished work is kept" in said
        with ResultStore(path) as store:
            assert np.array_equal(store.get([unit(1)])[unit(1)], values(1))
            assert len(store) >= 1
    finally:
        if folder:
            subprocess.run(["umount", folder], check=True)


def _write(path: Path, first: int, start) -> None:
    start.wait()
    with ResultStore(path) as store:
        for i in range(first, first + 200):
            store.put([(unit(i), values(i))])


def test_several_writers_at_once(tmp_path):
    """From the very first moment, when none of them has made the file yet."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    writers = [context.Process(target=_write, args=(tmp_path / "r", 1000 * i, start)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with ResultStore(tmp_path / "r") as store:
        assert len(store) == 600
        for i in range(3):
            assert np.array_equal(store.get([unit(1000 * i + 7)])[unit(1000 * i + 7)], values(1000 * i + 7))


def test_a_store_locked_for_long_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr("headflow.databases._WAIT_FOR_LOCK_S", 0.2)
    with ResultStore(tmp_path / "r") as store, ResultStore(tmp_path / "r") as other:
        other._connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(HeadflowError, match="another run is writing to it; wait"):
            store.put([(unit(1), values(1))])
        other._connection.execute("ROLLBACK")
        store.put([(unit(1), values(1))])

"""Batches: order, running out of memory, threads."""

import threading
from types import SimpleNamespace

import pytest
import torch

from headflow.batching import automatic_batch, run_in_batches
from headflow.errors import HeadflowError

CPU = SimpleNamespace(lvlm=SimpleNamespace(device=torch.device("cpu"), spread=False))
GPU = SimpleNamespace(lvlm=SimpleNamespace(device=torch.device("cuda"), spread=False))


class Memory:
    """Work that runs out of memory above ``most`` masks and otherwise returns each mask's number."""

    def __init__(self, most: int, error: Exception | None = None) -> None:
        self.most, self.sizes = most, []
        self.error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB") if error is None else error

    def __call__(self, start: int, stop: int) -> torch.Tensor:
        self.sizes.append(stop - start)
        if stop - start > self.most:
            raise self.error
        return torch.arange(start, stop)


def collect(work, total: int, batch: int, capture=CPU) -> list[int]:
    result, at = [], 0
    for start, stop, values in run_in_batches(work, total, batch, capture):
        assert start == at and stop - start == len(values)
        at = stop
        result += values.tolist()
    return result


@pytest.mark.parametrize("capture", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize(("total", "batch"), [(1, 1), (7, 3), (64, 64), (65, 64), (10, 100), (0, 4)])
def test_every_mask_once_and_in_order(total, batch, capture):
    assert collect(Memory(1000), total, batch, capture) == list(range(total))


@pytest.mark.parametrize("capture", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 16])
@pytest.mark.parametrize(
    "error",
    [None, MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")],
    ids=["device", "python", "torch"],
)
def test_out_of_memory_halves_and_goes_on(most, capture, error):
    work = Memory(most, error)
    assert collect(work, 50, 16, capture) == list(range(50))
    assert (max(work.sizes) > most) == (most < 16)


@pytest.mark.parametrize("capture", [CPU, GPU], ids=["cpu", "gpu"])
def test_out_of_memory_with_one_mask_is_explained(capture):
    with pytest.raises(HeadflowError, match="out of memory with a single masked forward: use"):
        collect(Memory(0), 8, 4, capture)


@pytest.mark.parametrize("capture", [CPU, GPU], ids=["cpu", "gpu"])
@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("no"), KeyError("layer")], ids=repr)
def test_other_errors_are_not_taken_for_lack_of_memory(error, capture):
    work = Memory(0, error)
    with pytest.raises(type(error), match=str(error.args[0])):
        collect(work, 8, 8, capture)
    assert work.sizes == [8]


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("how", ["to the end", "closed half way", "error", "error in the caller"])
def test_the_threads_setting_is_restored(four_threads, how):
    seen = []

    def work(start: int, stop: int) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        if how == "error" and start > 4:
            raise ValueError("no")
        return torch.arange(start, stop)

    stream = run_in_batches(work, 20, 2, CPU)
    if how == "closed half way":
        next(stream)
        stream.close()
    elif how == "error":
        with pytest.raises(ValueError, match="no"):
            list(stream)
    elif how == "error in the caller":
        with pytest.raises(KeyError):
            for start, _, _ in stream:
                if start > 4:
                    raise KeyError
        stream.close()
    else:
        list(stream)
    assert torch.get_num_threads() == 4
    assert set(seen) == {1}  # four workers share out four threads


def test_no_thread_outlives_its_run(four_threads):
    before = threading.active_count()
    collect(Memory(2), 40, 4)
    assert threading.active_count() == before


def test_finished_batches_do_not_pile_up(four_threads):
    """A slow reader holds the work back: memory stays bounded however many masks there are."""
    done = []

    def work(start: int, stop: int) -> torch.Tensor:
        done.append(start)
        return torch.arange(start, stop)

    stream = run_in_batches(work, 1000, 1, CPU)
    next(stream)
    threading.Event().wait(0.2)
    assert len(done) <= 2 * 4 + 1
    stream.close()


def test_automatic_batch_on_a_cpu_follows_the_rows(captures):
    capture, _ = captures("mha")
    assert capture.suffix == 9
    assert automatic_batch(capture) == 1100 // 9 // 2 * 2  # even: complementary masks stay together


def fake_gpu_capture(hidden: int, layers_heads: int, prefix: int, suffix: int, dtype: torch.dtype, weights: int = 0) -> SimpleNamespace:
    config = SimpleNamespace(hidden_size=hidden, intermediate_size=3 * hidden, num_attention_heads=layers_heads, vocab_size=32000)
    lvlm = SimpleNamespace(device=torch.device("cuda"), decoder=SimpleNamespace(config=config), dtype=dtype, spread=False, weight_bytes=lambda device: weights)
    return SimpleNamespace(lvlm=lvlm, prefix=prefix, suffix=suffix, computed=suffix, predicts=1, key_image=slice(prefix - 500, prefix))


def test_automatic_batch_on_a_gpu_grows_with_memory_and_shrinks_with_the_model(monkeypatch):
    def batch(gibibytes: float, hidden: int = 4096, dtype: torch.dtype = torch.bfloat16, weights: int = 0) -> int:
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=int(gibibytes * 2**30)))
        return automatic_batch(fake_gpu_capture(hidden, 32, 600, 20, dtype, weights))

    assert 1 == batch(0.001) < batch(4) < batch(8) < batch(12)
    assert batch(8, hidden=8192) < batch(8)
    assert batch(8, dtype=torch.float32) < batch(8)
    assert 1 <= batch(24, weights=20 * 2**30) < batch(24)
    assert batch(24) == batch(24)  # a rule of shapes and total memory: the same run is the same twice
    assert batch(10_000) == 1024

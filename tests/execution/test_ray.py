"""The Ray executor on a real cluster of this machine, with a second node that is killed in the middle of a run."""

import os

import numpy as np
import psutil
import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
from ray.cluster_utils import Cluster

from headflow.errors import HeadflowError
from headflow.execution.executors import Job, run_units
from headflow.execution.store import ResultStore
from headflow.params import ExecutionParams
from tests.execution.jobs import BLOCKS, LENGTH, expected, nodes_of, table
from tests.execution.test_executors import drive, finish, wait_for

UNITS = 6


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one CPU each; the second one may be killed and another may join."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 << 20})
    cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def store(tmp_path):
    with ResultStore(tmp_path / "results.sqlite") as store:
        yield store


@pytest.fixture
def settings(cluster):
    return ExecutionParams(executor="ray", address=cluster.address, threads=1)


def run(store, settings, units=UNITS, count=lambda computed, found: None, **arguments):
    return run_units(Job("tests.execution.jobs:Sums", arguments), range(units), store, settings, count)


def test_masked_runs_are_the_same_byte_for_byte_as_here(settings, checkpoints, tmp_path):
    job = Job("tests.execution.jobs:MaskedRuns", {"checkpoint": str(checkpoints("mha")), "masks": 200})
    found = []
    for name, chosen in (("here", ExecutionParams(workers=1, threads=1)), ("ray", settings.model_copy(update={"workers": 1}))):
        with ResultStore(tmp_path / f"{name}.sqlite") as store:
            found.append(table(run_units(job, range(3), store, chosen)).tobytes())
    assert found[0] == found[1] and len(np.unique(np.frombuffer(found[0], np.float32))) > 500
    assert not ray.is_initialized()


def test_a_worker_and_then_its_whole_node_are_killed_and_a_new_node_is_put_to_use(cluster, settings, store, tmp_path, capfd):
    """A worker dies of its own work; then the second node goes, the first one carries on alone, and the run grows into a node that joins."""
    nodes, steps, met = [node for node in cluster.list_all_nodes() if not node.head], [], tmp_path / "met"
    met.mkdir()

    def disturb(computed: int, found: int) -> None:
        steps.append(computed + found)
        if sum(steps) >= BLOCKS * LENGTH and nodes and len(nodes_of(met)) == 2:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            cluster.add_node(num_cpus=1, object_store_memory=80 << 20)

    results = run(store, settings, units=24, count=disturb, pause_s=0.15, once=str(tmp_path), once_at=3, met=str(met), wait_at=18)
    assert table(results).tobytes() == expected(24).tobytes()
    assert (tmp_path / "struck").exists() and not nodes
    said = capfd.readouterr().err
    assert said.count("a worker has died") >= 2
    assert len(nodes_of(met)) == 3  # the two that were there first, and the one that joined
    assert sum(steps) == 24 * BLOCKS * LENGTH == LENGTH * len(store)


def test_a_driver_that_is_killed_takes_its_actors_along_and_goes_on_where_it_stopped(settings, tmp_path):
    process = drive(tmp_path, settings, pause_s=0.2)
    wait_for(process, 4 * LENGTH)
    actors = [one for one in psutil.process_iter(["cmdline"]) if "ray::Conversation" in " ".join(one.info["cmdline"] or [])]
    assert actors
    process.kill()
    process.communicate()
    assert not psutil.wait_procs(actors, timeout=20)[1]
    with ResultStore(tmp_path / "results.sqlite") as store:
        kept = len(store)
    assert 4 <= kept < UNITS * BLOCKS
    assert finish(tmp_path / "results.sqlite", UNITS) == UNITS * BLOCKS - kept


def test_what_a_worker_refuses_ends_the_run(settings, store):
    with pytest.raises(HeadflowError, match="example 1: the target under mask 130 is not a finite number"):
        run(store, settings, always="refused")
    assert len(store) >= 2 and not ray.is_initialized()


def test_an_address_without_a_cluster_is_explained(store):
    with pytest.raises(HeadflowError, match=r"the Ray cluster at '127.0.0.1:1' cannot be reached \(.*\); see execution.address and RAY_ADDRESS"):
        run(store, ExecutionParams(executor="ray", address="127.0.0.1:1"))

"""Where work is done: in this process, in worker processes of this machine, or on a Ray cluster.

**Work.** A stage names a function, ``"stages.run_ablations:Ablations"``, and JSON arguments (:class:`Job`). Each worker imports the function and calls
it once: that loads the model. What comes back is called with one *unit* after another, a JSON value such as
``{"example": 3, "start": 0, "stop": 1024}``; it takes the example's finished blocks from the store that it is handed, computes those that are
missing, puts them there as they are done, and returns a result of JSON values and numpy arrays. A worker builds all else itself, from the params and
the files under ``data/``: neither models nor captures nor any object of ours ever travels.

**One store, one writer.** Only the driver, the process that was started by hand or by DVC, opens the result store. What a worker calls its store is
:class:`~headflow.execution.executors.worker.RemoteRecords`: it asks the driver. So the store may lie on the driver's own disk (SQLite's write-ahead log
does not work on network file systems), a killed worker can leave nothing half written, and a full disk is met in one place.

**A conversation.** A worker says one thing at a time and waits for the answer::

    worker: ready                        driver: a unit, or stop
    worker: get these records            driver: those of them that are finished
    worker: put these records            driver: written
    worker: done, with this result       driver: another unit, or stop
    worker: failed, for this reason      (the driver raises it)

This is the back-pressure: a worker that computes faster than the driver writes waits for it, and nothing piles up. Units are handed out one at a time to
whoever is free, and no further ahead of the first unfinished one than a small multiple of the workers, so that few results wait for their turn.

**Faults.** The unit of a worker that dies goes to another one, which finds what the dead one has put; a unit that has ended three workers is
given up with the reason. Dead workers are replaced, and further ones start when a cluster grows. A mistake that the worker explains (a target that is not
a finite number, a missing file) would come again and ends the run at once. Whatever ends a run, finished blocks are in the store and the same command
goes on from there. Where the driver dies, its workers see their pipe close and end; Ray ends the actors of a driver that is gone.

**Same numbers.** A record's numbers depend on its unit and on nothing else: batches never reach over the windows of blocks that are saved together
(:func:`headflow.execution.runs.run_example`), results are put together in the order of units, and every worker computes with
``execution.threads`` threads. Given the same device, dtype and threads, tables are the same byte for byte for every executor, any number of workers,
and any history of kills. A worker whose engine or torch differs from the driver's is refused.

**What is sent.** Messages are bytes of our own making (:mod:`~headflow.execution.executors.messages`): JSON, and numpy arrays of numbers as they
lie in memory. Worker processes on this machine are started by name (``python -m``) and read them from a socket: no pickle at all. Ray itself uses
cloudpickle for the reference to the actor class (by name, as it can be imported), for the argument list of each call, here one ``bytes``, and
for exceptions that an actor raises; ours never raise, they answer. Whoever is let into a Ray cluster can run code on it, whatever headflow
does, and Ray listens on all of a machine's addresses: leave its token on, and close its ports to others.
"""

from headflow.execution.executors.jobs import Job, Result, Unit, Work
from headflow.execution.executors.open import run_units, workers

__all__ = ["Job", "Result", "Unit", "Work", "run_units", "workers"]

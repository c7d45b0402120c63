"""What is to be done, in a form that any worker can rebuild."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from headflow.errors import HeadflowError

Unit = Any
"""A JSON value that tells a unit of work from the others."""
Result = dict[str, Any]
"""What a unit gives: names with JSON values or numpy arrays of numbers."""
Count = Callable[[int, int], None]
"""Told of progress: how much was computed now, how much was found in the store."""


class Records(Protocol):
    """The part of :class:`headflow.execution.store.ResultStore` that work uses."""

    def get(self, units: Any) -> dict[bytes, Float[np.ndarray, " numbers"]]: ...

    def put(self, records: Any) -> None: ...


class Work(Protocol):
    """A job that has been opened in one worker: the model is loaded."""

    def __call__(self, unit: Unit, store: Records, count: Count) -> Result: ...


@dataclass(frozen=True)
class Job:
    """A function by name and its JSON arguments: called once in each worker, it gives the :class:`Work`.

    Attributes:
        function: ``module:name``.
        arguments: keyword arguments, JSON values.
    """

    function: str
    arguments: dict[str, Any]

    def open(self) -> Work:
        """Import the function and call it.

        Raises:
            HeadflowError: there is no such module or function here.
        """
        module, _, name = self.function.partition(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise HeadflowError(f"{self.function}: a worker cannot import {error.name}; start it where the driver's code can be found") from error
        except AttributeError as error:
            raise HeadflowError(f"{self.function}: there is no {name} in {module}") from error
        return function(**self.arguments)

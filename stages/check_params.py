"""Read the whole of params.yaml and stop at the first mistake. No stage: `make` calls it before `dvc repro` touches anything."""

from headflow.params import Params
from stages.door import enter


def check(params: Params) -> None:
    """Nothing more to do: the door has read and checked the params."""


if __name__ == "__main__":
    enter(check, per_model=False)

"""Read the whole of params.yaml and stop at the first mistake. No stage: `make` calls it before `dvc repro` touches anything."""

import sys
from pathlib import Path

from headflow.errors import HeadflowError
from headflow.params import read_params

if __name__ == "__main__":
    try:
        read_params(Path("params.yaml"))
    except HeadflowError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None

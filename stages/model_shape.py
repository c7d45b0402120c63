"""How many layers and heads the prepared model has, as the stage prepare_model wrote it."""

from headflow.errors import HeadflowError
from headflow.files import read_json
from stages import paths


def layers_and_heads(model: str) -> tuple[int, int]:
    """Decoder layers, and query heads in each.

    Raises:
        HeadflowError: model.json is missing or does not say.
    """
    path = paths.model_dir(model) / "model.json"
    content = read_json(path)
    shape = tuple(content.get(key) if isinstance(content, dict) else None for key in ("layers", "heads"))
    if not all(type(number) is int and number > 0 for number in shape):
        raise HeadflowError(f"{path}: expected positive integers under 'layers' and 'heads', found {shape[0]!r} and {shape[1]!r}; run `dvc repro`")
    return shape

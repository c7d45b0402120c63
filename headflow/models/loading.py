"""Load any vision-language model of transformers: from a folder, the Hugging Face hub, headflow itself, or what prepare_model left behind."""

import difflib
import importlib.util
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, PretrainedConfig

from headflow.errors import HeadflowError
from headflow.models.lvlm import LVLM
from headflow.models.prepared import CHECKPOINT, read_prepared
from headflow.models.processors import load_processor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    device_map: str | dict[str, Any] = "auto",
    attn: str = "auto",
    quantization: str | None = None,
    trust_remote_code: bool = False,
) -> LVLM:
    """Load a model from a folder, from the Hugging Face hub, ``"embedded"``, the small one that ships with headflow, or ``"planted:CIRCUIT"``.

    Args:
        source: folder, hub id, ``"embedded"``, or e.g. ``"planted:additive"``: a model in which a known set of heads carries the picture
            (:data:`headflow.models.planted.circuits.CIRCUITS`).
        revision: commit, tag or branch on the hub.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``float64``.
        device_map: ``cpu``, ``cuda``, ``cuda:1`` …; ``auto`` takes the one GPU if there is one, and spreads the weights where
            there are several; ``balanced``, ``balanced_low_0``, ``sequential`` or a mapping from modules to devices go to
            accelerate as they are.
        attn: attention code of the stock forwards; ``auto`` leaves the choice to transformers.
        quantization: ``8bit`` or ``4bit`` (bitsandbytes), or None.
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        HeadflowError: the model cannot be found or loaded, or the device does not exist.
    """
    if str(source).startswith("planted:"):
        # Loaded by name: stages load what prepare_model left behind, and should not hang on how planted models are made.
        from headflow.models.planted import install

        with tempfile.TemporaryDirectory() as folder:
            install(str(source).removeprefix("planted:"), Path(folder))
            return load(folder, dtype=dtype, device_map=device_map, attn=attn, quantization=quantization)
    if source == "embedded":
        from headflow.models.embedded.sealing import verify
        from headflow.models.embedded.shipped import SHIPPED_FOLDER

        verify(SHIPPED_FOLDER)
        source = SHIPPED_FOLDER
    _check_source(source)
    if dtype not in DTYPES:
        raise HeadflowError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    device, spread = _place(device_map)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    extra: dict[str, Any] = {} if attn == "auto" else {"attn_implementation": attn}
    if quantization is not None:
        extra["quantization_config"] = _quantized(quantization, DTYPES[dtype])
    if spread is not None or quantization is not None:
        extra["device_map"] = spread or {"": device}
    with _loading(source):
        AutoConfig.from_pretrained(source, **options)  # alone first: a model that is not there is told after one look
        processor = load_processor(source, **options)
        # Weights in pickle files (.bin, .pt) can run code when they are opened.
        extra["use_safetensors"] = True
        model, found = AutoModelForImageTextToText.from_pretrained(source, dtype=DTYPES[dtype], output_loading_info=True, **options, **extra)
        _check_complete(found)
    text = model.get_decoder().config
    if attn == "auto" and getattr(text, "attn_logit_softcapping", None) and text._attn_implementation == "sdpa":
        text._attn_implementation = "eager"  # some versions give such a model sdpa, which drops the soft cap without a word
    try:
        return LVLM(model if "device_map" in extra else model.to(device), processor)
    except (RuntimeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise HeadflowError(
                f"model {str(source)!r} does not fit into the memory of device {device!r}; use bfloat16, quantization, or several devices (device_map)"
            ) from error
        raise HeadflowError(f"device {device!r} cannot be used ({str(error).splitlines()[0]}); use `auto`, `cpu` or `cuda`") from error


def _place(device_map: str | dict[str, Any]) -> tuple[str, str | dict[str, Any] | None]:
    """One device, and accelerate's map where the weights are spread over several."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device_map == "auto":
        return ("cuda", "auto") if gpus > 1 else ("cuda" if gpus else "cpu", None)
    if not isinstance(device_map, str) or device_map.startswith(("balanced", "sequential")):
        return ("cuda" if gpus else "cpu", device_map)
    if device_map.startswith("cuda") and not gpus:
        raise HeadflowError(f"device_map {device_map!r} was asked for, but torch sees no GPU; use `device_map: auto` or `cpu`")
    return device_map, None


def _quantized(bits: str, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise HeadflowError(f"quantization {bits!r} needs bitsandbytes: pip install 'headflow[quantized]', or set quantization: null")
    if bits not in ("8bit", "4bit"):
        raise HeadflowError(f"quantization {bits!r} is not one of 8bit, 4bit")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says at every product that it rounds
    return BitsAndBytesConfig(load_in_8bit=True) if bits == "8bit" else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=dtype)


def load_prepared(folder: Path, device_map: str) -> LVLM:
    """Load the model that ``prepare_model`` left in ``folder`` (see :mod:`headflow.models.prepared`).

    Raises:
        HeadflowError: see :func:`load`; or the description is missing or damaged.
    """
    prepared = read_prepared(folder)
    return load(
        folder / CHECKPOINT if prepared.source is None else prepared.source,
        revision=prepared.revision,
        dtype=prepared.dtype,
        device_map=device_map,
        attn=prepared.attn,
        quantization=prepared.quantization,
        trust_remote_code=prepared.trust_remote_code,
    )


def prepared_processor(folder: Path) -> Any:
    """The processor alone of the model that ``prepare_model`` left in ``folder``: examples can be checked before any weight is loaded.

    Raises:
        HeadflowError: see :func:`load`.
    """
    prepared = read_prepared(folder)
    source = folder / CHECKPOINT if prepared.source is None else prepared.source
    with _loading(source):
        return load_processor(source, revision=prepared.revision, trust_remote_code=prepared.trust_remote_code)


def read_config(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> PretrainedConfig:
    """A model's configuration, without its weights.

    Raises:
        HeadflowError: there is no such model, or the hub cannot be reached.
    """
    _check_source(source)
    with _loading(source):
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)


def check_machine(device_map: str, dtype: str, quantization: str | None) -> None:
    """Raise HeadflowError if this machine lacks the device, or the package for these weights; nothing is loaded."""
    _place(device_map)
    if quantization is not None:
        _quantized(quantization, DTYPES[dtype])


def _check_source(source: str | Path) -> None:
    """What can be told before the hub is asked."""
    name = str(source)
    if Path(source).is_dir():
        return
    if name.startswith((".", "/", "~")):
        raise HeadflowError(f"model {name!r} cannot be loaded: there is no such folder")
    if name.count("/") != 1:
        close = difflib.get_close_matches(name, ["embedded"], cutoff=0.8)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise HeadflowError(f"model {name!r} cannot be loaded: there is no such folder, and an id on the Hugging Face hub reads owner/name{hint}")


def _check_complete(found: dict[str, Any]) -> None:
    """Raise ValueError if the checkpoint lacks weights: transformers draws them at random and goes on."""
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"its files lack the weight {missing[0]}{more}, which would be random numbers; get the checkpoint anew, or one of this very class")


@contextmanager
def _loading(source: str | Path) -> Iterator[None]:
    try:
        yield
    except HeadflowError:
        raise
    except Exception as error:  # a damaged tokenizer.json, for one, raises a plain Exception
        reason = "; ".join([line.strip() for line in str(error).splitlines() if line.strip()][:2]) or type(error).__name__
        if "trust_remote_code" in str(error):
            reason = "it comes with code of its own, which is not run unasked; read that code, and set trust_remote_code: true for this model if you trust it"
        raise HeadflowError(f"model {str(source)!r} cannot be loaded: {reason}") from error

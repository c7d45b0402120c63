"""Load a model's processor, with or without torchvision.

transformers needs torchvision to prepare videos, and ``AutoProcessor`` cannot load a processor that takes videos without
it (Qwen-VL, LLaVA-OneVision, InternVL, SmolVLM …). headflow shows pictures only, and torchvision's wheels fit one build of
torch each: where it is missing, such a processor is put together from its parts, all but the one for videos.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor, ImageProcessingMixin, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, PROCESSOR_MAPPING_NAMES, model_type_to_module_name, processor_class_from_name
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.processing_utils import MODALITY_TO_AUTOPROCESSOR_MAPPING
from transformers.utils import PushToHubMixin, is_torchvision_available

from headflow.errors import HeadflowError

VIDEO = "video_processor"


class NoVideos(PushToHubMixin):
    """Stands where a video processor would; keeps the settings of the one in the checkpoint, so that saving loses nothing."""

    _auto_class = None
    model_input_names: tuple[str, ...] = ()

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        raise HeadflowError("videos need torchvision, which is not installed; headflow shows pictures only")

    def __getattr__(self, name: str) -> Any:
        # SmolVLM's chat template asks for the number of frames whether or not there is a video.
        if name.startswith("_") or name == "settings":
            raise AttributeError(name)
        return self.settings.get(name)

    def to_dict(self) -> dict[str, Any]:
        return dict(self.settings)


def load_processor(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The processor of a folder or hub id, as ``AutoProcessor`` would load it.

    Args:
        source: folder or hub id.
        revision: commit, tag or branch on the hub.
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        HeadflowError: the processor needs a package that is not installed, or is none for pictures and text.
        OSError, ValueError: it cannot be found or read, as transformers says it.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        kind = None if is_torchvision_available() else _processor_class(source, **options)
        if kind is not None and VIDEO in kind.get_attributes():
            processor = _without_videos(kind, source, **options)
        else:
            processor = (kind or AutoProcessor).from_pretrained(source, **options)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise HeadflowError(f"the processor of model {str(source)!r} needs a package that is not installed: {reason}") from error
    if not isinstance(processor, ProcessorMixin):
        raise HeadflowError(f"model {str(source)!r} has no processor for pictures and text together ({type(processor).__name__} was found)")
    return processor


def assemble(kind: type[ProcessorMixin], parts: dict[str, Any], settings: dict[str, Any]) -> ProcessorMixin:
    """A processor from its parts, with :class:`NoVideos` in the place of the video processor.

    Args:
        kind: the processor's class, one that takes a video processor.
        parts: its other parts by name, e.g. ``image_processor`` and ``tokenizer``.
        settings: what ``processor_config.json`` and the chat template file hold.
    """

    class Unchecked(kind):
        """transformers cannot even name the class that it expects here when torchvision is missing."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return NoVideos if argument_name == VIDEO else super().check_argument_for_proper_class(argument_name, argument)

    every = {**parts, VIDEO: NoVideos(settings.get(VIDEO) or {})}
    processor = Unchecked.from_args_and_dict([every[name] for name in kind.get_attributes()], settings)
    processor.__class__ = kind
    return processor


def _without_videos(kind: type[ProcessorMixin], source: str | Path, revision: str | None, trust_remote_code: bool) -> ProcessorMixin:
    """``kind.from_pretrained``, without the video processor."""
    settings, _ = kind.get_processor_dict(source, revision=revision)
    names = [name for name in kind.get_attributes() if name != VIDEO]
    if unknown := [name for name in names if name not in MODALITY_TO_AUTOPROCESSOR_MAPPING]:
        raise HeadflowError(f"{kind.__name__} of model {str(source)!r} needs torchvision, which is not installed, for {', '.join(unknown)}")
    # Not transformers.AutoImageProcessor: up to 5.17 that name asks for torchvision, the class behind it does not.
    loaders = {name: MODALITY_TO_AUTOPROCESSOR_MAPPING[name] for name in names}
    parts = {name: loader.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code) for name, loader in loaders.items()}
    return assemble(kind, parts, settings)


def _processor_class(source: str | Path, revision: str | None, trust_remote_code: bool) -> type[ProcessorMixin] | None:
    """The transformers class of the processor, found in the order of ``AutoProcessor``; None = leave it to ``AutoProcessor``."""
    settings, _ = ProcessorMixin.get_processor_dict(source, revision=revision)
    if "processor_class" not in settings:
        try:
            settings, _ = ImageProcessingMixin.get_image_processor_dict(source, revision=revision)
        except OSError:
            settings = {}
    if "processor_class" not in settings:
        settings = get_tokenizer_config(source, revision=revision)
    if trust_remote_code and "AutoProcessor" in (settings.get("auto_map") or {}):
        return None
    name = settings.get("processor_class")
    if name is not None:
        kind = processor_class_from_name(name)
    else:
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
        kind = PROCESSOR_MAPPING.get(type(config), None)
    if getattr(kind, "is_dummy", False):
        kind = _unguarded(kind.__name__)
    return kind if isinstance(kind, type) and issubclass(kind, ProcessorMixin) else None


def _unguarded(name: str) -> type | None:
    """A processor class that transformers hides because torchvision is missing, straight from its file.

    Pixtral's is hidden so, though all that it takes from the file of its image processor stands in the file without torchvision too.
    """
    for model_type, names in PROCESSOR_MAPPING_NAMES.items():
        module = model_type_to_module_name(model_type)
        file, images, plain = (f"transformers.models.{module}.{part}_{module}" for part in ("processing", "image_processing", "image_processing_pil"))
        if name not in names or find_spec(file) is None or find_spec(plain) is None:
            continue
        sys.modules[images] = import_module(plain)
        try:
            return getattr(import_module(file), name)
        finally:
            del sys.modules[images]
    return None

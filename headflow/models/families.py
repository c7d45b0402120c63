"""The model families that the test suite drives, and what each needs. For readers: no code decides anything by these names."""

from dataclasses import dataclass

SHARED, RECOMPUTED, CROSS = "shared", "recomputed", "cross"
MODES = {
    SHARED: "everything up to the end of the picture is computed once an example and shared by all masks",
    RECOMPUTED: "the whole prompt is computed anew for every mask, many at once: exact, and slower",
    CROSS: "the picture enters through cross-attention layers; their heads are the ones that are cut",
}
"""The modes of ``LVLM.prefix_mode``: what masked runs have in common. A model's own is found by a check on it, never by its name."""


FIXED, BY_SIZE = "the same for all", "by size"
COUNTS = {
    FIXED: "every picture gives the same number of image tokens",
    BY_SIZE: "pictures of several sizes give several numbers; the mean baseline needs one: set examples.picture_size",
}
"""How many image tokens a picture gives, with the processor's own settings."""

ENDING = "ForConditionalGeneration"


@dataclass(frozen=True)
class Family:
    """One tested family.

    Attributes:
        name: what its makers call it.
        model_class: its class in transformers.
        text_model: class of its text model, without the ending ``Model``.
        mode: one of MODES.
        tokens: one of COUNTS.
        example: a checkpoint on the hub.
        needs: what else to know before running it; may be empty.
    """

    name: str
    model_class: str
    text_model: str
    mode: str
    tokens: str
    example: str
    needs: str = ""


FAMILIES = (
    Family("LLaVA-1.5", f"Llava{ENDING}", "Llama", SHARED, FIXED, "llava-hf/llava-1.5-7b-hf"),
    Family("LLaVA-NeXT", f"LlavaNext{ENDING}", "Mistral, Llama", SHARED, BY_SIZE, "llava-hf/llava-v1.6-mistral-7b-hf", "newline features inside the picture"),
    Family(
        "LLaVA-OneVision", f"LlavaOnevision{ENDING}", "Qwen2", SHARED, BY_SIZE, "llava-hf/llava-onevision-qwen2-7b-ov-hf",
        "newline features inside the picture",
    ),
    Family("Qwen2-VL", f"Qwen2VL{ENDING}", "Qwen2VLText", SHARED, BY_SIZE, "Qwen/Qwen2-VL-7B-Instruct", "three position axes (M-RoPE)"),
    Family("Qwen2.5-VL", f"Qwen2_5_VL{ENDING}", "Qwen2_5_VLText", SHARED, BY_SIZE, "Qwen/Qwen2.5-VL-7B-Instruct", "three position axes (M-RoPE)"),
    Family(
        "Qwen3-VL", f"Qwen3VL{ENDING}", "Qwen3VLText", SHARED, BY_SIZE, "Qwen/Qwen3-VL-8B-Instruct",
        "three position axes (M-RoPE); picture features enter the first layers too (deepstack)",
    ),
    Family("InternVL", f"InternVL{ENDING}", "Qwen2, Qwen3", SHARED, BY_SIZE, "OpenGVLab/InternVL3-8B-hf", "the checkpoints that end in -hf; tiles"),
    Family(
        "Gemma3", f"Gemma3{ENDING}", "Gemma3Text", SHARED, FIXED, "google/gemma-3-4b-it",
        "token types (its processor gives them); sliding windows; picture tokens see one another both ways; gated on the hub",
    ),
    Family("SmolVLM", f"SmolVLM{ENDING}", "Llama", SHARED, BY_SIZE, "HuggingFaceTB/SmolVLM2-2.2B-Instruct", "tiles, with marker text between them"),
    Family("Idefics3", f"Idefics3{ENDING}", "Llama", SHARED, BY_SIZE, "HuggingFaceM4/Idefics3-8B-Llama3", "tiles, with marker text between them"),
    Family("Mistral3", f"Mistral3{ENDING}", "Mistral", SHARED, BY_SIZE, "mistralai/Mistral-Small-3.1-24B-Instruct-2503", "row-break tokens inside the picture"),
    Family("Pixtral in LLaVA", f"Llava{ENDING}", "Mistral", SHARED, BY_SIZE, "mistral-community/pixtral-12b", "row-break tokens inside the picture"),
    Family(
        "PaliGemma", f"PaliGemma{ENDING}", "Gemma", RECOMPUTED, FIXED, "google/paligemma-3b-mix-224",
        "the prompt sees both ways, so runs are slower; gated on the hub",
    ),
    Family(
        "PaliGemma 2", f"PaliGemma{ENDING}", "Gemma2", RECOMPUTED, FIXED, "google/paligemma2-3b-mix-224",
        "the prompt sees both ways, so runs are slower; soft-capped attention; gated on the hub",
    ),
    Family(
        "Mllama", f"Mllama{ENDING}", "MllamaText", CROSS, FIXED, "meta-llama/Llama-3.2-11B-Vision-Instruct",
        "only the heads of its cross-attention layers read the picture; gated on the hub",
    ),
)  # fmt: skip


def family_of(model_class: str) -> str:
    """The family of a class of transformers; where families share the class, or none is known, the class without its ending."""
    found = [family.name for family in FAMILIES if family.model_class == model_class]
    return found[0] if len(found) == 1 else model_class.removesuffix(ENDING)

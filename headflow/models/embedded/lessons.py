"""What the language model is asked about each training scene, and which tokens teach it.

A look-up by a word of the question ("what is the colour of the STAR?") needs two steps: the word finds its object, the end of the prompt finds
the word. Learnt from the end alone, neither step helps before the other is there, and training stays at chance for long. So the answer is
also a label at the word itself, where one step suffices; generation never reads that position. All names can be asked about at once, since
in the token tree each costs one token.
"""

import numpy as np
from transformers import PreTrainedTokenizerFast

from headflow.datasets.scenes.questions import Question, absent_names, ask, colour_of, exists
from headflow.datasets.scenes.render import Scene
from headflow.datasets.scenes.vocabulary import NAMES
from headflow.models.embedded.network import BEGIN, END, IMAGE
from headflow.models.embedded.packing import UNLABELLED, Strand

_END_WEIGHT = 0.1  # of the token that ends a one-word answer: always the same, so soon learnt
_COLOURS_ASKED = 2  # colour look-ups asked to the end, of the up to three whose name is labelled


class Lessons:
    """Turns scenes into labelled strands.

    Args:
        tokenizer: of the model.
        image_tokens: tokens that one image takes.
        description_weight: loss weight of each description token.
        name_weight: summed loss weight of the labels at the names of each kind of look-up.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_tokens: int, description_weight: float, name_weight: float) -> None:
        self._tokenizer = tokenizer
        self._description_weight, self._name_weight = description_weight, name_weight
        self._known: dict[str, list[int]] = {}
        self.prefix = [BEGIN, *self._encode("USER:"), *[IMAGE] * image_tokens]

    def strands(self, scene: Scene, rng: np.random.Generator) -> list[Strand]:
        """Every kind of question about one scene; ``rng`` chooses which look-ups are asked to the end."""
        present, absent = scene.names, absent_names(scene)
        colours = [colour_of(item) for item in scene.objects]
        sightings = {name: exists(scene, name) for name in NAMES}
        asked = [ask(scene, kind, rng) for kind in ("object", "colour", "count", "description")]
        asked += [colours[i] for i in rng.permutation(len(colours))[:_COLOURS_ASKED]]
        asked += [sightings[names[rng.integers(len(names))]] for names in (present, absent)]
        return [
            *(self.strand(question) for question in asked),
            *(self._up_to_name(question, self._name_weight / len(colours)) for question in colours),
            *(self._up_to_name(sightings[name], self._name_weight / len(names)) for names in (present, absent) for name in names),
        ]

    def strand(self, question: Question) -> Strand:
        """The whole prompt with its answer, which is what is learnt."""
        prompt = self._encode(f"\n{question.text} ASSISTANT:")
        answer = [*self._encode(question.answer), END]
        weights = [self._description_weight] * len(answer) if question.kind == "description" else [1.0, *[_END_WEIGHT] * (len(answer) - 1)]
        unlabelled = len(prompt) - 1
        return Strand((*prompt, *answer[:-1]), (*[UNLABELLED] * unlabelled, *answer), (*[0.0] * unlabelled, *weights))

    def _up_to_name(self, question: Question, weight: float) -> Strand:
        """A look-up's prompt cut after the name that it asks about, with the answer as the name's label."""
        assert question.about is not None
        prompt = self._encode(f"\n{question.text}")
        (name,), (answer,) = self._encode(question.about), self._encode(question.answer)
        unlabelled = prompt.index(name)
        return Strand(tuple(prompt[: unlabelled + 1]), (*[UNLABELLED] * unlabelled, answer), (*[0.0] * unlabelled, weight))

    def _encode(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._known[text]

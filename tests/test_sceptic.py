"""Doubts about the engine, each put to a real checkpoint: numbers that could be wrong without a word, and input that could end in a traceback."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import headflow
from headflow.ablation import run_masks
from headflow.answers import answer_tokens
from headflow.attribution.masks import unpack
from headflow.checks import check_intervention
from headflow.errors import HeadflowError
from headflow.models.answering import stock_answers
from headflow.models.baselines import blank_baseline, mean_baseline, swap_baseline
from headflow.models.lvlm import LVLM, _OneRun
from headflow.models.processors import load_processor
from headflow.params import Params
from headflow.prompts import before_answer, image_span, prompt_text
from headflow.tables.examples import FEATURES
from headflow.targets import Target
from stages import extract_features, prepare_examples, prepare_model, run_ablations, sample_masks, subjects
from tests.families import FAMILIES, QUESTION


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = FAMILIES[name].build(tmp_path_factory.mktemp(name))
        return made[name]

    return folder


@pytest.fixture(scope="module")
def loaded(built: Callable[[str], Path]) -> Callable[[str], LVLM]:
    made: dict[str, LVLM] = {}

    def model(name: str) -> LVLM:
        if name not in made:
            made[name] = headflow.load(built(name), device_map="cpu")
        return made[name]

    return model


@pytest.fixture
def copied(built: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint of one's own, to be damaged."""
    return lambda name: Path(shutil.copytree(built(name), tmp_path / name))


def shown(seed: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


class TestLoading:
    @pytest.mark.parametrize(("name", "part"), [("llava", "layers.1.self_attn.k_proj"), ("qwen2_vl", "visual.blocks.0.attn.proj.bias")])
    def test_a_checkpoint_that_lacks_weights_is_refused(self, copied, name, part):
        """transformers draws them at random and goes on: every check would pass on a model that nobody trained."""
        folder = copied(name)
        change_weights(folder, lambda weights: [weights.pop(key) for key in list(weights) if part in key])
        with pytest.raises(HeadflowError, match=rf"cannot be loaded: its files lack the weight .*{part}"):
            headflow.load(folder, device_map="cpu")

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("tokenizer.json", '{"model": {"type": "Nonsense"}}'), ("tokenizer.json", '{"model": '), ("processor_config.json", "[]"),
            ("config.json", '{"model_type": "llava", "text_config": "x"}'), ("config.json", "{}"), ("preprocessor_config.json", "nonsense"),
            ("model.safetensors", "nonsense"),
        ],
    )  # fmt: skip
    def test_a_damaged_file_is_told_in_one_line(self, copied, file, content):
        folder = copied("llava")
        (folder / file).write_text(content)
        with pytest.raises(HeadflowError, match="cannot be loaded: ") as told:
            headflow.load(folder, device_map="cpu")
        assert "\n" not in str(told.value)


class TestPrefixMode:
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_a_prefix_that_hardly_changes_is_not_shared(self, copied, dtype):
        """Half precision rounds more than this model's later tokens move its picture's keys; neither identity nor swap would notice."""
        folder = copied("paligemma")
        parts = ("self_attn.o_proj", "mlp.down_proj")
        change_weights(folder, lambda weights: [w.mul_(0.02) for key, w in weights.items() if "language_model" in key and any(part in key for part in parts)])
        model = headflow.load(folder, dtype=dtype, device_map="cpu")
        model.capture(shown(1, 40, 24), QUESTION)
        assert model.prefix_mode == "recomputed"
        assert 1e-3 < model.prefix_change < 6e-2

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    @pytest.mark.parametrize("name", ["gemma3", "qwen3_vl", "llava_next_mistral"])
    def test_a_causal_prefix_stays_the_same_to_the_last_bit_in_half_precision(self, built, name, dtype):
        model = headflow.load(built(name), dtype=dtype, device_map="cpu")
        model.capture(shown(1, 40, 24), QUESTION)
        assert (model.prefix_mode, model.prefix_change) == ("shared", 0.0)

    def test_one_token_after_the_picture_is_enough_to_find_out(self, loaded):
        """Its order cannot be changed: another token takes its place."""
        for name, mode in (("paligemma", "recomputed"), ("internvl_qwen2", "shared")):
            model = loaded(name)
            inputs = model.inputs([shown(1, 40, 24)], QUESTION)
            stop = inputs["input_ids"][0].tolist()[::-1].index(model.image_token)
            short = {k: x[:, : x.shape[1] - stop + 1] if x.shape[:2] == inputs["input_ids"].shape else x for k, x in inputs.items()}
            run = _OneRun(model, short)
            with torch.no_grad():
                run.prompt()
                keys, values = run.image_keys_values(image_span(short["input_ids"][0].tolist(), model.image_token))
                change = model._prefix_change(short, [*keys, *values])
            assert (change > 1e-3) == (mode == "recomputed"), name
            assert mode == "recomputed" or change == 0.0


class TestLayout:
    @pytest.mark.parametrize(("name", "one", "another"), [
        ("internvl_qwen2", (40, 24), (24, 40)), ("internvl_qwen3", (32, 16), (16, 32)), ("mllama", (48, 16), (16, 48)),
        ("llava_onevision", (24, 40), (20, 12)), ("llava_next_llama", (33, 31), (31, 33)),
    ])  # fmt: skip
    def test_as_many_tokens_in_another_grid_are_another_layout(self, loaded, name, one, another):
        model = loaded(name)
        first, second = (model.capture(shown(1, *size), QUESTION) for size in (one, another))
        assert first.input_ids == second.input_ids
        with pytest.raises(HeadflowError, match="image size"):
            run_masks(first, np.zeros((1, model.layers, model.heads), bool), baseline=swap_baseline(second))
        with pytest.raises(HeadflowError, match="one image size"):
            mean_baseline([first, second])

    @pytest.mark.parametrize(("name", "one", "another"), [
        ("idefics3", (40, 24), (60, 36)), ("mllama", (32, 16), (20, 12)), ("qwen2_vl", (33, 31), (31, 33)), ("gemma3", (40, 24), (9, 70)),
    ])  # fmt: skip
    def test_pictures_of_other_sizes_in_one_grid_go_together(self, loaded, name, one, another):
        model = loaded(name)
        mean_baseline(model.capture(shown(1, *size), QUESTION) for size in (one, another))

    def test_another_text_before_the_picture_is_another_layout(self, copied):
        """Its keys have read that text: a baseline made with another system message is another baseline."""
        folder = copied("mistral3")
        before = headflow.load(folder, device_map="cpu").capture(shown(1, 40, 24), QUESTION)
        template = folder / "chat_template.jinja"
        template.write_text(template.read_text().replace("helpful assistant", "assistant helpful"))
        after = headflow.load(folder, device_map="cpu").capture(shown(1, 40, 24), QUESTION)
        assert before.image == after.image and before.layout() != after.layout()


class TestAnswers:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_an_answer_stands_where_the_template_writes_one(self, loaded, name):
        """A space too many or too few is another first token, and so another target."""
        processor = loaded(name).processor
        if not processor.chat_template:
            assert before_answer(processor, QUESTION) == ""
            return
        said = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
        written = processor.apply_chat_template([said, {"role": "assistant", "content": [{"type": "text", "text": "Yes"}]}], tokenize=False)
        if name == "llava_onevision":  # the one whose template does not go on from its own prompt
            assert written.endswith("<|im_start|>assistant \nYes<|im_end|>") and prompt_text(processor, QUESTION).endswith("assistant\n")
        else:
            assert written.startswith(prompt_text(processor, QUESTION) + before_answer(processor, QUESTION) + "Yes")
        prompt = prompt_text(processor, QUESTION) + before_answer(processor, QUESTION)
        whole = processor.tokenizer(prompt + "Yes", add_special_tokens=False)["input_ids"]
        tokens = answer_tokens(processor, QUESTION, "Yes")
        assert whole[-len(tokens) :] == tokens

    def test_templates_that_take_answers_as_plain_text(self, built):
        processor = load_processor(built("llava"))
        processor.chat_template = (
            "{% for m in messages %}{% if m['role'] == 'user' %}Q: <image>{{ m['content'][1]['text'] }} A:"
            "{% else %}{{ '\t' + m['content'] }}{% endif %}{% endfor %}"
        )
        assert before_answer(processor, "What?") == "\t"

    @pytest.mark.parametrize("said", ["{{ raise_exception('no answers') }}", "<think>{{ m['content'] }}", ""])
    def test_templates_that_do_not_write_answers_as_they_are(self, built, said):
        processor = load_processor(built("llava"))
        template = "{% for m in messages %}{% if m['role'] == 'user' %}Q: <image>{{ m['content'][1]['text'] }}END{% else %}ANSWER{% endif %}{% endfor %}"
        for end, expected in ((" A:", " "), ("\n", "")):
            processor.chat_template = template.replace("END", "{{ '" + end.replace("\n", "\\n") + "' }}").replace("ANSWER", said)
            assert before_answer(processor, "What?") == expected

    @pytest.mark.parametrize("name", ["qwen2_5_vl", "paligemma", "mllama"])
    def test_greedy_answers_are_what_the_logits_say_whatever_the_checkpoint_asks_for(self, built, name):
        """Qwen2.5-VL's checkpoints penalise repetition: generate then says other tokens than the most likely ones."""
        model = headflow.load(built(name), device_map="cpu")
        picture = shown(1, *FAMILIES[name].size)
        plain = model.answer_ids([picture], QUESTION, 4)[0]
        wishes = model.model.generation_config
        wishes.repetition_penalty, wishes.no_repeat_ngram_size, wishes.suppress_tokens, wishes.num_beams = 50.0, 1, plain[:1], 2
        wishes.do_sample, wishes.temperature = True, 3.0
        assert model.answer_ids([picture], QUESTION, 4)[0] == plain
        assert model.capture(picture, QUESTION, plain).answer_logits.argmax(-1).tolist() == plain
        assert model.model.generation_config is wishes and wishes.num_beams == 2

    def test_without_ends_and_padding(self, built):
        """A checkpoint that names no token that ends an answer: its tokenizer's does."""
        model = headflow.load(built("llava_onevision"), device_map="cpu")
        pictures = [shown(seed, 40, 24) for seed in (1, 2)]
        before = model.answer_ids(pictures, QUESTION, 3)
        model.model.generation_config.eos_token_id = model.model.generation_config.pad_token_id = None
        assert model.answer_ids(pictures, QUESTION, 3) == before
        model.processor.tokenizer.eos_token = model.processor.tokenizer.convert_ids_to_tokens(before[0][1])
        assert model.answer_ids(pictures[:1], QUESTION, 3) == [before[0][:1]]

    def test_what_runs_out_of_memory_together_is_answered_apart(self, loaded, monkeypatch):
        model = loaded("llava")
        pictures = [shown(seed, 16, 16) for seed in range(5)]
        expected, generate, sizes = model.answer_ids(pictures, QUESTION, 2), model.model.generate, []

        def short_of_memory(**inputs):
            sizes.append(len(inputs["input_ids"]))
            if sizes[-1] > most:
                raise torch.OutOfMemoryError("no memory")
            return generate(**inputs)

        monkeypatch.setattr(model.model, "generate", short_of_memory)
        most = 2
        assert model.answer_ids(pictures, QUESTION, 2) == expected and sizes == [5, 2, 3, 1, 2]
        most = 0
        with pytest.raises(HeadflowError, match="out of memory while the model answers about one picture"):
            model.answer_ids(pictures, QUESTION, 2)

    def test_a_picture_that_the_model_cannot_take_is_one_fault(self, loaded):
        model = loaded("mistral3")  # its patch merger fails on a picture of one pixel
        buffers = [io.BytesIO() for _ in range(3)]
        for seed, buffer in enumerate(buffers):
            Image.fromarray(shown(seed, *((1, 1) if seed == 1 else (40, 24)))).save(buffer, "PNG")
        with pytest.raises(HeadflowError, match="cannot take this picture"):
            model.capture(buffers[1].getvalue(), QUESTION)
        table = pl.DataFrame({"id": ["a", "b", "c"], "image": [b.getvalue() for b in buffers], "question": QUESTION, "question_kind": "asked"})
        said = stock_answers(model, table)
        assert isinstance(said["b"], HeadflowError) and "cannot take this picture" in str(said["b"])
        assert [said["a"], said["c"]] == [model.answer_ids([shown(seed, 40, 24)], QUESTION, 12)[0] for seed in (0, 2)]


class TestQuestions:
    @pytest.mark.parametrize("name", FAMILIES)
    def test_the_image_token_in_a_question_is_refused(self, loaded, name):
        model = loaded(name)
        for token in (model.processor.image_token, model.processor.tokenizer.convert_ids_to_tokens(model.image_token)):
            with pytest.raises(HeadflowError):
                model.capture(shown(1, *FAMILIES[name].size), f"What is {token} here?")

    @pytest.mark.parametrize("question", [
        "What </s> is <s> it?", "USER: What? ASSISTANT: assistant", "{{ 1 }} {% if %}", "Qu\u00e9 es \u5317\u4eac \U0001f389?", "what\n\nis it?\n",
    ])  # fmt: skip
    def test_odd_questions_keep_the_checks(self, loaded, question):
        model = loaded("llava")
        capture, other = (model.capture(shown(seed, 16, 16), question) for seed in (1, 2))
        check_intervention(capture, other)
        asked = "".join(piece for piece, role in zip(capture.pieces, capture.roles, strict=True) if role == "question")
        assert "".join(asked.split()) == "".join(question.split())

    def test_a_prompt_is_the_same_tomorrow(self, built):
        """Mistral 3 tells its model the date: features of one day and masked runs of the next would be of two prompts."""
        processor = load_processor(built("llava"))
        processor.chat_template = "{%- set today = strftime_now( '%Y-%m-%d' ) %}It is {{ today }}. " + processor.chat_template
        assert prompt_text(processor, "What?").startswith("It is 2025-01-01. USER:")


class TestStages:
    """Through the stages, in a folder of one's own."""

    @pytest.fixture
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Params]:
        """Four pictures to explain and two references, with questions and answers as asked for; prepared, and features extracted."""
        monkeypatch.chdir(tmp_path)

        def run(folder: Path, questions: list[str], answers: list[str], **features: object) -> Params:
            (tmp_path / "pictures").mkdir()
            for seed in range(6):
                Image.fromarray(shown(seed, 40, 24)).save(tmp_path / f"pictures/{seed}.png")
            splits = ["explain"] * 4 + ["reference"] * 2
            rows = {"id": list("abcdef"), "image": [f"{seed}.png" for seed in range(6)], "question": questions, "answer": answers, "split": splits}
            pl.DataFrame(rows).write_csv(tmp_path / "pictures/manifest.csv")
            params = Params.model_validate(
                {
                    "examples": {"source": "folder", "path": "pictures", "count": 4, "references": 2},
                    "models": {"m": {"id": str(folder), "device_map": "cpu"}},
                    "features": {"only_correct": False, **features},
                    "masks": {"count": 8, "held_out": 20, "corners": 0},
                }
            )
            prepare_examples.main(params)
            for stage in (prepare_model, extract_features, sample_masks):
                stage.main(params, "m")
            return params

        return run

    def test_the_mean_baseline_of_a_two_way_prompt_is_asked_the_examples_question(self, project, built):
        """Its picture's keys have read the question: the references' must have read the same one."""
        questions = ["What is this?", "How many are there?", "What is this?", "Which colour has it?", "What is this?", "Where?"]
        params = project(built("paligemma"), questions, ["a"] * 6)
        run_ablations.main(params, "m")
        targets, features = pl.read_parquet("data/targets/m.parquet"), pl.read_parquet("data/features/m/features.parquet")
        masks = pl.read_parquet("data/masks/m.parquet")
        model = headflow.load(built("paligemma"), device_map="cpu")
        bits = unpack(masks["bits"].to_list(), model.layers, model.heads)
        rows = dict(pl.read_parquet("data/examples.parquet").select("id", "row").iter_rows())
        first = min(rows.values())
        for id, tokens in features.select("id", "answer_tokens").iter_rows():
            seed = rows[id] - first
            baseline = mean_baseline(model.capture(shown(other, 40, 24), questions[seed]) for other in (4, 5))
            expected = run_masks(model.capture(shown(seed, 40, 24), questions[seed]), bits, baseline=baseline, target=Target("logit", tokens[0]))
            found = targets.filter(pl.col("id") == id).sort("mask")["target"].to_numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

    def test_correct_answers_in_another_spelling_are_pointed_out(self, project, built, capsys):
        """'Dog' counts as 'dog', but its first token, which is explained, is not what the model says."""
        model = headflow.load(built("llava_next_llama"), device_map="cpu")
        said = model.text(model.answer_ids([shown(1, 40, 24)], QUESTION, 12)[0])
        assert said.swapcase() != said
        project(built("llava_next_llama"), [QUESTION] * 6, ["x", said.swapcase(), "x", "x", "x", "x"])
        assert f"warning: 1 of 4 answers are correct but begin with another token than the true answer that is explained (the model says {said!r}" in (
            capsys.readouterr().err
        )

    def test_a_record_of_another_answer_question_or_setting_is_not_taken(self, project, built, monkeypatch):
        """Whatever the numbers depend on, changed alone, leaves the store without a record for it."""
        params = project(built("llava"), [QUESTION] * 6, ["a red house"] * 6, target="answer_logprob", baseline="blank")
        path, computed = Path("data/features/m/features.parquet"), []
        features = pl.read_parquet(path)
        monkeypatch.setattr(subjects, "blank_baseline", lambda capture: computed.append(capture.question) or blank_baseline(capture))

        def run(table: pl.DataFrame, settings: Params = params) -> tuple[int, list[float]]:
            FEATURES.write(table, path)
            computed.clear()
            run_ablations.main(settings, "m")
            return len(computed), pl.read_parquet("data/targets/m.parquet")["target"].to_list()

        before = run(features)
        assert before[0] == 4
        assert run(features) == (0, before[1])
        other_end = features.with_columns(pl.col("answer_tokens").list.head(2))  # the same first token
        count, targets = run(other_end)
        assert count == 4 and targets != before[1]
        for kind in ("logprob", "logit"):
            first_alone = Params.model_validate(params.model_dump() | {"features": params.features.model_dump() | {"target": kind}})
            assert run(features, first_alone)[0] == 4
        for name, value in (("versions", {"torchvision": "0"}), ("engine_version", "another")):
            with monkeypatch.context() as changed:
                changed.setattr(subjects, name, lambda value=value: value)
                assert run(features)[0] == 4
        assert run(features) == (0, before[1])

"""Every family: a tiny model of its true classes answers as its stock model says, option by option, pass by pass."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import transformers
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModelForMultimodalLM

from vlm_perception.models.adapter import merge_adapter
from vlm_perception.models.base import ModelError
from vlm_perception.models.chat_prompt import chat_text
from vlm_perception.models.loader import _load_weights, load_model
from vlm_perception.models.local import LocalModel
from vlm_perception.models.options import LoadOptions
from vlm_perception.models.precision import settle
from vlm_perception.models.processor import load_processor
from vlm_perception.questions import Choice, ClosedQuestion, Question, Score, Text, YesNo

pytestmark = pytest.mark.slow

NEED_TORCHVISION = {"lfm2-vl", "mistral-3", "phi-4-multimodal"}
HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
RECENT = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (5, 23)
SHARING = {"mllama": "rows", "qwen3.5": "rows", "lfm2-vl": "rows"}
"""How the image is shared, where it is not by a tree."""

QUESTIONS = [
    Choice("which of these is it?", ("clear", "obstacle", "wall")),
    Choice("where is the red ball?", ("no", "left", "left near", "left far", "right near")),
    YesNo("is it there?"),
    Score("how near?", ("far", "near", "nearer than that"), ("", "within a metre", "")),
    Choice("红球在哪里？", ("左边", "右边", "左边 门口", "à gauche", "🙂")),
]
TEXT = Text("describe the scene", max_new_tokens=9)


@dataclass(repr=False)
class Case:
    """Our model and the stock one of the same folder; the stock one's attention is another implementation."""

    family: str
    folder: Path
    model: LocalModel
    stock: Any
    processor: Any

    def __repr__(self) -> str:
        return self.family

    def prompt(self, image: np.ndarray, question: Question) -> dict[str, Any]:
        """What the stock processor makes of image and question."""
        if self.processor.chat_template is None:  # PaliGemma
            inputs = self.processor(text="<image>" + question.prompt, images=image, return_tensors="pt")
            return {name: value for name, value in inputs.items() if name != "labels"}
        part = {"type": "image", "image": Image.fromarray(image)}
        return self.processor.apply_chat_template(
            [{"role": "user", "content": [part, {"type": "text", "text": chat_text(question)}]}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **self.thinking,
        )

    def tokens(self, question: ClosedQuestion, option: str) -> list[int]:
        """Those that the stock template writes for an assistant who answers `option`, up to the end of the turn."""
        tokenizer = self.processor.tokenizer
        if self.processor.chat_template is None:  # PaliGemma
            return tokenizer(option, add_special_tokens=False)["input_ids"]
        asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": chat_text(question)}]}
        told = {"role": "assistant", "content": [{"type": "text", "text": option}]}
        write = functools.partial(self.processor.apply_chat_template, tokenize=False, **self.thinking)
        prompt, whole = write([asked], add_generation_prompt=True), write([asked, told])
        if whole.endswith(option + " "):  # LLaVA's template parts its turns by a blank, and writes no end
            whole = whole[:-1]
        before, tokens = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, whole))
        assert tokens[: len(before)] == before
        ends = {tokenizer.eos_token_id, *np.atleast_1d(self.stock.generation_config.eos_token_id).tolist()}
        return list(itertools.takewhile(lambda token: token not in ends, tokens[len(before) :]))

    @property
    def thinking(self) -> dict[str, bool]:
        return {"enable_thinking": False} if "enable_thinking" in self.processor.chat_template else {}

    def log_likelihoods(self, image: np.ndarray, question: ClosedQuestion) -> list[float]:
        """By the stock model: each option in a pass of its own behind the whole prompt, without any cache or mask."""
        prompt = self.prompt(image, question)
        return [self._log_likelihood(prompt, self.tokens(question, option)) for option in question.options]

    def _log_likelihood(self, prompt: dict[str, Any], option: list[int]) -> float:
        rows, length = prompt["input_ids"].shape
        inputs = {}
        for name, value in prompt.items():
            if isinstance(value, torch.Tensor) and value.shape[:2] == (rows, length):  # of a word, as of the last one
                more = value[:, -1:].repeat_interleave(len(option), 1)
                if name == "input_ids":
                    more = torch.tensor([option])
                elif name == "token_type_ids" and self.family.startswith("paligemma"):  # 1: said by the model
                    more = torch.ones_like(more)
                value = torch.cat([value, more], dim=1)
            inputs[name] = value
        log_p = self.stock(**inputs, use_cache=False).logits[0, -len(option) - 1 :].log_softmax(-1)
        ends = torch.tensor(self.stock.generation_config.eos_token_id).reshape(-1)
        said = sum(float(log_p[step, token]) for step, token in enumerate(option))
        return said + float(log_p[-1, ends].logsumexp(0))

    def words(self, image: np.ndarray, question: Text) -> str:
        """What the stock model generates."""
        prompt = self.prompt(image, question)
        ids = self.stock.generate(**prompt, max_new_tokens=question.max_new_tokens, do_sample=False)
        return self.processor.tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    def scores(self, images: Sequence[np.ndarray], questions: Sequence[ClosedQuestion]) -> list[list[list[float]]]:
        found = self.model._score(self.model._encode(images), questions)
        return [[scored.log_likelihoods for scored in scores] for scores in found]


@pytest.fixture(scope="module", params=tiny_models.FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    if request.param in NEED_TORCHVISION and not HAS_TORCHVISION:
        pytest.skip("its processor needs torchvision")
    folder = tiny_models.save(request.param, tmp_path_factory.mktemp("model"))
    model = load_model(str(folder), device="cpu", dtype="float32")
    stock = AutoModelForMultimodalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        yield Case(request.param, folder, model, stock, model._processor)


def any_image(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def closeness(found: Any, expected: Any) -> float:
    return float(np.abs(np.asarray(found) - np.asarray(expected)).max())


# Any text can be asked, any text can be an answer.

ONE_WORD = ["left", "right", "near", "far", "door", "wall", "左边", "右边", "门口", "à", "gauche", "ball", "nothing"]
FEW_WORDS = st.lists(
    st.sampled_from(ONE_WORD),
    min_size=1,
    max_size=3,
).map(" ".join)
TEXTS = FEW_WORDS | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=6)


@st.composite
def closed_questions(draw: st.DrawFn) -> ClosedQuestion:
    options = draw(st.lists(TEXTS, min_size=2, max_size=3, unique=True))
    longer = f"{options[0]} {draw(FEW_WORDS)}"  # of which an option is a prefix
    kind = draw(st.sampled_from([Choice, Score]))
    return kind(draw(TEXTS), tuple(dict.fromkeys([*options, longer])))


@settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(questions=st.lists(closed_questions(), min_size=1, max_size=2), shape=st.sampled_from([(48, 64), (90, 30)]))
@example(questions=QUESTIONS, shape=(48, 64))
@example(questions=[Choice("0", ("left", "0")), Choice("left", ("left", "left left"))], shape=(48, 64))
def test_scores_are_those_of_a_whole_pass_for_each_option(case, questions, shape):
    if case.family == "paligemma-2" and not RECENT:
        pytest.skip("the stock model's sliding layers do not see the whole prefix yet")
    texts = [text for question in questions for text in (question.prompt, *question.options)]
    assume(not any(token in text for token in case.processor.tokenizer.all_special_tokens for text in texts))
    image = any_image(0, *shape)
    tokens = [[tuple(case.tokens(question, option)) for option in question.options] for question in questions]
    if any(len(set(some)) < len(some) for some in tokens):
        with pytest.raises(ValueError, match="cannot tell them apart"):
            case.scores([image], questions)
        return
    for question, found in zip(questions, case.scores([image], questions)[0], strict=True):
        assert closeness(found, case.log_likelihoods(image, question)) < 1e-4, question


def test_questions_share_the_image_and_change_nothing_for_each_other(case):
    image = any_image(1)
    together = case.model.answer(image, QUESTIONS)
    image.flags.writeable = False  # from now on its encoding is kept
    for questions in (QUESTIONS, QUESTIONS[::-1], QUESTIONS[1:3], QUESTIONS):
        again = dict(zip(questions, case.model.answer(image, questions), strict=True))
        for question, answer in zip(QUESTIONS, together, strict=True):
            if question in again:
                assert again[question].value == answer.value
                assert closeness(again[question].probabilities, answer.probabilities) < 1e-4
    for question, answer in zip(QUESTIONS, together, strict=True):
        (alone,) = case.model.answer(any_image(1), [question])
        assert closeness(alone.probabilities, answer.probabilities) < 1e-4


def test_the_tower_sees_an_image_once(case):
    looks = []
    patches = next(module for name, module in case.model._model.named_modules() if "patch" in name)
    hook = patches.register_forward_hook(lambda *_: looks.append(1))
    image = any_image(9)
    image.flags.writeable = False
    case.model.answer(image, QUESTIONS)
    assert len(looks) == 1
    if SHARING.get(case.family, "tree") == "tree":
        case.model.answer(image, [*QUESTIONS[1:3], TEXT])
        assert len(looks) == 1
    hook.remove()


def test_a_batch_answers_as_each_image_alone(case):
    images = [any_image(2), any_image(3, 64, 48), any_image(4), any_image(5, 20, 90)]
    batch = case.model.answer_batch(images, [*QUESTIONS, TEXT])
    for image, answers in zip(images, batch, strict=True):
        for answer, alone in zip(answers, case.model.answer(image, [*QUESTIONS, TEXT]), strict=True):
            assert answer.value == alone.value
            assert closeness([answer.confidence], [alone.confidence]) < 1e-4
            assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-4)
    assert batch[0][0].probabilities != batch[2][0].probabilities  # it does look


def test_words_are_those_of_the_stock_generate(case):
    image = any_image(6)
    image.flags.writeable = False
    before = case.model.answer(image, QUESTIONS[:2])  # whose encoding the words go on from
    (answer,) = case.model.answer(image, [TEXT])
    assert answer.value == case.words(image, TEXT)
    for one, again in zip(before, case.model.answer(image, QUESTIONS[:2]), strict=True):
        assert closeness(one.probabilities, again.probabilities) < 1e-4
    assert 0 < answer.confidence <= 1
    assert answer.usage.tokens >= 1
    assert 0 < answer.usage.time_to_first_token <= answer.usage.seconds


@pytest.mark.parametrize("family", ["llava-next-mistral", "qwen3-vl"])
def test_every_way_of_sharing_answers_the_same(family, tmp_path):
    model = load_model(str(tiny_models.save(family, tmp_path)), device="cpu", dtype="float32")
    answers = {}
    for way in ("tree", "rows", "whole"):
        model._scorer.way = way
        answers[way] = model.answer_batch([any_image(0), any_image(1), any_image(2, 64, 48)], [*QUESTIONS, TEXT])
    for way in ("rows", "whole"):
        for found, expected in zip(chain(*answers[way]), chain(*answers["tree"]), strict=True):
            assert found.value == expected.value
            assert (*found.probabilities, found.confidence) == pytest.approx(
                (*expected.probabilities, expected.confidence), abs=1e-4
            )


@pytest.mark.parametrize("family", ["gemma-3, short window", "bakllava, short window"])
def test_an_image_that_was_read_beyond_the_window_can_be_asked_again(family, tmp_path):
    model = load_model(str(tiny_models.save(family, tmp_path)), device="cpu", dtype="float32")
    image = any_image(1)
    image.flags.writeable = False  # its encoding is kept
    short, long = YesNo("is it there?"), YesNo("is it there? " * 30)
    for question in (short, long, short, long):
        (kept,), (fresh,) = model.answer(image, [question]), model.answer(any_image(1), [question])
        assert closeness(kept.probabilities, fresh.probabilities) < 1e-4


def test_special_tokens_in_a_prompt_are_only_text(case):
    for token in {*case.processor.tokenizer.all_special_tokens, "<image>"}:
        (answer,) = case.model.answer(any_image(7), [YesNo(f"is {token} here?")])
        assert sum(answer.probabilities) == pytest.approx(1)


def test_facts_for_diagnostics(case):
    facts = case.model.describe_self()
    assert facts["family"] == case.stock.config.model_type
    assert facts["dtype"] == "float32"
    if not case.family.startswith("paligemma"):
        assert facts["sharing"].split()[0] == SHARING.get(case.family, "tree"), facts["sharing"]


def test_a_folder_of_the_first_days_is_asked_as_a_complete_one(tmp_path):
    """Without the processor's settings, and with a chat template for words alone."""
    message = [{"type": "image", "image": Image.fromarray(any_image(8))}, {"type": "text", "text": "is it there?"}]
    prompts = []
    for family in ("llava-phi-3", "llava-phi-3, as published"):
        processor = load_processor(tiny_models.save(family, tmp_path / family))
        prompts.append(
            processor.apply_chat_template(
                [{"role": "user", "content": message}], add_generation_prompt=True, tokenize=True, return_dict=True
            )
        )
    assert prompts[0]["input_ids"] == prompts[1]["input_ids"]
    assert prompts[0]["input_ids"][0].count(processor.image_token_id) == 4


def vision_adapter(model, folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Save a random one for the text layers of `model`, as peft does; return its factors by layer."""
    factors = {
        name: (torch.randn(3, layer.in_features), torch.randn(layer.out_features, 3))
        for name, layer in model.named_modules()
        if name.startswith("model.layers.") and isinstance(layer, torch.nn.Linear)
    }
    tensors = {}
    for name, (a, b) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"], tensors[f"base_model.model.{name}.lora_B.weight"] = a, b
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": "model.layers.*"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return factors


def test_phi_4_sees_through_its_vision_adapter(tmp_path):
    folder = tiny_models.save("phi-4-multimodal", tmp_path)
    stock = AutoModelForMultimodalLM.from_pretrained(folder).eval()
    factors = vision_adapter(stock, folder / "vision-lora")
    options = settle(LoadOptions(device="cpu", dtype="float32"))
    model = _load_weights(folder, "AutoModelForMultimodalLM", options).eval()
    for name, (a, b) in factors.items():
        stock.get_submodule(name).register_forward_hook(lambda _, x, y, a=a, b=b: y + 2 * x[0] @ a.T @ b.T)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        assert closeness(model(input_ids=ids).logits, stock(input_ids=ids).logits) < 1e-3


def test_an_adapter_that_does_not_fit_is_refused(tmp_path):
    model = AutoModelForMultimodalLM.from_pretrained(tiny_models.save("phi-4-multimodal", tmp_path / "model"))
    folder = tmp_path / "adapter"
    vision_adapter(model, folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    with pytest.raises(ModelError, match="another kind.*merge_and_unload"):
        merge_adapter(model, folder)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    model.model.layers[0].self_attn.o_proj = torch.nn.Linear(7, 7)
    with pytest.raises(ModelError, match="cannot be merged into .*o_proj"):
        merge_adapter(model, folder)
    del model.model.layers[0].self_attn.o_proj
    with pytest.raises(ModelError, match="o_proj is missing"):
        merge_adapter(model, folder)


def test_processors_that_cannot_be_imported_are_an_error_with_the_usual_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
    with pytest.raises(ModelError, match="torchvision that was not made for this torch"):
        load_processor(tmp_path)


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is there")
@pytest.mark.parametrize("family", sorted(NEED_TORCHVISION))
def test_what_needs_torchvision_says_so(family, tmp_path):
    with pytest.raises(ModelError, match="needs torchvision: pip install"):
        load_model(str(tiny_models.save(family, tmp_path)), device="cpu")

"""Scoring is exact, whatever the labels; loading says what is wrong with a folder."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers

from vlm_perception.models.base import ModelError
from vlm_perception.models.loader import load_model
from vlm_perception.questions import Choice, Score, Text, YesNo
from vlm_perception.training import nano
from vlm_perception.training.prompts import DESCRIPTION_PROMPT, LABEL_PROMPT

QUESTIONS = [
    Choice(LABEL_PROMPT, ("clear", "obstacle", "wall")),
    Choice("where is the red ball?", ("no", "left", "left near", "left far", "right near", "near right far")),
    YesNo("is it there?"),
    Score("how near?", ("far", "near", "nearer than that")),
    Choice("où est la balle?", ("à gauche", "à droite", "门口")),
]


def random_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    processor = nano.build_processor()
    nano.save(nano.build_model(processor, seed=3), processor, path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return load_model(str(folder), device="cpu", dtype="float32")


def brute_force(model, image, prompt, option):
    """Log-likelihood of one option by a forward pass of its own, laid out by the stock processor."""
    processor, stock = model._processor, model._model
    inputs = processor(text="<image>" + prompt, images=image, suffix=option, return_tensors="pt")
    labels = inputs.pop("labels")
    with torch.inference_mode():
        logits = stock(**inputs).logits.log_softmax(-1)
    said = labels[0] != -100
    return float(logits[0, :-1][said[1:]].gather(-1, labels[0][said].unsqueeze(-1)).sum())


def test_packed_scores_equal_a_forward_pass_per_option(model):
    compare_with_passes(model, 1e-5)


def compare_with_passes(model, tolerance):
    image = random_image(0)
    for question, answer in zip(QUESTIONS[:4], model.answer(image, QUESTIONS[:4]), strict=True):
        scores = [brute_force(model, image, question.prompt, option) for option in question.options]
        highest = max(scores)
        weights = [math.exp(score - highest) for score in scores]
        expected = [weight / sum(weights) for weight in weights]
        assert answer.options == question.options
        assert answer.probabilities == pytest.approx(expected, abs=tolerance)
        assert answer.value == question.options[int(np.argmax(expected))]
        assert answer.confidence == max(answer.probabilities)


def test_questions_do_not_influence_each_other(model):
    image = random_image(1)
    together = model.answer(image, QUESTIONS[:4])
    for question, answer in zip(QUESTIONS[:4], together, strict=True):
        (alone,) = model.answer(image, [question])
        assert answer.value == alone.value
        assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_a_read_only_view_of_an_image_that_changed_gets_a_new_answer(model):
    image = random_image(2)
    view = image.view()
    view.flags.writeable = False
    before = model.answer(view, QUESTIONS[:1])[0].probabilities
    assert model.answer(view, QUESTIONS[:1])[0].probabilities == before
    image[:] = random_image(3)
    assert model.answer(view, QUESTIONS[:1])[0].probabilities == model.answer(image, QUESTIONS[:1])[0].probabilities
    assert model.answer(view, QUESTIONS[:1])[0].probabilities != before


def test_another_image_gets_another_answer(model):
    first, second = (model.answer(random_image(seed), QUESTIONS[:1])[0] for seed in (2, 3))
    assert first.probabilities != second.probabilities


def test_words_equal_the_stock_generate(model):
    image = random_image(4)
    (answer,) = model.answer(image, [Text(DESCRIPTION_PROMPT, max_new_tokens=7)])
    processor = model._processor
    inputs = processor(text="<image>" + DESCRIPTION_PROMPT, images=image, return_tensors="pt")
    inputs.pop("labels", None)
    ids = model._model.generate(**inputs, max_new_tokens=7, do_sample=False)
    stock = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    assert answer.value == stock
    assert 0 < answer.confidence <= 1


def test_special_tokens_in_a_prompt_are_only_text(model):
    (answer,) = model.answer(random_image(5), [Choice("is <image> <eos> here?", ("yes", "no"))])
    assert sum(answer.probabilities) == pytest.approx(1)


def test_wrong_images_are_named(model):
    for image, words in [
        (np.zeros((4, 4), np.uint8), r"shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "at least one pixel"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        ("image.png", "str"),
    ]:
        with pytest.raises(ValueError, match=words):
            model.answer(image, QUESTIONS[:1])


def test_options_the_tokenizer_cannot_tell_apart_are_refused(model):
    with pytest.raises(ValueError, match="cannot tell them apart"):
        model.answer(random_image(0), [Choice("?", ("Wall", "wall"))])


def test_bfloat16_is_honoured(folder):
    model = load_model(str(folder), device="cpu", dtype="bfloat16")
    assert model.describe_self()["dtype"] == "bfloat16"
    (answer,) = model.answer(random_image(0), QUESTIONS[:1])
    assert sum(answer.probabilities) == pytest.approx(1)


def test_paligemma_2_goes_through_the_same_path(tmp_path):
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    processor = nano.build_processor()
    config = nano.build_model(processor, 0).config.to_dict()
    config["text_config"] |= {
        "model_type": "gemma2",
        "num_hidden_layers": 2,
        "final_logit_softcapping": 3.0,
        "attn_logit_softcapping": 5.0,
        "query_pre_attn_scalar": 32,
        "sliding_window": 256,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    torch.manual_seed(1)
    stock = PaliGemmaForConditionalGeneration(PaliGemmaConfig(**config))
    nano.save(stock, processor, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["model_type"] == "gemma2"
    model = load_model(str(tmp_path), device="cpu")
    # Before 5.23 the stock forward pass itself masks the sliding layers a little differently.
    recent = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (5, 23)
    compare_with_passes(model, 1e-5 if recent else 1e-3)
    test_words_equal_the_stock_generate(model)


def test_not_a_number_is_an_error_not_an_answer(folder):
    model = load_model(str(folder), device="cpu")
    with torch.no_grad():
        model._model.model.language_model.norm.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        model.answer(random_image(0), QUESTIONS[:1])
    with pytest.raises(ModelError, match="no finite probability"):
        model.answer(random_image(0), [Text("describe the scene")])


def test_out_of_memory_says_what_to_do(model, monkeypatch):
    tried = []

    def full(*_args, **_kwargs):
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(model, "_model", SimpleNamespace(get_image_features=full, device="cpu", dtype=torch.float32))
    with pytest.raises(ModelError, match="ran out of memory on cpu.*choose a smaller model"):
        model.answer_batch([random_image(0), random_image(1)], QUESTIONS[:1])
    assert len(tried) == 1, "who asks knows what to try instead, and remembers it"

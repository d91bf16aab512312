"""Decision checkpoints answer as transformers' own pipeline has them answer."""

import json
import shutil

import numpy as np
import pytest
import tiny_models
from PIL import Image
from transformers import AutoModelForMultimodalLM, pipeline

from vlm_perception.models.base import ModelError
from vlm_perception.models.loader import load_model
from vlm_perception.models.processor import load_processor
from vlm_perception.questions import Choice, Score, Text, YesNo

decision = pytest.importorskip("transformers.decision", reason="needs transformers 5.23")
CONFIG = {"labels": {"noul": ["T", "F"]}, "temperature": {"choice": 4.0, "noul": 3.0, "score": 2.0}}
OWN_TEMPLATE = (
    "<|im_start|>{{ question.instructions }} {% for option in question.options %}"
    "{{ question.labels[loop.index0] }}={{ option }} {% endfor %}{% for part in state %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}<|im_end|>:"
)
QUESTIONS = [
    Choice("What is ahead?", ("wall", "door", "nothing"), ("", "a hole in a wall", "")),
    YesNo("Is a ball there?"),
    YesNo("How is the door?", ("open", "shut")),
    Score("How bad is it?", ("fine", "bad", "worse"), ("", "it may hurt", "")),
]
REQUEST = {
    "scene": {
        "type": "choice",
        "instructions": "What is ahead?",
        "criteria": {"wall": None, "door": "a hole in a wall", "nothing": None},
    },
    "there": {"type": "noul", "instructions": "Is a ball there?"},
    "open": {"type": "noul", "instructions": "How is the door?", "criteria": {"true": "open", "false": "shut"}},
    "risk": {"type": "score", "instructions": "How bad is it?", "criteria": ["fine", "bad: it may hurt", "worse"]},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tiny_models.save("qwen2.5-vl", tmp_path_factory.mktemp("plain"))


@pytest.fixture(params=[None, OWN_TEMPLATE], ids=["common prompt", "own template"])
def folder(plain, tmp_path, request):
    path = shutil.copytree(plain, tmp_path / "decision")
    (path / "decision.json").write_text(json.dumps(CONFIG))
    if request.param:
        (path / "decision_template.jinja").write_text(request.param)
    return path


def test_answers_are_those_of_the_stock_pipeline(folder):
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    processor = load_processor(folder)
    stock = pipeline(
        "decision",
        model=AutoModelForMultimodalLM.from_pretrained(folder),
        tokenizer=processor.tokenizer,
        processor=processor,
        decision_config=decision.DecisionConfig.from_pretrained(folder),
    )({"state": "image-1", "questions": REQUEST, "assets": {"image-1": Image.fromarray(image)}})
    scene, there, is_open, risk = load_model(str(folder), "cpu", "float32").answer(image, QUESTIONS)
    assert scene.probabilities == pytest.approx(tuple(stock["scene"]["probabilities"].values()), abs=1e-5)
    assert there.probability("yes") == pytest.approx(stock["there"]["noul"], abs=1e-5)
    assert is_open.probability("open") == pytest.approx(stock["open"]["noul"], abs=1e-5)
    assert risk.probabilities == pytest.approx(tuple(stock["risk"]["probabilities"].values()), abs=1e-5)
    assert risk.score == pytest.approx(stock["risk"]["score"], abs=1e-5)
    assert len({round(p, 3) for p in (*scene.probabilities, *risk.probabilities)}) == 6  # it does decide


def test_batches_and_words(folder):
    model = load_model(str(folder), "cpu", "float32")
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (30, 40, 3), dtype=np.uint8) for _ in range(2)]
    questions = [*QUESTIONS[:2], Text("Describe the scene.", 4)]
    for image, together in zip(images, model.answer_batch(images, questions), strict=True):
        for answer, alone in zip(together, model.answer(image, questions), strict=True):
            assert answer.value == alone.value
            assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_more_options_than_labels_are_refused(folder):
    model = load_model(str(folder), "cpu", "float32")
    image = np.zeros((30, 40, 3), np.uint8)
    with pytest.raises(ValueError, match="at most 26 options"):
        model.answer(image, [Choice("Which?", tuple(map(str, range(27))))])


@pytest.mark.parametrize(
    ("text", "words"), [("{", "decision.json"), ('{"adapter": "lora"}', "merge it"), ('{"labels": 3}', "decision.json")]
)
def test_what_is_wrong_with_a_decision_file_is_said(plain, tmp_path, text, words):
    path = shutil.copytree(plain, tmp_path / "decision")
    (path / "decision.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        load_model(str(path), "cpu", "float32")

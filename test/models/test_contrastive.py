"""Dual encoders answer as the stock models do; a vocabulary is encoded once; what cannot be asked is said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from dual_encoders import (
    CHINESE,
    CLIP,
    FAMILIES,
    LABELS,
    NAFLEX,
    SIGLIP,
    SIGLIP2,
    TOWER,
    build,
    kin,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from vlm_perception.models import contrastive
from vlm_perception.models.base import ModelError
from vlm_perception.models.describer import REQUEST
from vlm_perception.models.loader import load_model
from vlm_perception.questions import Choice, Score, Text, YesNo

pytestmark = pytest.mark.slow


def load(family, folder, **options):
    model = load_model(str(folder), "cpu", **{"dtype": "float32"} | options)
    model.name = family
    model._vectors.clear()  # of the loader's trial
    model._matrix.cache_clear()
    return model


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    made = {}

    def folder(family):
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            for part in build(family, made[family]):
                part.save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture(params=FAMILIES)
def model(request, folder_of):
    return load(request.param, folder_of(request.param))


@pytest.fixture
def clip(folder_of):
    return load(CLIP, folder_of(CLIP))


@pytest.fixture(params=(SIGLIP, SIGLIP2, NAFLEX))
def siglip(request, folder_of):
    return load(request.param, folder_of(request.param))


def random_image(seed, height=48, width=48):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stock(model, images, texts):
    """The stock model's outputs for images and texts, prepared by the stock processor as its family's pages say."""
    tokenizer, processor = model._processor.tokenizer, model._processor.image_processor
    if model.name in (CLIP, CHINESE):
        inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    else:
        ids = tokenizer(texts, padding="max_length", max_length=32, padding_side="right", return_tensors="pt")
        inputs = {"input_ids": ids["input_ids"]}
    with torch.inference_mode():
        return model._model(**inputs, **processor([Image.fromarray(i) for i in images], return_tensors="pt"))


def templated(model, label):
    """What the family's own template makes of a label, as the model is to read it."""
    if model.name == CHINESE:
        return f"一张{label}的照片。"
    return f"a photo of a {label}." if model.name == CLIP else f"a photo of a {label}"


def softmax(logits):
    return torch.as_tensor(logits).double().softmax(-1).tolist()


class Counter:
    """How many images and texts go through the towers."""

    def __init__(self, model):
        self.images = self.texts = 0
        model._model.vision_model.register_forward_pre_hook(self._image, with_kwargs=True)
        model._model.text_model.register_forward_pre_hook(self._text, with_kwargs=True)

    def _image(self, module, args, kwargs):
        self.images += len(kwargs["pixel_values"])

    def _text(self, module, args, kwargs):
        self.texts += len(kwargs["input_ids"])

    def take(self):
        counts = self.images, self.texts
        self.images = self.texts = 0
        return counts


# Closed questions


@pytest.mark.parametrize("kind", ["metaclip_2", "altclip", "align", "clipseg", "groupvit"])
def test_other_dual_encoders_answer_as_the_stock_ones(kind, tmp_path):
    stock, processor = kin(kind)
    for part in (stock, processor):
        part.save_pretrained(tmp_path)
    model, image = load(kind, tmp_path), random_image(3)
    (answer,) = model.answer(image, [Choice("{}", LABELS[CLIP])])
    texts = model._tokenizer(list(LABELS[CLIP]), padding=True, return_tensors="pt")
    pixels = model._processor.image_processor(images=[image], return_tensors="pt")
    with torch.inference_mode():
        logits = stock.eval()(**texts, **pixels).logits_per_image[0]
    assert answer.probabilities == pytest.approx(logits.softmax(-1).tolist(), abs=1e-5)
    assert max(answer.probabilities) - min(answer.probabilities) > 0.01
    longest = Choice("{}", ("b " * 64, "a"))
    with pytest.raises(ValueError, match=r"reads at most \d+ tokens"):
        model.answer(image, [longest])
    assert model.answer(image, [Choice("{}", ("b" * (model._max_tokens // 2), "a"))])


def test_a_choice_is_the_softmax_of_the_stock_models_logits(model):
    image, labels = random_image(0), LABELS[model.name]
    (answer,) = model.answer(image, [Choice("what is ahead?", labels)])
    expected = softmax(stock(model, [image], [templated(model, label) for label in labels]).logits_per_image[0])
    assert answer.probabilities == pytest.approx(expected, abs=1e-5)
    assert answer.value == labels[int(np.argmax(expected))]
    assert max(expected) - min(expected) > 0.01  # else this test would show nothing
    assert answer.usage.tokens == 0


def test_descriptions_are_read_word_for_word_and_questions_do_not_mix(model):
    image, (first, second, third) = random_image(1), LABELS[model.name]
    questions = [
        Choice("what?", ("x", "y", third), (first, second, "")),
        YesNo("is it there?", descriptions=(second, third)),
        Score("how bad?", ("low", "middle", "high"), (third, second, first)),
    ]
    texts = [first, second, third, templated(model, third)]
    one, two, three, four = stock(model, [image], texts).logits_per_image[0].tolist()
    answers = model.answer(image, questions)
    assert answers[0].probabilities == pytest.approx(softmax([one, two, four]), abs=1e-5)
    assert answers[1].probabilities == pytest.approx(softmax([two, three]), abs=1e-5)
    assert answers[2].probabilities == pytest.approx(softmax([three, two, one]), abs=1e-5)
    assert answers[2].options == ("low", "middle", "high")


def test_a_prompt_with_braces_is_one_template_per_line_and_their_unit_vectors_are_averaged(model):
    image = random_image(2)
    lines = ("{}的照片", "一张有{}的照片") if model.name == CHINESE else ("a photo of {}", "the {} on a photo")
    labels = LABELS[model.name]
    outputs = stock(model, [image], [line.replace("{}", label) for label in labels for line in lines])
    classes = outputs.text_embeds.unflatten(0, (3, 2)).mean(1)
    classes = classes / classes.norm(dim=-1, keepdim=True)
    expected = softmax(model._model.logit_scale.exp() * (outputs.image_embeds[0] @ classes.T))
    for question in (Choice("\n".join(lines), labels), Score("\n".join(lines), labels)):
        (answer,) = model.answer(image, [question])
        assert answer.probabilities == pytest.approx(expected, abs=1e-5)


def test_a_batch_is_answered_as_each_image_alone(model):
    labels = LABELS[model.name]
    questions = [Choice("what?", labels), YesNo("?", descriptions=labels[:2])]
    images = [random_image(seed, 40, 40 + 24 * seed) for seed in range(3)]
    together = model.answer_batch(images, questions)
    assert len({answers[0].probabilities for answers in together}) == 3
    for image, answers in zip(images, together, strict=True):
        for answer, alone in zip(answers, model.answer(image, questions), strict=True):
            assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_siglip_says_of_one_phrase_how_probable_it_is(siglip):
    image = random_image(3)
    phrase, other = LABELS[siglip.name][:2]
    (answer,) = siglip.answer(image, [YesNo("is there one?", descriptions=(phrase, ""))])
    logit = stock(siglip, [image], [phrase, other]).logits_per_image[0, 0]
    assert answer.probability("yes") == pytest.approx(float(logit.sigmoid()), abs=1e-5)
    assert answer.probability("no") == pytest.approx(1 - float(logit.sigmoid()), abs=1e-5)


def test_images_and_phrases_in_half_precision_answer_about_the_same(folder_of):
    question, image = Choice("what?", LABELS[NAFLEX]), random_image(4)
    exact, half = (load(NAFLEX, folder_of(NAFLEX), dtype=dtype) for dtype in ("float32", "bfloat16"))
    (expected,), (answer,) = exact.answer(image, [question]), half.answer(image, [question])
    assert answer.probabilities == pytest.approx(expected.probabilities, abs=0.05)


def test_the_empty_picture_and_temperature_calibrate(folder_of):
    question, image = Choice("what?", LABELS[CLIP]), random_image(5)
    model = load(CLIP, folder_of(CLIP), temperatures=(2.0, 1.0, 1.0), empty_picture=(1.0, 0.0, 0.0))
    grey = np.full((48, 48, 3), 128, np.uint8)
    seen, empty = stock(model, [image, grey], [templated(model, label) for label in LABELS[CLIP]]).logits_per_image
    assert model.answer(image, [question])[0].probabilities == pytest.approx(softmax((seen - empty) / 2), abs=1e-5)


# What is encoded, and when


def test_a_vocabulary_is_encoded_once_and_a_change_encodes_only_what_is_new(model):
    first, second, third = LABELS[model.name]
    count = Counter(model)
    for seed in range(3):
        model.answer(random_image(seed), [Choice("what?", (first, second))])
    assert count.take() == (3, 2)
    (changed,) = model.answer(random_image(3), [Choice("what?", (third, second, first))])
    assert count.take() == (1, 1)
    assert changed.options == (third, second, first)
    texts = [templated(model, label) for label in changed.options]
    expected = softmax(stock(model, [random_image(3)], texts).logits_per_image[0])
    assert changed.probabilities == pytest.approx(expected, abs=1e-5)
    count.take()
    model.answer(random_image(4), [Choice("what?", (first, second)), YesNo("{}", (second, third))])
    assert count.take() == (1, 2)


def test_an_image_is_encoded_once_for_all_that_is_asked_about_it(clip):
    image = random_image(6)
    image.flags.writeable = False
    count = Counter(clip)
    clip.answer(image, [Choice("what?", LABELS[CLIP]), Choice("{}", LABELS[CLIP])])
    clip.answer(image, [Text("describe")])
    assert count.images == 1


def test_old_vocabularies_are_forgotten_but_answered_again(clip, monkeypatch):
    question = Choice("{}", ("wall", "door", "stairs"))
    before = clip.answer(random_image(7), [question])
    monkeypatch.setattr(contrastive, "MAX_VECTORS", 2)
    for word in ("red", "blue"):
        clip.answer(random_image(7), [Choice("{}", (f"{word} ball", f"{word} box", f"{word} cone"))])
    assert len(clip._vectors) == 2
    clip._matrix.cache_clear()
    assert clip.answer(random_image(7), [question]) == before


def test_many_phrases_go_through_the_text_tower_in_parts(clip, monkeypatch):
    labels = tuple(f"thing {'ab' * n}" for n in range(1, 8))
    together = clip.answer(random_image(8), [Choice("{}", labels)])[0]
    clip._vectors.clear()
    clip._matrix.cache_clear()
    monkeypatch.setattr(contrastive, "TEXT_BATCH", 2)
    assert clip.answer(random_image(8), [Choice("{}", labels)])[0].probabilities == pytest.approx(
        together.probabilities, abs=1e-5
    )


def test_the_whole_image_is_looked_at(clip):
    wide = random_image(9, 48, 96)
    edge = wide.copy()
    edge[:, -16:] = 255
    question = Choice("what?", LABELS[CLIP])
    seen, other = clip.answer(wide, [question])[0], clip.answer(edge, [question])[0]
    assert seen.probabilities != pytest.approx(other.probabilities, abs=1e-4)
    squashed = np.asarray(Image.fromarray(wide).resize((32, 32), Image.Resampling.BICUBIC))
    expected = softmax(stock(clip, [squashed], [templated(clip, label) for label in LABELS[CLIP]]).logits_per_image[0])
    assert seen.probabilities == pytest.approx(expected, abs=1e-5)


# What a phrase may be


def test_siglip_reads_small_letters_without_punctuation(siglip):
    plain, loud = (
        siglip.answer(random_image(10), [Choice("{}", options)])[0]
        for options in (("open door", "wall"), ("Open_Door!", "WALL."))
    )
    assert loud.options == ("Open_Door!", "WALL.")
    assert loud.probabilities == plain.probabilities


def test_special_tokens_in_a_phrase_are_only_text(clip):
    (answer,) = clip.answer(random_image(11), [Choice("{}", ("wall <|endoftext|> a", "wall <|endoftext|> b"))])
    assert answer.probabilities[0] != pytest.approx(answer.probabilities[1], abs=1e-6)


def test_chinese_labels_are_told_apart_by_all_models_that_know_them(folder_of):
    for family in (CLIP, CHINESE, SIGLIP2, NAFLEX):
        model = load(family, folder_of(family))
        (answer,) = model.answer(random_image(12), [Choice("一张{}的照片", ("走廊", "门口", "有人"))])
        texts = [f"一张{label}的照片" for label in answer.options]
        expected = softmax(stock(model, [random_image(12)], texts).logits_per_image[0])
        assert answer.probabilities == pytest.approx(expected, abs=1e-5), family


@pytest.fixture(scope="module")
def readers(folder_of):
    """Models that know every character."""
    return [load(family, folder_of(family)) for family in (CLIP, SIGLIP2)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.text("ab 走廊", min_size=1, max_size=9).filter(str.strip), min_size=2, max_size=5), st.integers(0, 99)
)
def test_random_vocabularies_are_scored_as_by_the_stock_model(readers, labels, seed):
    labels = list(dict.fromkeys(" ".join(label.split()) for label in labels))
    assume(len(labels) > 1)
    for model in readers:
        (answer,) = model.answer(random_image(seed), [Choice("a {} 门", tuple(labels))])
        texts = [f"a {label} 门" for label in labels]
        expected = softmax(stock(model, [random_image(seed)], texts).logits_per_image[0])
        assert answer.probabilities == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("family", "question", "words"),
    [
        (
            CLIP,
            YesNo("is it on fire?"),
            r"cannot read question '[^']*': give each of \['yes', 'no'\] a desc",
        ),
        (
            CLIP,
            YesNo("is it on fire?", descriptions=("a fire", "")),
            "a description of what is to be seen then",
        ),
        (CLIP, Score("how bad?", ("low", "high")), r"or write a prompt with \{\} in place of the option"),
        (SIGLIP2, YesNo("is it on fire?"), "or the first of them alone"),
        (SIGLIP2, Score("?", ("low", "high"), ("a fire", "")), "a description of what is to be seen then"),
        (CLIP, Choice("a {}\na photo", ("x", "y")), r"its line 'a photo' has no \{\}"),
        (CLIP, Choice("{}", ("wall", "long" * 20)), "reads at most 32 tokens, and 'longlong.* has 82: shorten"),
        (CLIP, Choice("{}", ("Wall", "wall")), "reads 'Wall' and 'wall' of question '[^']*' alike"),
        (SIGLIP2, Choice("{}", ("wall!", "wall")), "cannot tell them apart"),
        (CHINESE, Choice("{}", ("墙", "楼梯")), "does not know all characters of '楼梯'"),
        (SIGLIP, Choice("{}", ("wall", "走廊")), "does not know all characters of '走廊'.* SigLIP 2"),
        (CLIP, Text("what?", phrases=("Wall", "wall")), "alike"),
    ],
)
def test_what_cannot_be_asked_is_said_with_the_remedy(folder_of, family, question, words):
    with pytest.raises(ValueError, match=words):
        load(family, folder_of(family)).answer(random_image(0), [question])


# Descriptions


def test_a_description_names_the_most_probable_phrases(model, monkeypatch):
    monkeypatch.setattr(contrastive, "MIN_PROBABILITY", 0.2)
    image = random_image(13)
    phrases = (
        ("墙", "门口", "走廊", "空房间") if model.name == CHINESE else ("a wall", "a door", "stairs", "a corridor")
    )
    logits = stock(model, [image], list(phrases)).logits_per_image[0].double()
    chances = logits.softmax(-1) if model.name in (CLIP, CHINESE) else logits.sigmoid()
    best = sorted(zip(chances.tolist(), phrases, strict=True), reverse=True)
    said = [best[0], *(pair for pair in best[1:3] if pair[0] >= 0.2)]
    words = ", ".join(f"{phrase} ({chance:.0%})" for chance, phrase in said)
    plain, template = model.answer(
        image, [Text("describe the scene", phrases=phrases), Text("I see {}.", phrases=phrases)]
    )
    assert plain.value == words
    assert template.value == f"I see {words}."
    assert plain.confidence == pytest.approx(math.prod(c for c, _ in said) ** (1 / len(said)), abs=1e-5)
    assert plain.usage.tokens == 0 and not plain.options


def test_a_description_without_phrases_chooses_from_the_usual_ones(model):
    (answer,) = model.answer(random_image(14), [Text("describe the scene")])
    usual = contrastive.CHINESE_PHRASES if model.name == CHINESE else contrastive.PHRASES
    assert answer.value.split(" (")[0] in usual


@pytest.fixture(scope="module")
def writer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("writer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}assistant:"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**TOWER, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    return folder


def says(writer, message, tokens):
    """The ids of the prompt, (1, length), and the stock generation's."""
    prompt = torch.tensor([writer._tokenizer(f"user: {message}</s>assistant:")["input_ids"]])
    return prompt, writer._model.generate(prompt, max_new_tokens=tokens, do_sample=False)[0, prompt.shape[1] :]


def test_a_small_language_model_writes_what_was_found(folder_of, writer_folder):
    model = load(CLIP, folder_of(CLIP), describer=str(writer_folder))
    writer = model._describer
    image, phrases = random_image(15), ("a wall", "a door", "stairs")
    (listed,) = load(CLIP, folder_of(CLIP)).answer(image, [Text("what?", phrases=phrases)])
    (answer,) = model.answer(image, [Text("What is ahead?", 7, phrases)])
    heard = "\n".join(f"- {found}" for found in listed.value.split(", "))
    prompt, said = says(writer, REQUEST.format(found=heard, prompt="What is ahead?"), 7)
    assert answer.value == writer._tokenizer.decode(said, skip_special_tokens=True).strip()
    assert answer.usage.tokens == 7
    assert 0 < answer.usage.time_to_first_token <= answer.usage.seconds
    with torch.inference_mode():
        eighth = torch.cat([prompt[0], said])[None]
        log_p = writer._model(eighth).logits[0, prompt.shape[1] - 1 :].log_softmax(-1)
    steps = [float(row[token]) for row, token in zip(log_p, [*said, log_p[-1].argmax()], strict=True)]
    assert answer.confidence == pytest.approx(math.exp(sum(steps) / 8), abs=1e-5)
    assert str(writer_folder) in model.describe_self()["describer"]


@pytest.mark.parametrize("as_list", [True, False])
def test_words_end_where_the_language_model_ends_them(folder_of, writer_folder, as_list):
    model = load(CLIP, folder_of(CLIP), describer=str(writer_folder))
    writer = model._describer
    _, said = says(writer, REQUEST.format(found="- a wall (100%)", prompt="What is ahead?"), 7)
    last = len(said) - 1
    while said[last] in said[:last]:  # the end must be its first occurrence
        last -= 1
    assert last > 0
    end = int(said[last])
    writer._model.generation_config.eos_token_id = [writer._tokenizer.eos_token_id, end] if as_list else end
    (answer,) = model.answer(random_image(16), [Text("What is ahead?", phrases=("a wall",))])
    assert answer.value == writer._tokenizer.decode(said[:last]).strip()
    assert answer.usage.tokens == last


def test_a_describer_without_a_chat_template_is_refused(folder_of, writer_folder, tmp_path):
    AutoModelForCausalLM.from_pretrained(writer_folder).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(writer_folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no chat template.*instruct"):
        load(CLIP, folder_of(CLIP), describer=str(tmp_path))

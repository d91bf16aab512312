"""BLIP-2, InstructBLIP and their like: exact whatever the language model, and as the stock classes say it."""

from __future__ import annotations

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_parts import VISION, draw

from vlm_perception.models.blip2 import Blip2
from vlm_perception.models.loader import load_model
from vlm_perception.questions import Choice, Score, Text, YesNo

QUESTIONS = [
    Choice("what is ahead?", ("clear", "obstacle", "wall")),
    Choice("where is the red ball?", ("no", "left", "left near", "left far", "right near", "near right far")),
    YesNo("is it there?"),
    Score("how near?", ("far", "near", "nearer than that")),
    Choice("où est la balle?", ("à gauche", "à droite", "门口")),
    Choice("what is this?", ("wall", "door"), ("flat and grey", "one can go through")),
]

from blip2_models import KINDS, QFORMER, QUERIES, bert_tokenizer, images, random_image, save

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save(folder, *KINDS[request.param])
    loaded = load_model(str(folder), device="cpu", dtype="float32")
    loaded.name = request.param
    return loaded


def stock_inputs(model, image, prompt):
    """The stock processor's inputs; where a chat template puts the image elsewhere, they are laid out by hand."""
    processor, tokenizer = model._processor, model._processor.tokenizer
    if not tokenizer.chat_template:
        return processor(images=image, text=prompt, return_tensors="pt")
    before, behind = "###Human: <Img>", f"</Img> {prompt} ###Assistant: "
    ids = [
        *tokenizer(before)["input_ids"],
        *[tokenizer.convert_tokens_to_ids("<image>")] * QUERIES,
        *tokenizer(behind, add_special_tokens=False)["input_ids"],
    ]
    ids = torch.tensor([ids])
    pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def expected_prompt(model, question):
    """What the module's text promises, written anew."""
    prompt, options = question.prompt, ", ".join(question.options)
    if any(question.descriptions):
        listed = zip(question.options, question.descriptions, strict=True)
        described = [f"{option}: {words}" for option, words in listed]
    if model.name == "minigpt4":
        lines = "".join(f"\n- {line}" for line in described) if any(question.descriptions) else ""
        order = ", from lowest to highest" if isinstance(question, Score) else ""
        return f"{prompt}{lines}\nAnswer with one of{order}: {options}."
    if any(question.descriptions):
        prompt += f" ({'; '.join(described)})"
    return {
        "blip2-opt": f"Question: {prompt} Answer:",
        "blip2-t5": f"Question: {prompt} Short answer:",
    }.get(model.name, f"Question: {prompt} Options: {options}. Short answer:")


def brute_force(model, image, question):
    """Each option's log-likelihood by a full pass of the stock model over image, prompt and option alone."""
    stock, tokenizer = model._model, model._processor.tokenizer
    inputs = stock_inputs(model, image, expected_prompt(model, question))
    language = stock.language_model
    end = language.config.eos_token_id
    scores = []
    for option in question.options:
        words = f" {option}" if model.name == "blip2-opt" else option
        said = [*tokenizer(words, add_special_tokens=False)["input_ids"], end]
        with torch.inference_mode():
            if language.config.is_encoder_decoder:
                start = [language.config.decoder_start_token_id]
                logits = stock(**inputs, decoder_input_ids=torch.tensor([start + said[:-1]])).logits[0]
            else:
                ids = torch.cat([inputs["input_ids"], torch.tensor([said])], dim=1)
                given = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
                logits = stock(**given).logits[0, -len(said) - 1 : -1]
        scores.append(float(logits.log_softmax(-1)[range(len(said)), said].sum()))
    return scores


def test_scores_equal_a_forward_pass_per_option(model):
    image = random_image(0)
    for question, answer in zip(QUESTIONS, model.answer(image, QUESTIONS), strict=True):
        expected = torch.tensor(brute_force(model, image, question), dtype=torch.double).softmax(-1)
        assert answer.probabilities == pytest.approx(expected.tolist(), abs=1e-4)
        assert answer.value == question.options[int(expected.argmax())]


ONE_WORD = st.sampled_from(["left", "near", "far", "no", "wall", "门口", "à", "red"])
WORDS = st.lists(ONE_WORD, min_size=1, max_size=4).map(" ".join)
ASKED = st.builds(
    Choice,
    prompt=WORDS.map("where is the {}?".format),
    options=st.lists(WORDS, min_size=2, max_size=6, unique=True).map(tuple),
)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(questions=st.lists(ASKED, min_size=1, max_size=3), seed=st.integers(0, 9))
def test_whatever_is_asked_is_answered_exactly(model, questions, seed):
    image = random_image(seed)
    for question, answer in zip(questions, model.answer(image, questions), strict=True):
        expected = torch.tensor(brute_force(model, image, question), dtype=torch.double).softmax(-1)
        assert answer.probabilities == pytest.approx(expected.tolist(), abs=1e-4)


def test_log_likelihoods_themselves_are_exact(model):
    image = random_image(1)
    with torch.inference_mode():
        (found,) = model._score(model._encode([image]), QUESTIONS)
    for question, scores in zip(QUESTIONS, found, strict=True):
        assert scores.log_likelihoods == pytest.approx(brute_force(model, image, question), abs=1e-3)


def test_questions_and_images_of_a_batch_do_not_influence_each_other(model):
    images = [random_image(seed) for seed in (2, 3, 4)]
    together = model.answer_batch(images, [*QUESTIONS, Text("what is this?", 4)])
    for image, answers in zip(images, together, strict=True):
        for question, answer in zip(QUESTIONS, answers[:-1], strict=True):
            (alone,) = model.answer(image, [question])
            assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-4)
        (alone,) = model.answer(image, [Text("what is this?", 4)])
        assert (answers[-1].value, answers[-1].confidence) == (alone.value, pytest.approx(alone.confidence, abs=1e-4))
    assert together[0][0].probabilities != together[1][0].probabilities


@pytest.mark.parametrize("prompt", ["what is this?", "a photo of", "Question: is it there? Answer:", "caption"])
def test_words_equal_the_stock_generate(model, prompt):
    image = random_image(5)
    (answer,) = model.answer(image, [Text(prompt, 6)])
    if model.name.startswith("blip2"):
        prompt = {"what is this?": "Question: what is this? Answer:", "caption": ""}.get(prompt, prompt)
    elif model.name.startswith("instructblip"):
        prompt = {"caption": "A short image description:"}.get(prompt, prompt)
    inputs = stock_inputs(model, image, prompt)
    stock = model._model.generate(
        **inputs, max_new_tokens=7, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    said = stock.sequences[0, -len(stock.logits) :]
    log_p = torch.cat(stock.logits).log_softmax(-1)[range(len(said)), said]
    assert answer.value == model._processor.tokenizer.decode(said[:-1], skip_special_tokens=True).strip()
    assert answer.confidence == pytest.approx(float(log_p.mean().exp()), abs=1e-4)
    assert answer.usage.tokens == len(said) - 1
    assert 0 < answer.usage.time_to_first_token < answer.usage.seconds


def test_words_stop_at_any_end(model, monkeypatch):
    image = random_image(7)
    tokenizer, settings = model._processor.tokenizer, model._language.generation_config
    inputs = stock_inputs(model, image, "a photo of")
    start = 1 if model._language.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    said = model._model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, start:].tolist()
    ends = [settings.eos_token_id, said[3]]
    monkeypatch.setattr(settings, "eos_token_id", ends)
    again = Blip2(model.name, model._folder, model._model, model._processor)
    (answer,) = again.answer(image, [Text("a photo of", 6)])
    assert answer.usage.tokens == said.index(said[3])
    assert answer.value == tokenizer.decode(said[: said.index(said[3])], skip_special_tokens=True).strip()


def test_special_tokens_in_a_prompt_are_only_text(model):
    (answer,) = model.answer(random_image(8), [Choice("is <image> </s> here?", ("yes", "no"))])
    assert sum(answer.probabilities) == pytest.approx(1)


def test_questions_that_are_too_long_are_named(model):
    limited = {"blip2-opt": "at most 128", "instructblip-vicuna": "at most 64", "instructblip-t5": "at most 64"}
    question = YesNo("is it there? " * 100)
    if model.name in limited:
        with pytest.raises(ValueError, match=limited[model.name]):
            model.answer(random_image(0), [question])
    else:
        assert sum(model.answer(random_image(0), [question])[0].probabilities) == pytest.approx(1)


def test_it_tells_what_it_is(model):
    facts = model.describe_self()
    assert facts["family"] == model._model.config.model_type
    assert facts["language model"] == ("t5" if "t5" in model.name else "opt" if "opt" in model.name else "llama")


def test_the_tower_looks_once_for_all_questions(model):
    seen = []
    hook = model._model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"].shape), with_kwargs=True
    )
    image = random_image(9)
    image.flags.writeable = False
    model.answer(image, QUESTIONS)
    model.answer(image, [Text("what is this?", 3)])
    hook.remove()
    assert seen == [(1, 3, 28, 28)]


# Image-text matching


@pytest.fixture(scope="module")
def matcher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip2-itm")
    tokenizer = bert_tokenizer()
    config = transformers.Blip2Config(
        vision_config=VISION,
        qformer_config={**QFORMER, "vocab_size": len(tokenizer), "use_qformer_text_input": True},
        num_query_tokens=QUERIES,
        image_text_hidden_size=16,
    )
    torch.manual_seed(1)
    stock = transformers.Blip2ForImageTextRetrieval(config)
    draw(stock)
    stock.save_pretrained(folder)
    transformers.Blip2Processor(images(), tokenizer).save_pretrained(folder)
    return load_model(str(folder), device="cpu", dtype="float32")


def stock_fit(matcher, image, text):
    """Log-odds of the matching head, and the contrastive head's cosine."""
    inputs = matcher._processor(images=image, text=text, return_tensors="pt")
    with torch.inference_mode():
        no, yes = matcher._model(**inputs, use_image_text_matching_head=True).logits_per_image[0]
        similarity = matcher._model(**inputs, use_image_text_matching_head=False).logits_per_image[0, 0]
    return float(yes - no), float(similarity)


def test_whether_it_is_so_is_what_the_matching_head_says(matcher):
    image = random_image(0)
    question = YesNo("is it there?", descriptions=("A red ball!", ""))
    (answer,) = matcher.answer(image, [question])
    odds, _ = stock_fit(matcher, image, "a red ball")
    assert answer.probability("yes") == pytest.approx(torch.tensor(odds).sigmoid().item(), abs=1e-5)


def test_options_compete_by_both_heads(matcher):
    image = random_image(1)
    question = Choice("what is it?", ("wall", "door", "ball"), ("a wall is near", "", "a red ball"))
    (answer,) = matcher.answer(image, [question])
    phrases = ["a wall is near", "a photo of a door", "a red ball"]
    scores = torch.tensor([sum(stock_fit(matcher, image, phrase)) for phrase in phrases])
    assert answer.probabilities == pytest.approx(scores.softmax(-1).tolist(), abs=1e-5)


def test_several_templates_are_averaged(matcher):
    image = random_image(2)
    (answer,) = matcher.answer(image, [Choice("a photo of {}\nthere is {}", ("a wall", "a door"))])
    texts = [[f"a photo of {x}", f"there is {x}"] for x in ("a wall", "a door")]
    scores = torch.tensor([[sum(stock_fit(matcher, image, text)) for text in some] for some in texts]).mean(1)
    assert answer.probabilities == pytest.approx(scores.softmax(-1).tolist(), abs=1e-5)


def test_a_batch_is_answered_as_each_alone(matcher, monkeypatch):
    monkeypatch.setattr("vlm_perception.models.blip2_matching.PAIRS", 4)
    images = [random_image(seed) for seed in (3, 4, 5)]
    questions = [
        Choice("what is it?", ("wall", "door", "ball")),
        YesNo("is it there?", descriptions=("a red ball", "")),
        Text("{} is there", phrases=("a wall", "a door")),
    ]
    for image, answers in zip(images, matcher.answer_batch(images, questions), strict=True):
        for question, answer in zip(questions, answers, strict=True):
            (alone,) = matcher.answer(image, [question])
            assert answer.value == alone.value
            assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_words_that_say_nothing_need_phrases(matcher):
    with pytest.raises(ValueError, match="description"):
        matcher.answer(random_image(0), [YesNo("is it there?")])

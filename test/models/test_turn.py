"""Where an answer stands in a chat template, and which tokens it is there."""

import pytest
from tiny_tokenizers import byte_tokenizer, piece_tokenizer, template

from vlm_perception.models.base import ModelError
from vlm_perception.models.turn import PROMPT, Turn, read_turn, tokens_in_place

USER = {"role": "user", "content": [{"type": "text", "text": PROMPT}]}
SPECIAL = ("<end>", "<say>", "</s>")


def turn_of(chat, tokenizer=None):
    tokenizer = tokenizer or byte_tokenizer("</s>", "<end>", "<say>")

    def write(messages, prompt):
        return tokenizer.apply_chat_template(messages, chat_template=chat, add_generation_prompt=prompt, tokenize=False)

    return read_turn(write, USER, SPECIAL)


@pytest.mark.parametrize(
    ("assistant", "lead", "close", "turn"),
    [
        ("Assistant:", " ", "<end>\n", Turn("", " ", "<end>")),
        ("<say>\n", "", "<end>\n", Turn("", "", "<end>")),
        ("[/INST]", " ", " </s>", Turn("", " ", " </s>")),
        ("ASSISTANT:", " ", " ", Turn("", " ", "")),  # LLaVA's ends with a blank and nothing
        ("<bot>", "<say>", "<end>", Turn("<say>", "", "<end>")),  # a marker before the answer, whatever it is
        ("<bot>", "<think>\n\n</think>\n\n", "<end>", Turn("<think>\n\n</think>\n\n", "", "<end>")),
        ("<bot><think>\n", "\n</think>\n\n", "<end>", Turn("\n</think>\n\n", "", "<end>")),
        ("<bot>[THINK]", "", "<end>", Turn("[/THINK]\n\n", "", "<end>")),
    ],
)
def test_what_a_template_writes_around_an_answer(assistant, lead, close, turn):
    assert turn_of(template("User: ", "", "\n", assistant, lead=lead, close=close)) == turn


@pytest.mark.parametrize(
    ("prompt", "answer", "opening"),
    [
        ("<bot><think>\n", "<bot>", "\n</think>\n\n"),  # thoughts are left out of what was said
        ("<bot><think>", "<bot>\n<think></think>\n", "</think>\n\n"),
        ("<bot><think>\n\n</think>\n\n", "<bot>", ""),
        ("<bot><think>\n\n</think>\n\n", "<bot><think></think>", ""),
    ],
)
def test_a_thought_of_the_prompt_is_ended(prompt, answer, opening):
    chat = (
        "{% for m in messages %}{{ m.content[0].text if m.role == 'user' else "
        + repr(answer)
        + " + m.content[0].text }}"
        "{% endfor %}{{ " + repr(prompt) + " if add_generation_prompt }}"
    )
    assert turn_of(chat) == Turn(opening)


def test_answers_that_do_not_go_on_from_the_prompt_are_refused():
    chat = "{{ messages[0].content[0].text }}{{ 'A: ' if add_generation_prompt else 'B: ' }}"
    with pytest.raises(ModelError, match="where an answer stands is not known"):
        turn_of(chat + "{{ messages[1].content[0].text if messages[1] }}")


def test_a_template_without_answers_adds_nothing_to_them():
    assert turn_of("{{ messages[0].content[0].text }}{{ 'A:' if add_generation_prompt }}") == Turn()


@pytest.mark.parametrize("tokenizer", [byte_tokenizer("</s>", "<end>"), piece_tokenizer("</s>", "<end>")])
@pytest.mark.parametrize("prompt", ["<end>near:", "<end>near: ", "near\n", "near lef"])
@pytest.mark.parametrize("turn", [Turn(), Turn("", " ", "<end>"), Turn("", "", " </s>")])
def test_an_options_tokens_are_those_of_the_whole_text(tokenizer, prompt, turn):
    """Also where its first letters are one token with the end of the prompt."""
    options = ["left", "right near", "左边"]
    replaced, found = tokens_in_place(tokenizer, prompt, turn, options, SPECIAL)
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    before = before[: len(before) - replaced]
    for option, tokens in zip(options, found, strict=True):
        whole = tokenizer(prompt + turn.lead + option + turn.end, add_special_tokens=False)["input_ids"]
        assert before + tokens == (whole[:-1] if turn.end else whole)

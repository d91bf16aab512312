"""The vocabulary: questions that make sense, answers that add up."""

import math

import pytest

from vlm_perception.questions import Answer, Choice, Score, Text, YesNo, answer_from_log_likelihoods, check_request


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Choice("where?", ()), "has 0 options.*expected 2"),
        (lambda: Choice("where?", ("left",)), "has 1 options.*expected 2"),
        (lambda: Choice("where?", ("left", "left", "right")), r"repeats \['left'\]"),
        (lambda: Choice("where?", ("left", " ")), "option of question 'where\\?' is empty"),
        (lambda: Choice("where?", ("left", "ri\x07ght")), "control character"),
        (lambda: Choice("where?", tuple(str(i) for i in range(256))), "has 256 options.*expected 2 to 255"),
        (lambda: Choice("", ("left", "right")), "prompt of a question is empty"),
        (lambda: Choice("x" * 2001, ("left", "right")), "2001 characters, expected at most 2000"),
        (lambda: YesNo("is it?", ("yes", "no", "so")), "word for true and the word for false"),
        (lambda: Score("how much?", ("low", 3)), "is a int, expected text"),
        (lambda: Text("say", max_new_tokens=0), "0 new tokens, expected 1 to 4096"),
        (lambda: YesNo("is it?", "ab"), "options of question 'is it\\?' are 'ab', expected a sequence"),
        (lambda: Text("say", phrases="ab"), "phrases of question 'say' are 'ab', expected a sequence"),
        (lambda: Choice("where?", ("left", "right"), "ab"), "descriptions of question 'where\\?' are 'ab'"),
        (lambda: Choice("where?", 2), "options of question 'where\\?' are 2, expected a sequence"),
        (lambda: Choice("where?", ("near left", "near  left ", "no")), "repeats.*near  left"),
        (lambda: Choice("où?", ("\u00e0 gauche", "a\u0300 gauche")), "repeats.*forms of Unicode"),
        (lambda: Choice("where?", ("left", "le\u200bft")), "repeats"),
        *(
            (lambda text=text: Choice("where?", ("left", text)), "shows nothing")
            for text in ("\u200b", "\u200d\ufe0f", "\u202e\u2066 ", "\u3164", "\u2800", "\u0301")
        ),
        *(
            (lambda text=text: Choice(f"where{text}?", ("left", "right")), "control character")
            for text in ("\u2028", "\u2029", "\u0085")
        ),
    ],
)
def test_a_question_that_makes_no_sense_says_why(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_any_language_is_welcome():
    assert Choice("前面是什么?", ["门口", "走廊"]).options == ("门口", "走廊")
    joined = ("می‌خواهم", "👩‍👧", "क्‍ष")  # with zero-width joiners, which belong there
    assert Choice("where?", joined).options == joined


def test_a_request_has_its_limit():
    long = [Choice("where?", [f"{option:03}" + "x" * 192 for option in range(200)]) for n in range(2)]
    check_request(long[:1])
    with pytest.raises(ValueError, match=r"have 78012 characters.*at most 50000: ask\s+fewer at once"):
        check_request(long)


def test_log_likelihoods_become_probabilities():
    question = Choice("where?", ("left", "right", "no"))
    answer = answer_from_log_likelihoods(question, [math.log(0.2) - 700, math.log(0.6) - 700, math.log(0.2) - 700])
    assert answer.value == "right"
    assert answer.confidence == pytest.approx(0.6)
    assert answer.probability("left") == pytest.approx(0.2)
    assert sum(answer.probabilities) == pytest.approx(1)
    with pytest.raises(KeyError, match="'up' is not an option"):
        answer.probability("up")


def test_an_impossible_option_is_no_error_but_nonsense_is():
    question = YesNo("is it?")
    assert answer_from_log_likelihoods(question, [-math.inf, -3.0]).probabilities == (0.0, 1.0)
    for scores in ([math.nan, -1.0], [-math.inf, -math.inf], [math.inf, 0.0]):
        with pytest.raises(ValueError, match="not finite"):
            answer_from_log_likelihoods(question, scores)
    with pytest.raises(ValueError, match="1 scores for the 2 options"):
        answer_from_log_likelihoods(question, [0.0])


def test_a_score_is_the_expected_level():
    assert Answer("high", 0.5, ("low", "middle", "high"), (0.2, 0.3, 0.5)).score == pytest.approx(1.3)

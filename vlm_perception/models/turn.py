"""The assistant's turn as a chat template writes it: the place of an answer, its tokens, and its end.

A model was trained to write what its template writes in an assistant's turn, which is more than the answer's words.
After SmolVLM's generation prompt `Assistant:` comes ` left`, with a space; other templates write a marker or an empty
thought there. So the template writes a conversation with an answer once, and every option is put into that place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_perception.models.base import ModelError

ANSWER, PROMPT = "\ue000", "\ue001"
"""Placeholders of an answer and of a user's text; no question may contain these characters."""
THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
)
"""Beginnings of a thought, each with its end."""


@dataclass(frozen=True)
class Turn:
    """The text around an answer.

    `opening` follows the generation prompt for every answer: the end of a thought, or a marker. `lead` is between the
    opening and the answer's words, and may become one token with them. `end` is the special token that ends the turn,
    with the blanks before it; empty if the template writes none.
    """

    opening: str = ""
    lead: str = ""
    end: str = ""


def read_turn(
    write: Callable[[list[dict[str, Any]], bool], str], user: dict[str, Any], special: Collection[str]
) -> Turn:
    """Return the text that a template writes around an answer to the message `user`, whose text is PROMPT.

    `write` renders messages, with or without the generation prompt. `special` are the tokenizer's special tokens. If
    the template cannot write an answer, the text around it is empty. A thought that the generation prompt begins is
    ended. Raises ModelError when answers do not continue the generation prompt.
    """
    prompt = write([user], True)
    before, after = _around_answer(write, user) or (prompt, "")
    common = len(os.path.commonprefix([before, prompt]))  # noqa: RUF071 - of letters
    asked, lead = prompt[common:], before[common:]
    end_of_thought = _end_of_open_thought(prompt.rpartition(PROMPT)[2])
    if asked.strip() and lead:  # each has its own thought, or they differ for another reason
        lead = lead[_end_of_last(lead, [end for _, end in THOUGHTS]) :]
        if lead.strip():
            raise ModelError(
                f"its chat template begins an answer with {asked[:100]!r}, but writes one behind {lead[:100]!r}: so "
                "where an answer stands is not known"
            )
    opening = lead[: _end_of_last(lead, [*special, *(end for _, end in THOUGHTS)])]
    lead = lead[len(opening) :]
    if end_of_thought not in opening:
        opening = ("\n" if prompt.endswith("\n") else "") + end_of_thought + "\n\n" + opening
    place, token = min(((after.find(token), token) for token in special if token in after), default=(-1, ""))
    return Turn(opening, lead, after[:place] + token if token and not after[:place].strip() else "")


def tokens_in_place(
    tokenizer: Any, prompt: str, turn: Turn, options: Sequence[str], special: Collection[str]
) -> tuple[int, list[list[int]]]:
    """Return how many of the last tokens of `prompt` the options replace, and each option's tokens from there on.

    `prompt` ends with the turn's opening. Where an option's first letters become one token with the text before, the
    option has that token in place of the prompt's last ones.
    """
    start = max((prompt.rfind(token) for token in special), default=-1)  # tokens before it are always the same
    prompt = prompt[max(start, 0) :]
    alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    encoded = tokenizer([prompt + turn.lead + option + turn.end for option in options], add_special_tokens=False)[
        "input_ids"
    ]
    kept = min(common_start([alone, tokens]) for tokens in encoded)
    return len(alone) - kept, [tokens[kept : len(tokens) - bool(turn.end)] for tokens in encoded]


def common_start(sequences: Sequence[Sequence[int]]) -> int:
    """Return the length of the common beginning of all sequences."""
    count = 0
    for tokens in zip(*sequences, strict=False):
        if any(token != tokens[0] for token in tokens):
            break
        count += 1
    return count


def _around_answer(write: Callable[[list[dict[str, Any]], bool], str], user: dict[str, Any]) -> tuple[str, str] | None:
    """Return the text before and after an answer; None when the template cannot write an answer."""
    for content in ([{"type": "text", "text": ANSWER}], ANSWER):
        try:
            text = write([user, {"role": "assistant", "content": content}], False)
        except Exception:  # Jinja may raise anything for a wrong template
            continue
        before, answer, after = text.partition(ANSWER)
        if answer and PROMPT in before:
            return before, after
    return None


def _end_of_open_thought(text: str) -> str:
    """Return the end of the thought that is open at the end of `text`; "" without one."""
    return next((end for begin, end in THOUGHTS if text.rfind(begin) > text.rfind(end)), "")


def _end_of_last(text: str, marks: Collection[str]) -> int:
    """Return the end of the last of `marks` in `text`, empty lines behind it included; 0 without one."""
    place = max((text.rfind(mark) + len(mark) for mark in marks if mark in text), default=0)
    while place and text[place : place + 1] == "\n":
        place += 1
    return place

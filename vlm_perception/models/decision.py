"""Decision checkpoints: chat models with a `decision.json`, as transformers' `pipeline("decision")` reads it.

Such a model was trained to answer with a label, which is a single token, for each option (A, B, C; Yes, No), behind its
own prompt. `Calibration.from_folder` reads its temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from vlm_perception.models.base import ModelError
from vlm_perception.questions import Choice, ClosedQuestion, Score, YesNo

CONFIG_NAME = "decision.json"
PLACEHOLDER = "\ue000"
"""Placeholder of the image in the state; no prompt may contain this character."""
_KINDS = {Choice: "choice", YesNo: "noul", Score: "score"}


def load_decision(folder: Path) -> DecisionFormat | None:
    """Return the format of the decision checkpoint in `folder`, None when it is not one.

    Raises ModelError when its `decision.json` cannot be used.
    """
    if not (folder / CONFIG_NAME).is_file():
        return None
    try:
        from transformers.decision import DecisionConfig
    except ImportError as error:
        raise ModelError(f"{folder} is a decision checkpoint, which needs transformers 5.23 or newer") from error
    try:
        config = DecisionConfig.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # the dataclasses of huggingface_hub raise their own exceptions
        raise ModelError(f"{folder / CONFIG_NAME} cannot be read: {str(error).splitlines()[0]}") from error
    if config.adapter:
        raise ModelError(
            f"{folder} keeps its decision weights as an adapter in {config.adapter!r}: merge it into the model "
            "(peft's merge_and_unload) and save that"
        )
    return DecisionFormat(config)


class DecisionFormat:
    """The prompt format of a decision checkpoint; `own_template` if it has a template in place of the common prompt."""

    def __init__(self, config: Any) -> None:
        self._config = config
        self.own_template = config.chat_template is not None

    def prompt(self, question: ClosedQuestion) -> str:
        """Return the common prompt, which stands behind the image in the user's message."""
        from transformers.decision.template_utils import DECISION_PROMPT
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, _ = render_jinja_template(
            conversations=[[]], chat_template=DECISION_PROMPT, state="", question=self._stock(question)
        )
        return texts[0]

    def labels(self, question: ClosedQuestion, tokenizer: Any) -> list[int]:
        """Return the token of each option's label. ValueError when they are too many, or not single tokens."""
        from transformers.decision.template_utils import label_token_ids

        stock = self._stock(question)
        by_option = dict(zip(stock.options, label_token_ids(tokenizer, tuple(stock.labels)), strict=True))
        return [by_option[key] for key in _keys(question)]

    def inputs(self, question: ClosedQuestion, image: Image.Image, processor: Any) -> tuple[dict[str, Any], int]:
        """Return the stock inputs in the checkpoint's own template, and the number of tokens before the decision."""
        request = {"state": PLACEHOLDER, "questions": {"q": _request(question)}, "assets": {PLACEHOLDER: image}}
        ((inputs, _),) = self._config.prepare_inputs(request, processor)
        inputs = dict(inputs)
        marks = inputs.pop("marks")
        if len(marks) != 1:
            raise ValueError("its template reads several places of one prompt, which takes a decision head")
        return inputs, int(marks[0])

    def _stock(self, question: ClosedQuestion) -> Any:
        from transformers.decision.template_utils import Question

        return Question.from_request("q", _request(question), self._config)


def _keys(question: ClosedQuestion) -> Sequence[str]:
    """Return the names that transformers gives the options."""
    if isinstance(question, YesNo):
        return ("true", "false")
    return [str(level) for level in range(len(question.options))] if isinstance(question, Score) else question.options


def _request(question: ClosedQuestion) -> dict[str, Any]:
    """Return the question as a request of the System One API."""
    criteria: Any
    if isinstance(question, Score):
        criteria = [f"{option}: {words}" if words else option for option, words in question.described()]
    elif isinstance(question, YesNo):
        own = question.options != ("yes", "no")
        criteria = {
            key: words or (option if own else None)
            for key, (option, words) in zip(_keys(question), question.described(), strict=True)
        }
    else:
        criteria = {option: words or None for option, words in question.described()}
    return {"type": _KINDS[type(question)], "instructions": question.prompt, "criteria": criteria}

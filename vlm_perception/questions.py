"""Typed questions about an image, and their answers.

The vocabulary is that of the System One / Decisions APIs: `Choice` (one of the options), `YesNo`
(a probability), `Score` (ordered levels) and `Text` (free words, for descriptions only: no motion of a robot may depend
on it).
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

MAX_PROMPT_CHARACTERS = 2000
MAX_OPTION_CHARACTERS = 200
MAX_OPTIONS = 255
MAX_REQUEST_CHARACTERS = 50_000
"""Most characters of all questions of one request, options and descriptions included."""
_BLANK = set("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Fillers: letters and symbols of Unicode that show nothing."""


def check_text(what: str, text: str, limit: int) -> None:
    r"""Raise ValueError unless `text` is printable, at most `limit` characters long and shows something.

    Blanks, zero-width and direction marks alone show nothing. A line break is `\n` and nothing else.
    """
    if not isinstance(text, str):
        raise ValueError(f"{what} is a {type(text).__name__}, expected text")
    if not text.strip():
        raise ValueError(f"{what} is empty, expected some text")
    if len(text) > limit:
        raise ValueError(f"{what} has {len(text)} characters, expected at most {limit}: shorten it")
    for character in text:
        if character != "\n" and unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp"):
            raise ValueError(f"{what} contains the control character {character!r}, expected printable text")
    if not any(unicodedata.category(character)[0] in "LNPS" and character not in _BLANK for character in text):
        raise ValueError(f"{what} is {text!r:.100}, which shows nothing: expected some visible text")


def texts_of(what: str, texts: Iterable[str]) -> tuple[str, ...]:
    """Return `texts` as a tuple. Raises ValueError when it is a single text, or no sequence."""
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise ValueError(f"{what} are {texts!r:.100}, expected a sequence of texts")
    return tuple(texts)


def check_request(questions: Sequence[Question]) -> None:
    """Raise ValueError when `questions` are longer than one request may be, for any model."""
    count = 0
    for question in questions:
        more: tuple[str, ...] = ()
        if isinstance(question, ClosedQuestion):
            more = question.options + question.descriptions
        elif isinstance(question, Text):
            more = question.phrases
        count += len(question.prompt) + sum(map(len, more))
    if count > MAX_REQUEST_CHARACTERS:
        raise ValueError(
            f"the questions have {count} characters with their options, expected at most {MAX_REQUEST_CHARACTERS}: ask "
            "fewer at once, or with fewer or shorter options"
        )


def _looks(text: str) -> str:
    """Return what a reader sees of `text`: composed letters, single blanks, no invisible characters."""
    composed = unicodedata.normalize("NFC", text)
    return " ".join("".join(c for c in composed if unicodedata.category(c) != "Cf" and c not in _BLANK).split())


def check_options(what: str, options: tuple[str, ...], minimum: int = 2) -> None:
    """Raise ValueError unless `options` are at least `minimum` printable texts that a reader can tell apart."""
    if not minimum <= len(options) <= MAX_OPTIONS:
        raise ValueError(
            f"{what} has {len(options)} options {list(options)!r:.200}, expected {minimum} to {MAX_OPTIONS}"
        )
    for option in options:
        check_text(f"an option of {what}", option, MAX_OPTION_CHARACTERS)
    looks = [_looks(option) for option in options]
    if repeated := sorted({option for option, look in zip(options, looks, strict=True) if looks.count(look) > 1}):
        raise ValueError(
            f"{what} repeats {repeated!r:.200}, expected every option once (blanks and forms of Unicode make no other)"
        )


@dataclass(frozen=True)
class Question:
    """The base of all questions, with the `prompt` that the model reads. Names are kept where questions are put."""

    prompt: str

    def __post_init__(self) -> None:
        check_text("the prompt of a question", self.prompt, MAX_PROMPT_CHARACTERS)

    def __str__(self) -> str:
        return f"question {self.prompt!r:.100}"


@dataclass(frozen=True)
class ClosedQuestion(Question):
    """A question whose answer is one of `options`.

    `descriptions` say in more words what each option means; there are none, or one for every option, which may be
    empty. A chat model reads them; a dual encoder compares them with the image.
    """

    options: tuple[str, ...]
    descriptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("options", "descriptions"):
            object.__setattr__(self, name, texts_of(f"the {name} of {self}", getattr(self, name)))
        check_options(str(self), self.options)
        if len(self.descriptions) not in (0, len(self.options)):
            raise ValueError(
                f"{self} has {len(self.descriptions)} descriptions for its {len(self.options)} "
                "options, expected none or one for each (an empty one says nothing)"
            )
        for option, description in zip(self.options, self.descriptions, strict=False):
            if description:
                check_text(f"the description of {option!r}", description, MAX_PROMPT_CHARACTERS)

    def described(self) -> list[tuple[str, str]]:
        """Return each option with its description, which may be empty."""
        return list(zip(self.options, self.descriptions or [""] * len(self.options), strict=True))


@dataclass(frozen=True)
class Choice(ClosedQuestion):
    """Which one of `options`?"""


@dataclass(frozen=True)
class MirroredChoice(Choice):
    """Which one of `options`, in the image with left and right swapped?"""

    def plain(self) -> Choice:
        """Return what a model is asked about the mirrored image."""
        return Choice(self.prompt, self.options, self.descriptions)


@dataclass(frozen=True)
class YesNo(ClosedQuestion):
    """Is it so? `options` are the model's words for true and for false, in this order."""

    options: tuple[str, ...] = ("yes", "no")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.options) != 2:
            raise ValueError(
                f"yes/no {self} has {len(self.options)} options {list(self.options)!r:.200}, "
                "expected the word for true and the word for false"
            )


@dataclass(frozen=True)
class Score(ClosedQuestion):
    """How much? `options` are the levels, lowest first."""


@dataclass(frozen=True)
class Text(Question):
    """In free words, at most `max_new_tokens` tokens.

    A model that cannot write chooses from `phrases`; other models ignore them.
    """

    max_new_tokens: int = 64
    phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "phrases", texts_of(f"the phrases of {self}", self.phrases))
        if self.phrases:
            check_options(str(self), self.phrases, minimum=1)
        if not 1 <= self.max_new_tokens <= 4096:
            raise ValueError(f"{self} asks for {self.max_new_tokens} new tokens, expected 1 to 4096")


@dataclass(frozen=True)
class Usage:
    """The cost of an answer.

    `seconds` is the time from the call to this answer, `time_to_first_token` [s] that to its first token, which for a
    closed question is the whole answer. `tokens` is the number of tokens generated one by one, 0 for a closed question.
    `peak_memory` [bytes] is the most memory in use meanwhile: of the GPU if the model is there, else of this process.
    `encoding` [s] is the time until the image was encoded; a GPU has only begun it then.
    """

    seconds: float
    time_to_first_token: float
    tokens: int
    peak_memory: int
    encoding: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """The rate [1/s] of the tokens after the first; 0 when there was at most one."""
        rest = self.seconds - self.time_to_first_token
        return (self.tokens - 1) / rest if self.tokens > 1 and rest > 0 else 0.0


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    `value` is the chosen option, or the text for a `Text`. `options` and `probabilities` (each in 0..1, with the sum 1)
    are parallel, and empty for a `Text`. `confidence` is the probability of `value`; for a `Text` the geometric mean of
    its tokens' probabilities. `usage` is the cost, None if unknown. `age` [s] is the time since the answer was given
    about an earlier image of the same scene, 0 for an answer about this image. `off_mass` is the probability of answers
    that begin with none of the options' first tokens, None if unknown (dual encoders, texts, servers without
    log-probabilities). If it is near 1, the prompt does not lead to the options.
    """

    value: str
    confidence: float
    options: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    usage: Usage | None = field(default=None, compare=False, repr=False)
    age: float = field(default=0.0, compare=False)
    off_mass: float | None = field(default=None, compare=False)

    def probability(self, option: str) -> float:
        """Return the probability of `option`; KeyError if it was not among the options."""
        try:
            return self.probabilities[self.options.index(option)]
        except ValueError:
            raise KeyError(f"{option!r} is not an option: {list(self.options)}") from None

    @property
    def score(self) -> float:
        """The expected level, from 0 (the first option) to `len(options) - 1`."""
        return sum(level * p for level, p in enumerate(self.probabilities))


def answer_from_log_likelihoods(question: ClosedQuestion, scores: list[float]) -> Answer:
    """Turn one log-likelihood per option into an `Answer`, by a softmax over the options.

    Raises ValueError when a score is NaN or none is finite: such a model has not answered.
    """
    if len(scores) != len(question.options):
        raise ValueError(f"{len(scores)} scores for the {len(question.options)} options of {question}")
    highest = max(scores)
    if any(math.isnan(score) for score in scores) or not math.isfinite(highest):
        raise ValueError(f"the model's scores for {question} are not finite: {scores}")
    weights = [math.exp(score - highest) for score in scores]
    total = sum(weights)
    probabilities = tuple(weight / total for weight in weights)
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    return Answer(question.options[best], probabilities[best], question.options, probabilities)

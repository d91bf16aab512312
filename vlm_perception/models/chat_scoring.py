"""Scores of a chat model's options: as a tree behind the shared cache, as rows, or in whole passes, see `chat`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from vlm_perception.models.chat_forward import ChatForward
from vlm_perception.models.chat_prompt import ChatPrompts, ImageGroup, TokenizedQuestion, group_by_size
from vlm_perception.models.scoring import Options, Scored, build_tree, in_portions, log_likelihoods
from vlm_perception.models.turn import common_start
from vlm_perception.questions import Choice, YesNo

TREE, ROWS, WHOLE = "tree", "rows", "whole"
TESTED = {
    "llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3", "glm4v", "gemma3", "internvl",
    "phi4_multimodal",
}  # fmt: skip
"""Model types for which the tests of this package show that *tree* is exact."""
_CHECK = (
    Choice("What is ahead?", ("a wall", "a wall on the left", "nothing")),
    YesNo("Is there a door in the image?"),
)


class OptionScorer:
    """Scores the options of closed questions in one `way`, chosen for the reason `why`; `ends` are the last tokens."""

    def __init__(self, prompts: ChatPrompts, passes: ChatForward, ends: Sequence[int]) -> None:
        self._prompts, self._passes, self._ends = prompts, passes, ends
        self.way, self.why = TREE, "as tested for this family"
        if passes.model.config.model_type not in TESTED:
            self.way, self.why = self._find_way()

    def read(self, images: ImageGroup, prompts: Sequence[Sequence[int]]) -> None:
        """Read the common beginning of all `prompts` into the cache."""
        self._passes.read(images, prompts, may_crop=self.way == TREE)

    def score(self, images: ImageGroup, asked: Sequence[TokenizedQuestion]) -> list[list[Scored]]:
        """Return the scores of every option, by image and question."""
        prompts = [self._prompts.before_options(images, one) for one in asked]
        shared = common_start(prompts)
        sizes = [(len(prompt) - shared, one.options) for prompt, one in zip(prompts, asked, strict=True)]
        return in_portions(sizes, len(images.images), functools.partial(self._score_portion, images, prompts))

    def _score_portion(
        self, images: ImageGroup, every: list[list[int]], portion: Sequence[tuple[int, Options]]
    ) -> list[list[Scored]]:
        """Return the scores of some options, each list behind the prompt of this number."""
        prompts, options = [every[number] for number, _ in portion], [some for _, some in portion]
        way = self.way
        if way != WHOLE and not self._passes.covers_image(images, common_start(prompts)):
            way = WHOLE
        if way != WHOLE:
            self.read(images, prompts)
            if way == TREE and self._forgets(images, prompts, options):
                way = ROWS
        score = {TREE: self._score_tree, ROWS: self._score_rows, WHOLE: self._score_whole}[way]
        return score(images, prompts, options)

    def _score_tree(self, images: ImageGroup, prompts: list[list[int]], options: list[Options]) -> list[list[Scored]]:
        start = len(images.prefix)
        tree = build_tree(
            [(prompt[start:], some) for prompt, some in zip(prompts, options, strict=True)], bool(self._ends)
        )
        rows, length = len(images.images), len(tree.tokens)
        sees = torch.cat([torch.ones(length, start, dtype=torch.bool), tree.sees()], dim=1)
        mask = torch.zeros(sees.shape, dtype=self._passes.model.dtype).masked_fill_(
            ~sees, torch.finfo(self._passes.model.dtype).min
        )
        logits = self._passes.forward(
            images,
            images.cache,
            torch.tensor([tree.tokens]).expand(rows, -1),
            self._passes.positions(images, torch.tensor(tree.depths)),
            tree.reads,
            mask[None, None].expand(rows, 1, -1, -1),
        )
        images.cache.crop(-length)
        return [log_likelihoods(tree, image, self._ends) for image in logits]

    def _score_rows(self, images: ImageGroup, prompts: list[list[int]], options: list[Options]) -> list[list[Scored]]:
        start = len(images.prefix)
        rows = [(prompt[start:], option) for prompt, some in zip(prompts, options, strict=True) for option in some]
        length = max(len(rest) + len(option) for rest, option in rows)
        ids = torch.tensor([[*rest, *option] + [0] * (length - len(rest) - len(option)) for rest, option in rows])
        cache = copy.deepcopy(images.cache)
        cache.reorder_cache(torch.arange(len(images.images), device=self._passes.device).repeat_interleave(len(rows)))
        positions = self._passes.positions(images, torch.arange(length))
        logits = self._passes.forward(
            images,
            cache,
            ids.repeat(len(images.images), 1),
            positions.repeat_interleave(len(rows), dim=-2),
            range(length),
        ).unflatten(0, (-1, len(rows)))
        ends = [len(rest) + len(option) for rest, option in rows]
        return [
            _by_question(
                [
                    self._one(option, row[end - len(option) - 1 : end])
                    for row, end, (_, option) in zip(image, ends, rows, strict=True)
                ],
                options,
            )
            for image in logits
        ]

    def _score_whole(self, images: ImageGroup, prompts: list[list[int]], options: list[Options]) -> list[list[Scored]]:
        scores: list[list[Scored]] = [[] for _ in images.images]
        for prompt, some in zip(prompts, options, strict=True):
            for option in some:
                inputs = self._passes.inputs(images, [*prompt, *option])
                logits = self._passes.model(**inputs, use_cache=False, **self._passes.keep(len(option) + 1)).logits
                for found, row in zip(scores, logits[:, -len(option) - 1 :], strict=True):
                    found.append(self._one(option, row))
        return [_by_question(found, options) for found in scores]

    def _one(self, option: Sequence[int], logits: Tensor) -> Scored:
        """Return the score of one option, from the logits before it and after each of its tokens."""
        tree = build_tree([((), [option])], bool(self._ends))
        return log_likelihoods(tree, logits[: len(tree.reads)], self._ends)[0]

    def _forgets(self, images: ImageGroup, prompts: list[list[int]], options: list[Options]) -> bool:
        """Whether a sliding window is too short for the tree, whose mask has no window."""
        rests = sum(len(prompt) - len(images.prefix) for prompt in prompts)
        return self._passes.is_beyond(
            len(images.prefix) + rests + sum(len(option) for some in options for option in some)
        )

    def _find_way(self) -> tuple[str, str]:
        """Return the first way whose scores equal those of whole passes, and why a better one was not chosen.

        It is checked with a wide image, since a square may hide padded tiles, and with many and few tokens behind it.
        """
        ramp = np.linspace(0, 255, 72 * 128 * 3).reshape(72, 128, 3).astype(np.uint8)
        asked = [self._prompts.tokenize(question) for question in _CHECK]
        with torch.inference_mode():
            expected = [self._scores_of(self._score_whole, ramp, some) for some in (asked, asked[:1])]
            why = []
            for way, score in ((TREE, self._score_tree), (ROWS, self._score_rows)):
                try:
                    found = [self._scores_of(score, ramp, some) for some in (asked, asked[:1])]
                except Exception as error:  # an unknown architecture may raise anything, and another way may work
                    why.append(f"{way}: {type(error).__name__} {error}".splitlines()[0][:200])
                    continue
                off = (torch.cat(found) - torch.cat(expected)).abs()
                tolerance = 1e-4 if self._passes.model.dtype == torch.float32 else 5e-2
                if bool((off <= tolerance * torch.cat(expected).abs().clamp(min=1)).all()):
                    return way, "; ".join([*why, f"{way} agrees with whole passes"])
                why.append(f"{way} is off by {float(off.max()):.2g}")
        return WHOLE, "; ".join(why)

    def _scores_of(
        self, score: Callable[..., list[list[Scored]]], image: np.ndarray, asked: list[TokenizedQuestion]
    ) -> Tensor:
        """Return all log-likelihoods, in one row, by one way of scoring."""
        (images,) = group_by_size([image])
        prompts = [self._prompts.before_options(images, one) for one in asked]
        if score != self._score_whole:
            self.read(images, prompts)
        if score == self._score_tree and any(
            getattr(layer, "get_seq_length", int)() != len(images.prefix) for layer in images.cache.layers
        ):
            raise ValueError("a layer remembers other things than tokens, so it cannot be cut back to the prompt")
        found = score(images, prompts, [one.options for one in asked])[0]
        return torch.tensor([value for scored in found for value in scored.log_likelihoods])


def _by_question(scores: list[Scored], options: list[Options]) -> list[Scored]:
    """Return the scores by question; `scores` are those of single options, in one row."""
    rest = iter(scores)
    return [sum((next(rest) for _ in some), Scored()) for some in options]

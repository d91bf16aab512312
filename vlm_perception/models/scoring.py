"""Exact scores of every allowed answer of several questions, in one forward pass.

The questions become a tree of tokens. Behind their common beginning is the rest of each question, and behind that are
its options; a common beginning of several sequences is there once. The tree's tokens are one row. An attention mask
lets each token see only its ancestors, and its position is its depth. So each option gets the log-likelihood that a
separate forward pass would give: the sum over its tokens and the end of the answer, which is the probability of exactly
this answer. Without the end, an option that begins another one would always win. With the mean instead of the sum, an
option of many easy tokens would beat a single decisive one, and probabilities would not add up to 1.
(Packing by tree attention: Miao et al., SpecInfer, 2024.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = -1
"""Index of the node before the tree's first tokens: the last token of the prompt."""
MAX_NODES = 1024
"""Most tokens of questions and options in one pass for one image; memory grows with their square."""
MAX_TOKENS = 16_384
"""Most tokens of a question's options."""
Options = Sequence[Sequence[int]]
"""The tokens of every option of a question."""


@dataclass(frozen=True)
class Scored:
    """The log-likelihood of every option of a question.

    `first` is the probability of each token that begins an option; empty for a model that generates no tokens.
    """

    log_likelihoods: list[float] = field(default_factory=list)
    first: Mapping[int, float] = field(default_factory=dict)

    @property
    def off_mass(self) -> float | None:
        """The probability that an answer begins with none of the options' first tokens; None if unknown."""
        return max(0.0, 1.0 - sum(self.first.values())) if self.first else None

    def __add__(self, other: Scored) -> Scored:
        """Return the scores of the same question with the options of both."""
        return Scored(self.log_likelihoods + other.log_likelihoods, {**self.first, **other.first})


@dataclass(frozen=True)
class TokenPath:
    """The path of one option: its `steps` (node, next token), and the node `last`, whose next token is the end.

    `last` is None in a tree without ends.
    """

    steps: tuple[tuple[int, int], ...]
    last: int | None


@dataclass(frozen=True)
class Tree:
    """Token sequences that share their beginnings.

    `tokens[i]` is node i's token, `parents[i]` its parent's index or ROOT, `depths[i]` the number of
    tokens before it. `paths` are by question and option. `reads` are the nodes whose next token is needed, ascending.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    paths: tuple[tuple[TokenPath, ...], ...]
    reads: tuple[int, ...]

    def sees(self) -> Tensor:
        """Which node sees which, shape (nodes, nodes), bool: each sees itself and its ancestors."""
        sees = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent != ROOT:
                sees[node] |= sees[parent]
        return torch.from_numpy(sees)


def option_tokens(tokenizer: Any, options: Sequence[str]) -> list[list[int]]:
    """Return the tokens of each option, which do not depend on the text before it.

    Special tokens in an option are plain text. Raises ValueError as `check_tokens` does.
    """
    encoded = tokenizer(list(options), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    check_tokens(tokenizer, options, encoded)
    return encoded


def check_tokens(tokenizer: Any, options: Sequence[str], encoded: Options) -> None:
    """Raise ValueError when two options have the same tokens, or all of them have too many."""
    if (count := sum(map(len, encoded))) > MAX_TOKENS:
        raise ValueError(f"its options are {count} tokens long, expected at most {MAX_TOKENS}: fewer or shorter ones")
    seen: dict[tuple[int, ...], str] = {}
    for option, tokens in zip(options, encoded, strict=True):
        if tokenizer.unk_token_id in tokens:
            raise ValueError(
                f"the model does not know all characters of {option.strip()!r}: say it in other words, or choose a "
                "model for this language"
            )
        if not tokens:
            raise ValueError(f"{option!r} has no tokens: say it in other words")
        other = seen.setdefault(tuple(tokens), option)
        if other is not option:
            raise ValueError(
                f"the options {other!r} and {option!r} have the same tokens, so the model cannot tell them apart"
            )


def in_portions(
    questions: Sequence[tuple[int, Options]],
    images: int,
    score: Callable[[Sequence[tuple[int, Options]]], list[list[Scored]]],
) -> list[list[Scored]]:
    """Score all options of `questions`, by image and question, in portions that fit in memory.

    `questions` are pairs: the number of tokens besides the options, and the options. `score` gets the indices of some
    questions, each with some of its options. An option's log-likelihood does not depend on the others in the portion.
    """
    limit = max(MAX_NODES // images, MAX_NODES // 8)
    portions: list[list[tuple[int, list[Sequence[int]]]]] = [[]]
    room = limit
    for number, (rest, options) in enumerate(questions):
        for option in options:
            new = not portions[-1] or portions[-1][-1][0] != number
            if (cost := len(option) + new * rest) > room and portions[-1]:
                portions.append([])
                room, new, cost = limit, True, len(option) + rest
            if new:
                portions[-1].append((number, []))
            portions[-1][-1][1].append(option)
            room -= cost
    found = [[Scored() for _ in questions] for _ in range(images)]
    for portion in portions:
        for known, scores in zip(found, score(portion), strict=True):
            for (number, _), scored in zip(portion, scores, strict=True):
                known[number] += scored
    return found


def build_tree(questions: Sequence[tuple[Sequence[int], Options]], ends: bool = True) -> Tree:
    """Return the tree of `questions`: for each, the rest of its prompt and the tokens of its options.

    Without `ends`, the token after an option does not count (labels of a single token need no end).
    """
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    children: dict[tuple[int, int], int] = {}

    def follow(node: int, token: int) -> int:
        child = children.get((node, token))
        if child is None:
            child = children[node, token] = len(tokens)
            tokens.append(token)
            parents.append(node)
            depths.append(0 if node == ROOT else depths[node] + 1)
        return child

    paths = []
    for rest, options in questions:
        start = ROOT
        for token in rest:
            start = follow(start, token)
        found = []
        for option in options:
            node, steps = start, []
            for token in option[:-1]:
                steps.append((node, token))
                node = follow(node, token)
            steps.append((node, option[-1]))
            found.append(TokenPath(tuple(steps), follow(node, option[-1]) if ends else None))
        paths.append(tuple(found))
    every = [path for found in paths for path in found]
    reads = {node for path in every for node, _ in path.steps} | {path.last for path in every if path.last is not None}
    return Tree(tuple(tokens), tuple(parents), tuple(depths), tuple(paths), tuple(sorted(reads)))


def log_likelihoods(tree: Tree, logits: Tensor, ends: Sequence[int]) -> list[Scored]:
    """Return the sum of each option's steps, by question.

    `logits` (reads, vocabulary) are of the next token after each of `tree.reads`. An answer ends with any of the tokens
    `ends`; a tree without ends ignores them.
    """
    row = {node: number for number, node in enumerate(tree.reads)}
    paths = [path for found in tree.paths for path in found]
    steps = [(option, row[node], token) for option, path in enumerate(paths) for node, token in path.steps]
    option, node, token = torch.tensor(steps, device=logits.device).T
    log_p = logits.log_softmax(-1, dtype=torch.float)
    sums = log_p.new_zeros(len(paths), dtype=torch.double).index_add_(0, option, log_p[node, token].double())
    if lasts := [row[path.last] for path in paths if path.last is not None]:
        last, end = (torch.tensor(some, device=logits.device) for some in (lasts, list(ends)))
        sums += log_p[last[:, None], end].logsumexp(-1)
    begins = [{path.steps[0][1]: row[path.steps[0][0]] for path in found} for found in tree.paths]
    nodes, tokens = ([part for some in begins for part in of(some)] for of in (dict.values, dict.keys))
    chances, values = iter(log_p[list(nodes), list(tokens)].exp().tolist()), iter(sums.tolist())
    return [
        Scored([next(values) for _ in found], {token: next(chances) for token in some})
        for found, some in zip(tree.paths, begins, strict=True)
    ]


@dataclass(frozen=True)
class Packed:
    """Rows ready for a language model. B rows of L tokens.

    `ids` (B, L) int64; `positions` (B, L) int64, counted from `first_position`; `sees` (B, 1, L, L) bool;
    `reads`: for each row, the positions whose next token is needed, in the order of its tree's `reads`.
    """

    ids: Tensor
    positions: Tensor
    sees: Tensor
    reads: tuple[tuple[int, ...], ...]


def pack(
    prefixes: Sequence[Sequence[int]],
    trees: Sequence[Tree],
    pad_token: int,
    first_position: int,
    bidirectional_prefix: bool,
) -> Packed:
    """Return rows of a prefix and its tree each, padded on the right."""
    rows = len(prefixes)
    length = max(len(p) + len(t.tokens) for p, t in zip(prefixes, trees, strict=True))
    ids = torch.full((rows, length), pad_token, dtype=torch.long)
    positions = torch.full((rows, length), first_position, dtype=torch.long)
    sees = torch.zeros(rows, length, length, dtype=torch.bool)
    reads = []
    for row, (prefix, tree) in enumerate(zip(prefixes, trees, strict=True)):
        n, m = len(prefix), len(tree.tokens)
        ids[row, : n + m] = torch.tensor([*prefix, *tree.tokens])
        positions[row, :n] = torch.arange(n) + first_position
        positions[row, n : n + m] = torch.tensor(tree.depths, dtype=torch.long) + n + first_position
        sees[row, :n, :n] = True if bidirectional_prefix else torch.ones(n, n, dtype=torch.bool).tril()
        sees[row, n : n + m, :n] = True
        sees[row, n : n + m, n : n + m] = tree.sees()
        sees[row, n + m :, 0] = True  # a padded position must see something, or its softmax is NaN
        reads.append(tuple(n + node for node in tree.reads))  # ROOT is the prefix's last token
    return Packed(ids, positions, sees[:, None], tuple(reads))

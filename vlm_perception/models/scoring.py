"""Score every allowed answer of several questions in one forward pass, exactly.

The options of a question become a trie of tokens, each option closed by the end token so that an option which
begins another neither always wins nor always loses. The trie's tokens stand behind the prompt in one row; an
attention mask lets each see the prompt and its own ancestors only, and its position counts from the end of the
prompt by its depth. So each option gets the log-likelihood that a forward pass of its own would give it:
the sum over its tokens, not their mean, because the sum is the probability of saying just that.
(Packing by tree attention: Miao et al., SpecInfer, 2024.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Trie:
    """Token sequences that share their beginnings.

    `tokens[i]` is a node's token and `parents[i]` its parent's index, or -1 for a child of the root. An option's
    `paths` entry lists the (parent, token) steps whose log-probabilities add up to its log-likelihood.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    paths: tuple[tuple[tuple[int, int], ...], ...]


def build_trie(options: Sequence[Sequence[int]], end_token: int) -> Trie:
    """Build the trie of `options` (token ids each, without the end token).

    Raises ValueError when an option has no tokens or two options have the same ones.
    """
    tokens: list[int] = []
    parents: list[int] = []
    depths: list[int] = []
    children: dict[tuple[int, int], int] = {}
    paths = []
    for number, option in enumerate(options):
        if not option:
            raise ValueError(f"option {number} has no tokens")
        node, path = -1, []
        for token in option:
            path.append((node, token))
            child = children.get((node, token))
            if child is None:
                child = children[node, token] = len(tokens)
                tokens.append(token)
                parents.append(node)
                depths.append(0 if node < 0 else depths[node] + 1)
            node = child
        paths.append((*path, (node, end_token)))
    if len(set(paths)) < len(paths):
        raise ValueError("two options have the same tokens, so the model cannot tell them apart")
    return Trie(tuple(tokens), tuple(parents), tuple(depths), tuple(paths))


@dataclass(frozen=True)
class Packed:
    """Rows ready for the language model. B rows of L tokens.

    `ids` (B, L) int64; `positions` (B, L) int64, counted from `first_position`; `sees` (B, 1, L, L) bool;
    `reads`: for every row the positions whose next-token distributions are wanted, root first, then the nodes.
    """

    ids: Tensor
    positions: Tensor
    sees: Tensor
    reads: tuple[tuple[int, ...], ...]


def pack(
    prefixes: Sequence[Sequence[int]],
    tries: Sequence[Trie],
    pad_token: int,
    first_position: int,
    bidirectional_prefix: bool,
) -> Packed:
    """Put each prefix and its trie into one row, padded on the right."""
    rows = len(prefixes)
    length = max(len(p) + len(t.tokens) for p, t in zip(prefixes, tries, strict=True))
    ids = torch.full((rows, length), pad_token, dtype=torch.long)
    positions = torch.full((rows, length), first_position, dtype=torch.long)
    sees = torch.zeros(rows, length, length, dtype=torch.bool)
    reads = []
    for row, (prefix, trie) in enumerate(zip(prefixes, tries, strict=True)):
        n, m = len(prefix), len(trie.tokens)
        ids[row, : n + m] = torch.tensor([*prefix, *trie.tokens])
        positions[row, :n] = torch.arange(n) + first_position
        positions[row, n : n + m] = torch.tensor(trie.depths, dtype=torch.long) + n + first_position
        sees[row, :n, :n] = True if bidirectional_prefix else torch.ones(n, n, dtype=torch.bool).tril()
        sees[row, n : n + m, :n] = True
        for node, parent in enumerate(trie.parents):
            if parent >= 0:
                sees[row, n + node] |= sees[row, n + parent]
            sees[row, n + node, n + node] = True
        sees[row, n + m :, 0] = True  # a padded position must see something, or its softmax is NaN
        reads.append((n - 1, *range(n, n + m)))
    return Packed(ids, positions, sees[:, None], tuple(reads))


def log_likelihoods(trie: Trie, log_probabilities: Tensor) -> list[float]:
    """Add up each option's steps. `log_probabilities` (1 + nodes, vocabulary): the root's row first."""
    nodes = torch.tensor([node + 1 for path in trie.paths for node, _ in path])
    tokens = torch.tensor([token for path in trie.paths for _, token in path])
    steps = log_probabilities[nodes.to(log_probabilities.device), tokens.to(log_probabilities.device)].double().tolist()
    sums, start = [], 0
    for path in trie.paths:
        sums.append(sum(steps[start : start + len(path)]))
        start += len(path)
    return sums

"""The tree of a moment's questions, and what its options add up to."""

import math
from types import SimpleNamespace

import pytest
import torch

from vlm_perception.models.scoring import (
    MAX_NODES,
    MAX_TOKENS,
    ROOT,
    Scored,
    build_tree,
    check_tokens,
    in_portions,
    log_likelihoods,
)


def test_tokens_that_begin_alike_are_there_once():
    tree = build_tree([((7, 8), [[1], [1, 2]]), ((7, 9), [[1], [3]]), ((), [[7, 8]])])
    assert tree.tokens == (7, 8, 1, 2, 9, 1, 3)
    assert tree.parents == (ROOT, 0, 1, 2, 0, 4, 4)
    assert tree.depths == (0, 1, 2, 3, 1, 2, 2)
    assert tree.reads == (ROOT, 0, 1, 2, 3, 4, 5, 6)


def test_only_what_options_need_is_read():
    tree = build_tree([((5, 6, 7), [[1], [2]])])
    assert tree.reads == (2, 3, 4)  # after the last token of the prompt, and after each option


def test_a_node_sees_itself_and_its_ancestors():
    tree = build_tree([((7,), [[1, 2], [3]])])
    assert tree.sees().int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]


def test_an_option_is_its_tokens_and_any_of_the_ends():
    tree = build_tree([((), [[1], [1, 2]])])
    p = torch.tensor([[0.1, 0.5, 0.1, 0.1, 0.2], [0.2, 0.1, 0.4, 0.2, 0.1], [0.3, 0.1, 0.1, 0.1, 0.4]])
    scores = log_likelihoods(tree, p.log() + 3.0, ends=[0, 4])
    expected = [pytest.approx(math.log(0.5 * 0.3)), pytest.approx(math.log(0.5 * 0.4 * 0.7))]
    assert scores == [Scored(expected, {1: pytest.approx(0.5)})]
    assert scores[0].off_mass == pytest.approx(0.5)


def test_without_ends_only_the_option_counts():
    tree = build_tree([((5,), [[1], [1, 2]])], ends=False)
    assert tree.tokens == (5, 1)
    assert tree.reads == (0, 1)
    p = torch.tensor([[0.1, 0.5, 0.4], [0.3, 0.3, 0.4]])
    scores = log_likelihoods(tree, p.log(), ends=[])
    assert [one.log_likelihoods for one in scores] == [
        [pytest.approx(math.log(0.5)), pytest.approx(math.log(0.5 * 0.4))]
    ]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([[1], []], "no tokens"),
        ([[1, 2], [1, 2]], "'left' and 'right'.*cannot tell them apart"),
        ([[1], [0]], "does not know all characters of 'right'"),
        ([[1], [2] * MAX_TOKENS], "fewer or shorter"),
    ],
)
def test_options_that_cannot_be_told_apart_or_are_too_long_are_refused(tokens, words):
    with pytest.raises(ValueError, match=words):
        check_tokens(SimpleNamespace(unk_token_id=0), ["left", "right"], tokens)


def test_what_is_too_much_for_one_pass_goes_in_portions():
    """Each is bounded, nothing is lost or mixed up, and what an answer may begin with is that of all portions."""
    sizes = []

    def score(portion):
        sizes.append(sum(10 + sum(map(len, options)) for _, options in portion))
        return [
            [
                Scored([image + 2.0 * len(some) for some in options], {some[0]: 0.01 for some in options})
                for number, options in portion
            ]
            for image in range(2)
        ]

    questions = [(10, [[token] * length for token, length in enumerate(lengths)]) for lengths in ([60, 500, 70], [40])]
    found = in_portions(questions, 2, score)
    assert len(sizes) > 1
    assert max(sizes) <= MAX_NODES // 2
    for image, scores in enumerate(found):
        assert [one.log_likelihoods for one in scores] == [
            [image + 2.0 * len(option) for option in options] for _, options in questions
        ]
        assert [one.off_mass for one in scores] == pytest.approx([0.97, 0.99])

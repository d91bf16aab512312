"""The tree of a moment's questions, and what its options add up to."""

import math

import pytest
import torch

from vlm_perception.models.scoring import ROOT, build_tree, log_likelihoods


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
    assert scores == [[pytest.approx(math.log(0.5 * 0.3)), pytest.approx(math.log(0.5 * 0.4 * 0.7))]]


def test_without_ends_only_the_option_counts():
    tree = build_tree([((5,), [[1], [1, 2]])], ends=False)
    assert tree.tokens == (5, 1)
    assert tree.reads == (0, 1)
    p = torch.tensor([[0.1, 0.5, 0.4], [0.3, 0.3, 0.4]])
    scores = log_likelihoods(tree, p.log(), ends=[])
    assert scores == [[pytest.approx(math.log(0.5)), pytest.approx(math.log(0.5 * 0.4))]]


@pytest.mark.parametrize(("options", "words"), [([[1], []], "no tokens"), ([[1, 2], [1, 2]], "cannot tell them apart")])
def test_options_that_cannot_be_told_apart_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        build_tree([((), options)])

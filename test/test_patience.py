"""How long an answer is awaited, by what answers took before."""

from vlm_perception.patience import Patience


def test_the_first_answer_is_awaited_longest_and_later_ones_by_what_is_usual():
    patience = Patience(2.0)
    assert patience.limit(40.0) == 40.0
    patience.took(0.05)
    assert patience.limit(40.0) == 2.0  # a lost question is noticed quickly
    assert patience.limit(0.5) == 0.5  # nothing is awaited longer than is asked for
    slow = Patience(2.0)
    for _ in range(3):
        slow.took(3.0)
    assert slow.limit(40.0) == 12.0


def test_a_model_that_becomes_slow_is_not_cut_for_ever_and_a_quick_one_is_soon_known_again():
    patience, limits = Patience(2.0), []
    patience.took(0.05)
    for _ in range(3):  # in vain
        limits.append(patience.limit(40.0))
        patience.took(limits[-1])
    assert limits == [2.0, 8.0, 32.0] and patience.limit(40.0) == 40.0  # never longer
    for _ in range(60):
        patience.took(0.05)
    assert patience.limit(40.0) == 2.0

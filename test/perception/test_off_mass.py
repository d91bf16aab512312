"""A prompt that does not lead to the labels is noticed."""

from vlm_perception.perception.off_mass import LONG, OffMass


def test_a_prompt_that_leads_elsewhere_for_long_is_said():
    follow = OffMass()
    assert follow.update(0.9, 0.0) is None
    assert follow.update(0.9, LONG - 1) is None
    assert follow.update(0.1, LONG) is None  # then it began anew
    assert follow.update(0.9, LONG + 1) is None
    assert "does not lead to the labels" in follow.update(0.97, 2 * LONG + 1)
    assert follow.value == 0.97
    assert follow.update(None, 3 * LONG) is None  # a model that does not know says nothing


def test_it_stays_quiet_while_it_is_low():
    follow = OffMass()
    assert not any(follow.update(0.2, float(now)) for now in range(100))

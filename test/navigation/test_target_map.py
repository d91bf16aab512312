"""Where the target is: the arithmetic of answers on cases that can be computed by hand, and what always holds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinematic_room import FIELD_OF_VIEW
from search_world import surroundings

from vlm_perception.navigation import motion, target_map
from vlm_perception.navigation.grid import CELL, Grid
from vlm_perception.navigation.motion import Pose
from vlm_perception.navigation.sighting import MEANINGS
from vlm_perception.navigation.target_map import TargetMap

NEAR = 0.85
FLOOR = 0.9
HERE = Pose()
CLEAR = surroundings("clear", "center")
WALL = surroundings("wall", "none")


def new_map() -> TargetMap:
    return TargetMap(Grid(**TargetMap.FILLS), FIELD_OF_VIEW, NEAR)


def sure(meaning: str, chance: float = 1.0) -> tuple[float, ...]:
    rest = (1.0 - chance) / (len(MEANINGS) - 1)
    return tuple(chance if other == meaning else rest for other in MEANINGS)


def told(*answers: tuple[Pose, str]) -> TargetMap:
    """The map after these answers, all at one time."""
    target = new_map()
    for pose, meaning in answers:
        target.add(pose, sure(meaning), CLEAR, 0.0)
    return target


def evidence(target: TargetMap, x: float, y: float) -> float:
    grid = target._grid
    return float(grid.layers["evidence"][grid.cell(x, y)])


def belief(target: TargetMap) -> tuple[np.ndarray, float]:
    return target.belief(np.full(target._grid.shape, FLOOR, np.float32))


def mass(target: TargetMap, x: float, y: float, radius: float = 0.6) -> float:
    cells = target._grid.everything()
    return float(belief(target)[0][np.hypot(cells.x - x, cells.y - y) < radius].sum())


def by_hand(meaning: str, distance: float) -> float:
    """The log likelihood ratio of a sure answer for a cell that is plainly in the middle of the image."""
    seen = math.exp(-((distance / target_map.SIGHT) ** 2)) * (1.0 - target_map.MISSED)
    said = dict(zip(MEANINGS, sure(meaning), strict=True))
    wrong, other = target_map.WRONG, target_map.OTHER_SIDE
    absent = wrong + (1.0 - wrong) * said["absent"] / target_map.USUAL_ABSENT
    distance_word = "near" if distance < NEAR else "far"
    by_side = [
        wrong + (1.0 - wrong) * said[f"{side} {distance_word}"] / target_map.USUAL_SIDE
        for side in ("left", "center", "right")
    ]
    visible = other * by_side[0] + (1.0 - 2.0 * other) * by_side[1] + other * by_side[2]
    return math.log((seen * visible + (1.0 - seen) * absent) / absent)


# One answer


@pytest.mark.parametrize("meaning", ["center far", "absent"])
def test_one_answer_as_computed_by_hand(meaning):
    target = new_map()
    target.add(HERE, sure(meaning), None, 0.0)
    for distance in (1.55, 2.55, 4.05):
        ratio = by_hand(meaning, math.hypot(distance, CELL / 2))
        expected = target_map.ALIKE * ratio if ratio > 0.0 else ratio
        assert evidence(target, distance, 0.05) == pytest.approx(expected, rel=0.05)
    assert evidence(target, 2.05, 0.05) * (1.0 if meaning == "center far" else -1.0) > 0.5


def test_before_any_answer_the_prior_is_what_it_is_said_to_be():
    target = new_map()
    cells, absent = belief(target)
    floor = cells.size * CELL**2 * FLOOR
    assert absent == pytest.approx(1.0 / (1.0 + target_map.PRIOR * floor), rel=1e-4)
    assert cells.min() == pytest.approx(cells.max())


def test_a_side_is_where_it_is_and_what_is_not_in_view_is_not_told_about():
    for side, sign in (("left", 1.0), ("right", -1.0)):
        target = told((HERE, f"{side} far"))
        x, y = 2.0 * math.cos(0.45), sign * 2.0 * math.sin(0.45)
        assert evidence(target, x, y) > 0.5 and mass(target, x, y) > 5.0 * mass(target, x, -y)
    for meaning in ("center far", "absent"):
        target = told((HERE, meaning))
        assert evidence(target, -2.0, 0.0) == pytest.approx(0.0, abs=1e-3), "behind the camera"


def test_near_is_near_and_far_is_far():
    near, far = told((HERE, "center near")), told((HERE, "center far"))
    assert 0.5 * evidence(near, 0.55, 0.05) > max(0.25, evidence(near, 2.05, 0.05))
    assert 0.5 * evidence(far, 2.05, 0.05) > max(0.25, evidence(far, 0.55, 0.05))
    for target, distance in ((near, 0.55), (far, 2.0)):
        cells = target._grid.everything()
        room = np.where(np.hypot(cells.x, cells.y) < 4.0, np.float32(FLOOR), np.float32(0.0))
        sector = target.sector(target.belief(room)[0], HERE)
        assert abs(math.atan2(sector.y, sector.x)) < 0.1
        assert (sector.near(HERE, NEAR + 0.3) > 0.5) == (distance < NEAR)


def test_no_takes_away_less_the_farther_it_is():
    values = [evidence(told((HERE, "absent")), distance, 0.05) for distance in (1.05, 3.05, 5.05, 7.05)]
    assert values == sorted(values) and values[0] < -1.0 and -0.5 < values[-1] < 0.0


def test_a_wall_hides_what_is_behind_it():
    plain, walled = new_map(), new_map()
    plain.add(HERE, sure("absent"), CLEAR, 0.0)
    walled.add(HERE, sure("absent"), WALL, 0.0)
    assert evidence(walled, 0.75, 0.05) == pytest.approx(evidence(plain, 0.75, 0.05), rel=0.1)
    assert 0.3 * evidence(plain, 3.05, 0.05) < evidence(walled, 3.05, 0.05) <= 0.0


# Several answers


def test_two_answers_from_different_places_add_up_and_cross():
    one, other = Pose(0.0, 0.0, 0.0), Pose(3.0, -3.0, math.pi / 2)  # both look at (3, 0)
    both = told((one, "center far"), (other, "center far"))
    alone = [told((pose, "center far")) for pose in (one, other)]
    assert evidence(both, 3.05, 0.05) == pytest.approx(sum(evidence(target, 3.05, 0.05) for target in alone), rel=1e-4)
    assert mass(both, 3.05, 0.05) > 1.5 * max(mass(target, 3.05, 0.05) for target in alone)
    assert mass(both, 5.5, 0.05) < mass(alone[0], 5.5, 0.05)
    spread = [math.sqrt(t.sector(belief(t)[0], one).covariance[0]) for t in (both, alone[0])]
    assert spread[0] < 0.7 * spread[1], "along the first line of sight"


def test_the_same_view_twice_is_not_two_proofs():
    for meaning in ("center far", "absent"):
        single = evidence(told((HERE, meaning)), 2.05, 0.05)
        values = [evidence(told(*[(HERE, meaning)] * number), 2.05, 0.05) / single for number in (2, 3, 30)]
        first = target_map.AGAIN - (target_map.AGAIN - 1.0) / 2
        assert values[0] == pytest.approx(first, rel=1e-4)
        assert values == sorted(values) and values[-1] <= target_map.AGAIN + 1e-4
    again = Pose(0.5 * motion.SAME_VIEW[0], 0.0, 2 * math.tau + 0.5 * motion.SAME_VIEW[1])
    moved = told((HERE, "center far"), (again, "center far"))
    assert evidence(moved, 2.05, 0.05) < 1.01 * target_map.AGAIN * evidence(told((HERE, "center far")), 2.05, 0.05)


def test_the_same_view_counts_by_its_mean_answer():
    split = told((HERE, "center far"), (HERE, "absent"))
    assert abs(evidence(split, 2.05, 0.05)) < 0.5 * evidence(told((HERE, "center far")), 2.05, 0.05)
    swapped = told((HERE, "absent"), (HERE, "center far"))
    assert evidence(split, 2.05, 0.05) == pytest.approx(evidence(swapped, 2.05, 0.05), abs=1e-5)


def test_what_is_hidden_from_here_may_be_hidden_from_beside_but_not_from_elsewhere():
    single = evidence(told((HERE, "absent")), 2.05, 0.05)
    beside = evidence(told((HERE, "absent"), (Pose(0.2, 0.0, 0.0), "absent")), 2.05, 0.05)
    elsewhere = evidence(told((HERE, "absent"), (Pose(2.0, 3.0, -math.pi / 2), "absent")), 2.05, 0.05)
    assert elsewhere < beside - 0.5 * abs(single) < beside < single


def test_a_contradiction_from_elsewhere_is_the_difference():
    other = Pose(2.0, 2.5, -math.pi / 2)
    yes, no = told((HERE, "center far")), told((other, "absent"))
    both = told((HERE, "center far"), (other, "absent"))
    at = 2.05, 0.05
    novelty_is_at_least = 1.0 - math.exp(-math.hypot(2.0, 2.5) / target_map.APART)
    least = evidence(yes, *at) + evidence(no, *at)
    most = evidence(yes, *at) + novelty_is_at_least * evidence(no, *at)
    assert least - 1e-4 <= evidence(both, *at) <= most + 1e-4
    assert mass(no, *at) < mass(both, *at) < mass(yes, *at)


def test_what_turned_out_to_be_something_else_is_remembered_as_that():
    target = told((HERE, "center far"), (Pose(3.0, -3.0, math.pi / 2), "center far"))
    before, elsewhere = mass(target, 3.0, 0.0, 0.4), mass(target, -2.0, 0.0)
    target.reject(3.0, 0.0)
    assert mass(target, 3.0, 0.0, 0.4) < 0.05 * before and mass(target, -2.0, 0.0) > elsewhere
    target.add(HERE, sure("center far"), CLEAR, 1.0)
    assert mass(target, 3.0, 0.0, 0.4) < 0.1 * before, "one more look at the same thing does not bring it back"


def test_evidence_fades_to_where_it_began():
    target = told((HERE, "absent"))
    at = 2.05, 0.05
    before = evidence(target, *at)
    target.add(Pose(0.0, 20.0, math.pi / 2), sure("absent"), CLEAR, target_map.FADING)
    assert evidence(target, *at) == pytest.approx(before / math.e, rel=1e-3)
    target.add(Pose(0.0, 20.0, math.pi / 2), sure("absent"), CLEAR, target_map.FADING - 100.0)
    target.add(Pose(0.0, 20.0, math.pi / 2), sure("absent"), CLEAR, target_map.FADING)
    assert evidence(target, *at) == pytest.approx(before / math.e, rel=1e-3), "what is late makes nothing older"


def test_another_target_begins_anew():
    target = told((HERE, "center far"), (Pose(1.0, 0.0, 1.0), "absent"))
    target.forget()
    assert not target.views() and all(not target._grid.layers[name].any() for name in TargetMap.FILLS)
    target.add(HERE, sure("center far"), CLEAR, 0.0)
    assert evidence(target, 2.05, 0.05) == evidence(told((HERE, "center far")), 2.05, 0.05)


# What always holds

SIZE = len(MEANINGS)
weights = st.one_of(
    st.integers(0, SIZE - 1).map(lambda i: [float(i == j) for j in range(SIZE)]),  # sure
    st.just([1.0] * SIZE),
    st.lists(st.sampled_from([1e-300, 1e-30, 1e-6, 1.0]), min_size=SIZE, max_size=SIZE),
    st.lists(st.floats(0.0, 1.0), min_size=SIZE, max_size=SIZE).filter(lambda values: sum(values) > 0.0),
)
poses = st.builds(Pose, st.floats(-6.0, 6.0), st.floats(-6.0, 6.0), st.floats(-20.0, 20.0)) | st.sampled_from(
    [HERE, Pose(0.05, 0.05, math.pi), Pose(0.0, 0.0, -math.pi), Pose(1e-9, 0.0, 100 * math.pi)]
)
ahead = st.sampled_from([CLEAR, WALL, surroundings("obstacle", "left", sure=1.0), None])
answers = st.lists(st.tuples(poses, weights, ahead, st.floats(-1.0, 100.0)), min_size=1, max_size=8)


def feed(happened: list) -> TargetMap:
    target, time = new_map(), 0.0
    for pose, chances, seen, passed in happened:
        time += passed
        target.add(pose, [chance / sum(chances) for chance in chances], seen, time)
    return target


@settings(max_examples=25, deadline=None)
@given(answers, st.floats(0.0, 1.0))
def test_belief_is_a_distribution_whatever_was_answered(happened, floor):
    target = feed(happened)
    cells, absent = target.belief(np.full(target._grid.shape, floor, np.float32))
    assert np.isfinite(cells).all() and cells.min() >= 0.0 and cells.max() <= 1.0 and 0.0 <= absent <= 1.0
    assert float(cells.sum(dtype=float)) + absent == pytest.approx(1.0, abs=1e-4)
    values = target._grid.layers["evidence"]
    assert np.isfinite(values).all() and values.min() >= target_map.EVIDENCE[0] - 1e-3
    assert values.max() <= target_map.EVIDENCE[1] + 1e-3
    assert 0.0 <= target.searched(np.full(target._grid.shape, floor, np.float32)) <= 1.0
    sector = target.sector(cells, happened[-1][0])
    assert 0.0 <= sector.mass <= 1.0 + 1e-4 and all(map(math.isfinite, (sector.x, sector.y, *sector.covariance)))
    assert 0.0 <= sector.near(happened[-1][0], NEAR) <= 1.0 + 1e-6
    assert not len(sector.weights) or sector.weights.sum() == pytest.approx(1.0)


@settings(max_examples=20, deadline=None)
@given(answers)
def test_the_same_answers_in_the_same_order_give_the_same_map_to_the_bit(happened):
    one, other = feed(happened), feed(happened)
    for name in TargetMap.FILLS:
        assert one._grid.layers[name].tobytes() == other._grid.layers[name].tobytes()


def test_a_map_without_floor_has_no_target():
    target = told((HERE, "center far"))
    cells, absent = target.belief(np.zeros(target._grid.shape, np.float32))
    assert absent == 1.0 and not cells.any() and target.searched(np.zeros(target._grid.shape, np.float32)) == 0.0
    sector = target.sector(cells, HERE)
    assert sector.mass == 0.0 and sector.near(HERE, 1.0) == 0.0

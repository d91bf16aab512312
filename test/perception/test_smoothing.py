"""The label that people and robots act on: steady, honest in doubt, and alike at every frame rate."""

from __future__ import annotations

import itertools
import random

import pytest

from vlm_perception.perception.smoothing import METHODS, LabelSmoother, SmoothingSettings

OPTIONS = ("clear", "wall", "doorway")


def seen(option: str, confidence: float = 0.95) -> list[float]:
    rest = (1 - confidence) / (len(OPTIONS) - 1)
    return [confidence if o == option else rest for o in OPTIONS]


def play(smoother, sequence, rate=10.0, start=0.0):
    """Feed one observation per 1/rate seconds and return [(time, label, confidence)]."""
    return [
        (start + n / rate, *smoother.update(round((start + n / rate) * 1e9), probabilities))
        for n, probabilities in enumerate(sequence)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_scene_gets_its_label_and_keeps_it(method):
    labels = play(LabelSmoother(OPTIONS, SmoothingSettings(method)), [seen("wall")] * 50)
    assert {label for _, label, _ in labels[5:]} == {"wall"}
    assert labels[-1][2] > 0.9


@pytest.mark.parametrize("method", ["bayes", "majority"])
def test_one_wrong_image_changes_nothing_however_sure_the_model_is(method):
    sequence = [seen("clear")] * 30 + [seen("wall", 1.0)] + [seen("clear")] * 30
    labels = play(LabelSmoother(OPTIONS, SmoothingSettings(method)), sequence)
    assert {label for _, label, _ in labels[10:]} == {"clear"}


@pytest.mark.parametrize("rate", [5.0, 10.0, 30.0])
@pytest.mark.parametrize(("method", "soonest", "latest"), [("bayes", 0.1, 0.7), ("majority", 0.8, 1.7)])
def test_a_change_is_seen_after_the_same_time_at_every_frame_rate(method, soonest, latest, rate):
    frames = int(3 * rate)
    smoother = LabelSmoother(OPTIONS, SmoothingSettings(method))
    labels = play(smoother, [seen("clear")] * frames + [seen("wall")] * frames, rate)
    changed = next(t for t, label, _ in labels if label == "wall") - 3.0
    assert soonest <= changed <= latest


def test_doubt_is_unknown():
    smoother = LabelSmoother(OPTIONS, SmoothingSettings(unknown="no idea"))
    labels = play(smoother, [[0.34, 0.33, 0.33]] * 50)
    assert {label for _, label, _ in labels} == {"no idea"}


def test_hysteresis_does_not_flicker_around_the_threshold():
    settings = SmoothingSettings("none", enter_threshold=0.6, leave_threshold=0.4)
    sequence = [seen("clear", c) for c in (0.5, 0.62, 0.58, 0.61, 0.45, 0.38, 0.55, 0.61)]
    labels = [label for _, label, _ in play(LabelSmoother(OPTIONS, settings), sequence)]
    assert labels == ["unknown", "clear", "clear", "clear", "clear", "unknown", "unknown", "clear"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("jump", [5.0, -1.5], ids=["gap", "backwards"])
def test_a_gap_or_a_jump_back_in_time_forgets(method, jump):
    settings = SmoothingSettings(method, window=2.0)
    smoother = LabelSmoother(OPTIONS, settings)
    play(smoother, [seen("clear")] * 20)
    after = smoother.update(round((1.9 + jump) * 1e9), seen("wall"))
    fresh = LabelSmoother(OPTIONS, settings).update(0, seen("wall"))
    assert after == fresh


@pytest.mark.parametrize("method", METHODS)
def test_the_same_image_twice_counts_once(method):
    one, two = (LabelSmoother(OPTIONS, SmoothingSettings(method)) for _ in range(2))
    for n, option in enumerate(("clear", "wall", "clear", "wall", "wall")):
        expected = one.update(n * 10**8, seen(option))
        for _ in range(3):
            assert two.update(n * 10**8, seen(option)) == expected


@pytest.mark.parametrize("method", METHODS)
def test_for_any_sequence_the_belief_is_a_distribution_and_the_label_is_allowed(method):
    source = random.Random(1)
    for _ in range(50):
        enter = source.uniform(0.4, 1)
        smoother = LabelSmoother(OPTIONS, SmoothingSettings(method, enter_threshold=enter, leave_threshold=0.3))
        time = 0
        for _ in range(100):
            time += source.choice([0, 10**6, 10**8, 10**9, 10**10, -(10**8)])
            weights = [source.choice([0.0, 1e-9, source.random()]) for _ in OPTIONS]
            total = sum(weights) or 1
            label, confidence = smoother.update(time, [w / total for w in weights])
            if method != "none":
                assert sum(smoother.belief) == pytest.approx(1)
            assert label in (*OPTIONS, "unknown") and 0 <= confidence <= 1


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_options_does_not_matter(method):
    results = set()
    for order in itertools.permutations(range(3)):
        smoother = LabelSmoother([OPTIONS[i] for i in order], SmoothingSettings(method))
        for n, option in enumerate(["clear", "clear", "wall", "clear"]):
            probabilities = seen(option, 0.8)
            label, confidence = smoother.update(n * 10**8, [probabilities[i] for i in order])
        results.add((label, round(confidence, 9)))
    assert len(results) == 1 and results.pop()[0] == "clear"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "magic"}, "'magic'"),
        ({"enter_threshold": 0.3, "leave_threshold": 0.5}, "0.5"),
        ({"enter_threshold": 1.2}, "1.2"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        SmoothingSettings(**settings)


def test_the_word_for_doubt_must_not_be_an_option():
    with pytest.raises(ValueError, match="wall"):
        LabelSmoother(OPTIONS, SmoothingSettings(unknown="wall"))


def test_probabilities_must_fit_the_options():
    with pytest.raises(ValueError, match="2 probabilities for 3 options"):
        LabelSmoother(OPTIONS, SmoothingSettings()).update(0, [0.5, 0.5])

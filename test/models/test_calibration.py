"""Probabilities that can be trusted: what calibration computes, where it is read from, and how it is measured."""

import json
import math

import numpy as np
import pytest

from vlm_perception.models.base import ModelError
from vlm_perception.models.calibration import EMPTY_IMAGE, Calibration
from vlm_perception.models.loader import NANO_FOLDER, load_model
from vlm_perception.models.paligemma import PaliGemma
from vlm_perception.questions import Answer, Choice, Score, YesNo
from vlm_perception.tools import cli
from vlm_perception.training import calibrate, dataset, nano
from vlm_perception.training.calibrate import Quality, ScoredQuestions

pytestmark = pytest.mark.slow

SIDE = Choice("where is it?", ("left", "right", "no"))
BALL = YesNo("is there a ball?")
RISK = Score("how near?", ("far", "near"))


# What it computes


def test_a_temperature_softens_its_type_alone():
    calibration = Calibration({"choice": 2.0})
    scores = [math.log(p) for p in (0.64, 0.04, 0.32)]
    roots = np.sqrt([0.64, 0.04, 0.32])
    softer = calibration.answer(SIDE, scores, None)
    assert softer.value == "left" and softer.probabilities == pytest.approx(roots / roots.sum())
    assert calibration.answer(BALL, scores[:2], None).probabilities == pytest.approx((0.64 / 0.68, 0.04 / 0.68))


def test_the_empty_picture_takes_out_what_is_said_without_looking():
    seen, blind = [math.log(0.2), math.log(0.8)], [math.log(0.01), math.log(0.99)]
    full = Calibration(empty_picture={"yes_no": 1.0})
    assert full.answer(BALL, seen, blind).probability("yes") == pytest.approx(20 / (20 + 80 / 99))
    half = Calibration({"yes_no": 0.5}, {"yes_no": 0.5})
    assert half.answer(BALL, seen, blind).probability("yes") == pytest.approx(4 / (4 + 0.64 / 0.99))
    assert full.needs_empty_image(BALL) and not full.needs_empty_image(SIDE)
    assert Calibration(empty_picture=0.5).needs_empty_image(RISK)
    assert not any(Calibration().needs_empty_image(question) for question in (SIDE, BALL, RISK))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"temperatures": {"noul": 1.0}}, ["'noul'", "yes_no"]),
        ({"temperatures": {"choice": 0}}, ["'choice' is 0", "above 0"]),
        ({"temperatures": {"choice": math.nan}}, ["nan", "above 0"]),
        ({"temperatures": {"choice": "2"}}, ["'2'", "a number"]),
        ({"empty_picture": 1.5}, ["1.5", "0 to 1"]),
        ({"empty_picture": {"score": True}}, ["True", "0 to 1"]),
        ({"empty_picture": {"noul": 1}}, ["'noul'"]),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong, words):
    with pytest.raises(ValueError, match="expected") as error:
        Calibration(**wrong)
    assert all(word in str(error.value) for word in words), error.value


# Where it is read from


def test_it_is_read_from_transformers_own_file(tmp_path):
    decision = pytest.importorskip("transformers.decision", reason="transformers before 5.23 has no decision models")
    assert Calibration.from_folder(tmp_path) == Calibration()
    decision.DecisionConfig(temperature={"choice": 1.5, "noul": 2}).save_pretrained(tmp_path)
    assert Calibration.from_folder(tmp_path) == Calibration({"choice": 1.5, "yes_no": 2})


def test_transformers_reads_what_is_written_and_the_rest_of_the_file_stays(tmp_path):
    (tmp_path / "decision.json").write_text(
        json.dumps({"noul_options": ["false", "true"], "temperature": {"score": 9}})
    )
    written = Calibration({"choice": 1.25, "yes_no": 0.8}, {"yes_no": 0.75, "choice": 0.0})
    written.save(tmp_path)
    assert Calibration.from_folder(tmp_path) == Calibration(written.temperatures, {"yes_no": 0.75})
    assert json.loads((tmp_path / "decision.json").read_text())["noul_options"] == ["false", "true"]
    decision = pytest.importorskip("transformers.decision", reason="transformers before 5.23 has no decision models")
    config = decision.DecisionConfig.from_pretrained(str(tmp_path), local_files_only=True)
    assert config.temperature == {"choice": 1.25, "noul": 0.8} and config.noul_options == ["false", "true"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ["cannot be read"]),
        ("[1]", ["list", "expected an object"]),
        ('{"temperature": 2}', ["temperature is 2", "choice, noul, score"]),
        ('{"temperature": {"yes_no": 2}}', ["yes_no", "noul is yes or no"]),
        ('{"temperature": {"noul": -1}}', ["'yes_no' is -1", "above 0"]),
        ('{"temperature": {"choice": "warm"}}', ["warm", "a number"]),
        ('{"empty_picture": {"choice": 2}}', ["empty_picture", "0 to 1"]),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, content, words):
    (tmp_path / "decision.json").write_text(content)
    with pytest.raises(ModelError) as error:
        Calibration.from_folder(tmp_path)
    assert all(word in str(error.value) for word in [*words, str(tmp_path / "decision.json")]), error.value


# In a model


def test_a_model_looks_at_the_empty_picture_once_for_each_question_that_needs_it():
    processor = nano.build_processor()
    stock = nano.build_model(processor, seed=3)
    plain = PaliGemma("plain", NANO_FOLDER, stock, processor)
    model = PaliGemma("calibrated", NANO_FOLDER, stock, processor, Calibration({"yes_no": 2.0}, {"yes_no": 0.5}))
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    encoded, encode = [], model._encode
    model._encode = lambda images: encoded.extend(images) or encode(images)

    side, ball = model.answer(image, [SIDE, BALL])
    raw_side, raw_ball = plain.answer(image, [SIDE, BALL])
    (blind,) = plain.answer(EMPTY_IMAGE, [BALL])
    assert side == raw_side
    scores, prior = np.log(raw_ball.probabilities), np.log(blind.probabilities)
    expected = np.exp((scores - 0.5 * prior) / 2)
    assert ball.probabilities == pytest.approx(expected / expected.sum(), abs=1e-5)
    assert len(encoded) == 2 and encoded[0] is EMPTY_IMAGE
    assert model.answer(image, [YesNo(BALL.prompt)])[0].probabilities == pytest.approx(ball.probabilities, abs=1e-5)
    assert len(encoded) == 3, "the empty image is known by now"


# How it is measured


def test_quality_is_what_it_says():
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.4, 0.6]] * 10)
    right = np.array([0] * 9 + [1] + [1] * 3 + [0] * 7)
    found = calibrate.quality(np.repeat(probabilities, 150, 0), np.repeat(right, 150))
    assert found.accuracy == pytest.approx(0.6)
    assert found.nll == pytest.approx(-np.log([0.9] * 9 + [0.1] + [0.6] * 3 + [0.4] * 7).mean())
    sure = calibrate.quality(np.array([[1.0, 0.0]] * 30), np.array([0] * 30))
    assert sure == Quality(1.0, 0.0, 0.0)
    boastful = calibrate.quality(np.array([[0.9, 0.1]] * 3000), np.tile([0, 1], 1500))
    assert boastful.ece == pytest.approx(0.4, abs=0.01)
    assert math.isfinite(calibrate.quality(np.array([[1.0, 0.0]]), np.array([1])).nll)


def answers(temperature, lean=0.0, kind="choice", count=20000):
    """Made-up answers that are exact when divided by `temperature` and freed of their `lean` to the first option."""
    rng = np.random.default_rng(1)
    honest = rng.normal(0, 2, (count, 3))
    cumulated = calibrate.softmax(honest).cumsum(-1)
    right = (rng.random((count, 1)) > cumulated).sum(-1)
    empty = np.tile([lean, 0.0, 0.0], (count, 1))
    return ScoredQuestions(kind, honest * temperature + empty, empty, right)


def test_the_temperature_that_was_applied_is_found():
    for temperature in (0.5, 1.0, 3.0):
        assert calibrate.fit_temperature([answers(temperature)]) == pytest.approx(temperature, rel=0.05)


def test_a_lean_is_found_and_what_does_not_help_is_left_out():
    asked = {"leaning": answers(2.0, lean=6.0, kind="yes_no"), "honest": answers(1.0)}
    calibration = calibrate.fit(asked)
    assert calibration.empty_picture == {"yes_no": 1.0, "choice": 0.0}
    assert calibration.temperatures["yes_no"] == pytest.approx(2.0, rel=0.05)
    judged = {**asked, "honest": answers(0.5)}  # other rooms say otherwise: 1 is better than what was fitted
    kept = calibrate.keep_what_helps(Calibration({"yes_no": 2.0, "choice": 2.0}, calibration.empty_picture), judged)
    assert kept == Calibration({"yes_no": 2.0}, {"yes_no": 1.0})
    before, after = asked["leaning"].quality(), asked["leaning"].quality(1.0, 2.0)
    assert after.nll < before.nll and after.ece < before.ece / 5 and after.accuracy > before.accuracy


class AlwaysThere:
    """Says with 80 % that everything is there, left and far; the empty image it takes for half as likely."""

    name = "always there"

    def answer(self, image, questions):
        return [self._answer(question, 0.4 if image is EMPTY_IMAGE else 0.8) for question in questions]

    def _answer(self, question, p):
        best = question.options.index("left far") if "left far" in question.options else 0
        rest = (1 - p) / (len(question.options) - 1)
        probabilities = tuple(p if i == best else rest for i in range(len(question.options)))
        return Answer(question.options[best], p, question.options, probabilities)


def test_rooms_are_asked_about_with_their_truth():
    seeds = range(500, 502)
    asked = calibrate.collect(AlwaysThere(), seeds)
    assert {sort: one.type for sort, one in asked.items()} == {
        "scene label": "choice", "clear way": "choice", "target": "choice", "yes or no": "yes_no",
    }  # fmt: skip
    target, there = asked["target"], asked["yes or no"]
    assert len(asked["scene label"].right) == 2 * dataset.POSES_PER_ROOM
    assert target.scores.shape == target.empty.shape == (len(target.right), 7) and there.scores.shape[1] == 2
    assert np.array_equal(there.right == 1, target.right == 0), "the second word is the one for absent"
    assert 0.2 < (target.right == 0).mean() < 0.9
    assert calibrate.softmax(there.scores)[0] == pytest.approx((0.8, 0.2))
    assert calibrate.softmax(there.empty)[0] == pytest.approx((0.4, 0.6))


def test_seeds_of_calibration_are_its_own():
    assert dataset.TRAIN_SEEDS[-1] < dataset.CALIBRATION_SEEDS[0]
    assert dataset.CALIBRATION_SEEDS[-1] < dataset.TEST_SEEDS[0]


def test_the_command_prints_the_table_and_writes_only_when_told(monkeypatch, tmp_path, capsys):
    def load(name, temperatures, empty_picture):
        assert temperatures == (1, 1, 1) and empty_picture == (0, 0, 0), "what is fitted is not fitted on itself"
        return AlwaysThere()

    monkeypatch.setattr("vlm_perception.models.loader.load_model", load)
    monkeypatch.setattr("vlm_perception.models.loader.check_folder", lambda name: (tmp_path, {}))
    assert cli.main(["calibrate", "--rooms", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("| target |") for line in lines) == len(calibrate.SHARES)
    assert "yes_no" in json.loads(lines[-1])["temperatures"]
    assert not list(tmp_path.iterdir())
    assert cli.main(["calibrate", "--rooms", "1", "--write"]) == 0
    assert "noul" in json.loads((tmp_path / "decision.json").read_text())["temperature"]
    assert cli.main(["calibrate", "--rooms", "0"]) == 2


def test_the_shipped_calibration_is_of_the_shipped_weights():
    shipped = Calibration.from_folder(NANO_FOLDER)
    assert shipped.temperatures, "vlm_perception calibrate --write"
    assert load_model("nano", device="cpu")._calibration == shipped
    raw = load_model("nano", device="cpu", temperatures=(1.0, 1.0, 1.0), empty_picture=(0.0, 0.0, 0.0))
    for sort, asked in calibrate.collect(raw, range(500, 506)).items():
        before = asked.quality()
        after = asked.quality(shipped.share(asked.type), shipped.temperatures.get(asked.type, 1.0))
        assert after.nll < before.nll + 0.02 and after.accuracy > 0.8, (sort, "run: vlm_perception calibrate --write")

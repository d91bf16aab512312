"""Answers of a scene that has not changed are used again, and never those of another scene, question or time."""

from __future__ import annotations

import array
import dataclasses
import threading
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from perception_settings import settings, with_label

from vlm_perception.models.base import ModelError
from vlm_perception.perception.answer_cache import AnswerCache, CacheSettings
from vlm_perception.perception.camera import Camera
from vlm_perception.perception.outputs import Description, Fault, Label, Loaded
from vlm_perception.perception.smoothing import LabelSmoother, SmoothingSettings
from vlm_perception.perception.worker import Worker
from vlm_perception.questions import Answer, Choice, Text, Usage

LABEL = Choice("what is ahead?", ("clear", "wall"))
WORDS = Text("describe the scene")
NAMES = {LABEL.prompt: "label", WORDS.prompt: "description"}
SETTINGS = CacheSettings(threshold=8.0, scenes=3, lifetime=60.0, refresh=10.0)


def scene(seed, noise=0.0):
    """An image of the size of a camera's, of 16 x 12 random colours; `noise` is that of the camera."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(20, 236, (12, 16, 3)).repeat(20, axis=0).repeat(20, axis=1)
    image = np.clip(cells + np.random.default_rng().normal(0, noise, cells.shape), 0, 255).astype(np.uint8)
    image.flags.writeable = False
    return image


def answer(value="clear", question=LABEL, sure=0.99):
    usage = Usage(1.0, 1.0, 0, 0)
    if isinstance(question, Text):
        return Answer(value, sure, usage=usage)
    return Answer(value, sure, question.options, (sure, 1 - sure), usage)


@pytest.fixture
def cache():
    return AnswerCache(SETTINGS)


def test_the_same_scene_gets_its_answer_again_with_its_age_and_at_no_cost(cache):
    assert cache.find(LABEL, scene(1, noise=8), 0.0) is None
    cache.keep(LABEL, scene(1, noise=8), answer(), 0.0)
    again = cache.find(LABEL, scene(1, noise=8), 1.5)
    assert again == answer() and again.age == 1.5 and again.usage is None
    assert cache.metrics() == {"reuse, hits": 1, "reuse, misses": 1, "reuse, forced refreshes": 0}


def test_off_is_the_default():
    cache = AnswerCache(CacheSettings())
    cache.keep(LABEL, scene(1), answer(), 0.0)
    assert cache.find(LABEL, scene(1), 0.1) is None and cache.metrics() == {}


@pytest.mark.parametrize("size", [20, 40, 80])
def test_something_new_that_is_small_is_another_scene(cache, size):
    before = np.full((240, 320, 3), 128, np.uint8)
    cache.keep(LABEL, before, answer(), 0.0)
    after = before.copy()
    after[100 : 100 + size, 150 : 150 + size, 0] = 200
    assert cache.find(LABEL, after, 0.1) is None


def test_a_change_of_colour_alone_is_another_scene(cache):
    """Red and blue of the same brightness: a hash of grey values would call them the same."""
    red, blue = np.full((240, 320, 3), 60, np.uint8), np.full((240, 320, 3), 60, np.uint8)
    red[60:120, 80:160] = 200, 40, 40
    blue[60:120, 80:160] = 40, 82, 200
    cache.keep(LABEL, red, answer(), 0.0)
    assert cache.find(LABEL, blue, 0.1) is None


def test_slow_drift_is_judged_against_the_image_that_the_model_saw(cache):
    first = np.full((48, 64, 3), 100, np.uint8)
    cache.keep(LABEL, first, answer(), 0.0)
    found = [cache.find(LABEL, first + np.uint8(step), 0.1 * step) is not None for step in range(1, 20)]
    assert found == [step <= SETTINGS.threshold for step in range(1, 20)]


@pytest.mark.parametrize(("sure", "tolerated"), [(1.0, 8), (0.99, 8), (0.9, 3), (0.7, 1), (0.5, 0), (0.3, 0)])
def test_the_less_sure_an_answer_is_the_less_the_image_may_change(cache, sure, tolerated):
    image = np.full((48, 64, 3), 100, np.uint8)
    cache.keep(LABEL, image, answer(sure=sure), 0.0)
    cache.keep(WORDS, image, answer("a room", WORDS, sure), 0.0)
    for question, most in ((LABEL, tolerated), (WORDS, 4)):
        found = [cache.find(question, image + np.uint8(step), 0.1) is not None for step in range(12)]
        assert found == [step <= most for step in range(12)]


def test_an_unsure_answer_about_a_scene_is_replaced_by_the_next_one(cache):
    for step in range(5):
        assert cache.find(LABEL, np.full((48, 64, 3), 100 + step, np.uint8), 0.1 * step) is None
        cache.keep(LABEL, np.full((48, 64, 3), 100 + step, np.uint8), answer(sure=0.5), 0.1 * step)
    assert len(cache._scenes[LABEL]) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "what is there?"},
        {"options": ("clear", "door")},
        {"options": ("clear", "wall", "door")},
        {"options": ("wall", "clear")},
        {"descriptions": ("nothing near", "a wall")},
    ],
)
def test_never_across_a_change_of_what_is_asked(cache, changed):
    cache.keep(LABEL, scene(1), answer(), 0.0)
    assert cache.find(dataclasses.replace(LABEL, **changed), scene(1), 0.1) is None
    assert cache.find(LABEL, scene(1), 0.1) is not None


def test_the_length_and_the_phrases_of_free_words_belong_to_the_question(cache):
    cache.keep(WORDS, scene(1), answer("a room", WORDS), 0.0)
    assert cache.find(WORDS, scene(1), 0.1).value == "a room"
    assert cache.find(dataclasses.replace(WORDS, max_new_tokens=5), scene(1), 0.1) is None
    assert cache.find(dataclasses.replace(WORDS, phrases=("a room", "a hall")), scene(1), 0.1) is None


def test_another_size_of_the_image_is_another_scene(cache):
    cache.keep(LABEL, np.zeros((48, 64, 3), np.uint8), answer(), 0.0)
    assert cache.find(LABEL, np.zeros((96, 128, 3), np.uint8), 0.1) is None


def test_a_scene_is_recognised_on_the_way_back_and_the_nearest_one_counts(cache):
    for number, value in enumerate(("clear", "wall")):
        cache.keep(LABEL, scene(number), answer(value), float(number))
    assert [cache.find(LABEL, scene(number, noise=4), 5.0).value for number in (1, 0)] == ["wall", "clear"]
    close = np.full((48, 64, 3), 100, np.uint8)
    cache.keep(LABEL, close, answer("clear"), 5.0)
    scenes = cache._scenes[LABEL]
    scenes.append(dataclasses.replace(scenes[-1], thumbnail=scenes[-1].thumbnail + 6))
    assert cache.find(LABEL, close + np.uint8(1), 5.1).age == pytest.approx(0.1)


def test_the_scene_that_was_not_met_for_the_longest_time_is_forgotten_first(cache):
    for number in range(3):
        cache.keep(LABEL, scene(number), answer(), 0.0)
    assert cache.find(LABEL, scene(0), 1.0)
    cache.keep(LABEL, scene(3), answer(), 1.0)
    assert [cache.find(LABEL, scene(n), 1.0) is not None for n in range(4)] == [True, False, True, True]


def test_label_and_description_do_not_push_each_other_out():
    cache = AnswerCache(dataclasses.replace(SETTINGS, scenes=1))
    cache.keep(LABEL, scene(1), answer(), 0.0)
    cache.keep(WORDS, scene(1), answer("a room", WORDS), 0.0)
    assert cache.find(LABEL, scene(1), 1.0) and cache.find(WORDS, scene(1), 1.0)
    cache.keep(LABEL, scene(2), answer(), 1.0)
    assert cache.find(LABEL, scene(1), 1.0) is None and cache.find(WORDS, scene(1), 1.0)


def test_questions_that_are_asked_no_more_are_forgotten(cache):
    retired = [dataclasses.replace(LABEL, prompt=f"what is there at {hour}?") for hour in range(10)]
    for question in retired:
        cache.keep(question, scene(1), answer(), 0.0)
    assert [cache.find(question, scene(1), 1.0) is not None for question in retired] == [False] * 6 + [True] * 4


def test_no_answer_outlives_its_time(cache):
    cache.keep(LABEL, scene(1), answer(), 0.0)
    for now in range(5, 65, 5):  # the model is asked about other scenes meanwhile
        cache.keep(LABEL, scene(2), answer(), float(now))
        assert (cache.find(LABEL, scene(1), now + 0.5) is not None) == (now + 0.5 < SETTINGS.lifetime)


def test_after_some_time_without_the_model_it_is_asked_whatever_the_image(cache):
    cache.keep(LABEL, scene(1), answer(), 0.0)
    assert cache.find(LABEL, scene(1), 9.9)
    assert cache.find(LABEL, scene(1), 10.0) is None and cache.counts["refresh"] == 1
    cache.keep(LABEL, scene(1), answer("wall"), 10.0)
    assert cache.find(LABEL, scene(1), 10.1).value == "wall"
    assert len(cache._scenes[LABEL]) == 1, "the new answer replaces the old one"


@pytest.mark.parametrize("jitter", [-0.1, 0.1])
def test_what_is_asked_rarely_is_used_again_twice_however_short_the_refresh(jitter):
    cache = AnswerCache(dataclasses.replace(SETTINGS, refresh=2.0))
    cache.keep(WORDS, scene(1), answer("a room", WORDS), 0.0)
    assert [cache.find(WORDS, scene(1), now + jitter, 2.0) is not None for now in (2.0, 4.0, 6.0)] == [
        True,
        True,
        False,
    ]


def test_clear_forgets(cache):
    cache.keep(LABEL, scene(1), answer(), 0.0)
    cache.clear()
    assert cache.find(LABEL, scene(1), 0.1) is None


# In the worker


class Scripted:
    """Says "wall" of a bright image and "clear" of a dark one; `asked` are the shapes it saw and what for."""

    name = "scripted"

    def __init__(self):
        self.asked, self.error, self.during = [], None, None

    def answer(self, image, questions):
        return self.answer_batch([image], questions)[0]

    def answer_batch(self, images, questions):
        names = [NAMES.get(question.prompt, "other") for question in questions]
        self.asked += [(image.shape[:2], names) for image in images]
        if self.during:
            self.during()
        if self.error:
            raise self.error
        return [[self.reply(question, image) for question in questions] for image in images]

    def reply(self, question, image):
        bright = int(image.mean() > 127)
        if isinstance(question, Text):
            return answer(("dark", "bright")[bright], question)
        p = (0.01, 0.99) if bright else (0.99, 0.01)
        return Answer(question.options[bright], 0.99, question.options, p)

    def describe_self(self):
        return {}


class Bench:
    """A worker that sees one scene after the other; `told` grows by what it says of each."""

    def __init__(self, **changes):
        cache = CacheSettings(threshold=8.0, lifetime=1000.0, refresh=1000.0)
        self.settings = settings(LABEL, WORDS, **{"label_rate": 1000.0, "cache": cache, **changes})
        self.model, self.told, self.news = Scripted(), [], threading.Condition()
        self.camera = Camera("camera", self.settings, time.time_ns)
        self.worker = Worker(lambda: self.model, self.settings, [self.camera], self.publish)
        self.worker.look(True)
        self.worker.start()
        self.wait(lambda: self.worker.state == "ready")
        self.model.asked.clear()

    def show(self, image):
        """Show an image; return the first answer that is told of it."""
        self.told.clear()
        self.put(image)
        self.wait(lambda: self.told)
        return self.told[0]

    def start_again(self):
        """Stop and start looking while the model is busy."""
        self.worker.look(False)
        self.worker.look(True)
        with self.news:
            self.model.during = None
            self.news.notify_all()

    def put(self, image):
        sec, nanosec = divmod(time.time_ns(), 1_000_000_000)
        height, width = image.shape[:2]
        header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id="camera")
        message = SimpleNamespace(
            header=header,
            height=height,
            width=width,
            step=3 * width,
            encoding="rgb8",
            is_bigendian=0,
            data=array.array("B", image.tobytes()),
        )
        self.camera.put(message)
        self.worker.wake()

    def ask(self, *questions):
        """Ask about the image that was shown last; return the answers."""
        self.told.clear()
        return self.worker.ask(self.camera, questions).result(20).answers

    def wait(self, condition):
        with self.news:
            assert self.news.wait_for(condition, 20), self.told

    def wait_until_forgotten(self):
        deadline = time.monotonic() + 20
        while self.camera.pipeline.cache._scenes and time.monotonic() < deadline:
            time.sleep(0.005)

    def tell(self, image, answers):
        with self.news:
            self.told.append((image, answers))
            self.news.notify_all()

    def publish(self, output):
        if isinstance(output, Label | Description):
            self.tell(output.frame, output.answer)
        elif isinstance(output, Fault):
            self.tell(None, output.kind)
        else:
            assert isinstance(output, Loaded), output
            with self.news:
                self.news.notify_all()


@pytest.fixture
def bench():
    made = []

    def make(**changes):
        made.append(Bench(**changes))
        return made[-1]

    yield make
    for one in made:
        one.worker.stop()
        one.worker.join(20)
        assert not one.worker.is_alive()


def grey(level, height=48, width=64):
    return np.full((height, width, 3), level, np.uint8)


def test_a_reused_label_bears_the_new_image_and_its_age_and_the_model_is_left_alone(bench):
    one = bench()
    first, fresh = one.show(grey(100))
    second, again = one.show(grey(103))
    third, other = one.show(grey(160))
    fourth, back = one.show(grey(100))
    assert one.model.asked == [((48, 64), ["label"])] * 2
    assert [a.value for a in (fresh, again, other, back)] == ["clear", "clear", "wall", "clear"]
    assert [a.age > 0 for a in (fresh, again, other, back)] == [False, True, False, True]
    assert again.age == pytest.approx(second.taken - first.taken) and again.probabilities == fresh.probabilities
    stamps = [image.stamp for image in (first, second, third, fourth)]
    assert sorted(set(stamps)) == stamps and second.image[0, 0, 0] == 103
    assert one.camera.pipeline.counts["labels"] == 4
    assert one.camera.pipeline.cache.metrics()["reuse, hits"] == 2


def test_what_others_ask_is_never_answered_from_memory(bench):
    """It may steer a robot, and then what the camera sees now is what counts."""
    one = bench()
    one.show(grey(100))
    one.model.asked.clear()
    for level in (100, 101):
        one.show(grey(level))
        (given,) = one.ask(LABEL)
        assert given.age == 0
    assert one.model.asked == [((48, 64), ["label"])] * 2


def test_another_vocabulary_is_asked_anew_at_once(bench):
    one = bench()
    one.show(grey(100))
    wider = dataclasses.replace(LABEL, options=("free", "blocked"))
    one.worker.change(with_label(one.settings, wider))
    _, given = one.show(grey(101))
    assert given.value == "free" and given.age == 0


def test_a_failed_answer_is_not_remembered(bench):
    one = bench()
    one.model.error = ModelError("no")
    assert one.show(grey(100)) == (None, "model")
    one.model.error = None
    assert one.show(grey(100))[1].age == 0
    assert one.show(grey(100))[1].age > 0


def test_stopping_forgets_the_scenes(bench):
    one = bench()
    one.show(grey(100))
    one.worker.look(False)
    one.wait_until_forgotten()
    one.worker.look(True)
    assert one.show(grey(100))[1].age == 0


def test_stopping_and_starting_within_one_call_of_the_model_forgets_what_was_seen(bench):
    one = bench(follow_motion=True)
    one.show(moving(40))
    one.model.during = one.start_again
    one.put(grey(200))
    one.wait(lambda: one.model.during is None)
    image, fresh = one.show(moving(50))
    pipeline = one.camera.pipeline
    assert fresh.age == 0 and len(pipeline.cache._scenes[LABEL]) == 1
    assert image.region is None, "nothing has been seen to move"
    first = LabelSmoother(LABEL.options, SmoothingSettings())
    first.update(image.stamp, fresh.probabilities)
    assert pipeline._smoother.belief == first.belief


def test_the_rare_words_of_an_unchanged_scene_are_used_again_though_their_refresh_is_short(bench):
    one = bench(label_rate=0.0, description_rate=2.0, cache=CacheSettings(threshold=8.0, refresh=0.0))
    assert one.show(grey(100))[1].age == 0
    assert one.show(grey(101))[1].age > 0


def test_the_words_of_an_unchanged_scene_are_used_again(bench):
    one = bench(label_rate=0.0, description_rate=1000.0)
    assert one.show(grey(100))[1].value == "dark"
    assert one.show(grey(101))[1].age > 0
    assert one.show(grey(200))[1].value == "bright"
    assert [names for _, names in one.model.asked] == [["description"]] * 2


def test_the_long_way_gives_the_same_labels(bench):
    """Scenes in any order, each several times: reused answers are those that the model would have given."""
    levels = [int(level) for level in np.random.default_rng(0).choice([20, 60, 100, 160, 200, 240], 40)]
    short = bench()
    long = bench(cache=CacheSettings())
    said = [[one.show(grey(level))[1].value for level in levels] for one in (short, long)]
    assert said[0] == said[1] and len(short.model.asked) == 6 and len(long.model.asked) == 40


def moving(x):
    """A dark room with a bright thing in it at `x`."""
    room = cv2.resize(np.random.default_rng(3).integers(20, 90, (12, 16, 3), dtype=np.uint8), (320, 240))
    room[80:130, x : x + 40] = 250
    return room


def test_the_label_is_about_what_moves_and_the_answers_to_others_about_the_whole_image(bench):
    one = bench(follow_motion=True)
    image, whole = one.show(moving(40))
    assert image.region is None and whole.value == "clear"
    image, part = one.show(moving(50))
    region = image.region
    assert region.x <= 50 and region.x + region.width >= 90 and region.y <= 80 and region.y + region.height >= 130
    assert one.model.asked[-1] == ((region.height, region.width), ["label"])
    assert part.age == 0, "the region is another image than the whole"
    one.ask(Choice("where?", ("left", "right")))
    assert one.model.asked[-1] == ((240, 320), ["other"])
    assert one.show(moving(50))[0].region is None, "it stands still"
    assert one.camera.pipeline.counts["regions"] == 1


def test_without_follow_motion_all_of_the_image_is_looked_at(bench):
    one = bench()
    assert [one.show(moving(x))[0].region for x in (40, 50, 60)] == [None] * 3

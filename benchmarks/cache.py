"""Answers that an unchanged scene gets from the cache, and regions that follow motion.

    make bench-cache

A guard robot patrols rooms that no model was trained on. It drives at 0.3 m/s and turns at 0.8 rad/s from one place to
the next. At each place it stands for 8 s and looks around. It returns along the same way, a few centimetres beside it.
Ten times a second the image is rendered with the noise and flicker of a camera, and the shipped nano model labels it.
The geometry of the simulation gives the true label. Then the recording is played back through the cache, with several
thresholds. The columns are:

- hits: the share of images whose label was an earlier answer; also while standing, driving and turning alone,
- false: the share of these hits whose own label differs. For this figure the model labels these images too,
- wrong: the share of all images whose label is not the true one, and in brackets the same without the cache. Both are
  given for the raw labels and for those smoothed with the default parameters.

Beside it stand common perceptual hashes of the whole image, at the threshold with the nearest share of hits.

Next, a camera stands still in a room and an object is pushed past it. Measured are how often an answer is used again
while nothing moves, and whether the region holds the object. Last, a worker with the cache and one without take turns,
and the time from an image's message to its label is measured.

The result is written beside this file. Its last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from cache_fixed_camera import STILL, watch
from cache_latency import times
from cache_playback import OTHERS, THRESHOLD, Figures, play, play_words, share_of
from cache_recording import WORDS_EVERY, record
from patrol import RATE

from vlm_perception.models.loader import load_model
from vlm_perception.perception.answer_cache import AnswerCache, CacheSettings
from vlm_perception.tools.machine import describe
from vlm_perception.training.dataset import CALIBRATION_SEEDS, TEST_SEEDS

THRESHOLDS = (8, 16, 24, 32, 40, 48, 56, 64)
RESULT = Path(__file__).with_suffix(".md")
HEAD = "| | hits | standing | driving | turning | false | wrong (uncached) | smoothed, wrong (uncached) |"
RULE = "| --- | --- | --- | --- | --- | --- | --- | --- |"


def row(name: str, f: Figures) -> str:
    """Return the figures as a row of the table of patrols."""
    shares = " | ".join(f"{share:.0%}" for share in f.shares.values())
    return (
        f"| {name} | {f.hits:.1%} | {shares} | {f.false:.2%} | {f.wrong:.2%} ({f.wrong_uncached:.2%}) "
        f"| {f.smoothed:.2%} ({f.smoothed_uncached:.2%}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=8, help="rooms to patrol (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each patrol (default: %(default)s)")
    parser.add_argument(
        "--choose", action="store_true", help="print the table of other rooms, to choose a threshold; write no result"
    )
    options = parser.parse_args()
    started, machine = time.monotonic(), describe()
    model = load_model("nano", "cpu")
    seeds = (CALIBRATION_SEEDS if options.choose else TEST_SEEDS)[5200 : 5200 + options.rooms]
    streams = record(model, seeds, options.seconds)
    found = {threshold: play(streams, AnswerCache, CacheSettings(threshold)) for threshold in THRESHOLDS}
    rows = [row(f"threshold {threshold}", f) for threshold, f in found.items()]
    newest = play(streams, AnswerCache, CacheSettings(THRESHOLD, scenes=1))
    rows.append(row(f"threshold {THRESHOLD}, `reuse_scenes` 1", newest))
    best = found[THRESHOLD]
    for name, (kind, thresholds) in OTHERS.items():
        tried = [(f"{name}, {t:g}", play(streams, kind, CacheSettings(t))) for t in thresholds]
        rows.append(row(*min(tried, key=lambda pair: abs(pair[1].hits - best.hits))))
    table = "\n".join([HEAD, RULE, *rows])
    if options.choose:
        print(table)
        return
    words = play_words(streams)
    watched = watch(model, TEST_SEEDS[5300:5303])
    spent = {f"{w}x{h}": times(model, w, h, 150) for w, h in ((640, 480), (1280, 720))}
    images = sum(len(stream) for stream in streams)
    standing = share_of([look.phase == "standing" for stream in streams for look in stream])
    lines = [
        "| | p50 | p95 | p99 |",
        "| --- | --- | --- | --- |",
        *(
            f"| {size}, {name} | " + " | ".join(f"{value:.2f} ms" for value in values) + " |"
            for size, rows_ in spent.items()
            for name, values in rows_.items()
        ),
    ]
    keys = {
        "threshold": THRESHOLD,
        "hit_rate": round(best.hits, 4),
        "false_hit_rate": round(best.false, 5),
        "label_error": round(best.wrong, 5),
        "label_error_uncached": round(best.wrong_uncached, 5),
        "smoothed_error": round(best.smoothed, 5),
        "smoothed_error_uncached": round(best.smoothed_uncached, 5),
        "false_hit_rate_by_threshold": {str(t): round(f.false, 5) for t, f in found.items()},
        "hit_rate_by_threshold": {str(t): round(f.hits, 4) for t, f in found.items()},
        "hit_ms": {size: round(rows_["hit"][0], 3) for size, rows_ in spent.items()},
        "hit_in_worker_ms": {size: round(rows_["hit, from taking it up"][0], 3) for size, rows_ in spent.items()},
        "asked_ms": {size: round(rows_["asked"][0], 3) for size, rows_ in spent.items()},
        "fixed_camera_hit_rate": round(watched.hits, 4),
        "region_holds_motion": round(watched.held, 4),
        "region_area": round(watched.area, 4),
    }
    parts = [
        "# Answers used again, and regions",
        f"`make bench-cache`: {options.rooms} rooms (seeds {seeds[0]} to {seeds[-1]}), {images} images in "
        f"{images / RATE / 60:.1f} minutes of patrol, {standing:.0%} of them while standing. What the columns mean: "
        "see [cache.py](cache.py).",
        "\n".join(f"- {line}" for line in [*machine, f"{time.monotonic() - started:.0f} s in all"]),
        "## A robot on patrol",
        table,
        f"At threshold {THRESHOLD}, {words[0]:.0%} of the descriptions (one every {WORDS_EVERY / RATE:g} s) are used "
        f"again; of these, {words[1]:.0%} differ from the model's own. Of two images from the same place, "
        f"{words[2]:.0%} get different descriptions.",
        "## A camera that stands still",
        f"At threshold {STILL}, {watched.hits:.0%} of the labels while nothing moves are earlier answers, "
        f"{watched.false:.1%} of all hits false. The region holds what moves in {watched.held:.1%} of the images "
        f"with motion; in {watched.whole:.0%} of those without, the whole image is looked at. "
        f"A region is {watched.area:.0%} of the image (median), so that what moves is {watched.larger:.1f} times as "
        "large for the model.",
        "## Time from an image's message to its label",
        "\n".join(lines),
        f"```json\n{json.dumps(keys)}\n```",
    ]
    RESULT.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print("\n\n".join(parts[:-1]))
    print(json.dumps(keys))


if __name__ == "__main__":
    main()

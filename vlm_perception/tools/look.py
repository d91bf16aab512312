"""Label every frame of a recording, without ROS: annotated video, contact sheet, table of all probabilities."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from vlm_perception.models.scope import Scope
    from vlm_perception.questions import Answer, Choice, ClosedQuestion

PROMPT = "what does the image show?"
LEGEND = "bars: probability of each answer for this frame; green: the label, smoothed over time, or the answer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a video, a folder of images or an image")
    parser.add_argument("--labels", nargs="+", required=True, metavar="LABEL", help="possible labels of a frame")
    parser.add_argument("--prompt", default="", help=f"question for the label (default: {PROMPT!r})")
    parser.add_argument(
        "--ask", nargs="+", default=[], metavar="QUESTION", help="more questions, answered with yes or no"
    )
    parser.add_argument("--model", default="nano", help="nano, a model folder or a server (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("output/look"), help="folder of the results (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> int:
    """0 when every frame was labelled, 2 for wrong arguments, 130 when it was interrupted, else 1.

    What was written until then stays.
    """
    from vlm_perception.models.base import ModelError
    from vlm_perception.models.loader import load_model
    from vlm_perception.perception.source import open_source
    from vlm_perception.questions import Choice, YesNo
    from vlm_perception.tools.output import check_output

    def say(words: str) -> None:
        print(f"vlm_perception look: {words}", file=sys.stderr)

    try:
        label = Choice(arguments.prompt or PROMPT, tuple(arguments.labels))
        asked = [YesNo(words) for words in arguments.ask]
        check_output(arguments.output)
        with ExitStack() as stack:
            # The source first: it is opened in a moment, a model is not.
            source = stack.enter_context(open_source(arguments.source, lambda words: say(f"left out: {words}")))
            if source.live:
                raise ValueError(f"{source.name} has no end, expected a video, a folder of images or an image")
            say(f"{source}")
            model = load_model(arguments.model, arguments.device)
            warning = None
            if model.scope:
                label = label if arguments.prompt else taught(model.scope, label)
                warning = check(model.scope, label, asked)
                say(f"warning: {warning}")
            report = Report(arguments.output, label, asked, warning, source.rate or 1.0)
            stack.callback(report.close)
            from tqdm import tqdm

            stopped = False
            try:
                for image, stamp in tqdm(source.images, total=source.count or None, unit="frame", disable=None):
                    report.add(image, stamp, model.answer(image, [label, *asked]))
            except KeyboardInterrupt:
                stopped = True
    except (ModelError, OSError) as error:
        say(str(error))
        return 1
    except ValueError as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    print(json.dumps(report.summary()), flush=True)
    return 130 if stopped else 0


def taught(scope: Scope, label: Choice) -> Choice:
    """Return the `label` with the prompt for which the model was taught most of its options."""
    known = scope.questions
    return replace(label, prompt=max(known, key=lambda prompt: len({*label.options} & {*known[prompt]})))


def check(scope: Scope, label: Choice, asked: Sequence[ClosedQuestion]) -> str:
    """Return what to warn of; raises ValueError for a label or a target that the model cannot know."""
    for problem in (scope.unknown(label), *map(scope.unknown_target, asked)):
        if problem:
            raise ValueError(f"{problem}: choose another --model")
    unknown = next(filter(None, map(scope.unknown, asked)), None)
    return unknown or f"{scope.about}: about any other images its answers mean nothing"


class Report:
    """Writes down, frame by frame, what was seen: `look.webm`, `look.png` and `look.csv` in `folder`."""

    def __init__(
        self, folder: Path, label: Choice, asked: Sequence[ClosedQuestion], warning: str | None, rate: float
    ) -> None:
        from vlm_perception.perception.smoothing import LabelSmoother, SmoothingSettings
        from vlm_perception.tools.images import Kept, Video

        self.frames = 0
        self.video, self.sheet, self.table = (folder / f"look.{ending}" for ending in ("webm", "png", "csv"))
        self._questions = [label, *asked]
        self._warning = warning
        unknown = next(word for word in ("unknown", "?", "in doubt") if word not in label.options)
        self._smoother = LabelSmoother(label.options, SmoothingSettings(unknown=unknown))
        self._counts: Counter[str] = Counter()
        self._film = Video(self.video, min(max(rate, 1.0), 120.0))
        self._kept = Kept()
        self._file = open(self.table, "w", newline="", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._rows = csv.writer(self._file)
        names = [f"{question.prompt} {option}" for question in self._questions for option in question.options]
        self._rows.writerow(["frame", "time [s]", "label", "confidence", *names])

    def add(self, image: np.ndarray, stamp: float, answers: Sequence[Answer]) -> None:
        """Take in the `answers` about one RGB `image` of `stamp` [s]."""
        smoothed = self._smoother.update(round(stamp * 1e9), answers[0].probabilities)
        self._counts[smoothed.label] += 1
        probabilities = [f"{p:.4f}" for answer in answers for p in answer.probabilities]
        self._rows.writerow([self.frames, f"{stamp:.3f}", smoothed.label, f"{smoothed.confidence:.4f}", *probabilities])
        drawn = self._draw(image, stamp, smoothed, answers)
        self._film.add(drawn)
        self._kept.add(drawn)
        self.frames += 1

    def _draw(self, image: np.ndarray, stamp: float, smoothed: Any, answers: Sequence[Answer]) -> np.ndarray:
        from vlm_perception.tools.images import AnsweredQuestion, Canvas

        canvas = Canvas(image)
        canvas.darken(0, 0, canvas.width, 30 * canvas.unit)
        canvas.text(f"{smoothed.label} {smoothed.confidence:.0%}", 10 * canvas.unit, 5 * canvas.unit, size=17)
        canvas.text(f"{stamp:.1f} s", canvas.width - 10 * canvas.unit, 7 * canvas.unit, size=14, anchor="ra")
        chosen = [smoothed.label, *(answer.value for answer in answers[1:])]
        shown = [
            AnsweredQuestion(question.prompt, list(zip(answer.options, answer.probabilities, strict=True)), value)
            for question, answer, value in zip(self._questions, answers, chosen, strict=True)
        ]
        canvas.asked(shown, 36 * canvas.unit)
        canvas.legend(LEGEND)
        if self._warning:
            canvas.warning(self._warning)
        return canvas.image

    def close(self) -> None:
        """Complete the files."""
        self._file.close()
        self._film.close()
        self._kept.write(self.sheet)

    def summary(self) -> dict[str, object]:
        """How many frames there were, the share of each label, and the files."""
        shares = {label: round(count / self.frames, 4) for label, count in self._counts.most_common()}
        files = {"video": str(self.video), "sheet": str(self.sheet), "table": str(self.table)}
        return {"frames": self.frames, "labels": shares, **files}

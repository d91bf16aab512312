"""Results of a benchmark as rows, and the rows as CSV, JSON, Markdown and a chart."""

from __future__ import annotations

import csv
import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_perception.tools.benchmarking import BASELINE, OURS, Case, Measured, Samples

MIB = 2**20
MAX_PANELS = 12
"""Most panels of the chart."""


@dataclasses.dataclass(frozen=True)
class BenchmarkRow:
    """One way of answering one kind of question. Times are in milliseconds, memory in MiB, unknown values None.

    `calls` were measured. `answers_per_second` are questions, of which `together` asks several at once;
    `tokens_per_second` those of a text after the first. `baseline_over_ours`, of our rows: the median over the rounds,
    in which both take turns, of the baseline's time by ours, so that what else the machine did met both. Of memory the
    process's and the GPU's peaks; use of the GPU (0 to 1) and watts are those while all rows of a model took turns.
    `valid` is the share of images about which every closed answer was one of the options, `agreement` the share about
    which the first model that was measured, asked our way, says the same. `problem`: why not all was measured.
    """

    model: str
    precision: str
    image_size: int
    question: str
    way: str
    calls: int
    median_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    answers_per_second: float | None
    tokens_per_second: float | None
    first_token_ms: float | None
    baseline_over_ours: float | None
    host_mib: int | None
    gpu_mib: int | None
    gpu_use: float | None
    gpu_watts: float | None
    cpu_watts: float | None
    board_watts: float | None
    valid: float | None
    agreement: float | None
    problem: str = ""


LEGEND = (
    "*ours*: typed questions, each option scored in one forward pass. *baseline*: `generate`, clean the string, look "
    "it up. *together*: the closed questions, in one call of ours, one after another in the baseline. *baseline / "
    "ours*: the median ratio of calls that took turns. *valid*: the answer is one of the options. *agreement*: the "
    "same answer as the first model of the table gives our way. Tokens per second are those after the first. Memory "
    "is the peak of the process that measured."
)
COLUMNS = {
    "model": ("model", "{}"),
    "precision": ("precision", "{}"),
    "image_size": ("px", "{}"),
    "question": ("question", "{}"),
    "way": ("way", "{}"),
    "median_ms": ("median [ms]", "{:.1f}"),
    "p95_ms": ("p95", "{:.1f}"),
    "p99_ms": ("p99", "{:.1f}"),
    "answers_per_second": ("answers/s", "{:.1f}"),
    "tokens_per_second": ("tokens/s", "{:.1f}"),
    "first_token_ms": ("first token [ms]", "{:.1f}"),
    "baseline_over_ours": ("baseline / ours", "{:.2f}"),
    "host_mib": ("memory [MiB]", "{}"),
    "gpu_mib": ("GPU memory [MiB]", "{}"),
    "gpu_use": ("GPU use", "{:.0%}"),
    "gpu_watts": ("GPU [W]", "{:.0f}"),
    "cpu_watts": ("CPU [W]", "{:.0f}"),
    "board_watts": ("board [W]", "{:.1f}"),
    "valid": ("valid", "{:.0%}"),
    "agreement": ("agreement", "{:.0%}"),
}
"""Heading and format of each column of the table. Empty columns are left out."""


def rows(measured: Sequence[Measured]) -> list[BenchmarkRow]:
    """Return one row for each case of each setup. The first setup is the reference of the comparison."""
    reference = measured[0].samples if measured else {}
    return [
        _row(
            one, case, samples, one.samples.get(Case(case.question, BASELINE)), reference.get(Case(case.question, OURS))
        )
        for one in measured
        for case, samples in one.samples.items()
    ]


def _row(
    one: Measured, case: Case, samples: Samples, baseline: Samples | None, reference: Samples | None
) -> BenchmarkRow:
    times = np.array(samples.seconds) * 1e3
    some = len(times) > 0
    ratio = None
    if case.way == OURS and baseline and some and len(baseline.seconds) == len(times):
        ratio = float(np.median(np.array(baseline.seconds) / np.array(samples.seconds)))
    first = statistics.median(samples.first) * 1e3 if some else 0.0
    answers = list(samples.said.values())
    questions = len(answers[0]) if answers else 1
    same = [
        said == reference.said[place] for place, said in samples.said.items() if reference and place in reference.said
    ]
    return BenchmarkRow(
        model=one.setup.model,
        precision=one.facts.get("dtype", "") if one.setup.precision == "auto" else one.setup.precision,
        image_size=one.setup.image_size,
        question=case.question,
        way=case.way,
        calls=len(times),
        median_ms=float(np.median(times)) if some else None,
        p95_ms=float(np.percentile(times, 95)) if some else None,
        p99_ms=float(np.percentile(times, 99)) if some else None,
        answers_per_second=questions * len(times) / sum(samples.seconds) if some else None,
        tokens_per_second=statistics.median(samples.rates) if samples.rates else None,
        first_token_ms=first or None,
        baseline_over_ours=ratio,
        host_mib=samples.host_peak // MIB or None,
        gpu_mib=samples.device_peak // MIB or None,
        valid=_mean([None not in said for said in answers]) if case.question != "text" else None,
        agreement=_mean(same),
        problem=samples.problem,
        **dataclasses.asdict(one.draw),
    )


def _mean(values: Sequence[bool]) -> float | None:
    return statistics.fmean(values) if values else None


def write(folder: Path, rows: Sequence[BenchmarkRow], about: dict[str, Any]) -> list[Path]:
    """Write results.csv, results.json, report.md and, with matplotlib, chart.png; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "results.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [field.name for field in dataclasses.fields(BenchmarkRow)])
        table.writeheader()
        table.writerows(dataclasses.asdict(row) for row in rows)
    results = {**about, "rows": [dataclasses.asdict(row) for row in rows]}
    (folder / "results.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    files = [folder / name for name in ("results.csv", "results.json", "report.md")]
    if draw(rows, folder / "chart.png"):
        files.append(folder / "chart.png")
    (folder / "report.md").write_text(markdown(rows, about, has_chart=len(files) > 3), encoding="utf-8")
    return files


def markdown(rows: Sequence[BenchmarkRow], about: dict[str, Any], has_chart: bool = False) -> str:
    """Return the report in Markdown. `about` has the lines about the machine, the images and the `problems`."""
    lines = ["# Benchmark", "", *[f"- {line}" for line in about["machine"]]]
    lines += [f"- images: {about['images']}", f"- {about['rounds']} rounds, all questions of a model in turn", ""]
    lines += [table(rows), ""]
    lines += [LEGEND, ""]
    if about["problems"]:
        lines += ["Not measured:", "", *[f"- {problem}" for problem in about["problems"]], ""]
    if has_chart:
        lines += ["![Time of an answer](chart.png)", ""]
    return "\n".join(lines)


def table(rows: Sequence[BenchmarkRow]) -> str:
    """Return the rows as a Markdown table without empty columns."""
    shown = [row for row in rows if row.calls]
    names = [name for name in COLUMNS if any(getattr(row, name) not in (None, 0) for row in shown)]
    lines = ["| " + " | ".join(COLUMNS[name][0] for name in names) + " |", "|" + " --- |" * len(names)]
    for row in shown:
        values = {name: getattr(row, name) for name in names}
        values["model"] = Path(row.model).name or row.model
        cells = ["" if value is None else COLUMNS[name][1].format(value) for name, value in values.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: Sequence[BenchmarkRow], file: Path) -> bool:
    """Write a chart of the medians, with whiskers to the 95th percentile; return False without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels: dict[tuple[str, str, int], list[BenchmarkRow]] = {}
    for row in rows:
        if row.calls:
            panels.setdefault((row.model, row.precision, row.image_size), []).append(row)
    panels = dict(list(panels.items())[:MAX_PANELS])
    if not panels:
        return False
    heights = [len(panel) for panel in panels.values()]
    size = (8, 1 + sum(0.28 * height + 0.5 for height in heights))
    figure, axes = pyplot.subplots(
        len(panels), 1, sharex=True, squeeze=False, layout="constrained", figsize=size, height_ratios=heights
    )
    colours = {OURS: "#2a7f3f", BASELINE: "#9a9a9a"}
    most = max(row.p95_ms or 0.0 for panel in panels.values() for row in panel)
    for axis, ((model, precision, edge), panel) in zip(axes[:, 0], panels.items(), strict=True):
        places = range(len(panel))
        medians = [row.median_ms or 0.0 for row in panel]
        tails = [(row.p95_ms or 0.0) - median for row, median in zip(panel, medians, strict=True)]
        axis.barh(places, medians, xerr=[[0.0] * len(panel), tails], color=[colours[row.way] for row in panel],
                  error_kw={"ecolor": "#444444", "elinewidth": 1, "capsize": 2})  # fmt: skip
        for place, row in zip(places, panel, strict=True):
            axis.text((row.p95_ms or 0.0) + most * 0.01, place, f"{row.median_ms:.1f}", va="center", fontsize=8)
        axis.set_yticks(places, [f"{row.question}, {row.way}" for row in panel], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, most * 1.12)
        title = f"{Path(model).name or model}, {precision}" + (f", {edge} px" if edge else "")
        axis.set_title(title, fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("time of an answer [ms]: median, and whisker to the 95th percentile")
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return True

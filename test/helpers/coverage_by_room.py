"""Print the line coverage of each room as a table: `python test/helpers/coverage_by_room.py COVERAGE.json`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path


def main() -> None:
    files = json.loads(Path(sys.argv[1]).read_text())["files"]
    lines: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for name, facts in files.items():
        parts = Path(name).parts[1:]
        for room in (f"{parts[0]}/" if len(parts) > 1 else parts[0], "all"):
            lines[room] += facts["summary"]["num_statements"]
            covered[room] += facts["summary"]["covered_lines"]
    print("| room | statements | covered |\n| --- | --- | --- |")
    for room in sorted(lines, key=lambda room: (room == "all", room)):
        if lines[room]:
            print(f"| {room} | {lines[room]} | {covered[room] / lines[room]:.1%} |")


if __name__ == "__main__":
    main()

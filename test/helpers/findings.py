"""What tests of the doctor expect of findings."""

from __future__ import annotations

import re

from vlm_perception.tools.checks.finding import Finding, Severity

GREEN, YELLOW, RED = Severity


def says(findings: list[Finding], *expected: tuple[Severity, str]) -> bool:
    """Check that each expected level comes with a match of its pattern, and that nothing else comes; return True."""
    assert len(findings) == len(expected), findings
    for finding, (level, pattern) in zip(findings, expected, strict=True):
        assert finding.level is level, finding
        assert re.search(pattern, f"{finding.about}: {finding.words} -> {finding.remedy}"), finding
    return True

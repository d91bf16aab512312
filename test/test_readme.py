"""The README tells what the code does."""

import re

from paths import ROOT

from vlm_perception.tools import cli

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_files_that_the_readme_links_to_are_there():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_targets_and_interfaces_that_the_readme_names_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name in set(re.findall(r"vlm_perception/(?:srv/)?([A-Z]\w+)", README)):
        assert list(ROOT.glob(f"*/{name}.*")), name


def test_every_command_has_its_module():
    for name in cli.COMMANDS:
        assert (ROOT / "vlm_perception" / "tools" / f"{name}.py").exists(), name

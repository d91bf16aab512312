"""README and docs tell what the code does."""

import re
from pathlib import Path

import pytest

from vlm_perception.parameters import declared
from vlm_perception.tools import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
MOST_WORDS = 1800


def test_the_readme_is_read_in_one_sitting():
    assert len(README.split()) <= MOST_WORDS


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_links_to_are_there(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", PAGES[page])
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_files_targets_commands_and_interfaces_that_a_page_names_exist(page):
    text, makefile = PAGES[page], (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|^\$ |^)make ([a-z-]+)", text, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name in set(re.findall(r"vlm_perception/(?:\w+/)?([A-Z]\w+)\b", text)):
        assert list(ROOT.glob(f"*/{name}.*")), name
    for name in set(re.findall(r"`((?:vlm_perception|test|config|msg|srv)/[\w/]+\.(?:py|yaml|srv|msg))`", text)):
        assert (ROOT / name).exists(), name
    for name in set(re.findall(r"(?:`|^\$ |^|/)vlm_perception ([a-z]\w+)\b", text, re.MULTILINE)):
        assert name in cli.COMMANDS, name


@pytest.mark.parametrize("page", PAGES)
def test_no_page_has_an_old_name_of_a_parameter(page):
    pytest.importorskip("rclpy")
    from vlm_perception.nodes.parameter_file import definition

    named = set(re.findall(r"(?:`|-p |/classifier |/navigator )([a-z_]+)(?=`|: |:=| )", PAGES[page]))
    nodes = [definition(node) for node in ("classifier", "navigator")]
    for node in nodes:
        old = {name for name in node.RENAMED if "_" in name}.difference(*map(declared, nodes))
        assert named & old <= {"empty_picture"}, "that one is a key of decision.json, too"


def test_the_parameters_of_the_robot_tutorial_are_taken(tmp_path):
    pytest.importorskip("rclpy")
    from vlm_perception.nodes.parameter_file import definition, merge, read_sections

    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGES["docs/tutorials/robot.md"], re.MULTILINE | re.DOTALL)
    (tmp_path / "my_robot.yaml").write_text(blocks[0])
    sections = read_sections(tmp_path / "my_robot.yaml")
    expected = {"classifier": ("label.prompt", "answer en what is ahead?"), "navigator": ("depth.scan", True)}
    for node, (name, value) in expected.items():
        assert merge(definition(node), f"/{node}", sections, {})[name] == value


def test_every_command_has_its_module():
    for name in cli.COMMANDS:
        assert (ROOT / "vlm_perception" / "tools" / f"{name}.py").exists(), name

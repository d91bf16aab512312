"""What the package promises in its metadata is so: versions, interfaces, dependencies, rooms, commands."""

from __future__ import annotations

import ast
import builtins
import configparser
import importlib.util
import os
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from paths import ROOT

import vlm_perception
from vlm_perception import packages
from vlm_perception.tools import cli

SOURCES = ROOT / "vlm_perception"
PURE_ROOMS = ("models", "perception", "navigation", "simulation", "training")
PROFILE = ROOT / "config" / "fastdds.xml"

# What is imported under another name than the rosdep key has.
ROSDEP_KEYS = {
    "tqdm": "python3-tqdm",
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "mujoco": "python3-mujoco-pip",
    "numpy": "python3-numpy",
    "torch": "python3-pytorch-pip",
    "transformers": "python3-transformers-pip",
    "yaml": "python3-yaml",
    "matplotlib": "python3-matplotlib",
    "tf2_ros": "tf2_ros_py",
}
NOT_FOR_A_ROBOT = {"mujoco", "matplotlib"}
"""What rosdep installs only for the tests: for the simulator and the reports."""
# httpx2, safetensors and tokenizers come with transformers; rosbags stands in for cv_bridge where there is no ROS; onnx
# and its kin are an extra, of which every kind of machine has its own build.
NOT_ON_A_ROBOT = {"simplejpeg", "httpx2", "onnx", "onnxruntime", "onnxscript", "rosbags", "safetensors", "tokenizers"}


def package_xml() -> ElementTree.Element:
    return ElementTree.parse(ROOT / "package.xml").getroot()


def imports(file: Path) -> Iterator[str]:
    """The full names of the modules that `file` imports anywhere."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_version_is_the_same_everywhere():
    newest = re.search(r"^(\d+\.\d+\.\d+) \(\d{4}-\d{2}-\d{2}\)$", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    assert package_xml().findtext("version") == vlm_perception.__version__ == newest[1]


def test_every_interface_file_is_built():
    files = {str(file.relative_to(ROOT)) for kind in ("msg", "srv", "action") for file in ROOT.glob(f"{kind}/*.*")}
    assert set(re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', (ROOT / "CMakeLists.txt").read_text())) == files


def foreign(*files: Path) -> set[str]:
    """Return the modules that `files` import and that are neither Python's nor the project's."""
    modules = {name.split(".")[0] for file in files for name in imports(file)}
    scripts = [*(ROOT / "test").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    own = {"vlm_perception", *(file.stem for file in scripts)}
    return modules - set(sys.stdlib_module_names) - own


def test_every_import_is_a_dependency():
    declared = {element.text for element in package_xml() if element.tag in ("depend", "exec_depend")}
    for_tests = {element.text for element in package_xml() if element.tag == "test_depend"}
    modules = foreign(*SOURCES.rglob("*.py"), *(ROOT / "launch").glob("*.py")) - NOT_ON_A_ROBOT
    assert {ROSDEP_KEYS.get(module, module) for module in modules - NOT_FOR_A_ROBOT} <= declared
    assert {ROSDEP_KEYS[module] for module in NOT_FOR_A_ROBOT} <= for_tests - declared


def test_every_import_of_the_tests_and_the_benchmarks_is_installed_by_the_set_up():
    """What they import comes with ROS, or stands in requirements/ or among what those packages require."""
    declared = {element.text for element in package_xml() if element.tag.endswith("depend")}
    lines = "\n".join(file.read_text() for file in (ROOT / "requirements").glob("*.txt"))
    pinned = {name.lower() for name in re.findall(r"^([\w-]+)(?:\[\w+\])?==", lines, re.MULTILINE)}
    names = {"PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml", "fontTools": "fonttools"}
    with_others = {"google": "protobuf", "safetensors": "transformers", "rosbags": "rosbags-image"}
    for module in foreign(*(ROOT / "test").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")):
        package = {**names, **with_others}.get(module, module).lower()
        assert package in pinned or module in declared, module


def test_every_extra_that_a_message_names_installs_the_module():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    for module, extra in packages.EXTRAS.items():
        assert packages.PACKAGES.get(module, module) in extras[extra].split(), module


HIDE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def run_without(modules: Sequence[str], code: str) -> subprocess.CompletedProcess:
    code = HIDE.format(modules=tuple(modules)) + code
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.ros
@pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="needs ROS: there is no rclpy here")
def test_the_nodes_on_a_robot_need_neither_simulator_nor_reports_nor_an_extra():
    code = "import vlm_perception.nodes.camera, vlm_perception.nodes.classifier, vlm_perception.nodes.navigator"
    done = run_without(["tqdm", "httpx2", *packages.EXTRAS], code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("hidden", "arguments", "words"),
    [
        ("matplotlib", ["figures"], r"needs matplotlib: pip install matplotlib, or .* \[simulation\]"),
        ("tqdm", ["train"], "needs tqdm: pip install tqdm"),
        ("mujoco", ["train"], r"needs mujoco: pip install mujoco, or .* \[simulation\]"),
        ("rclpy", ["demo"], "needs ROS 2: source its setup.bash"),
    ],
)
def test_a_command_that_lacks_a_package_names_it(tmp_path, hidden, arguments, words):
    code = f"from vlm_perception.tools.cli import main\nsys.exit(main({[*arguments, '--output', str(tmp_path)]}))"
    done = run_without([hidden], code)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert re.fullmatch(f"vlm_perception {arguments[0]}: the command {words}.*\n", done.stderr)


def test_pure_rooms_import_no_ros():
    ros = {"rclpy", "ament_index_python", "launch", "launch_ros", "cv_bridge", "tf2_ros"}
    for room in PURE_ROOMS:
        for file in (SOURCES / room).rglob("*.py"):
            for name in imports(file):
                # The decoder of messages takes cv_bridge where there is one; that is no import of ROS itself.
                assert name.split(".")[0] not in ros - ({"cv_bridge"} if room == "perception" else set()), file
                assert not re.match(r"\w+_msgs\b|vlm_perception\.(msg|srv|action|nodes|tools)\b", name), file


def test_nothing_outside_imports_the_tools_and_only_tools_the_nodes():
    for file in SOURCES.rglob("*.py"):
        room = file.relative_to(SOURCES).parts[0]
        for name in imports(file):
            assert room == "tools" or not name.startswith("vlm_perception.tools"), file
            assert room in ("nodes", "tools") or not name.startswith("vlm_perception.nodes"), file


def test_no_test_module_imports_another():
    """What several of them need stands in test/helpers."""
    for file in (ROOT / "test").rglob("*.py"):
        assert not [name for name in imports(file) if re.match(r"(test_\w+|conftest)\b", name)], file


def test_rooms_import_what_the_architecture_page_allows_and_nothing_else():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE)
    allowed = {room: set(re.findall(r"`(\w+)`", may)) for room, may in rows}
    found: dict[str, set[str]] = {}
    for file in SOURCES.rglob("*.py"):
        room = file.relative_to(SOURCES).parts[0].removesuffix(".py")
        names = {name.split(".")[1] for name in imports(file) if name.startswith("vlm_perception.")}
        found.setdefault(room, set()).update(names - {room, "msg", "srv", "action", "__version__"})
    del found["__init__"]
    assert allowed.keys() == found.keys()
    assert {room: names - allowed[room] for room, names in found.items() if names - allowed[room]} == {}


def test_every_ros_wheel_is_pinned():
    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements" / "ros.txt").read_text().splitlines()]
    unpinned = [line for line in lines if line and not re.fullmatch(r"[\w-]+(\[\w+\])?==[\w.]+", line)]
    assert not unpinned


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert f"vlm_perception {command}" in capsys.readouterr().out


def test_the_list_of_commands_does_not_wait_for_the_model_libraries():
    code = "import sys; from vlm_perception.tools.cli import main\ntry: main(['--help'])\nfinally: print(sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "demo" in result.stdout and "'torch'" not in result.stdout and "'rclpy'" not in result.stdout


def test_a_wrong_command_names_the_right_ones(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["dmeo"])
    assert end.value.code == 2
    assert "dmeo" in (message := capsys.readouterr().err) and "demo" in message


def test_who_reads_no_further_ends_a_command_without_a_traceback():
    for arguments, status in ((["--help"], {0, cli.NOBODY_READS}), (["parameters"], {cli.NOBODY_READS})):
        code = f"import sys; from vlm_perception.tools.cli import main; sys.exit(main({arguments}))"
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        process.stdout.close()  # as `| head -0` does
        errors = process.stderr.read().decode()
        assert process.wait() in status and errors == ""
        process.stderr.close()


def test_an_executable_called_as_a_command_is_that_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["/lib/vlm_perception/doctor", "--seconds", "0"])
    assert cli.main() == 2
    assert "vlm_perception doctor: --seconds is 0" in capsys.readouterr().err


def write_stub(folder, **values):
    """Write the executable `stub` into `folder`, with its blanks filled in."""
    stub = (ROOT / "resource" / "executable.in").read_text()
    for name, value in {"Python3_EXECUTABLE": "python", "INTERRUPTED": "0", **values}.items():
        stub = stub.replace(f"@{name}@", value)
    (folder / "stub").write_text(stub)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("status", [0, 130])
def test_a_signal_during_the_imports_ends_an_executable_without_a_traceback(tmp_path, number, status):
    write_stub(tmp_path, MODULE="slow_import", INTERRUPTED=str(status))
    (tmp_path / "slow_import.py").write_text(f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(60)\n")
    result = subprocess.run([sys.executable, "stub"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stdout, result.stderr) == (status, "", "")


def test_an_executable_can_start_processes_of_multiprocessing(tmp_path):
    write_stub(tmp_path, MODULE="parallel")
    (tmp_path / "parallel.py").write_text(
        "from concurrent.futures import ProcessPoolExecutor\nfrom multiprocessing import get_context\n\n\n"
        "def main():\n    with ProcessPoolExecutor(1, get_context('spawn')) as pool:\n"
        "        return sum(pool.map(abs, [-3, 4]))\n"
    )
    result = subprocess.run([sys.executable, "stub"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stderr) == (7, "")


@pytest.mark.ros
@pytest.mark.skipif(importlib.util.find_spec("rclpy") is None, reason="needs ROS: there is no rclpy here")
def test_the_profile_gives_every_process_64_mib_of_shared_memory():
    """A participant maps its own segment; Fast DDS prints errors about a profile and goes on without."""
    code = (
        "import rclpy\nrclpy.init()\nnode = rclpy.create_node('profile_test')\n"
        "print(open('/proc/self/maps').read())\nnode.destroy_node()\nrclpy.shutdown()"
    )
    environment = {**os.environ, "FASTRTPS_DEFAULT_PROFILES_FILE": str(PROFILE), "RMW_IMPLEMENTATION": ""}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "XMLPARSER" not in result.stdout + result.stderr
    segments = re.findall(r"^(\w+)-(\w+) .*/dev/shm/fastrtps_[0-9a-f]+$", result.stdout, re.MULTILINE)
    assert max(int(end, 16) - int(start, 16) for start, end in segments) >= 64 * 2**20


@pytest.mark.ros
@pytest.mark.skipif(importlib.util.find_spec("ament_index_python") is None, reason="needs ROS: there is no ament index")
def test_ros_finds_the_executables_and_the_files():
    from ament_index_python.packages import get_package_prefix, get_package_share_directory

    executables = Path(get_package_prefix("vlm_perception"), "lib", "vlm_perception")
    nodes = {file.stem for file in (SOURCES / "nodes").glob("*.py") if "def main(" in file.read_text()} - {"run"}
    assert {file.name for file in executables.iterdir() if os.access(file, os.X_OK)} == nodes | {"doctor"}
    share = Path(get_package_share_directory("vlm_perception"))
    for folder, pattern in (("launch", "*.launch.py"), ("config", "*")):
        assert {file.name for file in (share / folder).glob(pattern)} == {
            file.name for file in (ROOT / folder).glob(pattern)
        }


def public_classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for file in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield file, node


def test_no_two_public_classes_have_the_same_name():
    places: dict[str, list[str]] = {}
    for file, node in public_classes():
        if node.name != "Parameters":  # each node has its own
            places.setdefault(node.name, []).append(str(file.relative_to(SOURCES)))
    assert not {name: files for name, files in places.items() if len(files) > 1}


def test_errors_and_only_errors_end_in_error():
    errors = {
        name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, BaseException)
    }
    classes = [node for _, node in public_classes()]
    bases = {node.name: {ast.unparse(base).split(".")[-1] for base in node.bases} for node in classes}
    while more := {name for name, ofs in bases.items() if ofs & errors} - errors:
        errors |= more
    assert {name for name in bases if name in errors} == {name for name in bases if name.endswith("Error")}

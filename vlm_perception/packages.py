"""Which package a module that is missing comes from, and which extra of this package installs it."""

EXTRAS = {
    "accelerate": "quantization",
    "bitsandbytes": "quantization",
    "google.protobuf": "siglip",
    "matplotlib": "simulation",
    "mujoco": "simulation",
    "num2words": "smolvlm",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "sentencepiece": "siglip",
}
"""By module, which of this package's extras installs it."""
PACKAGES = {"PIL": "pillow", "cv2": "opencv-python-headless", "google.protobuf": "protobuf"}
"""Modules whose package has another name."""
ROS = "ROS 2: source its setup.bash, or run `make setup`"


def needs(module: str) -> str:
    """Return in words what has to be installed where `module` is missing."""
    module = "google.protobuf" if module.startswith(("google", "protobuf")) else module.partition(".")[0]
    if module == "rclpy" or module.endswith(("_msgs", "_interfaces")):
        return f"needs {ROS}"
    package = PACKAGES.get(module, module)
    extra = f", or this package with its extra [{EXTRAS[module]}]" if module in EXTRAS else ""
    return f"needs {package}: pip install {package}{extra}"

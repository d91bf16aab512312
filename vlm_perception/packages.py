"""The package that contains a missing module, and the extra of this package that installs it."""

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
"""Extra of this package that installs a module, by module."""
PACKAGES = {"PIL": "pillow", "cv2": "opencv-python-headless", "google.protobuf": "protobuf"}
"""Package of a module with another name, by module."""
ROS = "ROS 2: source its setup.bash, or run `make setup`"


def needs(module: str) -> str:
    """Return in words what to install for the missing `module`."""
    module = "google.protobuf" if module.startswith(("google", "protobuf")) else module.partition(".")[0]
    if module == "rclpy" or module.endswith(("_msgs", "_interfaces")):
        return f"needs {ROS}"
    package = PACKAGES.get(module, module)
    extra = f", or this package with its extra [{EXTRAS[module]}]" if module in EXTRAS else ""
    return f"needs {package}: pip install {package}{extra}"

"""Load a model's stock processor, which turns images and chats into the model's inputs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vlm_perception.models.base import ModelError

MAX_EDGE = 8192
"""Largest edge [px] of an image in a model's processor."""
_IMAGES_AS_WORDS = """{%%- set all = namespace(messages=[]) -%%}
{%%- for message in messages -%%}
{%%- set content -%%}
{%%- if message['content'] is string -%%}{{ message['content'] }}{%%- else -%%}
{%%- for part in message['content'] -%%}{{ %s + '\\n' if part['type'] == 'image' else part['text'] }}{%%- endfor -%%}
{%%- endif -%%}
{%%- endset -%%}
{%%- set all.messages = all.messages + [{'role': message['role'], 'content': content}] -%%}
{%%- endfor -%%}
{%%- set messages = all.messages -%%}
"""
"""Prefix of a chat template that takes only text: the text then has the image's token."""


_NO_VIDEOS = SimpleNamespace(num_frames=None, fps=None, model_input_names=[])
"""Replacement of a video processor; these attributes are read even without a video."""


def load_processor(folder: Path) -> Any:
    """Load the stock processor of `folder`, without its part for videos.

    Raises ModelError when it needs torchvision, which is missing or does not fit, and what transformers raises for
    broken files (OSError, ValueError, ...).
    """
    try:
        from transformers import AutoConfig, AutoProcessor
    except ImportError as error:
        raise ModelError(
            f"the processors of transformers cannot be imported ({error.__cause__ or error}): the usual reason is a "
            "torchvision that was not made for this torch; install the one that was, or none"
        ) from error

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ImportError, ValueError) as error:
        if "torchvision" not in str(error).lower():
            raise
        processor = _load_without_videos(folder, config)
    _check_size(folder, getattr(processor, "image_processor", None))
    if getattr(processor, "patch_size", 0) is None:
        _complete(processor, config)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None and not processor.chat_template:
        processor.chat_template = tokenizer.chat_template  # older folders keep it there
    if processor.chat_template and getattr(processor, "image_token", None) and not _writes_images(processor):
        processor.chat_template = _IMAGES_AS_WORDS % json.dumps(str(processor.image_token)) + processor.chat_template
    return processor


def _check_size(folder: Path, images: Any) -> None:
    """Raise ModelError when the processor would make images too large for any model and for memory."""
    is_area = hasattr(images, "merge_size")  # as in Qwen and GLM
    for name in ("size", "crop_size"):
        for side, number in dict(getattr(images, name, None) or {}).items():
            if isinstance(number, (int, float)) and number > (MAX_EDGE**2 if is_area else MAX_EDGE):
                raise ModelError(f"{folder}: its preprocessor's {name} has {side} {number}, above {MAX_EDGE} pixels")


def _load_without_videos(folder: Path, config: Any) -> Any:
    """Load the processor without its part for videos, which would need torchvision."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    named = transformers.ProcessorMixin.get_processor_dict(folder, local_files_only=True)[0].get("processor_class")
    stock = getattr(transformers, str(named), None) or PROCESSOR_MAPPING[type(config)]

    class Parts(stock):  # type: ignore[misc, valid-type]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

    class WithoutVideos(stock):  # type: ignore[misc, valid-type]
        video_processor = _NO_VIDEOS

        def __setattr__(self, name: str, value: Any) -> None:
            if value is not _NO_VIDEOS:  # it cannot be saved
                super().__setattr__(name, value)

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            found = Parts._get_arguments_from_pretrained(*args, **kwargs)
            parts = dict(zip(Parts.get_attributes(), found, strict=True))
            return [parts.get(name, _NO_VIDEOS) for name in stock.get_attributes()]

        def check_argument_for_proper_class(self, name: str, argument: Any) -> Any:
            return None if argument is _NO_VIDEOS else super().check_argument_for_proper_class(name, argument)

    try:
        return WithoutVideos.from_pretrained(folder, local_files_only=True)
    except (ImportError, ValueError) as error:
        if "torchvision" not in str(error).lower():
            raise
        raise ModelError(
            f"{folder}: {stock.__name__} needs torchvision: pip install the one made for your torch, see "
            "https://pytorch.org/get-started/locally"
        ) from error


def _writes_images(processor: Any) -> bool:
    """Whether the chat template supports messages of several parts and writes the images' places."""
    words = {"type": "text", "text": "?"}
    prompts = []
    for parts in ([words], [{"type": "image"}, words]):
        try:
            prompts.append(processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False))
        except Exception:  # Jinja may raise anything for a wrong template
            return False
    return prompts[0] != prompts[1]


def _complete(processor: Any, config: Any) -> None:
    """Set the processor's settings that early folders of LLaVA lack, from those of the model."""
    vision = config.vision_config
    processor.patch_size = vision.patch_size
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    processor.num_additional_image_tokens = int(vision.model_type == "clip_vision_model")  # its class token

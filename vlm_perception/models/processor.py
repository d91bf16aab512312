"""From a model folder to the stock processor that turns pictures and chats into the model's inputs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vlm_perception.models.base import ModelError

_PICTURES_AS_WORDS = """{%%- set all = namespace(messages=[]) -%%}
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
"""Put before a chat template for words alone: it is given text in which the picture's token stands."""


def load_processor(folder: Path) -> Any:
    """Load the stock processor of `folder`, as far as pictures and text need it.

    Raises ModelError when it needs torchvision, which is not there or does not fit, and what transformers raises for
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
    if getattr(processor, "patch_size", 0) is None:
        _complete(processor, config)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None and not processor.chat_template:
        processor.chat_template = tokenizer.chat_template  # where folders kept it before processors had one
    if processor.chat_template and getattr(processor, "image_token", None) and not _writes_pictures(processor):
        processor.chat_template = _PICTURES_AS_WORDS % json.dumps(str(processor.image_token)) + processor.chat_template
    return processor


def _load_without_videos(folder: Path, config: Any) -> Any:
    """A family that takes videos too wants torchvision for them; pictures go without."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    stock = PROCESSOR_MAPPING[type(config)]

    class WithoutVideos(stock):  # type: ignore[misc, valid-type]
        video_processor = SimpleNamespace(num_frames=None, fps=None)  # SmolVLM asks for these without a video, too

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            found = super()._get_arguments_from_pretrained(*args, **kwargs)
            parts = dict(zip(cls.get_attributes(), found, strict=True))
            return [parts.get(name) for name in stock.get_attributes()]

    try:
        return WithoutVideos.from_pretrained(folder, local_files_only=True)
    except (ImportError, ValueError) as error:
        if "torchvision" not in str(error).lower():
            raise
        raise ModelError(
            f"{folder}: {stock.__name__} needs torchvision: pip install the one made for your torch, see "
            "https://pytorch.org/get-started/locally"
        ) from error


def _writes_pictures(processor: Any) -> bool:
    """Whether the chat template knows messages of several parts and shows where the pictures among them stand."""
    words = {"type": "text", "text": "?"}
    prompts = []
    for parts in ([words], [{"type": "image"}, words]):
        try:
            prompts.append(processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False))
        except Exception:  # a template's mistakes come as whatever Jinja makes of them
            return False
    return prompts[0] != prompts[1]


def _complete(processor: Any, config: Any) -> None:
    """Folders of LLaVA's first days lack the processor's settings; they follow from the model's."""
    vision = config.vision_config
    processor.patch_size = vision.patch_size
    processor.vision_feature_select_strategy = config.vision_feature_select_strategy
    processor.num_additional_image_tokens = int(vision.model_type == "clip_vision_model")  # its class token

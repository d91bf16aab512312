"""Tiny models whose vision towers take images of any size: Qwen and GLM."""

from __future__ import annotations

from typing import Any

import transformers
from tiny_parts import ANY_SIZE, DEEP_VISION, NORM, TEXT, Tiny, vocabulary
from tiny_tokenizers import QWEN_SYSTEM, byte_tokenizer, chatml, template
from transformers import PreTrainedConfig, PreTrainedTokenizerFast


def _qwen_tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer(
        "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
        "<think>", "</think>", "<|endoftext|>",
    )  # fmt: skip


def _qwen(
    config: type[PreTrainedConfig], text: dict[str, Any], vision: dict[str, Any], processor: str, chat: str
) -> Tiny:
    tokenizer = _qwen_tokenizer()
    ids = tokenizer.convert_tokens_to_ids
    return Tiny(
        config(
            vision_config={**DEEP_VISION, "out_hidden_size": TEXT["hidden_size"], **vision},
            text_config={**TEXT, **text, **vocabulary(tokenizer)},
            image_token_id=ids("<|image_pad|>"),
            video_token_id=ids("<|video_pad|>"),
            vision_start_token_id=ids("<|vision_start|>"),
            vision_end_token_id=ids("<|vision_end|>"),
        ),
        tokenizer,
        chat,
        ["<|im_end|>", "<|endoftext|>"],
        {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": processor, **ANY_SIZE, **NORM},
    )


QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def qwen2_5_vl() -> Tiny:
    text = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}}
    vision = {"window_size": 16, "fullatt_block_indexes": [1]}
    chat = chatml(QWEN_IMAGE, QWEN_SYSTEM)
    return _qwen(transformers.Qwen2_5_VLConfig, text, vision, "Qwen2_5_VLProcessor", chat)


def qwen3_vl() -> Tiny:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    vision = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    text = {"rope_parameters": rope, "head_dim": 16}
    return _qwen(transformers.Qwen3VLConfig, text, vision, "Qwen3VLProcessor", chatml(QWEN_IMAGE))


def qwen3_5() -> Tiny:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    text = {
        "rope_parameters": {**rope, "partial_rotary_factor": 0.5},
        "head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"],
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    none = "<think>\n\n</think>\n\n"
    thought = f"{{{{ '<think>\n' if enable_thinking is not defined or enable_thinking else {none!r} }}}}"
    chat = f"{chatml(QWEN_IMAGE, lead=none)}{{% if add_generation_prompt %}}{thought}{{% endif %}}"
    return _qwen(transformers.Qwen3_5Config, text, {"num_position_embeddings": 16}, "Qwen3VLProcessor", chat)


def glm4v() -> Tiny:
    tokenizer = byte_tokenizer(
        "<|user|>", "<|observation|>", "<|assistant|>", "[gMASK]", "<sop>", "<|begin_of_image|>", "<|image|>",
        "<|end_of_image|>", "<|begin_of_video|>", "<|video|>", "<|end_of_video|>", "<|endoftext|>",
    )  # fmt: skip
    ids = tokenizer.convert_tokens_to_ids
    image = "<|begin_of_image|><|image|><|end_of_image|>"
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
    return Tiny(
        transformers.Glm4vConfig(
            vision_config={**DEEP_VISION, "out_hidden_size": TEXT["hidden_size"], "image_size": 16},
            text_config={**TEXT, **vocabulary(tokenizer), "rope_parameters": rope},
            image_token_id=ids("<|image|>"),
            video_token_id=ids("<|video|>"),
            image_start_token_id=ids("<|begin_of_image|>"),
            image_end_token_id=ids("<|end_of_image|>"),
            video_start_token_id=ids("<|begin_of_video|>"),
            video_end_token_id=ids("<|end_of_video|>"),
        ),
        tokenizer,
        template("<|user|>\n", image, "", "<|assistant|>\n", "[gMASK]<sop>\n"),
        ["<|endoftext|>", "<|user|>", "<|observation|>"],
        {"image_processor_type": "Glm4vImageProcessor", "processor_class": "Glm4vProcessor", **ANY_SIZE, **NORM},
    )

"""Tiny models of LLaVA and LLaVA-NeXT. Sizes are tiny, everything else is as in the published folder."""

from __future__ import annotations

from typing import Any

import transformers
from tiny_parts import TEXT, VISION, Tiny, clip_images, vocabulary
from tiny_tokenizers import MISTRAL, VICUNA, piece_tokenizer, template
from transformers import PreTrainedTokenizerFast


def llava(tokenizer: PreTrainedTokenizerFast, text: dict[str, Any], chat: str | None) -> Tiny:
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={**TEXT, **text, **vocabulary(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )
    settings = {
        "processor_class": "LlavaProcessor",
        "patch_size": 14,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    }
    return Tiny(config, tokenizer, chat, [tokenizer.eos_token], clip_images(), settings)


def llava_vicuna() -> Tiny:
    return llava(piece_tokenizer("</s>", "<image>", "<pad>"), {"model_type": "llama", "num_key_value_heads": 4}, VICUNA)


def llava_phi3() -> Tiny:
    tokenizer = piece_tokenizer("<|end|>", "<|user|>", "<|assistant|>", "<image>", "<|endoftext|>")
    chat = template("<|user|>\n", "<image>\n", "<|end|>\n", "<|assistant|>\n")
    tiny = llava(tokenizer, {"model_type": "phi3"}, chat)
    tiny.ends = ["<|end|>", "<|endoftext|>"]
    return tiny


def llava_phi3_as_published() -> Tiny:
    """As its folder was made in LLaVA's first days: a chat template for words alone, no settings of the processor."""
    tiny = llava_phi3()
    tiny.template = (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '<|user|>\n' + message['content'] + '<|end|>\n<|assistant|>\n' }}"
        "{% else %}{{ message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    )
    tiny.processor = {}
    return tiny


def bakllava(window: int = 4096) -> Tiny:
    tokenizer = piece_tokenizer("</s>", "<image>", "<pad>")
    return llava(tokenizer, {"model_type": "mistral", "sliding_window": window}, VICUNA)


def _llava_next(text: dict[str, Any], chat: str) -> Tiny:
    tiny = llava(piece_tokenizer("</s>", "<image>", "<pad>"), text, chat)
    grids = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
    tiny.config = transformers.LlavaNextConfig(
        vision_config=tiny.config.vision_config,
        text_config=tiny.config.text_config,
        image_token_id=tiny.config.image_token_id,
        image_grid_pinpoints=grids,
        image_seq_length=4,
    )
    tiny.images = clip_images("LlavaNextImageProcessor", image_grid_pinpoints=grids)
    tiny.processor["processor_class"] = "LlavaNextProcessor"
    return tiny


def llava_next_mistral() -> Tiny:
    return _llava_next({"model_type": "mistral", "sliding_window": None}, MISTRAL)


def llava_next_vicuna() -> Tiny:
    return _llava_next({"model_type": "llama", "num_key_value_heads": 4}, VICUNA)

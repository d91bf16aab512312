"""Tiny models of Idefics and SmolVLM, which cut images into tiles."""

from __future__ import annotations

import transformers
from tiny_parts import NORM, TEXT, VISION, Tiny, vocabulary
from tiny_tokenizers import byte_tokenizer, template
from transformers import PreTrainedConfig

IDEFICS_TOKENS = ("<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>",
                  *(f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)))  # fmt: skip


def _idefics3(config: type[PreTrainedConfig], images: str, processor: str, start: str) -> Tiny:
    tokenizer = byte_tokenizer(*IDEFICS_TOKENS, "<pad>", bos=start)
    chat = template("User:", "<image>", "<end_of_utterance>\n", "Assistant:", start, lead=" ")
    return Tiny(
        config(
            vision_config={**VISION, "image_size": 32, "patch_size": 4},
            text_config={"model_type": "llama", **TEXT, **vocabulary(tokenizer)},
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            pad_token_id=tokenizer.pad_token_id,
            scale_factor=4,
        ),
        tokenizer,
        chat,
        ["<end_of_utterance>"],
        {
            "image_processor_type": images,
            "do_image_splitting": True,
            "size": {"longest_edge": 64},
            "max_image_size": {"longest_edge": 32},
            **NORM,
        },
        {"processor_class": processor, "image_seq_len": 4},
    )


def smolvlm() -> Tiny:
    return _idefics3(transformers.SmolVLMConfig, "SmolVLMImageProcessor", "SmolVLMProcessor", "<|im_start|>")


def idefics3() -> Tiny:
    return _idefics3(transformers.Idefics3Config, "Idefics3ImageProcessor", "Idefics3Processor", "<|begin_of_text|>")


def idefics2() -> Tiny:
    tiny = _idefics3(transformers.Idefics3Config, "Idefics2ImageProcessor", "Idefics2Processor", "<s>")
    text = {**tiny.config.text_config.to_dict(), "model_type": "mistral", "sliding_window": None}
    tiny.config = transformers.Idefics2Config(
        vision_config=VISION,
        text_config=text,
        perceiver_config={
            "hidden_size": TEXT["hidden_size"], "resampler_n_latents": 3, "resampler_depth": 1, "resampler_n_heads": 4,
            "resampler_head_dim": 16, "num_key_value_heads": 2,
        },
        image_token_id=tiny.config.image_token_id,
    )  # fmt: skip
    tiny.images |= {"do_image_splitting": False, "size": {"shortest_edge": 14, "longest_edge": 28}}
    del tiny.images["max_image_size"]
    tiny.processor = {"processor_class": "Idefics2Processor", "image_seq_len": 3}
    return tiny

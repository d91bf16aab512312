"""Tiny models of every family with random weights: the true classes, chat template and files in miniature.

`save(family, folder)` leaves what a download leaves: weights, tokenizer, chat template and the processor's settings.
Weights are drawn so widely that attention is sharp and every token of the prompt matters to the answer; with the
library's own initialisation a wrong mask or position would hardly show.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_idefics import idefics2, idefics3, smolvlm
from tiny_llava import (
    bakllava,
    llava_next_mistral,
    llava_next_vicuna,
    llava_phi3,
    llava_phi3_as_published,
    llava_vicuna,
)
from tiny_parts import NORM, TEXT, VISION, Tiny, draw, vocabulary
from tiny_qwen import glm4v, qwen2_5_vl, qwen3_5, qwen3_vl
from tiny_tokenizers import byte_tokenizer, chatml, piece_tokenizer, template


def save(family: str, folder: Path, seed: int = 0) -> Path:
    """Write the family's model folder. Returns `folder`."""
    tiny = FAMILIES[family]()
    torch.manual_seed(seed)
    model = transformers.AutoModelForMultimodalLM.from_config(tiny.config)
    draw(model)
    ends = tiny.tokenizer.convert_tokens_to_ids(tiny.ends)
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=ends if len(ends) > 1 else ends[0], pad_token_id=tiny.tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tiny.tokenizer.chat_template = tiny.template
    tiny.tokenizer.save_pretrained(folder)
    files = {"preprocessor_config.json": tiny.images, "processor_config.json": tiny.processor, **tiny.more}
    for name, settings in files.items():
        if settings:
            (folder / name).write_text(json.dumps(settings))
    return folder


def gemma3(window: int = 1024) -> Tiny:
    tokenizer = piece_tokenizer(
        "<eos>", "<end_of_turn>", "<start_of_turn>", "<pad>", bos="<bos>", prefix=False,
        boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>",
    )  # fmt: skip
    chat = template(
        "<start_of_turn>user\n", "<start_of_image>", "<end_of_turn>\n", "<start_of_turn>model\n", start="<bos>"
    )
    return Tiny(
        transformers.Gemma3Config(
            vision_config={"model_type": "siglip_vision_model", **VISION, "image_size": 56},
            text_config={
                **TEXT, **vocabulary(tokenizer), "model_type": "gemma3_text", "head_dim": 16,
                "query_pre_attn_scalar": 16, "sliding_window": window,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            mm_tokens_per_image=4,
            image_token_id=tokenizer.image_token_id,
            boi_token_id=tokenizer.boi_token_id,
            eoi_token_id=tokenizer.eoi_token_id,
        ),
        tokenizer,
        chat,
        ["<eos>", "<end_of_turn>"],
        {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 56, "width": 56}, **NORM},
        {"processor_class": "Gemma3Processor", "image_seq_length": 4},
    )  # fmt: skip


def internvl() -> Tiny:
    tokenizer = byte_tokenizer(
        "<|im_end|>", "<|im_start|>", "<|endoftext|>",
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>",
    )  # fmt: skip
    return Tiny(
        transformers.InternVLConfig(
            vision_config={**VISION, "image_size": [28, 28], "patch_size": [14, 14]},
            text_config={"model_type": "qwen2", **TEXT, **vocabulary(tokenizer)},
            image_token_id=tokenizer.context_image_token_id,
            image_seq_length=1,
        ),
        tokenizer,
        chatml("<IMG_CONTEXT>\n"),
        ["<|im_end|>"],
        {
            "image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": True, "max_patches": 4,
            "size": {"height": 28, "width": 28}, **NORM,
        },
        {"processor_class": "InternVLProcessor", "image_seq_length": 1},
    )  # fmt: skip


def phi4_multimodal() -> Tiny:
    tokenizer = byte_tokenizer(
        "<|end|>", "<|user|>", "<|assistant|>", "<|endoftext|>",
        image_token="<|endoftext10|>", audio_token="<|endoftext11|>",
    )  # fmt: skip
    return Tiny(
        transformers.Phi4MultimodalConfig(
            **TEXT,
            **vocabulary(tokenizer),
            # Its image processor counts on 256 tokens for each tile of 448 pixels.
            vision_config={**VISION, "image_size": 448, "crop_size": 448, "image_token_id": tokenizer.image_token_id},
            audio_config={
                "hidden_size": 16, "intermediate_size": 16, "num_blocks": 2, "num_attention_heads": 2, "input_size": 16,
                "ext_pw_out_channel": 16, "depthwise_separable_out_channel": 16, "nemo_conv_channels": 16,
                "audio_token_id": tokenizer.audio_token_id, "left_chunk": 2, "bias_max_distance": 10,
            },
        ),
        tokenizer,
        template("<|user|>", "<|endoftext10|>", "<|end|>", "<|assistant|>"),
        ["<|end|>", "<|endoftext|>"],
        {
            "image_processor_type": "Phi4MultimodalImageProcessor", "dynamic_hd": 2,
            "feature_extractor_type": "Phi4MultimodalFeatureExtractor", "feature_size": 16, **NORM,
        },
        {"processor_class": "Phi4MultimodalProcessor"},
    )  # fmt: skip


def aya_vision() -> Tiny:
    tokenizer = byte_tokenizer(
        "<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
        "<image>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE",
        "TILE_GLOBAL", "<PAD>", bos="<BOS_TOKEN>", add_bos=True,
    )  # fmt: skip
    turn, end = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
    chat = template(turn + "<|USER_TOKEN|>", "<image>", end, turn + "<|CHATBOT_TOKEN|>", "<BOS_TOKEN>")
    return Tiny(
        transformers.AyaVisionConfig(
            vision_config={"model_type": "siglip_vision_model", **VISION},
            text_config={
                "model_type": "cohere2", **TEXT, "logit_scale": 1.0, **vocabulary(tokenizer), "sliding_window": 4096,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            image_token_id=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        ),
        tokenizer,
        chat,
        [end],
        {
            "image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": True, "max_patches": 4,
            "size": {"height": 28, "width": 28}, **NORM,
        },
        {"processor_class": "AyaVisionProcessor", "img_size": 28, "patch_size": 28},
    )  # fmt: skip


def mistral3() -> Tiny:
    tokenizer = byte_tokenizer("</s>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<pad>", bos="<s>",
                               add_bos=True)  # fmt: skip
    return Tiny(
        transformers.Mistral3Config(
            vision_config={"model_type": "pixtral", **VISION, "image_size": 56},
            text_config={
                "model_type": "mistral", **TEXT, **vocabulary(tokenizer), "head_dim": 16, "sliding_window": None
            },
            image_token_id=tokenizer.convert_tokens_to_ids("[IMG]"),
        ),
        tokenizer,
        template("[INST]", "[IMG]", "[/INST]", "", "<s>", close="</s>"),
        ["</s>"],
        {
            "image_processor_type": "PixtralImageProcessor", "patch_size": 14, "size": {"longest_edge": 56}, **NORM,
        },
        {"processor_class": "PixtralProcessor", "patch_size": 14, "spatial_merge_size": 2},
    )  # fmt: skip


def ovis2() -> Tiny:
    indicators = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tokenizer = byte_tokenizer("<|im_end|>", "<|im_start|>", "<image>", "<IMG_ATOM>", *indicators, "<|endoftext|>")
    return Tiny(
        transformers.Ovis2Config(
            vision_config={**VISION, "vocab_size": 40, "hidden_stride": 2},
            text_config={"model_type": "qwen2", **TEXT, **vocabulary(tokenizer)},
            hidden_size=TEXT["hidden_size"],
            vocab_size=len(tokenizer),
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
            visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(list(indicators)),
        ),
        tokenizer,
        chatml("<image>\n"),
        ["<|im_end|>"],
        {
            "image_processor_type": "Ovis2ImageProcessor", "crop_to_patches": True, "max_patches": 4,
            "size": {"height": 28, "width": 28}, **NORM,
        },
        {"processor_class": "Ovis2Processor", "image_seq_length": 1},
    )  # fmt: skip


def lfm2_vl() -> Tiny:
    tokenizer = byte_tokenizer(
        "<|im_end|>", "<|im_start|>", "<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", "<|pad|>",
        bos="<|startoftext|>", add_bos=True,
    )  # fmt: skip
    return Tiny(
        transformers.Lfm2VlConfig(
            vision_config={"model_type": "siglip2_vision_model", **VISION, "num_patches": 16},
            text_config={
                "model_type": "lfm2", **TEXT, **vocabulary(tokenizer), "layer_types": ["conv", "full_attention"],
                "block_auto_adjust_ff_dim": False,
            },
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            projector_hidden_size=32,
        ),
        tokenizer,
        chatml("<image>", start="<|startoftext|>"),
        ["<|im_end|>"],
        {
            "image_processor_type": "Lfm2VlImageProcessor", "encoder_patch_size": 14, "tile_size": 56,
            "min_image_tokens": 1, "max_image_tokens": 4, "do_image_splitting": False, "max_num_patches": 16, **NORM,
        },
        {"processor_class": "Lfm2VlProcessor"},
    )  # fmt: skip


def deepseek_vl() -> Tiny:
    tokenizer = byte_tokenizer(
        "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", bos="<｜begin▁of▁sentence｜>", add_bos=True,
        image_token="<image_placeholder>",
    )  # fmt: skip
    start = "You are a helpful language and vision assistant.\n\n"
    chat = template(
        "User: ", "<image_placeholder>", "\n\n", "Assistant:", start, lead=" ", close="<｜end▁of▁sentence｜>"
    )
    return Tiny(
        transformers.DeepseekVLConfig(
            vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
            text_config={"model_type": "llama", **TEXT, **vocabulary(tokenizer)},
            image_token_id=tokenizer.image_token_id,
        ),
        tokenizer,
        chat,
        ["<｜end▁of▁sentence｜>"],
        {
            "image_processor_type": "DeepseekVLImageProcessor", "size": {"height": 28, "width": 28}, "min_size": 14,
            **NORM,
        },
        {"processor_class": "DeepseekVLProcessor", "num_image_tokens": 4},
    )  # fmt: skip


def mllama() -> Tiny:
    tokenizer = byte_tokenizer(
        "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|image|>", "<|pad|>", bos="<|begin_of_text|>"
    )
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    rope = {"rope_type": "default", "rope_theta": 1e4}
    return Tiny(
        transformers.MllamaConfig(
            vision_config={
                "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_global_layers": 1,
                "attention_heads": 2, "vision_output_dim": 64, "image_size": 28, "intermediate_layers_indices": [0],
            },
            text_config={**TEXT, **vocabulary(tokenizer), "cross_attention_layers": [1], "rope_parameters": rope},
            image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        ),
        tokenizer,
        template(header.format("user"), "<|image|>", "<|eot_id|>", header.format("assistant"), "<|begin_of_text|>"),
        ["<|eot_id|>"],
        {
            "image_processor_type": "MllamaImageProcessor", "size": {"height": 28, "width": 28}, "max_image_tiles": 4,
            **NORM,
        },
        {"processor_class": "MllamaProcessor"},
    )  # fmt: skip


def _paligemma(text: dict[str, Any]) -> Tiny:
    tokenizer = piece_tokenizer("<eos>", "<pad>", bos="<bos>", prefix=False, add_bos=False, image_token="<image>")
    sizes = {**TEXT, "head_dim": 16, **vocabulary(tokenizer), "vocab_size": len(tokenizer) + 1152}  # its processor's
    return Tiny(
        transformers.PaliGemmaConfig(
            vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
            text_config={**sizes, **text},
            projection_dim=TEXT["hidden_size"],
            image_token_id=tokenizer.image_token_id,
        ),
        tokenizer,
        None,
        ["<eos>"],
        {
            "image_processor_type": "SiglipImageProcessor", "processor_class": "PaliGemmaProcessor",
            "size": {"height": 28, "width": 28}, "image_seq_length": 4, **NORM,
        },
    )  # fmt: skip


def paligemma() -> Tiny:
    return _paligemma({"model_type": "gemma"})


def paligemma2() -> Tiny:
    caps = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 16}
    layers = {"sliding_window": 256, "layer_types": ["sliding_attention", "full_attention"]}
    return _paligemma({"model_type": "gemma2", **caps, **layers})


FAMILIES: dict[str, Callable[[], Tiny]] = {
    "paligemma": paligemma,
    "paligemma-2": paligemma2,
    "llava-1.5": llava_vicuna,
    "llava-phi-3": llava_phi3,
    "llava-phi-3, as published": llava_phi3_as_published,
    "bakllava": bakllava,
    "bakllava, short window": lambda: bakllava(window=32),
    "llava-next-mistral": llava_next_mistral,
    "llava-next-vicuna": llava_next_vicuna,
    "qwen2.5-vl": qwen2_5_vl,
    "qwen3-vl": qwen3_vl,
    "smolvlm": smolvlm,
    "idefics3": idefics3,
    "glm-4v": glm4v,
    "gemma-3": gemma3,
    "gemma-3, short window": lambda: gemma3(window=32),
    "internvl": internvl,
    "phi-4-multimodal": phi4_multimodal,
    "aya-vision": aya_vision,
    "mistral-3": mistral3,
    "idefics2": idefics2,
    "ovis2": ovis2,
    "qwen3.5": qwen3_5,
    "lfm2-vl": lfm2_vl,
    "mllama": mllama,
    "deepseek-vl": deepseek_vl,
}

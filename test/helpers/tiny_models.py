"""Tiny models of every family with random weights: the true classes, chat template and files in miniature.

`save(family, folder)` leaves what a download leaves: weights, tokenizer, chat template and the processor's settings.
Weights are drawn so widely that attention is sharp and every token of the prompt matters to the answer; with the
library's own initialisation a wrong mask or position would hardly show.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

CORPUS = """left right center near far left near far right no yes none clear obstacle wall corridor people door
where is the red ball? answer with one word. describe the scene in one sentence. is it there? how near? what is this?
which of these is it? a red ball and a blue box are near the wall on the left. nothing is there.
image image shows question answers options choose one 左边 右边 中间 门口 有 没有
红球在哪里？ à gauche à droite où est la balle?"""

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
DEEP_VISION = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4}
"""A tower that takes images of any size, as Qwen and GLM name its parts."""
ANY_SIZE = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 64, "longest_edge": 1024},
}
"""Its image processor: 64 to 1024 pixels, so 4 to 16 x 4 patches."""
NORM = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.3, 0.25]}


@dataclass
class Tiny:
    """What makes a model folder. `processor` and `images` are the settings as processor_config.json and
    preprocessor_config.json hold them; `ends` the tokens that end an answer."""

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerFast
    template: str | None
    ends: list[str]
    images: dict[str, Any]
    processor: dict[str, Any] = field(default_factory=dict)
    more: dict[str, dict[str, Any]] = field(default_factory=dict)


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


@torch.no_grad()
def draw(model: nn.Module, gain: float = 1.7) -> None:
    """Draw the weights anew, wide enough that what a layer gives depends on all that it gets."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            module.weight.normal_(0.0, gain * module.weight[0].numel() ** -0.5)
    for module in model.modules():  # after the layers: some share their weights with the last one
        if isinstance(module, nn.Embedding):
            module.weight.normal_(0.0, module.weight.shape[1] ** -0.5)
    for parameter in model.parameters():
        if not parameter.any():  # biases, and gates that would hide what is behind them
            parameter.normal_(0.0, 0.3)
    model.tie_weights()


# Tokenizers and templates


def byte_tokenizer(
    *special: str, bos: str | None = None, add_bos: bool = False, **named: str
) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2, Qwen, Phi and Llama 3 have it: any text is known. The last `special` token pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS.splitlines(), trainer)
    return _wrapped(tokenizer, special, bos, add_bos, named)


def piece_tokenizer(
    *special: str, bos: str = "<s>", prefix: bool = True, add_bos: bool = True, **named: str
) -> PreTrainedTokenizerFast:
    """BPE on pieces with bytes for unknown letters, as Llama 2, Mistral, Phi-3 and Gemma have it."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS.splitlines(), trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"], *letters]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    space = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if prefix else space
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return _wrapped(tokenizer, special, bos, add_bos, named, unk_token="<unk>")


def _wrapped(
    tokenizer: Tokenizer, special: tuple[str, ...], bos: str | None, add_bos: bool, named: dict[str, str], **kwargs: Any
) -> PreTrainedTokenizerFast:
    everything = [*([bos] if bos else []), *special, *named.values()]
    tokenizer.add_special_tokens(list(dict.fromkeys(everything)))
    if bos and add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=special[0],
        pad_token=special[-1],
        extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
        **kwargs,
    )


def template(
    user: str, image: str, end: str, assistant: str, start: str = "", lead: str = "", close: str | None = None
) -> str:
    """A chat template of turns: text and images in the order given, then the assistant's beginning.

    In a turn of the assistant, `lead` stands between that beginning and the words, `close` behind them.
    """
    say = lambda words: "{{ " + json.dumps(words) + " }}"  # noqa: E731
    by_role = lambda user, assistant: (  # noqa: E731
        f"{{% if message['role'] == 'user' %}}{say(user)}{{% else %}}{say(assistant)}{{% endif %}}"
    )
    return (
        f"{say(start)}{{% for message in messages %}}{by_role(user, assistant + lead)}"
        f"{{% for part in message['content'] %}}"
        f"{{% if part['type'] == 'image' %}}{say(image)}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}"
        f"{by_role(end, end if close is None else close)}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{say(assistant)}{{% endif %}}"
    )


def chatml(image: str, start: str = "", lead: str = "") -> str:
    return template("<|im_start|>user\n", image, "<|im_end|>\n", "<|im_start|>assistant\n", start, lead)


VICUNA = template("USER: ", "<image>\n", " ", "ASSISTANT:", lead=" ")
MISTRAL = template("[INST] ", "<image>\n", " [/INST]", "", lead=" ", close="</s>")
QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


# Families. Sizes are tiny, everything else is as in the published folder.


def clip_images(kind: str = "CLIPImageProcessor", **settings: Any) -> dict[str, Any]:
    square = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}, "resample": 3}
    return {"image_processor_type": kind, **square, **NORM, **settings}


def _llava(tokenizer: PreTrainedTokenizerFast, text: dict[str, Any], chat: str | None) -> Tiny:
    config = transformers.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={**TEXT, **text, **_vocabulary(tokenizer)},
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


def _vocabulary(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }


def llava_vicuna() -> Tiny:
    return _llava(
        piece_tokenizer("</s>", "<image>", "<pad>"), {"model_type": "llama", "num_key_value_heads": 4}, VICUNA
    )


def llava_phi3() -> Tiny:
    tokenizer = piece_tokenizer("<|end|>", "<|user|>", "<|assistant|>", "<image>", "<|endoftext|>")
    chat = template("<|user|>\n", "<image>\n", "<|end|>\n", "<|assistant|>\n")
    tiny = _llava(tokenizer, {"model_type": "phi3"}, chat)
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
    return _llava(tokenizer, {"model_type": "mistral", "sliding_window": window}, VICUNA)


def _llava_next(text: dict[str, Any], chat: str) -> Tiny:
    tiny = _llava(piece_tokenizer("</s>", "<image>", "<pad>"), text, chat)
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
            text_config={**TEXT, **text, **_vocabulary(tokenizer)},
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


IDEFICS_TOKENS = ("<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>",
                  *(f"<row_{row}_col_{column}>" for row in (1, 2, 3) for column in (1, 2, 3)))  # fmt: skip


def _idefics3(config: type[PreTrainedConfig], images: str, processor: str, start: str) -> Tiny:
    tokenizer = byte_tokenizer(*IDEFICS_TOKENS, "<pad>", bos=start)
    chat = template("User:", "<image>", "<end_of_utterance>\n", "Assistant:", start, lead=" ")
    return Tiny(
        config(
            vision_config={**VISION, "image_size": 32, "patch_size": 4},
            text_config={"model_type": "llama", **TEXT, **_vocabulary(tokenizer)},
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
            text_config={**TEXT, **_vocabulary(tokenizer), "rope_parameters": rope},
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
                **TEXT, **_vocabulary(tokenizer), "model_type": "gemma3_text", "head_dim": 16,
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
            text_config={"model_type": "qwen2", **TEXT, **_vocabulary(tokenizer)},
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
            **_vocabulary(tokenizer),
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
                "model_type": "cohere2", **TEXT, "logit_scale": 1.0, **_vocabulary(tokenizer), "sliding_window": 4096,
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
                "model_type": "mistral", **TEXT, **_vocabulary(tokenizer), "head_dim": 16, "sliding_window": None
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
            text_config={"model_type": "qwen2", **TEXT, **_vocabulary(tokenizer)},
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
                "model_type": "lfm2", **TEXT, **_vocabulary(tokenizer), "layer_types": ["conv", "full_attention"],
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
            text_config={"model_type": "llama", **TEXT, **_vocabulary(tokenizer)},
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
            text_config={**TEXT, **_vocabulary(tokenizer), "cross_attention_layers": [1], "rope_parameters": rope},
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
    sizes = {**TEXT, "head_dim": 16, **_vocabulary(tokenizer), "vocab_size": len(tokenizer) + 1152}  # its processor's
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

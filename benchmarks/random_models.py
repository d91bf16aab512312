"""Models of real sizes with random weights, which cost the same time as trained ones."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GemmaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)
from unseen_rooms import moment

from vlm_perception.models.paligemma import PaliGemma

VOCABULARY = 32_768
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
TEXT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": VOCABULARY}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ 'USER: ' if message['role'] == 'user' else ' ASSISTANT:' }}"
    "{% for part in message['content'] %}{{ '<image>\n' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
README = Path(__file__).parents[1] / "README.md"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the README and the questions, so that a word is one or two tokens, as in real ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    questions = moment("red ball")
    words = [word for q in questions for text in (q.prompt, *q.options) for word in (text, *text.split())] * 20
    trainer = trainers.BpeTrainer(
        vocab_size=8000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([README.read_text(encoding="utf-8"), *words, *["Yes", "No"] * 20], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        additional_special_tokens=["<image>"],
        padding_side="left",
    )


def build_images(size: int, tokens: int) -> SiglipImageProcessorPil:
    """Build an image processor for `size` x `size` pixels, which a vision tower makes `tokens` tokens of."""
    edge = {"height": size, "width": size}
    images = SiglipImageProcessorPil(size=edge, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    images.image_seq_length = tokens
    return images


def _special(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}


def save_paligemma(folder: Path, width: int = 768) -> Path:
    """Save a PaliGemma with 12 layers of `width` in each tower; return its `folder`."""
    processor = PaliGemmaProcessor(image_processor=build_images(224, 14**2), tokenizer=build_tokenizer())
    special = _special(processor.tokenizer)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": width // 64}
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model", **VISION, **sizes, "image_size": 224, "patch_size": 16,
            "projection_dim": width, "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma", **TEXT, **sizes, "num_key_value_heads": width // 64, "head_dim": 64, **special,
        },
        projection_dim=width,
        image_token_id=processor.tokenizer.convert_tokens_to_ids("<image>"),
        **special,
    )  # fmt: skip
    torch.manual_seed(0)
    PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_chat(folder: Path) -> Path:
    """Save a LLaVA of about the same size, which reads the labels A, B, C and Yes, No; return its `folder`."""
    tokenizer = build_tokenizer()
    config = LlavaConfig(
        vision_config={
            "model_type": "siglip_vision_model", **VISION, "image_size": 224, "patch_size": 16,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "llama", **TEXT, "intermediate_size": 2048, "num_key_value_heads": 12, **_special(tokenizer)
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=14**2,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )  # fmt: skip
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    LlavaProcessor(
        image_processor=build_images(224, 14**2),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    """Save a SigLIP whose vision tower has the base size and whose text tower is tiny; return its `folder`."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    tokenizer = GemmaTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[])
    text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = SiglipConfig(
        text_config={**text, "vocab_size": len(tokenizer), "projection_size": 768},
        vision_config={
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "image_size": 224, "patch_size": 16,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    SiglipModel(config).save_pretrained(folder)
    square = {"height": 224, "width": 224}
    images = SiglipImageProcessorPil(size=square, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    SiglipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def paligemma_3b(size: int, device: str = "cuda") -> PaliGemma:
    """Build a PaliGemma of the sizes of the published 3 B model in bfloat16; `size` is 224 or 448 pixels."""
    tokens = (size // 14) ** 2
    processor = PaliGemmaProcessor(image_processor=build_images(size, tokens), tokenizer=build_tokenizer())
    special = _special(processor.tokenizer)
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "image_size": size,
            "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14, "projection_dim": 2048,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18,
            "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 257216, **special,
        },
        projection_dim=2048,
        image_token_id=processor.tokenizer.convert_tokens_to_ids("<image>"),
        **special,
    )  # fmt: skip
    with torch.device(device):
        model = PaliGemmaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    return PaliGemma(f"PaliGemma 3B at {size}", Path("."), model, processor)

"""The nano model: PaliGemma's architecture, tiny, with random weights.

So small a model learns to use the image only if its weights start with a standard deviation of `fan_in ** -0.5`. The
library's 0.02 is for wide models.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from torch import nn
from transformers import (
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

from vlm_perception.models.scope import Scope
from vlm_perception.simulation import truth
from vlm_perception.simulation.room import COLOURS, NAMES, SHAPES
from vlm_perception.training.dataset import IMAGE_SIZE, PATCHES
from vlm_perception.training.prompts import DESCRIPTION_PROMPT, LABEL_PROMPT, THERE_PROMPT, WAY_PROMPT, WHERE_PROMPT

SCOPE = Scope(
    about="nano knows this package's simulator only",
    questions={
        LABEL_PROMPT: truth.LABELS,
        WAY_PROMPT: truth.WAYS,
        WHERE_PROMPT: truth.WHERE,
        THERE_PROMPT: ("yes", "no"),
        DESCRIPTION_PROMPT: (),
    },
    targets=NAMES,
    simulator_only=True,
    clear_distance=truth.CLEAR_DISTANCE,
)
"""What the model is taught."""
MORE_WORDS = ["no", "left", "center", "right", "near", "far", "none", "objects", "yes"]
"""Words of the vocabulary that no prompt has."""


def build_processor() -> PaliGemmaProcessor:
    """Build a word-level WordPiece tokenizer, with letters for unknown words, and SigLIP's image processor."""
    words = [*truth.LABELS, *COLOURS, *SHAPES, *MORE_WORDS]
    for prompt in (LABEL_PROMPT, WAY_PROMPT, WHERE_PROMPT, THERE_PROMPT, DESCRIPTION_PROMPT):
        words += prompt.format(target="").replace("?", " ?").split()
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "\n", *words, *letters, *(f"##{c}" for c in letters), *"?,.!-'"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="<unk>", max_input_chars_per_word=40))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[ \t]+"), "removed"), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    tokenizer.add_tokens([AddedToken("\n", normalized=False)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
        model_max_length=512,
        padding_side="left",
    )
    images = SiglipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    images.image_seq_length = PATCHES**2
    return PaliGemmaProcessor(image_processor=images, tokenizer=fast)


def build_model(processor: PaliGemmaProcessor, seed: int) -> PaliGemmaForConditionalGeneration:
    """Build the tiny model with random weights drawn from `seed`."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    config = PaliGemmaConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "image_size": IMAGE_SIZE,
            "patch_size": IMAGE_SIZE // PATCHES,
            "projection_dim": 128,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "gemma",
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 512,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
        },
        projection_dim=128,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    model = PaliGemmaForConditionalGeneration._from_config(config, attn_implementation="eager")
    outputs = ("out_proj", "fc2", "o_proj", "down_proj")
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                fan_in = module.weight[0].numel()
                scale = 0.5 if name.endswith(outputs) else 1.0
                module.weight.normal_(0.0, scale * fan_in**-0.5)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0.0, module.weight.shape[1] ** -0.5)
    model.tie_weights()
    model.generation_config.max_new_tokens = 64
    return model


def save(model: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, output: Path) -> None:
    """Write the folder that the stock Auto classes load, in float32."""
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    SCOPE.save(output)

"""Tiny dual encoders of every family: the stock classes with random weights."""

from __future__ import annotations

import io
import math

import pytest
import torch
import transformers
from tokenizers import pre_tokenizers
from transformers import AutoModel

CLIP, CHINESE, SIGLIP, SIGLIP2, NAFLEX = "clip", "chinese_clip", "siglip", "siglip2", "naflex"
FAMILIES = (CLIP, CHINESE, SIGLIP, SIGLIP2, NAFLEX)
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"height": 32, "width": 32}
CHARACTERS = "一张的照片走廊门口墙空房间有人没左右，。abcdefghijklmnopqrstuvwxyz"
LABELS = {family: ("wall", "open door", "corridor") for family in FAMILIES} | {CHINESE: ("墙", "门口", "走廊")}


def clip_tokenizer():
    letters = pre_tokenizers.ByteLevel.alphabet()
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[])


def bert_tokenizer():
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *(f"##{c}" for c in CHARACTERS)]
    return transformers.BertTokenizer(vocab={piece: index for index, piece in enumerate(pieces)})


def siglip_tokenizer(folder):
    pytest.importorskip("google.protobuf", reason="the first SigLIP's tokenizer needs it")
    sentencepiece = pytest.importorskip("sentencepiece", reason="the first SigLIP's tokenizer needs it")
    model = io.BytesIO()
    words = iter(["a photo of a wall an open door a corridor", "abcdefghijklmnopqrstuvwxyz"])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=words, model_writer=model, vocab_size=40, hard_vocab_limit=False, minloglevel=2
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    return transformers.SiglipTokenizer(str(folder / "spiece.model"))


def siglip2_tokenizer(kind):
    """The NaFlex folders name a tokenizer that makes letters small, the others Gemma's, which does not."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [c for c in CHARACTERS if c not in pieces]
    return kind(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[])


def build(family, folder):
    """The stock model and processor of the family, with weights so wide that every word and patch matters."""
    text = {**TOWER, "max_position_embeddings": 32}
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    images = {"size": SQUARE, "crop_size": SQUARE, "resample": 3}
    if family == CLIP:
        tokenizer = clip_tokenizer()
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        config = transformers.CLIPConfig(
            text_config={**text, **ids, "vocab_size": len(tokenizer)}, vision_config=vision, projection_dim=24
        )
        processor = transformers.CLIPProcessor(
            transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE), tokenizer
        )
    elif family == CHINESE:
        tokenizer = bert_tokenizer()
        config = transformers.ChineseCLIPConfig(
            text_config={**text, "vocab_size": len(tokenizer)}, vision_config=vision, projection_dim=24
        )
        processor = transformers.ChineseCLIPProcessor(
            transformers.ChineseCLIPImageProcessorPil(**images, do_center_crop=False), tokenizer
        )
    elif family == NAFLEX:
        tokenizer = siglip2_tokenizer(transformers.Siglip2Tokenizer)
        del vision["image_size"]
        config = transformers.Siglip2Config(
            text_config={**text, "vocab_size": len(tokenizer), "projection_size": 32},
            vision_config={**vision, "num_patches": 16},
        )
        processor = transformers.Siglip2Processor(
            transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16), tokenizer
        )
    else:
        gemma = transformers.GemmaTokenizer
        tokenizer = siglip_tokenizer(folder) if family == SIGLIP else siglip2_tokenizer(gemma)
        config = transformers.SiglipConfig(
            text_config={**text, "vocab_size": len(tokenizer), "projection_size": 32}, vision_config=vision
        )
        processor = transformers.SiglipProcessor(transformers.SiglipImageProcessorPil(**images), tokenizer)
    return draw(config, FAMILIES.index(family)), processor


def draw(config, seed):
    torch.manual_seed(seed)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5)
        if hasattr(model, "logit_bias"):
            model.logit_scale.fill_(math.log(8.0))
            model.logit_bias.fill_(-1.5)
    return model


def kin(kind):
    """The stock model and processor, as `build`, of a family that differs from CLIP's in its towers alone."""
    text = {**TOWER, "max_position_embeddings": 32}
    vision = {**TOWER, "image_size": 32, "patch_size": 8}
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    tokenizer = bert_tokenizer() if kind == "align" else clip_tokenizer()
    if kind in ("altclip", "metaclip_2"):
        pieces = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>", "▁", *CHARACTERS, "<mask>")]
        tokenizer = transformers.XLMRobertaTokenizer(vocab=pieces)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text |= {"vocab_size": len(tokenizer)} | {name: value for name, value in ids.items() if value is not None}
    sizes = {"projection_dim": 24}
    if kind == "altclip":
        text |= {"project_dim": 32}
    if kind == "groupvit":
        vision |= {"depths": [1, 1, 1], "num_hidden_layers": 3, "num_group_tokens": [4, 2, 0],
                   "num_output_groups": [4, 2, 0]}  # fmt: skip
        sizes |= {"projection_intermediate_dim": 24}
    if kind == "align":
        sizes = {"projection_dim": 32}  # of the text alone: an image's is what its tower gives
        vision = {
            "image_size": 32, "width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 32, "in_channels": [32],
            "out_channels": [32], "kernel_sizes": [3], "strides": [2], "num_block_repeats": [1], "expand_ratios": [1],
        }  # fmt: skip
    config = transformers.AutoConfig.for_model(kind, text_config=text, vision_config=vision, **sizes)
    name = {"altclip": "AltCLIP", "align": "Align", "clipseg": "CLIPSeg"}.get(kind, "CLIP")
    return draw(config, 7), getattr(transformers, f"{name}Processor")(images, tokenizer)

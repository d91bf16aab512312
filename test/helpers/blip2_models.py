"""Tiny models of BLIP-2's kin, with every kind of language model."""

from __future__ import annotations

import numpy as np
import torch
import transformers
from tiny_parts import TEXT, VISION, draw
from tiny_tokenizers import CORPUS, byte_tokenizer, piece_tokenizer, template
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

QFORMER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
QUERIES = 5
MINIGPT4 = template("###Human: ", "<Img><image></Img> ", " ", "###Assistant: ")


def random_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def bert_tokenizer():
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([CORPUS.lower()], trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def opt():
    """As BLIP-2's OPT: </s> begins a prompt, and a line feed ends an answer."""
    tokenizer = byte_tokenizer("</s>", "<pad>", bos="</s>", add_bos=True)
    end = tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    config = {
        "model_type": "opt", "hidden_size": 64, "ffn_dim": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "max_position_embeddings": 128, "word_embed_proj_dim": 64, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": end, "pad_token_id": tokenizer.pad_token_id, "dropout": 0.0,
    }  # fmt: skip
    return tokenizer, config


def llama():
    tokenizer = piece_tokenizer("</s>", "<pad>")
    return tokenizer, {"model_type": "llama", **TEXT, "eos_token_id": tokenizer.eos_token_id}


def t5():
    """As Flan-T5: </s> ends the question too, and <pad> begins the answer."""
    tokenizer = piece_tokenizer("</s>", "<pad>", add_bos=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    config = {
        "model_type": "t5", "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2,
        "num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, "decoder_start_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    return tokenizer, config


def images():
    settings = {"size": {"height": 28, "width": 28}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.3, 0.25]}
    return transformers.BlipImageProcessor(**settings)


def save(folder, text, instruct=False, chat=None):
    """Write a tiny model folder."""
    tokenizer, text_config = text()
    if instruct:
        reader = bert_tokenizer()
        processor = transformers.InstructBlipProcessor(images(), tokenizer, reader, num_query_tokens=QUERIES)
        config_class, qformer = transformers.InstructBlipConfig, {**QFORMER, "vocab_size": len(reader)}
    else:
        processor = transformers.Blip2Processor(images(), tokenizer, num_query_tokens=QUERIES)
        config_class, qformer = transformers.Blip2Config, QFORMER
    tokenizer.chat_template = chat
    config = config_class(
        vision_config=VISION,
        qformer_config={**qformer, "encoder_hidden_size": VISION["hidden_size"]},
        text_config={**text_config, "vocab_size": len(tokenizer)},
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(1)
    stock = getattr(transformers, config_class.__name__.replace("Config", "ForConditionalGeneration"))
    model = stock(config)
    draw(model)
    model.query_tokens.data.normal_()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


KINDS = {
    "blip2-opt": (opt, False, None),
    "blip2-t5": (t5, False, None),
    "minigpt4": (llama, False, MINIGPT4),
    "instructblip-vicuna": (llama, True, None),
    "instructblip-t5": (t5, True, None),
}

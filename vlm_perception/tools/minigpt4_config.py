"""Configuration, tokenizer, prompt and image processor of MiniGPT-4."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_perception.tools.minigpt4_pieces import Pieces

TOWER_HEAD, QFORMER_HEAD = 88, 64
"""Width of an attention head, which does not follow from the shapes of the tensors."""
IMAGE = "<image>"
END = "###"
"""Text with which MiniGPT-4 ends an answer."""
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '###Human: ' if message['role'] == 'user' else '###Assistant: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{{ '<Img>" + IMAGE + "</Img> ' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}"
    "{{ ' ' if message['role'] == 'user' else '' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '###Assistant: ' }}{% endif %}"
)
"""The prompt that MiniGPT-4 was trained with (`prompt_template` in its eval_configs, prompts/alignment.txt)."""


def stock(auto: Any, folder: Path) -> Any:
    """Return the object that the class `auto` of transformers loads from `folder`. Raises ModelError."""
    from vlm_perception.models.base import ModelError

    try:
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{folder} cannot be read: {str(error).splitlines()[0]:.300}") from error


def stock_config(folder: Path, kind: str) -> Any:
    """Return the configuration in `folder`. Raises ModelError if its model type is not `kind`."""
    from transformers import AutoConfig

    from vlm_perception.models.base import ModelError

    config = stock(AutoConfig, folder)
    if config.model_type != kind:
        raise ModelError(f"{folder} is a {config.model_type!r} model, expected {kind!r}: is it the right piece?")
    return config


def build_config(settings: dict[str, Any], pieces: Pieces, text: Any, tokenizer: Any, rows: int, dtype: str) -> Any:
    """Return the configuration, from the folder of BLIP-2 if there is one, else from the shapes of its tensors."""
    from transformers import Blip2Config

    from vlm_perception.models.base import ModelError

    def shape(name: str) -> tuple[int, ...]:
        if name not in pieces:
            raise ModelError(f"the pieces do not make one model: {name} is missing")
        return pieces[name].shape

    def layers(stem: str) -> int:
        numbers = [int(found[1]) for name in pieces if (found := re.match(rf"{stem}\.(\d+)\.", name))]
        return max(numbers) + 1

    width, patch = shape("vision_model.embeddings.patch_embedding.weight")[::3]
    places = shape("vision_model.embeddings.position_embedding")[1]
    queries, reader = shape("query_tokens")[1:3]
    vision = {
        "hidden_size": width,
        "intermediate_size": shape("vision_model.encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": layers(r"vision_model\.encoder\.layers"),
        "num_attention_heads": width // TOWER_HEAD,
        "patch_size": patch,
        "image_size": math.isqrt(places - 1) * patch,  # one position is that of the class token
    }
    qformer = {
        "hidden_size": reader,
        "intermediate_size": shape("qformer.encoder.layer.0.intermediate_query.dense.weight")[0],
        "num_hidden_layers": layers(r"qformer\.encoder\.layer"),
        "num_attention_heads": reader // QFORMER_HEAD,
        "encoder_hidden_size": width,
    }
    own = text.eos_token_id if isinstance(text.eos_token_id, list) else [text.eos_token_id]
    ends = dict.fromkeys([*own, tokenizer.eos_token_id, *_written_ends(tokenizer)])
    return Blip2Config(
        vision_config=settings.get("vision_config", vision),
        qformer_config=settings.get("qformer_config", qformer),
        text_config={**text.to_dict(), "vocab_size": rows, "eos_token_id": [end for end in ends if end is not None]},
        num_query_tokens=queries,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        architectures=["Blip2ForConditionalGeneration"],
        dtype=dtype,
    )


def _written_ends(tokenizer: Any) -> list[int]:
    """Return the tokens with which `###` begins, alone and directly behind a word."""

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    word, closed = tokens("a"), tokens(f"a{END}")
    found = [tokens(END)[0], *closed[len(word) : len(word) + 1]]
    pieces = tokenizer.convert_ids_to_tokens(found)
    return [token for token, piece in zip(found, pieces, strict=True) if set(piece.lstrip("▁")) == set(END)]


def build_processor(tokenizer: Any, blip2: Sequence[Path], pieces: Pieces) -> Any:
    from transformers import AutoImageProcessor, Blip2Processor, BlipImageProcessorPil

    folder = next((path for path in blip2 if path.is_dir()), None)
    if folder:
        images = stock(AutoImageProcessor, folder)
    else:  # as LAVIS's blip2_image_eval; mean and deviation are the class's own
        patch = pieces["vision_model.embeddings.patch_embedding.weight"].shape[-1]
        edge = math.isqrt(pieces["vision_model.embeddings.position_embedding"].shape[1] - 1) * patch
        images = BlipImageProcessorPil(size={"height": edge, "width": edge})
    tokenizer.chat_template = TEMPLATE
    return Blip2Processor(images, tokenizer, num_query_tokens=pieces["query_tokens"].shape[1])  # adds <image>

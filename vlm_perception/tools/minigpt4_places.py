"""Place of each tensor of the published pieces in `Blip2ForConditionalGeneration`, and a check for missing ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from vlm_perception.tools.minigpt4_pieces import Piece, Pieces

BLOCKS = 39
"""Number of EVA-CLIP's 40 blocks that BLIP-2 uses."""
Rules = tuple[tuple[str, str | None], ...]
"""Patterns of tensor names, with the name in `Blip2ForConditionalGeneration`, or None for tensors that are left out."""
_LAYER = r"Qformer\.bert\.encoder\.layer\."
LAVIS: Rules = (
    (r"visual_encoder\.cls_token", "vision_model.embeddings.class_embedding"),
    (r"visual_encoder\.pos_embed", "vision_model.embeddings.position_embedding"),
    (r"visual_encoder\.patch_embed\.proj\.(\w+)", r"vision_model.embeddings.patch_embedding.\1"),
    (r"visual_encoder\.blocks\.(\d+)\.norm([12]\.\w+)", r"vision_model.encoder.layers.\1.layer_norm\2"),
    (r"visual_encoder\.blocks\.(\d+)\.attn\.proj\.(\w+)", r"vision_model.encoder.layers.\1.self_attn.projection.\2"),
    (r"visual_encoder\.blocks\.(\d+)\.attn\.(qkv\.weight|[qv]_bias)", r"vision_model.encoder.layers.\1.self_attn.\2"),
    (r"visual_encoder\.blocks\.(\d+\.mlp\.fc[12]\.\w+)", r"vision_model.encoder.layers.\1"),
    (r"ln_vision\.(\w+)", r"vision_model.post_layernorm.\1"),
    (r"query_tokens", "query_tokens"),
    (r"Qformer\.bert\.embeddings\.LayerNorm\.(\w+)", r"qformer.layernorm.\1"),
    (_LAYER + r"(\d+\.(?:cross)?attention)\.self\.(.+)", r"qformer.encoder.layer.\1.attention.\2"),
    (_LAYER + r"(\d+\.(?:cross)?attention\.output\..+)", r"qformer.encoder.layer.\1"),
    (_LAYER + r"(\d+\.(?:intermediate|output)_query\..+)", r"qformer.encoder.layer.\1"),
    (r"llama_proj\.(\w+)", r"language_projection.\1"),
    (r"visual_encoder\.(?:norm|fc_norm|head)\..+", None),
    (_LAYER + r"\d+\.(?:intermediate|output)\..+", None),
    (r"Qformer\.(?:cls\..+|bert\.embeddings\.(?:word|position)_.+)", None),
    (r"(?:t5|opt)_(?:proj|model)\..+|(?:vision_proj|text_proj|itm_head)\..+|temp", None),
)
TRANSFORMERS: Rules = (
    (r"((?:vision_model|qformer)\..+|query_tokens)", r"\1"),
    (r"language_(?:model|projection)\..+", None),
)
LLAMA: Rules = (
    (r".+\.rotary_emb\.inv_freq", None),
    (r"((?:model|lm_head)\..+)", r"language_model.\1"),
)


def placed(path: Path, found: Pieces, rules: Rules, say: Callable[[str], None]) -> Pieces:
    """Return the tensors by their name in `Blip2ForConditionalGeneration`. Raises ModelError for one without place."""
    from vlm_perception.models.base import ModelError

    if rules == LAVIS and "cls_token" in found:  # the tower's own file
        found = {f"visual_encoder.{name}": piece for name, piece in found.items()}
    taken: Pieces = {}
    left: list[str] = []
    unexpected = []
    for name, piece in found.items():
        pattern, place = next((rule for rule in rules if re.fullmatch(rule[0], name)), ("", ""))
        if place == "":
            unexpected.append(name)
            continue
        place = place and re.sub(pattern, place, name)
        block = re.match(r"vision_model\.encoder\.layers\.(\d+)\.", place or "")
        if place is None or (block and int(block[1]) >= BLOCKS):
            left.append(name)
        else:
            taken[place] = piece
    if unexpected:
        raise ModelError(f"{path} has {_listed(unexpected)}, for which MiniGPT-4 has no place: is it the right piece?")
    if not taken:
        raise ModelError(f"{path} has {_listed(left)} and nothing that MiniGPT-4 uses: is it the right piece?")
    say(f"{path}: {len(taken)} tensors taken, {len(left)} left out" + (f" ({_kinds(left)})" if left else ""))
    return taken


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    return f"{len(names)} tensors ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _kinds(names: Iterable[str]) -> str:
    return ", ".join(sorted({re.sub(r"\.\d+(?=\.|$)", ".*", ".".join(name.split(".")[:3])) for name in names}))


def note_other_qformer(path: Path, found: Mapping[str, Piece], say: Callable[[str], None]) -> None:
    """Say a note if the tensors beside the Q-Former show that it was trained for another language model."""
    if not any("former" in name for name in found):
        return
    encodes = "t5_proj.weight" in found or any(name.startswith("language_model.encoder.") for name in found)
    beside = found.get("t5_proj.weight") or found.get("language_projection.weight")
    if not (encodes and beside and beside.shape[0] == 4096):
        say(
            f"note: the Q-Former in {path} was not trained for Flan-T5 XXL. MiniGPT-4's projection was trained "
            "with that of blip2-flan-t5-xxl: with any other, the answers mean nothing"
        )


def check_projection(pieces: Pieces, width: int, projection: Path) -> None:
    from vlm_perception.models.base import ModelError

    if "language_projection.weight" not in pieces:
        raise ModelError(f"{projection} has no llama_proj.weight: is it MiniGPT-4's checkpoint?")
    if "query_tokens" not in pieces or "vision_model.embeddings.class_embedding" not in pieces:
        lacking = "Q-Former" if "query_tokens" not in pieces else "vision tower"
        raise ModelError(f"no piece has the {lacking}: give LAVIS's file for it too, or a whole folder of BLIP-2")
    out, into = pieces["language_projection.weight"].shape
    queries, tower = pieces["query_tokens"].shape[-1], pieces["vision_model.embeddings.class_embedding"].shape[-1]
    if into == 4 * tower != queries:
        raise ModelError(
            f"{projection} is of a MiniGPT-4 without Q-Former (that of Llama 2, or MiniGPT-v2): its projection takes "
            f"{into} = 4 x {tower} numbers, expected {queries}. Only those of Vicuna are BLIP-2 models"
        )
    if into != queries or out != width:
        raise ModelError(
            f"{projection} projects {into} numbers to {out}, expected {queries} to {width}, the width of this "
            "language model: a Vicuna of another size?"
        )


def with_whole_bias(pieces: Pieces) -> Pieces:
    """Return `pieces` with whole biases of queries, keys and values. LAVIS has those of queries and values only."""
    import torch

    def whole(q: Piece, v: Piece) -> Any:
        return torch.cat([q.read(), torch.zeros(v.shape, dtype=q.read().dtype), v.read()])

    whole_pieces = dict(pieces)
    for name in [name for name in pieces if name.endswith(".q_bias")]:
        stem = name.removesuffix("q_bias")
        if (v := whole_pieces.pop(f"{stem}v_bias", None)) is not None:
            q = whole_pieces.pop(name)
            whole_pieces[f"{stem}qkv.bias"] = Piece((q.shape[0] + 2 * v.shape[0],), partial(whole, q, v))
    return whole_pieces


def grown(words: Pieces, rows: int, like: int) -> Pieces:
    """Return the language model with `rows` words. New words are as improbable as `like`, the unknown word."""
    import torch

    def more(piece: Piece) -> Any:
        tensor = piece.read()
        return torch.cat([tensor, tensor[like : like + 1].expand(rows - len(tensor), -1)])

    more_words = dict(words)
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        if (piece := words.get(name)) and piece.shape[0] < rows:
            more_words[name] = Piece((rows, *piece.shape[1:]), partial(more, piece))
    return more_words


def check_complete(pieces: Pieces, expected: Mapping[str, tuple[int, ...]]) -> None:
    from vlm_perception.models.base import ModelError

    problems = []
    if missing := expected.keys() - pieces.keys():
        problems.append(f"{_listed(missing)} are missing")
    if unexpected := pieces.keys() - expected.keys():
        problems.append(f"{_listed(unexpected)} have no place")
    wrong = [
        f"{name} is {list(piece.shape)}, expected {list(expected[name])}"
        for name, piece in sorted(pieces.items())
        if name in expected and piece.shape != expected[name]
    ]
    if wrong:
        problems.append(f"{len(wrong)} have the wrong shape ({'; '.join(wrong[:5])})")
    if problems:
        raise ModelError(f"the pieces do not make one model: {'; '.join(problems)}")

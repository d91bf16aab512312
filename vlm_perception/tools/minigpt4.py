"""Assemble MiniGPT-4 from its published pieces into one model folder, which then loads as any other.

MiniGPT-4 (https://arxiv.org/abs/2304.10592) is BLIP-2's vision tower and Q-Former, one linear layer of its own and
Vicuna, all of which transformers has as `Blip2ForConditionalGeneration`. Published are:

- tower and Q-Former, those of blip2-flan-t5-xxl: the folder `Salesforce/blip2-flan-t5-xxl`, or LAVIS's two files
  `eva_vit_g.pth` and `blip2_pretrained_flant5xxl.pth`;
- Vicuna v0 of 7 or 13 billion parameters, a folder (`Vision-CAIR/vicuna-7b`, `Vision-CAIR/vicuna`);
- the linear layer, `pretrained_minigpt4_7b.pth` or `pretrained_minigpt4.pth` (13B).

What becomes of each tensor follows LAVIS (models/blip2_models), MiniGPT-4 (models/minigpt4.py) and the conversion of
BLIP-2 in transformers. Left out are the last block of EVA-CLIP's tower and its head, the Q-Former's way for text,
and the language models of BLIP-2; every other tensor has to find its place. Tensors are read one by one, and
written in files of at most 2 GiB, so that is about all the memory it takes.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

BLOCKS = 39
"""Of EVA-CLIP's 40 blocks, BLIP-2 uses the output of the last but one."""
TOWER_HEAD, QFORMER_HEAD = 88, 64
"""Width of an attention head, which no tensor's shape tells."""
FILE_SIZE = 2 * 2**30
"""The most that one file of weights holds [bytes]."""
DTYPES = ("float16", "bfloat16", "float32")
IMAGE = "<image>"
END = "###"
"""How MiniGPT-4 ends an answer."""
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

Rules = tuple[tuple[str, str | None], ...]
"""Pattern of a tensor's name, and the name in `Blip2ForConditionalGeneration`, or None for what is left out."""
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--blip2",
        type=Path,
        nargs="+",
        required=True,
        help="the folder of blip2-flan-t5-xxl, or LAVIS's eva_vit_g.pth and blip2_pretrained_flant5xxl.pth",
    )
    parser.add_argument("--language", type=Path, required=True, help="the folder of Vicuna v0")
    parser.add_argument("--projection", type=Path, required=True, help="MiniGPT-4's own checkpoint, a .pth file")
    parser.add_argument("--output", type=Path, required=True, help="folder to write; it must be new or empty")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float16", help="precision of the weights (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Assemble, then load what was written and ask it a question; prints what becomes of each piece."""
    from transformers.utils import logging

    from vlm_perception.models.base import ModelError, ModelOutOfMemoryError
    from vlm_perception.models.calibration import EMPTY_PICTURE
    from vlm_perception.models.loader import load_model
    from vlm_perception.questions import YesNo

    logging.disable_progress_bar()
    try:
        assemble(arguments.blip2, arguments.language, arguments.projection, arguments.output, arguments.dtype, _say)
        try:
            model = load_model(str(arguments.output), dtype=arguments.dtype)
            (answer,) = model.answer(EMPTY_PICTURE, [YesNo("Is there a door in the picture?")])
            _say(f"it loads and answers ({answer.value}, {answer.confidence:.0%}, of a grey picture)")
        except ModelOutOfMemoryError as error:
            _say(f"it is complete, but this machine cannot run it: {error}")
    except ModelError as error:
        _say(f"vlm_perception minigpt4: {error}")
        return 1
    return 0


def _say(words: str) -> None:
    print(words, flush=True)


@dataclass(frozen=True)
class Piece:
    """A tensor in a file, which is not read before `read` is called."""

    shape: tuple[int, ...]
    read: Callable[[], Any]


Pieces = dict[str, Piece]


def assemble(
    blip2: Sequence[Path],
    language: Path,
    projection: Path,
    output: Path,
    dtype: str = "float16",
    say: Callable[[str], None] = lambda words: None,
) -> None:
    """Write the model folder `output`; what a later one of `blip2` and `projection` holds replaces what came before.

    Raises ModelError when a file cannot be read, a tensor is missing, has the wrong shape or no place, when the
    projection is of a MiniGPT-4 without Q-Former or of another width, or the disk is too full.
    """
    import torch
    from transformers import AutoTokenizer, Blip2ForConditionalGeneration

    from vlm_perception.models.base import ModelError

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ModelError(f"{output} is there already, expected a new or empty folder: remove it or name another one")
    pieces: Pieces = {}
    settings: dict[str, Any] = {}
    for path in (*blip2, projection):
        found = _open(path)
        if path != projection:
            _note_other_qformer(path, found, say)
        if path.is_dir():
            settings = _config(path, "blip-2").to_dict()
        pieces |= _placed(path, found, TRANSFORMERS if path.is_dir() else LAVIS, say)
    text = _config(language, "llama")
    tokenizer = _stock(AutoTokenizer, language)
    words = _placed(language, _open(language), LLAMA, say)
    _check_projection(pieces, text.hidden_size, projection)
    pieces = _with_whole_bias(pieces)
    processor = _build_processor(tokenizer, blip2, pieces)
    rows = max(words["language_model.model.embed_tokens.weight"].shape[0], len(tokenizer))
    pieces |= _grown(words, rows, tokenizer.unk_token_id or 0)
    config = _build_config(settings, pieces, text, tokenizer, rows, dtype)
    with torch.device("meta"):
        stock = Blip2ForConditionalGeneration(config)
    _check_complete(pieces, {name: tuple(tensor.shape) for name, tensor in stock.state_dict().items()})

    partial_output = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial_output, ignore_errors=True)
    partial_output.mkdir(parents=True)
    _write(pieces, getattr(torch, dtype), partial_output, say)
    config.save_pretrained(partial_output)
    stock.generation_config.save_pretrained(partial_output)
    processor.save_pretrained(partial_output)
    if output.exists():
        output.rmdir()
    partial_output.rename(output)
    _, report = Blip2ForConditionalGeneration.from_pretrained(output, device_map="meta", output_loading_info=True)
    if wrong := {kind: names for kind, names in report.items() if names}:
        raise ModelError(f"{output} was written, but transformers does not find its way in it: {wrong}")
    say(f"wrote {output}")


# Reading


def _open(path: Path) -> Pieces:
    """The tensors of a model folder or a checkpoint file, none of which is read yet."""
    from vlm_perception.models.base import ModelError
    from vlm_perception.models.weights import INDEX, WHOLE, weight_files

    if not path.exists():
        raise ModelError(f"{path} does not exist, expected a model folder or a checkpoint file")
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("pytorch_model*.bin"))
        if not files or (path / WHOLE).is_file() or (path / INDEX).is_file():
            files = weight_files(path)
    pieces: Pieces = {}
    for file in files:
        pieces |= _open_safetensors(file) if file.suffix == ".safetensors" else _open_checkpoint(file)
    return pieces


def _open_safetensors(file: Path) -> Pieces:
    from safetensors import SafetensorError, safe_open

    from vlm_perception.models.base import ModelError

    try:
        opened = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ModelError(f"{file} cannot be read ({error}): is the download complete?") from error
    return {
        name: Piece(tuple(opened.get_slice(name).get_shape()), partial(opened.get_tensor, name))
        for name in opened.keys()  # noqa: SIM118, it is no dictionary
    }


def _open_checkpoint(file: Path) -> Pieces:
    """The tensors of a file by `torch.save`, which may hold nothing but tensors and plain values: code is refused."""
    import pickle

    import torch

    from vlm_perception.models.base import ModelError

    try:
        try:
            saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # of the days before torch 1.6, which cannot be mapped
            saved = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{file} cannot be read: {str(error).splitlines()[0]:.200}; is the download complete? A file that holds "
            "more than tensors and plain values is refused, as it could run code"
        ) from error
    state = saved.get("model", saved) if isinstance(saved, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise ModelError(f"{file} holds no tensors by name, expected a state dictionary or one under 'model'")
    return {name: Piece(tuple(tensor.shape), partial(lambda value: value, tensor)) for name, tensor in tensors.items()}


def _stock(auto: Any, folder: Path) -> Any:
    """What transformers' class `auto` makes of the folder."""
    from vlm_perception.models.base import ModelError

    try:
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{folder} cannot be read: {str(error).splitlines()[0]:.300}") from error


def _config(folder: Path, kind: str) -> Any:
    """The folder's configuration, of the model type `kind`."""
    from transformers import AutoConfig

    from vlm_perception.models.base import ModelError

    config = _stock(AutoConfig, folder)
    if config.model_type != kind:
        raise ModelError(f"{folder} is a {config.model_type!r} model, expected {kind!r}: is it the right piece?")
    return config


# From names to places


def _placed(path: Path, found: Pieces, rules: Rules, say: Callable[[str], None]) -> Pieces:
    """The tensors by their name in `Blip2ForConditionalGeneration`. Raises ModelError for one that has no place."""
    from vlm_perception.models.base import ModelError

    if rules == LAVIS and "cls_token" in found:  # the tower's own file
        found = {f"visual_encoder.{name}": piece for name, piece in found.items()}
    placed: Pieces = {}
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
            placed[place] = piece
    if unexpected:
        raise ModelError(f"{path} has {_listed(unexpected)}, for which MiniGPT-4 has no place: is it the right piece?")
    if not placed:
        raise ModelError(f"{path} has {_listed(left)} and nothing that MiniGPT-4 uses: is it the right piece?")
    say(f"{path}: {len(placed)} tensors taken, {len(left)} left out" + (f" ({_kinds(left)})" if left else ""))
    return placed


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    return f"{len(names)} tensors ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"


def _kinds(names: Iterable[str]) -> str:
    return ", ".join(sorted({re.sub(r"\.\d+(?=\.|$)", ".*", ".".join(name.split(".")[:3])) for name in names}))


def _note_other_qformer(path: Path, found: Mapping[str, Piece], say: Callable[[str], None]) -> None:
    """What language model a Q-Former was trained for, its own tensors do not tell, but those beside it do."""
    if not any("former" in name for name in found):
        return
    encodes = "t5_proj.weight" in found or any(name.startswith("language_model.encoder.") for name in found)
    beside = found.get("t5_proj.weight") or found.get("language_projection.weight")
    if not (encodes and beside and beside.shape[0] == 4096):
        say(
            f"note: the Q-Former in {path} was not trained for Flan-T5 XXL. MiniGPT-4's projection was trained behind "
            "that of blip2-flan-t5-xxl: behind any other, expect nonsense"
        )


def _check_projection(pieces: Pieces, width: int, projection: Path) -> None:
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


def _with_whole_bias(pieces: Pieces) -> Pieces:
    """LAVIS keeps the biases of queries and values; keys have none."""
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


def _grown(words: Pieces, rows: int, like: int) -> Pieces:
    """The language model with `rows` words; new ones are as improbable as the word `like`, the unknown one."""
    import torch

    def more(piece: Piece) -> Any:
        tensor = piece.read()
        return torch.cat([tensor, tensor[like : like + 1].expand(rows - len(tensor), -1)])

    grown = dict(words)
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        if (piece := words.get(name)) and piece.shape[0] < rows:
            grown[name] = Piece((rows, *piece.shape[1:]), partial(more, piece))
    return grown


def _check_complete(pieces: Pieces, expected: Mapping[str, tuple[int, ...]]) -> None:
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


# What goes with the weights


def _build_config(settings: dict[str, Any], pieces: Pieces, text: Any, tokenizer: Any, rows: int, dtype: str) -> Any:
    """The configuration, from the folder of BLIP-2 where there is one, else from the shapes of its tensors."""
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
        "image_size": math.isqrt(places - 1) * patch,  # one place is the class token's
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
    """The tokens that `###` begins with, as a word of its own and right behind one."""

    def tokens(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    word, closed = tokens("a"), tokens(f"a{END}")
    found = [tokens(END)[0], *closed[len(word) : len(word) + 1]]
    pieces = tokenizer.convert_ids_to_tokens(found)
    return [token for token, piece in zip(found, pieces, strict=True) if set(piece.lstrip("▁")) == set(END)]


def _build_processor(tokenizer: Any, blip2: Sequence[Path], pieces: Pieces) -> Any:
    from transformers import AutoImageProcessor, Blip2Processor, BlipImageProcessorPil

    folder = next((path for path in blip2 if path.is_dir()), None)
    if folder:
        images = _stock(AutoImageProcessor, folder)
    else:  # as LAVIS's blip2_image_eval; mean and deviation are the class's own
        patch = pieces["vision_model.embeddings.patch_embedding.weight"].shape[-1]
        edge = math.isqrt(pieces["vision_model.embeddings.position_embedding"].shape[1] - 1) * patch
        images = BlipImageProcessorPil(size={"height": edge, "width": edge})
    tokenizer.chat_template = TEMPLATE
    return Blip2Processor(images, tokenizer, num_query_tokens=pieces["query_tokens"].shape[1])  # adds <image>


# Writing


def _write(pieces: Pieces, dtype: Any, folder: Path, say: Callable[[str], None]) -> None:
    """Write model*.safetensors and their index, one file in memory at a time."""
    import torch
    from safetensors.torch import save_file

    from vlm_perception.models.base import ModelError
    from vlm_perception.models.weights import INDEX, WHOLE

    def dtype_of(name: str) -> Any:  # the Q-Former stays as it is, transformers wants it so
        return torch.float32 if name.startswith(("qformer.", "query_tokens")) else dtype

    sizes = {name: math.prod(piece.shape) * dtype_of(name).itemsize for name, piece in pieces.items()}
    total = sum(sizes.values())
    if (free := shutil.disk_usage(folder).free) < total:
        raise ModelError(
            f"{folder.parent} has {free / 2**30:.1f} GiB left, the model takes {total / 2**30:.1f}: make room"
        )
    files: list[list[str]] = [[]]
    for name in sorted(pieces):
        if files[-1] and sum(sizes[other] for other in files[-1]) + sizes[name] > FILE_SIZE:
            files.append([])
        files[-1].append(name)
    index: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        file = WHOLE if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
        tensors = {}
        for name in names:
            tensor = pieces[name].read()
            tensors[name] = tensor.to(dtype_of(name)).contiguous()
            if not torch.isfinite(tensors[name]).all():
                raise ModelError(f"{name} has numbers that {dtype} cannot hold: choose another --dtype")
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
        say(f"wrote file {number} of {len(files)}")
    if len(files) > 1:
        content = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / INDEX).write_text(json.dumps(content, indent=2), encoding="utf-8")

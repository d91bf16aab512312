"""Assemble MiniGPT-4 from its published pieces into one model folder, which loads as any other.

MiniGPT-4 (https://arxiv.org/abs/2304.10592) is BLIP-2's vision tower and Q-Former, one linear layer of its own and
Vicuna. Transformers has all of them as `Blip2ForConditionalGeneration`. The published pieces are:

- tower and Q-Former, those of blip2-flan-t5-xxl: the folder `Salesforce/blip2-flan-t5-xxl`, or LAVIS's two files
  `eva_vit_g.pth` and `blip2_pretrained_flant5xxl.pth`;
- Vicuna v0 of 7 or 13 billion parameters, a folder (`Vision-CAIR/vicuna-7b`, `Vision-CAIR/vicuna`);
- the linear layer, `pretrained_minigpt4_7b.pth` or `pretrained_minigpt4.pth` (13B).

The place of each tensor follows LAVIS (models/blip2_models), MiniGPT-4 (models/minigpt4.py) and the conversion of
BLIP-2 in transformers. The last block and the head of EVA-CLIP's tower, the Q-Former's layers for text and the language
models of BLIP-2 are left out. Every other tensor must have a place. Tensors are read one by one and written in files of
at most 2 GiB, which is about the memory that this needs.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vlm_perception.tools.minigpt4_config import build_config, build_processor, stock, stock_config
from vlm_perception.tools.minigpt4_pieces import Pieces, open_pieces, write
from vlm_perception.tools.minigpt4_places import (
    LAVIS,
    LLAMA,
    TRANSFORMERS,
    check_complete,
    check_projection,
    grown,
    note_other_qformer,
    placed,
    with_whole_bias,
)

DTYPES = ("float16", "bfloat16", "float32")


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
    """Assemble the folder and print the use of each piece; then load the model and ask it a question."""
    from transformers.utils import logging

    from vlm_perception.models.base import ModelError, ModelOutOfMemoryError
    from vlm_perception.models.calibration import EMPTY_IMAGE
    from vlm_perception.models.loader import load_model
    from vlm_perception.questions import YesNo

    logging.disable_progress_bar()
    try:
        assemble(arguments.blip2, arguments.language, arguments.projection, arguments.output, arguments.dtype, _say)
        try:
            model = load_model(str(arguments.output), dtype=arguments.dtype)
            (answer,) = model.answer(EMPTY_IMAGE, [YesNo("Is there a door in the image?")])
            _say(f"it loads and answers ({answer.value}, {answer.confidence:.0%}, of a grey image)")
        except ModelOutOfMemoryError as error:
            _say(f"it is complete, but this machine cannot run it: {error}")
    except ModelError as error:
        _say(f"vlm_perception minigpt4: {error}")
        return 1
    return 0


def _say(words: str) -> None:
    print(words, flush=True)


def assemble(
    blip2: Sequence[Path],
    language: Path,
    projection: Path,
    output: Path,
    dtype: str = "float16",
    say: Callable[[str], None] = lambda words: None,
) -> None:
    """Write the model folder `output`. A tensor in a later one of `blip2` and `projection` replaces an earlier one.

    Raises ModelError if a file cannot be read, if a tensor is missing, has the wrong shape or no place, if the
    projection is of a MiniGPT-4 without Q-Former or of another width, and if the disk is too full.
    """
    import torch
    from transformers import AutoTokenizer, Blip2ForConditionalGeneration

    from vlm_perception.models.base import ModelError

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ModelError(f"{output} is there already, expected a new or empty folder: remove it or name another one")
    pieces: Pieces = {}
    settings: dict[str, Any] = {}
    for path in (*blip2, projection):
        found = open_pieces(path)
        if path != projection:
            note_other_qformer(path, found, say)
        if path.is_dir():
            settings = stock_config(path, "blip-2").to_dict()
        pieces |= placed(path, found, TRANSFORMERS if path.is_dir() else LAVIS, say)
    text = stock_config(language, "llama")
    tokenizer = stock(AutoTokenizer, language)
    words = placed(language, open_pieces(language), LLAMA, say)
    check_projection(pieces, text.hidden_size, projection)
    pieces = with_whole_bias(pieces)
    processor = build_processor(tokenizer, blip2, pieces)
    rows = max(words["language_model.model.embed_tokens.weight"].shape[0], len(tokenizer))
    pieces |= grown(words, rows, tokenizer.unk_token_id or 0)
    config = build_config(settings, pieces, text, tokenizer, rows, dtype)
    with torch.device("meta"):
        empty = Blip2ForConditionalGeneration(config)
    check_complete(pieces, {name: tuple(tensor.shape) for name, tensor in empty.state_dict().items()})

    partial_output = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial_output, ignore_errors=True)
    partial_output.mkdir(parents=True)
    write(pieces, getattr(torch, dtype), partial_output, say)
    config.save_pretrained(partial_output)
    empty.generation_config.save_pretrained(partial_output)
    processor.save_pretrained(partial_output)
    if output.exists():
        output.rmdir()
    partial_output.rename(output)
    _, report = Blip2ForConditionalGeneration.from_pretrained(output, device_map="meta", output_loading_info=True)
    if wrong := {kind: names for kind, names in report.items() if names}:
        raise ModelError(f"{output} was written, but transformers cannot load it: {wrong}")
    say(f"wrote {output}")

"""The training loop of the nano model, with checkpoints to continue from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from transformers import PaliGemmaForConditionalGeneration

from vlm_perception.simulation.room import COLOURS, SHAPES
from vlm_perception.training.batches import Frames
from vlm_perception.training.losses import HelperLosses, TokenCache, question_losses
from vlm_perception.training.nano import build_model, build_processor, save
from vlm_perception.training.training_questions import descriptions, draw_questions


def train(
    shards: list[Path],
    output: Path,
    steps: int,
    eyes_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    report: Callable[[str], None],
    checkpoint: Path,
    start_from: Path | None = None,
) -> None:
    """Train `steps` steps (the first `eyes_steps` without questions) and save the model and processor to `output`.

    Training continues from `checkpoint` if that file exists. `start_from` is the folder of a trained model, used
    in place of random weights. `report` gets a line of losses every 100 steps.
    """
    rng = np.random.default_rng(seed)
    processor = build_processor()
    model = build_model(processor, seed)
    if start_from is not None:
        model = PaliGemmaForConditionalGeneration.from_pretrained(start_from, attn_implementation="eager")
        model = model.float()
    words = TokenCache(processor.tokenizer)
    helpers = HelperLosses(model.config.text_config.hidden_size)
    embeddings = [model.get_input_embeddings().weight]
    others = [p for p in model.parameters() if p is not embeddings[0]] + list(helpers.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in others if p.ndim > 1], "factor": 1.0, "weight_decay": 0.05},
            {"params": [p for p in others if p.ndim <= 1], "factor": 1.0, "weight_decay": 0.0},
            {"params": embeddings, "factor": 0.05, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )
    named = torch.tensor([words.ids(word)[0] for word in (*COLOURS, *SHAPES)])
    frames = Frames(shards)
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        helpers.load_state_dict(state["helpers"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        rng = np.random.default_rng((seed, first))
    sums: dict[str, list[float]] = {}
    began = time.monotonic()
    for step in tqdm(range(first, steps), "training", total=steps, initial=first, unit="step", disable=None):
        if step % 200 == 0 or step == first:
            count = frames.refresh()
        warm = min(1.0, (step + 1) / 300)
        decay = 0.5 * (1 + np.cos(np.pi * step / steps)) * 0.98 + 0.02
        for group in optimizer.param_groups:
            group["lr"] = float(learning_rate * warm * decay * group["factor"])
        batch = frames.batch(rng, batch_size)
        with torch.autocast("cpu", torch.bfloat16):
            features = model.model.get_image_features(batch.pixels).pooler_output
            vectors = model.get_input_embeddings().weight[named] * model.config.text_config.hidden_size**0.5
            losses = {"eyes": helpers.vision(features, vectors, batch)}
            if step >= eyes_steps:
                rows = draw_questions(batch, rng, targets=1)
                losses["answers"], losses["about"] = question_losses(model, helpers, features, batch, rows, words)
                some = rng.choice(batch_size, max(1, batch_size // 4), replace=False)
                described = descriptions(batch, some)
                losses["description"], _ = question_losses(model, helpers, features, batch, described, words)
        weight = {"eyes": 1.0, "answers": 1.0, "about": 0.5, "description": 0.6}
        total = torch.stack([weight[name] * loss.float() for name, loss in losses.items()]).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
        optimizer.step()
        for name, loss in losses.items():
            sums.setdefault(name, []).append(loss.item())
        if (step + 1) % 100 == 0:
            rate = (step + 1 - first) * batch_size / (time.monotonic() - began)
            words_ = " ".join(f"{name} {np.mean(values):.4f}" for name, values in sums.items())
            report(f"step {step + 1}/{steps} {words_} ({rate:.0f} images/s, {count} frames)")
            sums = {}
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save(model, processor, output)
            temporary = checkpoint.with_suffix(".part")
            torch.save(
                {
                    "model": model.state_dict(),
                    "helpers": helpers.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step + 1,
                },
                temporary,
            )
            temporary.rename(checkpoint)
    (output / "training.json").write_text(
        json.dumps({"steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}) + "\n"
    )

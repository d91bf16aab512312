"""Build and train the nano model: PaliGemma's architecture, tiny, from random weights.

What decides whether so small a model learns to look at all:

- weights drawn with a standard deviation of `fan_in ** -0.5`, not the library's 0.02, which is for wide models;
- helper losses that are thrown away afterwards: what each patch shows, from the segmentation, measured against the
  text tower's own word vectors, so that eyes and words share a space from the start; label and way from the
  patches alone; and, in the text tower, which patches the question is about;
- questions in balance: half about visible things, the others mostly hard (right colour, wrong shape, or the reverse).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
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
from vlm_perception.training.dataset import IMAGE_SIZE, PATCHES, Shard, load_shard
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
)
"""What it is taught."""
UNKNOWN_WORDS = (
    "zebra",
    "door",
    "person",
    "chair",
    "cup",
    "orange",
    "white",
    "black",
    "dog",
    "table",
    "pyramid",
    "cone",
)

_COLOUR = np.array([tuple(COLOURS).index(name.split()[0]) for name in NAMES])
_SHAPE = np.array([SHAPES.index(name.split()[1]) for name in NAMES])
_MIRROR = np.array([truth.WHERE.index(_m) for _m in (
    " ".join({"left": "right", "right": "left"}.get(word, word) for word in where.split()) for where in truth.WHERE
)])  # fmt: skip
_MIRROR_WAY = np.array([truth.WAYS.index({"left": "right", "right": "left"}.get(w, w)) for w in truth.WAYS])

_NOISE = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
MORE_WORDS = ["no", "left", "center", "right", "near", "far", "none", "objects", "yes"]


def build_processor() -> PaliGemmaProcessor:
    """A word-level WordPiece tokenizer with letters for unknown words, and SigLIP's image processor."""
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
    """The tiny model with fresh weights."""
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


class Helpers(nn.Module):
    """The helper losses' own weights; thrown away after training."""

    def __init__(self, width: int):
        super().__init__()
        self.nothing = nn.Linear(width, 2)  # "no colour here", "no shape here"
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.near = nn.Linear(width, 1)
        self.squeeze = nn.Linear(width, 8)
        self.scene = nn.Linear(8 * PATCHES**2, len(truth.LABELS) + len(truth.WAYS))
        self.about = nn.Linear(width, 1)

    def eyes(self, features: Tensor, words: Tensor, batch: Batch) -> Tensor:
        """Loss of what each patch shows. `features` (B, patches, width), `words` the vectors of colours and shapes."""
        colours, shapes = (self.scale * features @ words.T).split((len(COLOURS), len(SHAPES)), dim=-1)
        no_colour, no_shape = self.nothing(features).split(1, dim=-1)
        share, named = batch.patch_share, batch.patch_thing > 0
        thing = (batch.patch_thing - 1).clamp(min=0)
        # An object's patches together weigh as the root of its size, so that far and near ones both count.
        sizes = share.new_zeros(len(share), len(NAMES)).scatter_add_(1, thing, share)
        weight = share / sizes.gather(1, thing).clamp(min=0.1).sqrt()
        weight = weight / weight.sum().clamp(min=1.0)
        loss = features.new_zeros(())
        for logits, nothing, index in ((colours, no_colour, batch.colour), (shapes, no_shape, batch.shape)):
            log_p = torch.cat([nothing, logits], -1).float().log_softmax(-1)
            right = log_p.gather(-1, (index[thing] + 1).unsqueeze(-1)).squeeze(-1)
            loss = loss - (share * right + (1 - share) * log_p[..., 0]).mean()  # something or nothing
            kind = logits.float().log_softmax(-1).gather(-1, index[thing].unsqueeze(-1)).squeeze(-1)
            loss = loss - (kind * named * weight).sum()  # and if something, what
        near = functional.binary_cross_entropy_with_logits(
            self.near(features).squeeze(-1).float(), batch.patch_near, weight=weight, reduction="sum"
        )
        label, way = (
            self.scene(self.squeeze(features).flatten(1)).float().split((len(truth.LABELS), len(truth.WAYS)), -1)
        )
        scene = functional.cross_entropy(label, batch.label) + functional.cross_entropy(way, batch.way)
        return loss + near + scene


@dataclass
class Batch:
    """Augmented frames as tensors; see `Shard` for the meaning of the fields."""

    pixels: Tensor
    label: Tensor
    way: Tensor
    patch_thing: Tensor
    patch_share: Tensor
    patch_near: Tensor
    colour: Tensor
    shape: Tensor
    share: np.ndarray
    where: np.ndarray
    column: np.ndarray


class Frames:
    """All training frames in memory; shards that appear on disk later are taken in by `refresh`."""

    def __init__(self, paths: list[Path]):
        self._waiting = list(paths)
        self._shards: list[Shard] = []
        self._index = np.zeros((0, 2), np.int32)

    def refresh(self) -> int:
        """Load what is on disk by now; return the number of frames."""
        for path in [path for path in self._waiting if path.exists()]:
            self._waiting.remove(path)
            shard = load_shard(path)
            number = np.arange(len(shard.label), dtype=np.int32)
            self._index = np.vstack([self._index, np.stack([np.full_like(number, len(self._shards)), number], 1)])
            self._shards.append(shard)
        return len(self._index)

    def batch(self, rng: np.random.Generator, size: int, augment: bool = True) -> Batch:
        """Draw `size` frames at random, half of them mirrored, with other light and noise."""
        picks = self._index[rng.integers(len(self._index), size=size)]

        def gather(name: str) -> np.ndarray:
            return np.stack([getattr(self._shards[s], name)[n] for s, n in picks])

        columns = {name: gather(name) for name in Shard.__dataclass_fields__}
        return make_batch(columns, rng if augment else None)


def make_batch(columns: dict[str, np.ndarray], rng: np.random.Generator | None) -> Batch:
    """Turn the fields of some frames into tensors, augmented when `rng` is given."""
    pixels = torch.from_numpy(columns["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    size = len(pixels)
    c = {name: value.copy() for name, value in columns.items() if name != "images"}
    if rng is not None:
        mirror = rng.random(size) < 0.5
        flag = torch.from_numpy(mirror)
        pixels[flag] = pixels[flag].flip(-1)
        for name in ("patch_thing", "patch_share"):
            c[name][mirror] = c[name][mirror][..., ::-1]
        seen = (c["share"] > 0) & mirror[:, None]
        c["where"][seen] = _MIRROR[c["where"][seen]]
        c["column"][seen] = 1 - c["column"][seen]
        c["way"][mirror] = _MIRROR_WAY[c["way"][mirror]]
        contrast = torch.from_numpy(rng.uniform(0.75, 1.25, (size, 1, 1, 1))).float()
        light = torch.from_numpy(rng.uniform(-0.15, 0.15, (size, 1, 1, 1)) + rng.uniform(-0.03, 0.03, (size, 3, 1, 1)))
        strength = torch.from_numpy(rng.uniform(0, 0.04, (size, 1, 1, 1))).float()
        start = rng.integers(len(_NOISE) - pixels[0].numel(), size=size)
        noise = torch.stack([_NOISE[s : s + pixels[0].numel()].view_as(pixels[0]) for s in start])
        pixels.mul_(contrast).add_(light.float()).addcmul_(noise, strength).clamp_(-1, 1)
    thing = c["patch_thing"].reshape(size, -1).astype(np.int64)
    near = np.isin(c["where"], [i for i, w in enumerate(truth.WHERE) if w.endswith("near")])
    patch_near = np.take_along_axis(near, np.maximum(thing - 1, 0), 1) & (thing > 0)
    return Batch(
        pixels,
        torch.from_numpy(c["label"].astype(np.int64)),
        torch.from_numpy(c["way"].astype(np.int64)),
        torch.from_numpy(thing),
        torch.from_numpy(c["patch_share"].reshape(size, -1).astype(np.float32)),
        torch.from_numpy(patch_near.astype(np.float32)),
        torch.from_numpy(_COLOUR),
        torch.from_numpy(_SHAPE),
        c["share"].astype(np.float32),
        c["where"],
        c["column"].astype(np.float32),
    )


@dataclass(frozen=True)
class TrainingQuestion:
    """One question about one frame of a batch, and its answer. `name`: the index in NAMES asked for, or -1."""

    frame: int
    prompt: str
    answer: str
    name: int = -1


def draw_questions(batch: Batch, rng: np.random.Generator, targets: int) -> list[TrainingQuestion]:
    """`targets` target questions per frame and a scene or way question for some frames."""
    rows = []
    for frame in range(len(batch.label)):
        visible = np.flatnonzero(batch.share[frame] >= truth.VISIBLE)
        absent = np.flatnonzero(batch.share[frame] == 0)
        alike = absent[np.isin(_COLOUR[absent], _COLOUR[visible]) | np.isin(_SHAPE[absent], _SHAPE[visible])]
        same_colour = absent[np.isin(_COLOUR[absent], _COLOUR[visible])]
        for _ in range(targets if len(visible) else 1):
            draw = rng.random()
            if draw < 0.5 and len(visible):
                name = int(rng.choice(visible))
                answer = truth.WHERE[batch.where[frame, name]]
            elif draw < 0.96 and len(absent):
                kind = rng.random()
                pool = (
                    same_colour if kind < 0.55 and len(same_colour) else alike if kind < 0.8 and len(alike) else absent
                )
                name, answer = int(rng.choice(pool)), "no"
            else:
                words = (str(rng.choice(UNKNOWN_WORDS)), str(rng.choice(SHAPES)), str(rng.choice(tuple(COLOURS))))
                target = (words[0], f"{words[0]} {words[1]}", f"{words[2]} {words[0]}")[rng.integers(3)]
                prompt = THERE_PROMPT if rng.random() < 0.25 else WHERE_PROMPT
                rows.append(TrainingQuestion(frame, prompt.format(target=target), "no"))
                continue
            if rng.random() < 0.25:
                there = "no" if answer == "no" else "yes"
                rows.append(TrainingQuestion(frame, THERE_PROMPT.format(target=NAMES[name]), there, name))
            else:
                rows.append(TrainingQuestion(frame, WHERE_PROMPT.format(target=NAMES[name]), answer, name))
        if rng.random() < 0.6:
            rows.append(TrainingQuestion(frame, LABEL_PROMPT, truth.LABELS[batch.label[frame]]))
        if rng.random() < 0.2:
            rows.append(TrainingQuestion(frame, WAY_PROMPT, truth.WAYS[batch.way[frame]]))
    return rows


def description_rows(batch: Batch, frames: np.ndarray) -> list[TrainingQuestion]:
    rows = []
    for frame in frames:
        visible = np.flatnonzero(batch.share[frame] >= truth.VISIBLE)
        visible = visible[np.argsort(batch.column[frame, visible])]
        text = ", ".join(f"{NAMES[i]} {truth.WHERE[batch.where[frame, i]]}" for i in visible) or "no objects"
        rows.append(TrainingQuestion(int(frame), DESCRIPTION_PROMPT, text))
    return rows


class TokenCache:
    """Token ids of prompts and answers, remembered: the same few come again and again."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        self.pad = tokenizer.pad_token_id

    def ids(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._known[text]

    def prompt(self, text: str) -> list[int]:
        return [self._tokenizer.bos_token_id, *self.ids(text + "\n")]

    def answer(self, text: str) -> list[int]:
        return [*self.ids(text), self._tokenizer.eos_token_id]


def question_losses(
    model: PaliGemmaForConditionalGeneration,
    helpers: Helpers,
    features: Tensor,
    batch: Batch,
    rows: list[TrainingQuestion],
    words: TokenCache,
) -> tuple[Tensor, Tensor]:
    """Losses of the answers, and of which patches the questions are about (0 where none names an object)."""
    prompts = [words.prompt(row.prompt) for row in rows]
    answers = [words.answer(row.answer) for row in rows]
    count, patches = len(rows), features.shape[1]
    length = max(len(p) + len(a) - 1 for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((count, length), words.pad)
    target = torch.full((count, length), -100)
    prefix = torch.zeros(count, dtype=torch.long)
    total = torch.zeros(count, dtype=torch.long)
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[i, : len(prompt) + len(answer) - 1] = torch.tensor(prompt + answer[:-1])
        target[i, len(prompt) - 1 : len(prompt) + len(answer) - 1] = torch.tensor(answer)
        prefix[i], total[i] = patches + len(prompt), patches + len(prompt) + len(answer) - 1
    text = model.model.language_model
    frame = torch.tensor([row.frame for row in rows])
    embeds = torch.cat([features[frame], text.embed_tokens(ids).to(features.dtype)], 1)
    position = torch.arange(patches + length)
    sees = (position[None, None, :] < prefix[:, None, None]) | (position[None, None, :] <= position[None, :, None])
    sees &= position[None, None, :] < total[:, None, None]
    mask = torch.zeros(sees.shape, dtype=embeds.dtype).masked_fill_(~sees, torch.finfo(embeds.dtype).min)[:, None]
    rotary = text.rotary_emb(embeds, position_ids=position[None] + 1)
    hidden = embeds
    about = features.new_zeros(())
    for depth, layer in enumerate(text.layers):
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary)
        if depth == len(text.layers) - 2:
            asked = [(i, row) for i, row in enumerate(rows) if row.name >= 0]
            if asked:
                pick = torch.tensor([i for i, _ in asked])
                thing = batch.patch_thing[torch.tensor([row.frame for _, row in asked])]
                share = batch.patch_share[torch.tensor([row.frame for _, row in asked])]
                wanted = share * (thing == torch.tensor([[row.name + 1] for _, row in asked]))
                logits = helpers.about(hidden[pick, :patches]).squeeze(-1).float()
                about = functional.binary_cross_entropy_with_logits(logits, wanted, pos_weight=torch.tensor(4.0))
    said = target != -100
    logits = model.lm_head(text.norm(hidden[:, patches:][said]))
    return functional.cross_entropy(logits.float(), target[said]), about


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

    A `checkpoint` that exists is continued. `start_from` is a folder of a trained model to go on from.
    """
    rng = np.random.default_rng(seed)
    processor = build_processor()
    model = build_model(processor, seed)
    if start_from is not None:
        model = PaliGemmaForConditionalGeneration.from_pretrained(start_from, attn_implementation="eager")
        model = model.float()
    words = TokenCache(processor.tokenizer)
    helpers = Helpers(model.config.text_config.hidden_size)
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
            losses = {"eyes": helpers.eyes(features, vectors, batch)}
            if step >= eyes_steps:
                rows = draw_questions(batch, rng, targets=1)
                losses["answers"], losses["about"] = question_losses(model, helpers, features, batch, rows, words)
                some = rng.choice(batch_size, max(1, batch_size // 4), replace=False)
                described = description_rows(batch, some)
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


def save(model: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor, output: Path) -> None:
    """Write the folder that the stock Auto classes load, in float32."""
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    SCOPE.save(output)

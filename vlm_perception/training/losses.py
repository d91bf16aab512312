"""Losses of a training step: of the answers, and helper losses whose weights are thrown away afterwards.

Without the helper losses so small a model does not learn to use the image:

- what each patch shows, from the segmentation, measured against the text tower's own word vectors, so that the vision
  tower and the words share a space from the start;
- the label and the clear way, from the patches alone;
- in the text tower, which patches the question is about.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PaliGemmaForConditionalGeneration, PreTrainedTokenizerFast

from vlm_perception.simulation import truth
from vlm_perception.simulation.room import COLOURS, NAMES, SHAPES
from vlm_perception.training.batches import Batch
from vlm_perception.training.dataset import PATCHES
from vlm_perception.training.training_questions import TrainingQuestion


class HelperLosses(nn.Module):
    """Helper losses of the vision tower, with the weights that only they use."""

    def __init__(self, width: int):
        super().__init__()
        self.nothing = nn.Linear(width, 2)  # "no colour here", "no shape here"
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.near = nn.Linear(width, 1)
        self.squeeze = nn.Linear(width, 8)
        self.scene = nn.Linear(8 * PATCHES**2, len(truth.LABELS) + len(truth.WAYS))
        self.about = nn.Linear(width, 1)

    def vision(self, features: Tensor, words: Tensor, batch: Batch) -> Tensor:
        """Return the loss of what each patch shows.

        `features` is (B, patches, width); `words` (colours + shapes, width) are their word vectors.
        """
        colours, shapes = (self.scale * features @ words.T).split((len(COLOURS), len(SHAPES)), dim=-1)
        no_colour, no_shape = self.nothing(features).split(1, dim=-1)
        share, named = batch.patch_share, batch.patch_thing > 0
        thing = (batch.patch_thing - 1).clamp(min=0)
        # The patches of an object weigh together as the root of its size, so that far objects count beside near ones.
        sizes = share.new_zeros(len(share), len(NAMES)).scatter_add_(1, thing, share)
        weight = share / sizes.gather(1, thing).clamp(min=0.1).sqrt()
        weight = weight / weight.sum().clamp(min=1.0)
        loss = features.new_zeros(())
        for logits, nothing, index in ((colours, no_colour, batch.colour), (shapes, no_shape, batch.shape)):
            log_p = torch.cat([nothing, logits], -1).float().log_softmax(-1)
            right = log_p.gather(-1, (index[thing] + 1).unsqueeze(-1)).squeeze(-1)
            loss = loss - (share * right + (1 - share) * log_p[..., 0]).mean()  # whether there is an object
            kind = logits.float().log_softmax(-1).gather(-1, index[thing].unsqueeze(-1)).squeeze(-1)
            loss = loss - (kind * named * weight).sum()  # which one it is
        near = functional.binary_cross_entropy_with_logits(
            self.near(features).squeeze(-1).float(), batch.patch_near, weight=weight, reduction="sum"
        )
        label, way = (
            self.scene(self.squeeze(features).flatten(1)).float().split((len(truth.LABELS), len(truth.WAYS)), -1)
        )
        scene = functional.cross_entropy(label, batch.label) + functional.cross_entropy(way, batch.way)
        return loss + near + scene


class TokenCache:
    """Cache of the token ids of prompts and answers: the same few texts come again and again."""

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
    helpers: HelperLosses,
    features: Tensor,
    batch: Batch,
    rows: list[TrainingQuestion],
    words: TokenCache,
) -> tuple[Tensor, Tensor]:
    """Return the losses of the answers and of the patches that the questions are about (0 if no row has a `name`)."""
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

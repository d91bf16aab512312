"""MiniGPT-4 from its published pieces: every tensor finds its place, and the whole computes what the pieces do."""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_parts import TEXT, draw
from tiny_tokenizers import piece_tokenizer
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from vlm_perception.models.base import ModelError
from vlm_perception.models.loader import load_model
from vlm_perception.questions import Choice, Text
from vlm_perception.tools import cli, minigpt4, minigpt4_pieces

pytestmark = pytest.mark.slow

TOWER, BLOCKS, PATCH, EDGE = 88, 40, 14, 28
"""The tower's width is that of one of its heads; EVA-CLIP has one block more than BLIP-2 uses."""
QFORMER, LAYERS, QUERIES = 64, 2, 3
WORDS = TEXT["hidden_size"]


def random_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def drawn(shapes, seed):
    """Tensors by name; what multiplies is near one, as layer norms are."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * (0.1 if len(shape) == 1 else 1.3 * shape[-1] ** -0.5)
        + (1.0 if name.endswith(("norm1.weight", "norm2.weight", "LayerNorm.weight", "ln_vision.weight")) else 0.0)
        for name, shape in shapes.items()
    }


def tower():
    """As eva_vit_g.pth, with the head that LAVIS does not use."""
    shapes = {
        "cls_token": (1, 1, TOWER),
        "pos_embed": (1, (EDGE // PATCH) ** 2 + 1, TOWER),
        "patch_embed.proj.weight": (TOWER, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (TOWER,),
        "norm.weight": (TOWER,),
        "head.weight": (7, TOWER),
    }
    for block in range(BLOCKS):
        shapes |= {
            f"blocks.{block}.{name}": shape
            for name, shape in {
                "norm1.weight": (TOWER,), "norm1.bias": (TOWER,), "norm2.weight": (TOWER,), "norm2.bias": (TOWER,),
                "attn.q_bias": (TOWER,), "attn.v_bias": (TOWER,), "attn.qkv.weight": (3 * TOWER, TOWER),
                "attn.proj.weight": (TOWER, TOWER), "attn.proj.bias": (TOWER,), "mlp.fc1.weight": (24, TOWER),
                "mlp.fc1.bias": (24,), "mlp.fc2.weight": (TOWER, 24), "mlp.fc2.bias": (TOWER,),
            }.items()
        }  # fmt: skip
    return drawn(shapes, seed=1)


def qformer():
    """As blip2_pretrained_flant5xxl.pth, and what the first stage of its training leaves."""

    def dense(name, out, into):
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name):
        return {f"{name}.LayerNorm.weight": (QFORMER,), f"{name}.LayerNorm.bias": (QFORMER,)}

    def attention(name, into):
        return {
            **dense(f"{name}.self.query", QFORMER, QFORMER),
            **dense(f"{name}.self.key", QFORMER, into),
            **dense(f"{name}.self.value", QFORMER, into),
            **dense(f"{name}.output.dense", QFORMER, QFORMER),
            **norm(f"{name}.output"),
        }

    shapes = {
        "query_tokens": (1, QUERIES, QFORMER),
        "ln_vision.weight": (TOWER,),
        "ln_vision.bias": (TOWER,),
        **norm("Qformer.bert.embeddings"),
        **dense("t5_proj", 4096, QFORMER),
        "Qformer.bert.embeddings.word_embeddings.weight": (9, QFORMER),
        "Qformer.bert.embeddings.position_ids": (1, 5),
        "Qformer.cls.predictions.bias": (9,),
    }
    for number in range(LAYERS):
        layer = f"Qformer.bert.encoder.layer.{number}"
        shapes |= attention(f"{layer}.attention", QFORMER)
        shapes |= attention(f"{layer}.crossattention", TOWER) if number % 2 == 0 else {}
        for kind in ("", "_query"):
            shapes |= dense(f"{layer}.intermediate{kind}.dense", 32, QFORMER)
            shapes |= dense(f"{layer}.output{kind}.dense", QFORMER, 32) | norm(f"{layer}.output{kind}")
    return drawn(shapes, seed=2)


def projection(into=QFORMER, out=WORDS):
    return drawn({"llama_proj.weight": (out, into), "llama_proj.bias": (out,)}, seed=3)


@pytest.fixture
def pieces(tmp_path):
    """The published files in miniature: paths by what they are."""
    paths = {name: tmp_path / f"{name}.pth" for name in ("tower", "qformer", "projection")}
    torch.save(tower(), paths["tower"])
    torch.save({"model": qformer(), "epoch": 4}, paths["qformer"])
    torch.save({"model": projection(), "optimizer": {"lr": 1e-5}, "config": {"run": {}}}, paths["projection"])
    tokenizer = piece_tokenizer("</s>")
    config = transformers.LlamaConfig(
        **TEXT, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    torch.manual_seed(4)
    llama = transformers.LlamaForCausalLM(config)
    draw(llama)
    paths["vicuna"] = tmp_path / "vicuna"
    llama.save_pretrained(paths["vicuna"], max_shard_size="100KB")
    tokenizer.save_pretrained(paths["vicuna"])
    return paths


def assemble(pieces, tmp_path, **changes):
    given = {
        "blip2": [pieces["tower"], pieces["qformer"]],
        "language": pieces["vicuna"],
        "projection": pieces["projection"],
        "output": tmp_path / "minigpt4",
        "dtype": "float32",
        **changes,
    }
    minigpt4.assemble(**given)
    return given["output"]


# What LAVIS and MiniGPT-4 compute, from their own tensors


def heads(x, width):
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def attend(q, k, v, width):
    q, k, v = (heads(x, width) for x in (q, k, v))
    return ((q @ k.transpose(-1, -2) / math.sqrt(width)).softmax(-1) @ v).transpose(1, 2).flatten(2)


def look(state, norm, pixels):
    """The tower: 39 blocks that normalise first, then BLIP-2's own normalisation."""
    x = conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    x = torch.cat([state["cls_token"], x.flatten(2).transpose(1, 2)], 1) + state["pos_embed"]
    for block in range(39):
        b = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith(f"blocks.{block}.")}
        y = layer_norm(x, (TOWER,), b["norm1.weight"], b["norm1.bias"], 1e-6)
        bias = torch.cat([b["attn.q_bias"], torch.zeros(TOWER), b["attn.v_bias"]])
        y = attend(*linear(y, b["attn.qkv.weight"], bias).chunk(3, -1), 88)
        x = x + linear(y, b["attn.proj.weight"], b["attn.proj.bias"])
        y = layer_norm(x, (TOWER,), b["norm2.weight"], b["norm2.bias"], 1e-6)
        x = x + linear(gelu(linear(y, b["mlp.fc1.weight"], b["mlp.fc1.bias"])), b["mlp.fc2.weight"], b["mlp.fc2.bias"])
    return layer_norm(x, (TOWER,), norm["ln_vision.weight"], norm["ln_vision.bias"], 1e-5)


def query(state, seen):
    """The Q-Former: BERT over the queries, which look at the image in every other layer."""

    def dense(x, name):
        return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x, name):
        return layer_norm(x, (QFORMER,), state[f"{name}.LayerNorm.weight"], state[f"{name}.LayerNorm.bias"], 1e-12)

    def attention(x, other, name):
        q, k, v = dense(x, f"{name}.self.query"), dense(other, f"{name}.self.key"), dense(other, f"{name}.self.value")
        return norm(dense(attend(q, k, v, 64), f"{name}.output.dense") + x, f"{name}.output")

    x = norm(state["query_tokens"], "Qformer.bert.embeddings")
    for number in range(LAYERS):
        layer = f"Qformer.bert.encoder.layer.{number}"
        x = attention(x, x, f"{layer}.attention")
        if number % 2 == 0:
            x = attention(x, seen, f"{layer}.crossattention")
        y = dense(gelu(dense(x, f"{layer}.intermediate_query.dense")), f"{layer}.output_query.dense")
        x = norm(y + x, f"{layer}.output_query")
    return x


@torch.inference_mode()
def reference(pieces, pixels, before, behind):
    """The logits of the published pieces for the image between the tokens `before` and `behind`."""
    llama = transformers.LlamaForCausalLM.from_pretrained(pieces["vicuna"])
    own = projection()
    image = linear(query(qformer(), look(tower(), qformer(), pixels)), own["llama_proj.weight"], own["llama_proj.bias"])
    embed = llama.get_input_embeddings()
    return llama(inputs_embeds=torch.cat([embed(before), image, embed(behind)], 1)).logits


def ids(tokenizer, text, special=False):
    return torch.tensor([tokenizer(text, add_special_tokens=special)["input_ids"]], dtype=torch.long)


def test_it_computes_what_its_pieces_do(pieces, tmp_path):
    folder = assemble(pieces, tmp_path)
    model = transformers.Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    pixels = processor.image_processor(random_image(0), return_tensors="pt")["pixel_values"]
    before, behind = ids(tokenizer, "###Human: <Img>", True), ids(tokenizer, "</Img> what is this? ###Assistant: ")
    image = torch.full((1, QUERIES), model.config.image_token_id)
    with torch.inference_mode():
        found = model(pixel_values=pixels, input_ids=torch.cat([before, image, behind], 1)).logits
    expected = reference(pieces, pixels, before, behind)
    assert found[..., : expected.shape[-1]].numpy() == pytest.approx(expected.numpy(), abs=2e-3)
    # The one word that is new, the image's place, is as improbable as the unknown word.
    assert torch.equal(found[..., -1], found[..., tokenizer.unk_token_id])


def test_it_answers_in_its_own_prompt(pieces, tmp_path):
    folder = assemble(pieces, tmp_path)
    model = load_model(str(folder), device="cpu", dtype="float32")
    image = random_image(1)
    words, label = model.answer(image, [Text("what is this?", 5), Choice("what?", ("wall", "wall near"))])
    processor = transformers.AutoProcessor.from_pretrained(folder)
    tokenizer = processor.tokenizer
    pixels = processor.image_processor(image, return_tensors="pt")["pixel_values"]
    assert tuple(pixels.shape) == (1, 3, EDGE, EDGE)
    before = ids(tokenizer, "###Human: <Img>", True)
    behind = ids(tokenizer, "</Img> what is this? ###Assistant: ")
    ends = {
        tokenizer.eos_token_id,
        *(t for t in range(len(tokenizer)) if tokenizer.convert_ids_to_tokens(t) in ("#", "▁#")),
    }
    said = []
    for _ in range(5):
        logits = reference(pieces, pixels, before, torch.cat([behind, torch.tensor([said], dtype=torch.long)], 1))
        if (token := int(logits[0, -1].argmax())) in ends:
            break
        said.append(token)
    assert words.value == tokenizer.decode(said, skip_special_tokens=True).strip()

    behind = ids(tokenizer, "</Img> what?\nAnswer with one of: wall, wall near. ###Assistant: ")
    scores = []
    for option in label.options:
        answer = ids(tokenizer, option)
        log_p = reference(pieces, pixels, before, torch.cat([behind, answer], 1))[0, -answer.shape[1] - 1 :]
        log_p = torch.cat([log_p, log_p[:, [tokenizer.unk_token_id]]], 1).log_softmax(-1)  # <image>
        ended = model._language.generation_config.eos_token_id
        assert set(ended) <= ends and len(ended) > 1
        scores.append(log_p[range(answer.shape[1]), answer[0]].sum() + log_p[-1, list(ended)].logsumexp(-1))
    assert label.probabilities == pytest.approx(torch.stack(scores).softmax(-1).tolist(), abs=1e-4)


@pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
def test_it_answers_in_int8(pieces, tmp_path):
    folder = assemble(pieces, tmp_path)
    question = Choice("what?", ("wall", "door"))
    exact, small = (
        load_model(str(folder), device="cpu", dtype="float32", quantization=how).answer(random_image(3), [question])[0]
        for how in ("none", "int8")
    )
    assert small.probabilities == pytest.approx(exact.probabilities, abs=0.1)
    assert small.probabilities != exact.probabilities


def test_the_folder_of_blip2_serves_as_well_as_lavis_files(pieces, tmp_path):
    folder = assemble(pieces, tmp_path)
    config = transformers.AutoConfig.from_pretrained(folder)
    text = transformers.T5Config(d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=4, vocab_size=50)
    source = transformers.Blip2Config(
        vision_config={**config.vision_config.to_dict(), "num_hidden_layers": 3, "num_attention_heads": 2},
        qformer_config={**config.qformer_config.to_dict(), "num_attention_heads": 4},
        text_config=text.to_dict(),
        num_query_tokens=QUERIES,
        image_token_index=49,
    )
    torch.manual_seed(5)
    blip2 = transformers.Blip2ForConditionalGeneration(source).eval()
    draw(blip2)
    blip2.save_pretrained(tmp_path / "blip2", max_shard_size="100KB")
    images = transformers.BlipImageProcessorPil(size={"height": EDGE, "width": EDGE}, image_mean=[0.1, 0.2, 0.3])
    images.save_pretrained(tmp_path / "blip2")
    said: list[str] = []
    whole = assemble(pieces, tmp_path, blip2=[tmp_path / "blip2"], output=tmp_path / "whole", say=said.append)
    model = transformers.Blip2ForConditionalGeneration.from_pretrained(whole).eval()
    pixels = transformers.AutoProcessor.from_pretrained(whole).image_processor(random_image(2), return_tensors="pt")
    with torch.inference_mode():
        read = blip2.get_image_features(**pixels).qformer_outputs.last_hidden_state
        expected = linear(read, *projection().values())
        assert torch.allclose(model.get_image_features(**pixels).pooler_output, expected, atol=1e-5)
    assert any("was not trained for Flan-T5 XXL" in line for line in said)  # of another width, so a smaller one


def test_old_files_of_vicuna_are_read(pieces, tmp_path):
    folder = assemble(pieces, tmp_path)
    state = {}
    for file in sorted(pieces["vicuna"].glob("*.safetensors")):
        state |= load_file(file)
        file.unlink()
    (pieces["vicuna"] / "model.safetensors.index.json").unlink()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        torch.save({name: state[name] for name in part}, pieces["vicuna"] / f"pytorch_model-{number:05}-of-00002.bin")
    again = assemble(pieces, tmp_path, output=tmp_path / "again")
    first, second = (load_file(path / "model.safetensors") for path in (folder, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_files_are_no_larger_than_they_may(pieces, tmp_path, monkeypatch):
    monkeypatch.setattr(minigpt4_pieces, "FILE_SIZE", 200_000)
    folder = assemble(pieces, tmp_path, dtype="float16")
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 10
    assert all(file.stat().st_size < 220_000 for file in files)
    assert set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values()) == {
        file.name for file in files
    }
    kinds = {}
    for file in files:
        with safe_open(file, "pt") as opened:
            kinds |= {name: opened.get_tensor(name).dtype for name in opened.keys()}  # noqa: SIM118
    assert {name for name, kind in kinds.items() if kind == torch.float32} == {
        name for name in kinds if name.startswith(("qformer.", "query_tokens"))
    }
    assert load_model(str(folder), device="cpu", dtype="float32").describe_self()["language model"] == "llama"


def test_the_command_says_what_became_of_each_piece(pieces, tmp_path, capsys):
    command = ["minigpt4", "--blip2", str(pieces["tower"]), str(pieces["qformer"]), "--language", str(pieces["vicuna"])]
    command += ["--projection", str(pieces["projection"]), "--output", str(tmp_path / "out"), "--dtype", "bfloat16"]
    assert cli.main(command) == 0
    said = capsys.readouterr().out
    assert f"tower.pth: {4 + 39 * 13} tensors taken, {2 + 13} left out" in said
    assert "blocks.*" in said and "head.weight" in said
    assert "it loads and answers" in said
    assert "not trained" not in said
    assert cli.main(command) == 1
    assert "is there already" in capsys.readouterr().out


class Code:
    """What a checkpoint must not bring."""


def change(pieces, what):
    """Spoil one piece; returns the words that tell so."""
    state = {"tower": tower(), "qformer": qformer(), "projection": projection()}
    if what == "missing":
        del state["tower"]["blocks.3.mlp.fc1.weight"]
        words = r"1 tensors \(vision_model.encoder.layers.3.mlp.fc1.weight\) are missing"
    elif what == "unexpected":
        state["tower"]["blocks.3.gamma_1"] = torch.ones(TOWER)
        words = r"tower.pth has 1 tensors \(visual_encoder.blocks.3.gamma_1\), for which"
    elif what == "shape":
        state["qformer"]["Qformer.bert.encoder.layer.1.output_query.dense.weight"] = torch.ones(QFORMER, 31)
        words = r"qformer.encoder.layer.1.output_query.dense.weight is \[64, 31\], expected \[64, 32\]"
    elif what == "no bias of values":
        del state["tower"]["blocks.0.attn.v_bias"]
        words = "layers.0.self_attn.q_bias"
    elif what == "no Q-Former":
        state["projection"] = projection(into=4 * TOWER)
        words = "MiniGPT-4 without Q-Former"
    elif what == "another size":
        state["projection"] = projection(out=80)
        words = "projects 64 numbers to 80, expected 64 to 64"
    elif what == "not ours":
        state["projection"] = {"fc.weight": torch.ones(2)}
        words = r"projection.pth has 1 tensors \(fc.weight\), for which"
    elif what == "code":
        state["projection"]["more"] = Code()
        words = "projection.pth cannot be read: .* A file that holds more than tensors"
    for name, tensors in state.items():
        torch.save({"model": tensors}, pieces[name])
    return words


@pytest.mark.parametrize(
    "what",
    ["missing", "unexpected", "shape", "no bias of values", "no Q-Former", "another size", "not ours", "code"],
)
def test_what_is_wrong_with_a_piece_is_named(pieces, tmp_path, what):
    with pytest.raises(ModelError, match=change(pieces, what)):
        assemble(pieces, tmp_path)
    assert not (tmp_path / "minigpt4").exists()


def test_pieces_that_are_not_there_are_named(pieces, tmp_path):
    (tmp_path / "empty").mkdir()
    for changes, words in [
        ({"blip2": [pieces["tower"]]}, "no piece has the Q-Former"),
        ({"blip2": [pieces["qformer"]]}, "no piece has the vision tower"),
        ({"projection": tmp_path / "nowhere.pth"}, "nowhere.pth does not exist"),
        ({"projection": pieces["qformer"]}, "has no llama_proj.weight"),
        ({"language": tmp_path / "empty"}, "empty cannot be read"),
        ({"output": pieces["vicuna"]}, "is there already"),
    ]:
        with pytest.raises(ModelError, match=words):
            assemble(pieces, tmp_path, **changes)


def test_numbers_that_the_precision_cannot_hold_are_named(pieces, tmp_path):
    own = projection()
    own["llama_proj.bias"][3] = 1e6
    torch.save({"model": own}, pieces["projection"])
    with pytest.raises(ModelError, match="language_projection.bias has numbers"):
        assemble(pieces, tmp_path, dtype="float16")

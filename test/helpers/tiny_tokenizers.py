"""Small tokenizers of both kinds and chat templates, as the published folders have them."""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = """left right center near far left near far right no yes none clear obstacle wall corridor people door
where is the red ball? answer with one word. describe the scene in one sentence. is it there? how near? what is this?
which of these is it? a red ball and a blue box are near the wall on the left. nothing is there.
image image shows question answers options choose one 左边 右边 中间 门口 有 没有
红球在哪里？ à gauche à droite où est la balle?"""


def byte_tokenizer(
    *special: str, bos: str | None = None, add_bos: bool = False, **named: str
) -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2, Qwen, Phi and Llama 3 have it: any text is known. The last `special` token pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS.splitlines(), trainer)
    return _wrapped(tokenizer, special, bos, add_bos, named)


def piece_tokenizer(
    *special: str, bos: str = "<s>", prefix: bool = True, add_bos: bool = True, **named: str
) -> PreTrainedTokenizerFast:
    """BPE on pieces with bytes for unknown letters, as Llama 2, Mistral, Phi-3 and Gemma have it."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS.splitlines(), trainers.BpeTrainer(vocab_size=300, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    letters = [chr(code) for code in range(33, 127)]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"], *letters]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(merge) for merge in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    space = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), space]) if prefix else space
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    return _wrapped(tokenizer, special, bos, add_bos, named, unk_token="<unk>")


def _wrapped(
    tokenizer: Tokenizer, special: tuple[str, ...], bos: str | None, add_bos: bool, named: dict[str, str], **kwargs: Any
) -> PreTrainedTokenizerFast:
    everything = [*([bos] if bos else []), *special, *named.values()]
    tokenizer.add_special_tokens(list(dict.fromkeys(everything)))
    if bos and add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=special[0],
        pad_token=special[-1],
        extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
        **kwargs,
    )


def template(
    user: str, image: str, end: str, assistant: str, start: str = "", lead: str = "", close: str | None = None
) -> str:
    """A chat template of turns: text and images in the order given, then the assistant's beginning.

    In a turn of the assistant, `lead` stands between that beginning and the words, `close` behind them.
    """
    say = lambda words: "{{ " + json.dumps(words) + " }}"  # noqa: E731
    by_role = lambda user, assistant: (  # noqa: E731
        f"{{% if message['role'] == 'user' %}}{say(user)}{{% else %}}{say(assistant)}{{% endif %}}"
    )
    return (
        f"{say(start)}{{% for message in messages %}}{by_role(user, assistant + lead)}"
        f"{{% for part in message['content'] %}}"
        f"{{% if part['type'] == 'image' %}}{say(image)}{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}"
        f"{by_role(end, end if close is None else close)}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{say(assistant)}{{% endif %}}"
    )


def chatml(image: str, start: str = "", lead: str = "") -> str:
    return template("<|im_start|>user\n", image, "<|im_end|>\n", "<|im_start|>assistant\n", start, lead)


VICUNA = template("USER: ", "<image>\n", " ", "ASSISTANT:", lead=" ")
MISTRAL = template("[INST] ", "<image>\n", " [/INST]", "", lead=" ", close="</s>")
QWEN_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"

"""Settings of perception for tests: which question labels, which describes, how often."""

from __future__ import annotations

from dataclasses import replace

from vlm_perception.perception.settings import DescriptionSettings, LabelSettings, Settings


def settings(label, words, label_rate=0.0, description_rate=0.0, follow_motion=False, max_frame_age=60.0, **others):
    """Return settings that ask `label` and `words` at these rates [Hz]; `others` are fields of `Settings`."""
    return Settings(
        max_frame_age,
        LabelSettings(label.options, label.prompt, label.descriptions, label_rate, follow_motion),
        DescriptionSettings(words.prompt, words.phrases, description_rate, words.max_new_tokens),
        **others,
    )


def with_label(some, label):
    """Return `some` settings with another question for the label."""
    changed = replace(some.label, options=label.options, prompt=label.prompt, descriptions=label.descriptions)
    return replace(some, label=changed)

"""A model that was taught by the labels of its stock chat template is right by ours wherever it is by `generate`.

Three families that differ most: a space before the answer in a byte-level tokenizer, an answer without one in a
tokenizer of pieces, a prompt that ends inside a thought. `python test/helpers/taught.py` teaches all of them.
"""

import pytest
import taught

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", ["smolvlm", "llava-phi-3", taught.THINKING])
def test_a_taught_model_answers_as_its_generate(family, tmp_path):
    teacher = taught.Teacher(taught.save(family, tmp_path))
    teacher.teach(45, rate=5e-3)
    result = teacher.ask(range(3))
    assert (result.by_generate, result.by_ours) == (9, 9)
    assert max(answer.off_mass for answer in result.answers) < 0.1  # the model says one of the options

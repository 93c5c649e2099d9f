"""The digits example: its inputs are those of the real architecture, its report counts right."""

from __future__ import annotations

import json

import digits
import model
import prepare
import pytest
import report
import torch
from safetensors.torch import save_file


@pytest.mark.parametrize("question", digits.QUESTIONS)
def test_positions_are_the_familys(question):
    inputs = digits.inputs(torch.zeros(2, 8, 8), question)
    expected, _ = model.build(0).model.get_rope_index(
        input_ids=inputs["input_ids"],
        mm_token_type_ids=(inputs["input_ids"] == digits.TOKEN[digits.IMAGE]).int(),
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    assert torch.equal(inputs["position_ids"], expected)


def test_patches_of_a_merged_token_lie_together():
    image = torch.arange(64.0).reshape(1, 8, 8)
    rows = digits.patches(image)
    assert rows.shape == (16, digits.TEMPORAL * digits.PATCH**2)
    first_token = rows[:4].reshape(4, digits.TEMPORAL, digits.PATCH, digits.PATCH)
    assert torch.equal(first_token[:, 0], first_token[:, 1])
    assert set(first_token.flatten().tolist()) == set(image[0, :4, :4].flatten().tolist())
    assert first_token[1, 0].tolist() == [[2.0, 3.0], [10.0, 11.0]]  # right of the first patch


def test_split_is_fixed_and_disjoint():
    training, held_out = digits.load_digits()
    again, _ = digits.load_digits()
    assert torch.equal(training.pixels, again.pixels)
    assert len(training) + len(held_out) == 1797
    assert held_out.labels.bincount().min() >= 30  # every digit is asked about


def test_answer_is_the_digit_at_the_last_position():
    logits = torch.zeros(2, 3, len(digits.WORDS))
    logits[0, -1, digits.TOKEN["7"]] = 5
    logits[1, -1, digits.TOKEN["0"]] = 5
    logits[:, 0, digits.TOKEN["3"]] = 9  # another position
    logits[:, -1, digits.TOKEN["which"]] = 9  # not a digit
    assert digits.answers(logits).tolist() == [7, 0]


@pytest.fixture
def finished_run(tmp_path):
    """Two images: a 7 read as 7, a 3 read as 8."""
    run, evaluation = tmp_path / "run", tmp_path / "evaluation"
    (run / "moetap" / "outputs").mkdir(parents=True)
    evaluation.mkdir()
    samples = [prepare.sample(0, "?", "7", "7"), prepare.sample(1, "?", "3", "8")]
    (evaluation / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    layers = {"0": {"dist_experts_top2": [3, 1]}, "time_inference": 0.5}
    logs = [{**sample, "logs_metrics_vision": [[layers]]} for sample in samples]
    (run / "log_metrics.json").write_text(json.dumps({"logs": logs}))
    # One expert's tokens, in two regions, attend to the image by 1/4 and by 3/4; twice as many are in the second.
    experts = {"flow": [[[0.25, 0.75], [0.75, 0.25]], [[0, 0], [0, 0]]], "flow_weight": [[1.0, 2.0], [0, 0]]}
    attention = {"regions": ["image", "other"], "region_mass": [0.4, 0.6], "experts": experts}
    summary = {"attention": {"language_model": {"0": attention}}}
    (run / "moetap" / "summary.json").write_text(json.dumps(summary))
    for index, answer in enumerate("78"):
        output = torch.zeros(1, 2, len(digits.WORDS))
        output[0, -1, digits.TOKEN[answer]] = 1
        save_file({"output": output}, str(run / "moetap" / "outputs" / f"{index:06d}.safetensors"))
    return run, evaluation


def test_report_counts_by_the_saved_outputs(finished_run, capsys):
    run, evaluation = finished_run
    assert report.report(run, evaluation, "log_metrics") == 0
    lines = capsys.readouterr().out
    assert "accuracy: 1 of 2 held-out images (50.0%)" in lines
    assert "digit 7:  75%  25%" in lines
    assert "layer 0:  40%   58%    -" in lines  # (1 * 1/4 + 2 * 3/4) / 3


def test_report_refuses_a_run_that_answered_otherwise(finished_run, capsys):
    run, evaluation = finished_run
    samples = [prepare.sample(0, "?", "7", "7"), prepare.sample(1, "?", "3", "3")]
    (evaluation / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    assert report.report(run, evaluation, "log_metrics") == 1
    assert "images [1]" in capsys.readouterr().err

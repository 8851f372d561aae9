"""The model card: settings and data at training, one row per evaluation."""

from tiny import run_config, tiny_policy

from configs.composing import as_dict
from policies.model_card import CARD, add_evaluation, write_frontend_card, write_model_card
from policies.training import decode_run

RUN = decode_run(as_dict(run_config()) | {"seed": 3, "command": "python train.py policy=tinyvla"})
RESULT = {
    "success_rate": 0.75,
    "successes": 15,
    "episodes": 20,
    "ci95": [0.5313, 0.8881],
    "tasks": {"reach-v3": {}},
    "split": "test",
    "seed": 0,
    "shift": None,
}


def test_a_card_says_what_a_policy_was_trained_on(tmp_path, dataset):
    text = write_model_card(tmp_path, tiny_policy(dataset)[0], dataset.meta, RUN, processes=2).read_text()
    assert text.startswith("---\nlibrary_name: lerobot")
    assert "| demonstrations | 4 episodes, 99 frames, 20 Hz |" in text
    assert "open the drawer; press the red button" in text
    assert "observation.images.left, observation.images.right, observation.state, task" in text
    assert "`python train.py policy=tinyvla`" in text
    assert f"batches of {2 * RUN.trainer.batch_size}, seed 3 |" in text


def test_evaluations_are_rows_and_a_repeated_one_replaces_the_first(tmp_path, dataset):
    card = write_model_card(tmp_path, tiny_policy(dataset)[0], dataset.meta, RUN)
    add_evaluation(tmp_path, "metaworld", RESULT)
    add_evaluation(tmp_path, "metaworld", RESULT | {"shift": {"names": ["lighting"], "severity": 2}})
    add_evaluation(tmp_path, "metaworld", RESULT | {"successes": 20, "success_rate": 1.0, "ci95": [0.8389, 1.0]})
    rows = [line for line in card.read_text().splitlines() if line.startswith("| metaworld")]
    assert rows == [
        "| metaworld | reach-v3 | test, 0 | lighting 2 | 15/20 | 75.0% | 53.1–88.8% |",
        "| metaworld | reach-v3 | test, 0 | none | 20/20 | 100.0% | 83.9–100.0% |",
    ]


def test_a_checkpoint_without_a_card_gets_none(tmp_path):
    add_evaluation(tmp_path, "metaworld", RESULT)
    assert not (tmp_path / CARD).exists()


def test_a_frontend_has_a_card_with_its_test(tmp_path):
    run = {"trainer": {"steps": 10, "batch_size": 4}, "seed": 3, "task": {"scenes": {"kind": "table", "train": 400}}}
    result = {"task": "tinysam", "figures": {"iou_point": {"value": 0.69, "n": 571, "ci95": [0.668, 0.712]}}}
    text = write_frontend_card(tmp_path, run, result).read_text()
    assert "| data | 400 generated images (table) |" in text
    assert "frontend.tinysam.checkpoint=<this folder>" in text
    assert "| iou_point | 0.690 | 571 | 0.668–0.712 |" in text

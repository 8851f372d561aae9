"""A trained policy computed in other ways: samplers, runtimes, and exported."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_runner import observation
from tiny import TinyBackbone, run_config, tiny_policy

from configs.composing import as_dict
from policies import (
    PolicyRunner,
    decode_policy_config,
    load_policy,
    make_policy,
    make_processors,
    runtimes,
    save_checkpoint_files,
)
from policies.export import export_policy
from policies.runtimes import adapt_policy
from tinyvla.errors import UserError
from tinyvla.inference.eager import quantise

ROOT = Path(__file__).parents[2]
FEW = "decoder.inference_steps=2"
KINDS = ("diffusion-unet", "flow-unet", "diffusion-dit", "flow-dit")
NOISE = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(5))


def made(dataset, kind="diffusion-unet", *settings):
    """A runner whose every weight matters; a DiT's gates and head start at zero."""
    decoder, network = kind.split("-")
    cfg = run_config("tinyvla", f"decoder={decoder}", FEW, *settings)
    if network == "dit":
        cfg.policy.decoder.network = {"type": "dit", "width": 32, "layers": 1, "heads": 2}
    generator = torch.manual_seed(0)
    policy = make_policy(decode_policy_config(as_dict(cfg.policy), "cpu"), dataset.meta).eval()
    for parameter in policy.model.decoder.network.parameters():
        if not parameter.abs().max():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return PolicyRunner(policy, *make_processors(policy, dataset.meta.stats))


def chunk(runner, task="open the drawer", noise=NOISE):
    with torch.inference_mode():
        return runner.policy.predict_action_chunk(runner._batch(observation(task=task)), noise=noise)


@pytest.fixture(scope="module")
def checkpoint(dataset, tmp_path_factory):
    runner, folder = made(dataset), tmp_path_factory.mktemp("run") / "pretrained_model"
    save_checkpoint_files(runner.policy, runner.preprocessor, runner.postprocessor, folder)
    return folder


class TestSamplers:
    def test_another_sampler_without_training_again(self, checkpoint, dataset):
        solver = "DPMSolverMultistepScheduler"
        adapted = load_policy(checkpoint, "cpu", scheduler=solver, inference_steps=3)
        trained_so = made(dataset, "diffusion-unet", f"decoder.scheduler={solver}", "decoder.inference_steps=3")
        torch.testing.assert_close(chunk(adapted), chunk(trained_so))
        assert not torch.allclose(chunk(adapted), chunk(load_policy(checkpoint, "cpu")), atol=1e-3)
        assert adapted.policy.config.decoder.scheduler == solver  # so that what is saved or described says so

    def test_fewer_steps_of_a_flow(self, dataset):
        runner = made(dataset, "flow-unet")
        adapt_policy(runner.policy, inference_steps=1)
        expected = made(dataset, "flow-unet", "decoder.inference_steps=1")
        torch.testing.assert_close(chunk(runner), chunk(expected))

    @pytest.mark.parametrize(
        ("options", "what"),
        [
            ({"inference_steps": 0}, "runner.inference_steps=0 does not fit; use a number from 1"),
            (
                {"inference_steps": 101},
                "between 1 and train_steps 100, got 101; change runner.scheduler or runner.infer",
            ),
            ({"inference_steps": 2.5}, "inference_steps=2.5 is not a whole number"),
            ({"scheduler": "DDIMSchedular"}, "not a scheduler of diffusers; did you mean DDIMScheduler"),
            ({"scheduler": "FlowMatchEulerDiscreteScheduler"}, "does not suit action chunks"),
            ({"runtime": "tensorrt"}, "runner.runtime=tensorrt does not fit; did you mean torch"),
            ({"n_action_steps": 9}, "runner.n_action_steps=9 does not fit; use 1 to 8"),
            ({"n_action_steps": 0}, "runner.n_action_steps=0 does not fit; use a number from 1"),
        ],
    )
    def test_what_cannot_be_is_one_line(self, checkpoint, options, what):
        with pytest.raises(UserError, match=what) as mistake:
            load_policy(checkpoint, "cpu", **options)
        assert "\n" not in str(mistake.value)

    def test_another_execution_horizon(self, checkpoint):
        for n_action_steps in (1, 3, 8):
            runner = load_policy(checkpoint, "cpu", n_action_steps=n_action_steps)
            runner.reset(0)
            looks = []
            for _ in range(9):
                looks.append(runner.needs_observation)
                runner.act(observation() if looks[-1] else None)
            assert looks == [step % n_action_steps == 0 for step in range(9)]

    def test_a_flow_has_no_scheduler(self, dataset):
        with pytest.raises(UserError, match=r"leave runner\.scheduler out"):
            adapt_policy(made(dataset, "flow-unet").policy, scheduler="DDIMScheduler")

    def test_other_policies_are_left_alone(self, dataset):
        policy, *_ = tiny_policy(dataset, "act")
        adapt_policy(policy)  # the defaults ask for nothing
        for options in ({"runtime": "onnx"}, {"inference_steps": 3}, {"scheduler": "DDIMScheduler"}):
            with pytest.raises(UserError, match="for TinyVLA policies, and this one has type 'act'; leave them out"):
                adapt_policy(policy, **options)


class TestEngines:
    @pytest.mark.parametrize(
        "kind", [pytest.param(kind, marks=pytest.mark.slow if kind.startswith("flow") else ()) for kind in KINDS]
    )
    def test_onnx_computes_the_same_chunk(self, kind, dataset):
        runner, reference = made(dataset, kind), made(dataset, kind)
        adapt_policy(runner.policy, "onnx")
        for task in ("open the drawer", "", "press the red button from above, slowly"):
            difference = (chunk(runner, task) - chunk(reference, task)).abs().max()
            assert difference <= 1e-3, task
        assert (chunk(reference) - chunk(reference, "close")).abs().max() > 1e-3  # the instruction matters
        torch.manual_seed(3)
        drawn = chunk(runner, noise=None)
        torch.manual_seed(3)
        assert (drawn - chunk(reference, noise=None)).abs().max() <= 1e-3

    def test_openvino_computes_the_same_chunk(self, dataset):
        pytest.importorskip("openvino")
        runner = made(dataset)
        adapt_policy(runner.policy, "openvino")
        assert (chunk(runner) - chunk(made(dataset))).abs().max() <= 1e-3

    def test_openvino_missing_is_one_line(self, dataset, monkeypatch):
        monkeypatch.setitem(sys.modules, "openvino", None)
        with pytest.raises(UserError, match="uv sync --extra openvino"):
            adapt_policy(made(dataset).policy, "openvino")

    def test_a_sampler_that_draws_noise_is_refused(self, dataset):
        with pytest.raises(UserError, match=r"draws noise at every step.*use DDIMScheduler"):
            adapt_policy(made(dataset).policy, "onnx", scheduler="DDPMScheduler")

    def test_a_backbone_that_cannot_be_exported_is_refused(self, dataset, monkeypatch):
        monkeypatch.setattr(TinyBackbone, "exportable", False)
        with pytest.raises(UserError, match="this backbone cannot be exported, only nano and film can"):
            adapt_policy(made(dataset).policy, "onnx")


class TestPyTorch:
    def test_bfloat16_is_close(self, dataset, monkeypatch):
        monkeypatch.setattr(runtimes, "computes_bf16", lambda device: True)
        runner = made(dataset)
        adapt_policy(runner.policy, "bf16")
        assert {parameter.dtype for parameter in runner.policy.parameters()} == {torch.bfloat16}
        taken, expected = chunk(runner), chunk(made(dataset))
        assert taken.dtype == torch.float32
        assert (taken - expected).abs().max() < 0.1

    def test_bfloat16_where_the_processor_has_none(self, dataset, monkeypatch):
        monkeypatch.setattr(runtimes, "computes_bf16", lambda device: False)
        with pytest.raises(UserError, match="does not compute in bfloat16"):
            adapt_policy(made(dataset).policy, "bf16")

    def test_int8_is_close_and_spares_what_touches_the_arm(self, dataset):
        runner, expected = made(dataset, "diffusion-dit"), chunk(made(dataset, "diffusion-dit"))
        names = quantise(runner.policy.model)
        spared = {"decoder.condition.combine", "decoder.network.embed", "decoder.network.head"}
        linear = {n for n, layer in runner.policy.model.named_modules() if isinstance(layer, torch.nn.Linear)}
        assert set(names) == linear - spared
        assert len(names) > 5
        assert 0 < (chunk(runner) - expected).abs().max() < 0.1

    @pytest.mark.slow
    @pytest.mark.parametrize("runtime", ["compile", "int8"])
    def test_compiled_once_for_all_chunks(self, runtime, dataset):
        from torch._dynamo.utils import counters

        runner = made(dataset)
        adapt_policy(runner.policy, runtime)
        compiled = counters["stats"]["unique_graphs"]
        for task in ("open the drawer", "", "press the red button from above, slowly"):
            difference = (chunk(runner, task) - chunk(made(dataset), task)).abs().max()
            assert difference < (1e-3 if runtime == "compile" else 0.1)
        assert counters["stats"]["unique_graphs"] == compiled > 0


class TestExport:
    @pytest.fixture(scope="class")
    def folder(self, checkpoint, tmp_path_factory):
        return export_policy(checkpoint, tmp_path_factory.mktemp("exports") / "drawer")

    def test_runs_without_pytorch(self, folder, checkpoint, tmp_path):
        sample = observation()
        np.savez(tmp_path / "in.npz", noise=NOISE[0].numpy(), **{k: v for k, v in sample.items() if k != "task"})
        code = f"""
import sys
for name in ("torch", "lerobot", "transformers", "diffusers"):
    sys.modules[name] = None
import numpy as np
from tinyvla.inference.exported import ExportedPolicy
given = dict(np.load({str(tmp_path / "in.npz")!r}))
noise = given.pop("noise")
policy = ExportedPolicy({str(folder)!r})
np.save({str(tmp_path / "out.npy")!r}, policy.predict_chunk(given | {{"task": {sample["task"]!r}}}, noise=noise))
"""
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        runner = load_policy(checkpoint, "cpu")
        expected = runner.postprocessor(chunk(runner)[0]).numpy()
        np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-3, atol=1e-3)

    def test_what_lies_in_the_folder(self, folder):
        assert sorted(file.name for file in folder.iterdir()) == ["model.onnx", "policy.json"]
        assert not list(folder.parent.glob(".*"))
        description = json.loads((folder / "policy.json").read_text())
        assert description["inputs"]["images"]["shape"] == [1, 2, 3, 32, 32]
        assert description["cameras"] == ["observation.images.left", "observation.images.right"]
        assert description["sampler"] == {"scheduler": "DDIMScheduler", "inference_steps": 2}

    def test_bad_input_loses_nothing(self, folder, checkpoint, dataset, tmp_path):
        before = (folder / "model.onnx").read_bytes()
        with pytest.raises(UserError, match="exists already; choose another folder"):
            export_policy(checkpoint, folder)
        assert (folder / "model.onnx").read_bytes() == before
        with pytest.raises(UserError, match="no policy checkpoint"):
            export_policy(tmp_path, tmp_path / "new")
        policy, *pipelines = tiny_policy(dataset, "act")
        save_checkpoint_files(policy, *pipelines, tmp_path / "act")
        with pytest.raises(UserError, match="only TinyVLA policies can be exported, and this one has type 'act'"):
            export_policy(tmp_path / "act", tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_a_folder_that_holds_no_export(self, folder, tmp_path):
        from tinyvla.inference.exported import ExportedPolicy

        with pytest.raises(UserError, match=r"lacks model.onnx; give a folder that export.py wrote"):
            ExportedPolicy(tmp_path)
        with pytest.raises(UserError, match="unknown engine 'tensorrt'; use onnx or openvino"):
            ExportedPolicy(folder, engine="tensorrt")

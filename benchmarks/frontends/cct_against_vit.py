"""CCT against a plain ViT of the same size, each with SeqPool and with a class token, on small sets of images.

    uv run python -m benchmarks.frontends.cct_against_vit
    uv run python -m benchmarks.frontends.cct_against_vit sets=[digits] seeds=[0] steps=20 name=try

The sets are scikit-learn's digits and objects cut out of generated tables. All models are trained alike, from scratch.
The ViT has three layers instead of two, so that it has more parameters than the CCT, not fewer, and as many tokens. A
run is written to benchmarks/results as soon as it is finished; the same command resumes. Parameter counts of the
paper's variants are listed beside those that the paper gives. The last line is one JSON object.
"""

import json
from dataclasses import dataclass
from typing import Any

from benchmarks.frontends.classifier_runs import (
    accuracy,
    correct,
    difference,
    open_data,
    options,
    side_by_side,
    train,
)
from benchmarks.machine import RESULTS, Machine, keep, markdown, read_kept
from benchmarks.settings import setting, start

_VIT = {"embed_dim": 128, "num_heads": 2, "mlp_ratio": 1.0, "depth": 3}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "CCT-2/3x2, SeqPool": ("cct_2_3x2", {}),
    "CCT-2/3x2, class token": ("cct_2_3x2", {"global_pool": "token"}),
    "ViT-3/4, class token": ("vit_lite_6_4", _VIT),
    "ViT-3/4, SeqPool": ("vit_lite_6_4", {**_VIT, "global_pool": "seq"}),
}
CCT, VIT = "CCT-2/3x2, SeqPool", "ViT-3/4, class token"
SETS: dict[str, dict[str, Any]] = {
    "digits": {"image_size": 16, "view": {"scale": 0.7, "flip": False, "colour": 0.0}},
    "objects": {"image_size": 32},
}
# Millions, arXiv 2104.05704 and its authors' table: 10 classes at 32 pixels, CCT-14 1,000 classes at 224. The paper's
# CCT-6/3x1 is counted without positional embeddings.
PUBLISHED = {
    "cct_2_3x2": 0.284,
    "cct_4_3x2": 0.482,
    "cct_6_3x1": 3.168,
    "cct_6_3x2": 3.327,
    "cct_7_3x1": 3.760,
    "cct_7_3x2": 3.853,
    "cct_14_7x2": 22.36,
    "vit_lite_6_4": 3.191,
    "vit_lite_7_4": 3.717,
    "cvt_6_4": 3.190,
    "cvt_7_4": 3.717,
}
TITLES = {
    "model": "model",
    "parameters": "parameters (M)",
    "digits": "digits",
    "objects": "objects",
}


@dataclass
class Settings:
    """Settings of the command line."""

    sets: list[str] = setting(list(SETS), "image sets", SETS)
    seeds: list[int] = setting([0, 1, 2], "seeds, one run each")
    steps: int = setting(250, "training steps of 64 images")
    scenes: int = setting(400, "scenes that training objects are cut out of")
    test_scenes: int = setting(200, "scenes that test objects are cut out of")
    data_dir: str = setting("data", "folder of generated scenes")
    workers: int = setting(2, "runs side by side, of one thread each")
    name: str = setting("cct_against_vit", "name of the files in benchmarks/results")


def run(name: str, chosen: str, seed: int, settings: Settings) -> dict[str, Any]:
    """Train one model on one set and test it."""
    from benchmarks.frontends.vision_tasks import trainable_of

    model, network = MODELS[name]
    trainer = {"steps": settings.steps, "lr": 1e-3}
    task = options("cct", model=model, network=network, source=chosen, trainer=trainer, **SETS[chosen])
    trainable: Any = trainable_of(
        task, open_data(chosen, settings.scenes, settings.test_scenes, settings.data_dir), seed
    )
    spent = train(trainable, task["trainer"], seed)
    return {
        "model": name,
        "set": chosen,
        "seed": seed,
        "right": correct(trainable),
        "n": len(trainable.test_images()),
        "train_images": len(trainable.train_images),
        "classes": len(trainable.train_images.classes),
        "parameters": sum(weight.numel() for weight in trainable.module.parameters()),
        "seconds": round(sum(spent.values()), 1),
    }


def count_parameters() -> list[dict[str, Any]]:
    """Parameters of the paper's variants: ours beside the paper's."""
    import timm
    import torch

    import tinyvla.encoders  # noqa: F401  registers them

    rows = []
    for name, published in PUBLISHED.items():
        side, classes = (224, 1000) if name == "cct_14_7x2" else (32, 10)
        with torch.device("meta"):
            model = timm.create_model(name, img_size=side, num_classes=classes, positions=name != "cct_6_3x1")
        ours = sum(weight.numel() for weight in model.parameters()) / 1e6
        off = 100 * (ours / published - 1)
        rows.append({"variant": name, "ours": f"{ours:.3f}", "paper": published, "off": f"{off:+.2f}%"})
    return rows


def summarise(rows: list[dict[str, Any]], settings: Settings) -> tuple[dict[str, Any], str]:
    """Result and Markdown of the finished runs."""
    table: list[dict[str, str]] = []
    accuracies: dict[tuple[str, str], dict[str, Any]] = {}
    for name in MODELS:
        line = {"model": name}
        for chosen in settings.sets:
            runs = [row for row in rows if row["model"] == name and row["set"] == chosen]
            if runs:
                figures = accuracies[name, chosen] = accuracy(runs)
                line["parameters"] = f"{runs[0]['parameters'] / 1e6:.3f}"
                line[chosen] = f"{figures['accuracy']:.1f}% ({figures['ci95'][0]}–{figures['ci95'][1]})"
        table.append(line)
    ahead = {}
    for chosen in settings.sets:
        by_model = {name: [row for row in rows if row["model"] == name and row["set"] == chosen] for name in MODELS}
        for one, other in ((CCT, VIT), (CCT, "CCT-2/3x2, class token"), ("ViT-3/4, SeqPool", VIT)):
            if by_model[one] and len(by_model[one]) == len(by_model[other]):
                ahead[f"{chosen}: {one} ahead of {other}"] = difference(by_model[one], by_model[other])
    sizes = {row["set"]: (row["train_images"], row["n"], row["classes"]) for row in rows}
    text = "; ".join(f"{name}: {a} training and {b} test images of {c} classes" for name, (a, b, c) in sizes.items())
    text += f"; {settings.steps} steps of 64, seeds {settings.seeds}; accuracy (95% interval of the test images)\n\n"
    text += markdown(table, {key: title for key, title in TITLES.items() if key not in set(SETS) - set(settings.sets)})
    lines = [
        f"- {name}: {lead['points']:+.1f} points ({lead['ci95'][0]} to {lead['ci95'][1]})"
        for name, lead in ahead.items()
    ]
    parameters = count_parameters()
    titles = {"variant": "variant", "ours": "parameters (M)", "paper": "paper (M)", "off": "difference"}
    text += "\n\n" + "\n".join(lines) + "\n\n" + markdown(parameters, titles)
    figures = {f"{chosen}: {name}": accuracy for (name, chosen), accuracy in accuracies.items()}
    return {"accuracy": figures, "ahead": ahead, "parameters": parameters}, text


def main(settings: Settings) -> None:
    machine, file = Machine(), RESULTS / f"{settings.name}.json"
    conditions = {key: getattr(settings, key) for key in ("steps", "scenes", "test_scenes")}
    rows: list[dict[str, Any]] = read_kept(settings.name, conditions).get("rows", [])
    for chosen in settings.sets:
        open_data(
            chosen, settings.scenes, settings.test_scenes, settings.data_dir
        )  # rendered once, before the runs need it
    done = {(row["model"], row["set"], row["seed"]) for row in rows}
    jobs = [(name, chosen, seed) for chosen in settings.sets for seed in settings.seeds for name in MODELS]

    def write(row: dict[str, Any] | None = None) -> None:
        rows.extend([row] if row else [])
        rows.sort(key=lambda run: (run["set"], list(MODELS).index(run["model"]), run["seed"]))
        result, text = summarise(rows, settings)
        keep(
            settings.name,
            {"asked": conditions, "machine": machine.describe(1), **result, "rows": rows},
            f"{machine.title(1)}; {text}",
        )

    side_by_side([(*job, settings) for job in jobs if job not in done], run, settings.workers, write)
    write()
    print(file.with_suffix(".md").read_text())
    print(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "rows"}))


if __name__ == "__main__":
    start(main, Settings, __doc__)

"""CCT against a plain ViT of the same size, each with SeqPool and with a class token, on small sets of pictures.

    uv run benchmarks/perception/cct_against_vit.py
    uv run benchmarks/perception/cct_against_vit.py --sets digits --seeds 0 --steps 20 --name try

The sets are scikit-learn's digits and objects cut out of generated tables. All models are trained alike, from nothing.
The ViT has three layers instead of two, so that it has more parameters than the CCT, not fewer, and as many tokens. A
run is kept in benchmarks/results as soon as it is there; the same command goes on where it stopped. The parameter
counts of the paper's variants are beside what the paper says. The last line is one JSON object.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.frontends.classifier_runs import accuracy, difference, options, right, side_by_side, train
from benchmarks.machine import RESULTS, Machine, keep, markdown

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


def run(name: str, chosen: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one model on one set and test it."""
    from tinyvla.frontends.cct.training import ClassificationTrainable

    model, network = MODELS[name]
    trainer = {"steps": args.steps, "lr": 1e-3}
    made = options("cct", model=model, network=network, source=chosen, trainer=trainer, **SETS[chosen])
    trainable = ClassificationTrainable(made, open_data(chosen, args), seed)
    spent = train(trainable, made["trainer"], seed)
    return {
        "model": name,
        "set": chosen,
        "seed": seed,
        "right": right(trainable),
        "n": len(trainable.test_pictures()),
        "train_pictures": len(trainable.train_pictures),
        "classes": len(trainable.train_pictures.classes),
        "parameters": sum(weight.numel() for weight in trainable.module.parameters()),
        "seconds": round(sum(spent.values()), 1),
    }


def open_data(chosen: str, args: argparse.Namespace) -> dict[str, Any]:
    """Scenes by split for `objects`, nothing for `digits`."""
    if chosen == "digits":
        return {}
    from envs.scenes import open_labelled_images

    counts = {"train": args.scenes, "validation": 50, "test": args.test_scenes}
    return {
        name: open_labelled_images("table", name, count, data_dir=Path(args.data_dir)) for name, count in counts.items()
    }


def count_parameters() -> list[dict[str, Any]]:
    """Parameters of the paper's variants, ours and the paper's."""
    import timm
    import torch

    import tinyvla.encoders  # noqa: F401  registers them

    rows = []
    for name, published in PUBLISHED.items():
        side, classes = (224, 1000) if name == "cct_14_7x2" else (32, 10)
        with torch.device("meta"):
            made = timm.create_model(name, img_size=side, num_classes=classes, positions=name != "cct_6_3x1")
        ours = sum(weight.numel() for weight in made.parameters()) / 1e6
        off = 100 * (ours / published - 1)
        rows.append({"variant": name, "ours": f"{ours:.3f}", "paper": published, "off": f"{off:+.2f}%"})
    return rows


def summarise(rows: list[dict[str, Any]], args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The result and its tables, of the runs that are there."""
    table, found = [], {}
    for name in MODELS:
        line = {"model": name}
        for chosen in args.sets:
            runs = [row for row in rows if row["model"] == name and row["set"] == chosen]
            if runs:
                figures = found[name, chosen] = accuracy(runs)
                line["parameters"] = f"{runs[0]['parameters'] / 1e6:.3f}"
                line[chosen] = f"{figures['accuracy']:.1f}% ({figures['ci95'][0]}–{figures['ci95'][1]})"
        table.append(line)
    ahead = {}
    for chosen in args.sets:
        by_model = {name: [row for row in rows if row["model"] == name and row["set"] == chosen] for name in MODELS}
        for one, other in ((CCT, VIT), (CCT, "CCT-2/3x2, class token"), ("ViT-3/4, SeqPool", VIT)):
            if by_model[one] and len(by_model[one]) == len(by_model[other]):
                ahead[f"{chosen}: {one} ahead of {other}"] = difference(by_model[one], by_model[other])
    sizes = {row["set"]: (row["train_pictures"], row["n"], row["classes"]) for row in rows}
    told = "; ".join(f"{name}: {a} training and {b} test pictures of {c} classes" for name, (a, b, c) in sizes.items())
    text = f"{told}; {args.steps} steps of 64, seeds {args.seeds}; accuracy (95% interval of the test pictures)\n\n"
    text += markdown(table, {key: title for key, title in TITLES.items() if key not in set(SETS) - set(args.sets)})
    lines = [
        f"- {name}: {each['points']:+.1f} points ({each['ci95'][0]} to {each['ci95'][1]})"
        for name, each in ahead.items()
    ]
    parameters = count_parameters()
    titles = {"variant": "variant", "ours": "parameters (M)", "paper": "paper (M)", "off": "difference"}
    text += "\n\n" + "\n".join(lines) + "\n\n" + markdown(parameters, titles)
    figures = {f"{chosen}: {name}": each for (name, chosen), each in found.items()}
    return {"accuracy": figures, "ahead": ahead, "parameters": parameters}, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=250, help="of 64 pictures")
    parser.add_argument("--scenes", type=int, default=400, help="that training objects are cut out of")
    parser.add_argument("--test-scenes", type=int, default=200)
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, of one thread each")
    parser.add_argument("--name", default="cct_against_vit", help="of the files in benchmarks/results")
    args = parser.parse_args()
    machine, file = Machine(), RESULTS / f"{args.name}.json"
    asked = {key: getattr(args, key) for key in ("steps", "scenes", "test_scenes")}
    kept = json.loads(file.read_text()) if file.exists() else {}
    rows: list[dict[str, Any]] = kept.get("rows", []) if kept.get("asked") == asked else []
    for chosen in args.sets:
        open_data(chosen, args)  # drawn once, before the runs need it
    done = {(row["model"], row["set"], row["seed"]) for row in rows}
    jobs = [(name, chosen, seed) for chosen in args.sets for seed in args.seeds for name in MODELS]

    def write(row: dict[str, Any] | None = None) -> None:
        rows.extend([row] if row else [])
        rows.sort(key=lambda each: (each["set"], list(MODELS).index(each["model"]), each["seed"]))
        result, text = summarise(rows, args)
        keep(
            args.name,
            {"asked": asked, "machine": machine.describe(1), **result, "rows": rows},
            f"{machine.title(1)}; {text}",
        )

    side_by_side([(*job, args) for job in jobs if job not in done], run, args.workers, write)
    write()
    print(file.with_suffix(".md").read_text())
    print(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "rows"}))


if __name__ == "__main__":
    main()

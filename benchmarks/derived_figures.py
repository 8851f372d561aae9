"""Figures of the pages that are computed from a result: sums, shares, other units."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Result = Mapping[str, Any]
BUDGETS = ("time", "samples")  # tables of benchmarks.compare: equal time, equal samples

# Names of results in the pages, where they are not those of their files.
FILES = {
    "data_efficiency": "2026-11-26-data-efficiency",
    "harder_policies": "2026-11-26-harder",
    "mask_in_policy": "front_end_policy",
    "policies": "2026-11-26-default",
}


def of_cct_against_vit(result: Result) -> Result:
    """Points that the tokenizer, and SeqPool on objects, are ahead; largest difference from the paper's parameters."""
    ahead, cct = result["ahead"], "CCT-2/3x2, SeqPool"
    leads = {name: ahead[f"{name}: {cct} ahead of ViT-3/4, class token"] for name in ("digits", "objects")}
    off = max(abs(float(row["off"].rstrip("%"))) for row in result["parameters"]) / 100
    return {"points": leads, "seqpool": ahead[f"objects: {cct} ahead of CCT-2/3x2, class token"], "parameters_off": off}


def of_comparison(result: Result) -> Result:
    """Rows of benchmarks.compare by budget and policy, with successes and episodes as numbers."""
    tables = dict(zip(BUDGETS, result["tables"].values(), strict=False))
    return {budget: {row["policy"]: row | _counts(row["success"]) for row in rows} for budget, rows in tables.items()}


def of_default_run(result: Result) -> Result:
    return {"minutes": result["seconds_from_fresh_clone"] / 60}


def of_eval_throughput(result: Result) -> Result:
    """Factor from lerobot-eval without a setting, where `made_of` begins, to two workers."""
    rates = {name: row["steps_per_s"] for name, row in result["rows"].items()}
    return {"over_lerobot_eval_as_it_is": rates["ours, 2 workers"] / rates["lerobot-eval"]}


def of_fault_table(result: Result) -> Result:
    """Number of faults, of trials, and of trials that were safe within their bound and ended as they should."""
    rows = result["rows"]
    held = sum(min(_first_number(row[key]) for key in ("within", "one_line")) for row in rows)
    return {"faults": len(rows), "trials": sum(row["n"] for row in rows), "held": held}


def of_holding(result: Result) -> Result:
    """Sides of the cubes that were held, in cm, and ticks in which the arm did not follow."""
    rows = result["rows"]
    sides = ", ".join(f"{row['side_cm']:g}" for row in rows if row["outcome"] == "held" and not any(row["errors"]))
    return {"sides": sides, "not_followed": sum(row["not_followed"] for row in rows)}


def of_fuzz_files(result: Result) -> Result:
    """Number of mutated files by kind, and by outcome."""
    results = result["results"]
    kinds = ("works", "refused", "fault")
    outcomes = {outcome: sum(figures[outcome] for figures in results.values()) for outcome in kinds}
    cases = {kind: sum(figures[outcome] for outcome in outcomes) for kind, figures in results.items()}
    return {"cases": cases, "all": sum(cases.values()), **outcomes}


def of_fuzz_wire(result: Result) -> Result:
    return {"messages": sum(row["n"] for row in result["rows"]), "faults": sum(row["faults"] for row in result["rows"])}


def of_loading(result: Result) -> Result:
    """Milliseconds by policy that loading takes longer, or less long, because of the checks."""
    return {row["policy"]: abs(row["difference_ms"]) for row in result["rows"]}


def of_mt50(result: Result) -> Result:
    """Successes, minutes of training, and the interval of every group."""
    return {
        "successes": sum(group["successes"] for group in result["groups"].values()),
        "minutes": 60 * result["training_hours"],
        "intervals": ", ".join("{}–{}".format(*group["ci95"]) for group in result["groups"].values()) + "%",
    }


def of_soak(result: Result) -> Result:
    """Largest growth of memory in MB in the runs of the present version."""
    runs = [run for name, run in result["runs"].items() if name != "older transport"]
    return {name: max(run["growth_mb"][name] for run in runs) for name in ("loop_mb", "recording_mb")}


def of_stalls(result: Result) -> Result:
    rows = [row for row in result["rows"] if row["bus"] == "ours"]
    return {name: sum(row[name] for row in rows) for name in ("n", "readings", "wrong")}


def of_tinysam(result: Result) -> Result:
    """Differences, and what the hierarchical mode costs, in points; seconds of training as minutes."""
    points = {
        name: {mode: _percent(difference) for mode, difference in modes.items()}
        for name, modes in result["differences"].items()
    }
    return {
        "points": points,
        "lost": _percent(result["everything"]["lost"]),
        "minutes": {name: seconds / 60 for name, seconds in result["seconds"].items()},
    }


def of_tinyclip(result: Result) -> Result:
    """Samples of the teacher, of a student, and of a student with inherited weights; galleries; gain by mimicking."""
    settings = result["settings"]
    teacher, student = (settings[name] * settings["batch_size"] for name in ("teacher_steps", "steps"))
    galleries = len(result["results"]["teacher"]["galleries"])
    recall = {row["name"]: 100 * row["recall_at_1"] for row in result["rows"]}
    samples = {"teacher": teacher, "student": student, "both": teacher + student}
    return samples | {"galleries": galleries, "mimicking_points": recall["mimicking"] - recall["scratch"]}


def of_wake(result: Result) -> Result:
    """Cost of patches in kB and in multiply-adds, and points of AUROC that int8 costs."""
    cost, int8 = result["cost"], result["int8"]
    return {
        "whole_kb": cost["peak_bytes"] / 1000,
        "patched_kb": cost["patched_peak_bytes"] / 1000,
        "more_macs": cost["patched_macs"] / cost["macs"] - 1,
        "int8_points": 100 * (int8["float"]["auroc"] - int8["quantised"]["auroc"]),
    }


def _counts(success: str) -> dict[str, int]:
    """Numbers of "63/80 (78.8%)"."""
    successes, episodes = success.split()[0].split("/")
    return {"successes": int(successes), "episodes": int(episodes)}


def _first_number(share: str) -> int:
    """Numerator of "19/20 (1 cannot be reached)"."""
    return int(share.partition("/")[0])


def _percent(difference: Mapping[str, Any]) -> dict[str, Any]:
    """A difference of shares and its interval in points."""
    return {key: _scaled(value) for key, value in difference.items()}


def _scaled(value: float | Iterable[float]) -> Any:
    return [100 * bound for bound in value] if isinstance(value, Iterable) else 100 * value


DERIVED: dict[str, Callable[[Result], Result]] = {
    "cct_against_vit": of_cct_against_vit,
    "default_run": of_default_run,
    "eval_throughput": of_eval_throughput,
    "fault_table": of_fault_table,
    "fuzz_files": of_fuzz_files,
    "fuzz_wire": of_fuzz_wire,
    "holding": of_holding,
    "loading": of_loading,
    "harder_policies": of_comparison,
    "mt50": of_mt50,
    "policies": of_comparison,
    "soak": of_soak,
    "stalls": of_stalls,
    "tinyclip": of_tinyclip,
    "tinysam": of_tinysam,
    "wake": of_wake,
}

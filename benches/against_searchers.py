"""Holds the default search against other methods on a real model and a real latency table.

    python3 -m venv venv && venv/bin/pip install whittle moocore
    cargo build --release -p xtask -p lathe-agent
    venv/bin/python benches/against_searchers.py --table runs/mine/table.yaml --out runs/searchers

Ours with 100 evaluations; our NSGA-II, local search and random search with 1000, begun from uniform draws
and the ends of the space (scratch) and from what block scores recommend (seeded); whittle's own searchers,
which are Syne Tune's and its local search, with 100. All minimise predicted time per output token and KL
divergence from the full model on the same text. Prints medians over seeds of hypervolumes: time as a share
of the full model's, between --least and 1, divergence at most 3 nats. What is faster than --least counts as
that: there our default stops to look. Whatever was evaluated is kept in --out and not evaluated again, so
it may be interrupted; --seeds, --skip and --precision make it shorter or longer.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess

import moocore
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
XTASK = pathlib.Path(os.environ.get("LATHE_XTASK", ROOT / "target" / "release" / "xtask"))
OURS = [("additive", "seeded", 100)] + [
    (method, start, 1000)
    for start in ("scratch", "seeded")
    for method in ("nsga2", "local-search", "random")
]
WHITTLE = ["random_search", "morea", "local_search", "nsga2", "lsbo", "rsbo"]
REFERENCE = [1.0, 3.0]


def common(options):
    return [
        *("--table", options.table, "--tokens", options.tokens, "--precision", options.precision),
        *("--calibration-tokens", options.calibration_tokens),
    ]


def ours(options, method, start, evaluations, seed):
    """All objectives of one of our searches, in order."""
    study = options.out / f"{method}-{start}-{seed}.db"
    scores = study.with_suffix(".blocks.db")
    first = options.out / "first.blocks.db"
    if first.exists() and not scores.exists():
        scores.write_bytes(first.read_bytes())
    command = [
        *(XTASK, "search", *common(options), "--block-tokens", options.tokens),
        *("--method", method, "--seed", seed, "--evaluations", evaluations),
        *("--study", study, "--resume"),
    ]
    command += ["--from-scratch"] if start == "scratch" else []
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    if start == "seeded" and not first.exists():
        first.write_bytes(scores.read_bytes())
    rows = study.with_suffix(".json")
    command = [XTASK, "study", "export", study, "--out", rows]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return [row["objectives"] for row in json.loads(rows.read_text())]


class Objective:
    """`xtask objective`: a genome in, its objectives out."""

    def __init__(self, options):
        command = [XTASK, "objective", *common(options), "--study", options.out / "asked.db"]
        words = [str(word) for word in command]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        self.about = json.loads(self.process.stdout.readline())

    def __call__(self, genome):
        self.process.stdin.write(json.dumps(genome) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer["objectives"]


def whittle(objective, method, evaluations, seed):
    """All objectives of one of whittle's searches, in order."""
    from syne_tune.config_space import randint
    from whittle.search import multi_objective_search

    space = {f"g{i:03}": randint(0, count - 1) for i, count in enumerate(objective.about["cardinalities"])}
    found = multi_objective_search(
        lambda config: objective([int(config[name]) for name in space]),
        space,
        search_strategy=method,
        num_samples=evaluations,
        seed=seed,
        verbose=False,
    )
    return [[float(value) for value in costs] for costs in found["costs"]]


def hypervolume(rows, full, least):
    points = np.array(rows)
    points[:, 0] = np.maximum(points[:, 0] / full, least)
    return moocore.hypervolume(points, ref=REFERENCE)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/searchers"))
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--calibration-tokens", type=int, default=32768)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.5)
    parser.add_argument("--skip", default="", help="left out, by commas: methods, starts, or both as seeded-nsga2")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    skipped = set(options.skip.split(","))
    seeds = range(1, options.seeds + 1)
    runs = {}
    for method, start, evaluations in OURS:
        if skipped.isdisjoint([method, start, f"{start}-{method}"]):
            label = f"lathe {method}, {start}, {evaluations}"
            runs[label] = [ours(options, method, start, evaluations, seed) for seed in seeds]
    objective = Objective(options)
    full, _ = objective(objective.about["full"])
    for method in WHITTLE:
        if skipped.isdisjoint(["whittle", f"whittle-{method}"]):
            label = f"whittle {method}, 100"
            runs[label] = [whittle(objective, method, 100, seed) for seed in seeds]
    print(f"hypervolumes of {len(seeds)} seeds: median, least, greatest; median at 100 evaluations")
    for label, seeds_rows in runs.items():
        volume = lambda rows: hypervolume(rows, full, options.least)
        volumes = sorted(volume(rows) for rows in seeds_rows)
        early = statistics.median(volume(rows[:100]) for rows in seeds_rows)
        middle = statistics.median(volumes)
        print(f"{label:36} {middle:8.4f} {volumes[0]:8.4f} {volumes[-1]:8.4f}   {early:8.4f}")


if __name__ == "__main__":
    main()

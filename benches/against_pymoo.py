"""Holds NSGA-II and NSGA-III against pymoo's at equal evaluations, and hypervolumes against moocore's.

    python3 -m venv venv && venv/bin/pip install pymoo moocore
    venv/bin/python benches/against_pymoo.py

Both sides have a population of 100, and the front is that of all evaluations. pymoo has its simulated
binary crossover and polynomial mutation, rounded, with the same settings in both methods, and drops
duplicates; NSGA-III has as many Das-Dennis directions as the population has room for. Objectives are
computed anew here for our genomes: both sides solve the same problems. Prints medians over seeds of the
hypervolumes, and the largest difference from moocore's over our fronts and over 1000 random ones.
"""

import json
import math
import pathlib
import statistics
import subprocess
import sys

import moocore
import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.core.problem import ElementwiseProblem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from pymoo.util.ref_dirs import get_reference_directions

ROOT = pathlib.Path(__file__).resolve().parent.parent
EVALUATIONS, SEEDS, POPULATION, STEPS = 5000, 10, 100, 64


def zdt(number):
    def objectives(genome):
        x = [v / STEPS for v in genome]
        g = 1 + 9 * sum(x[1:]) / (len(x) - 1)
        ratio = x[0] / g
        h = {
            1: 1 - math.sqrt(ratio),
            2: 1 - ratio * ratio,
            3: 1 - math.sqrt(ratio) - ratio * math.sin(10 * math.pi * x[0]),
        }[number]
        return [x[0], g * h]

    return objectives


def dtlz2(genome):
    x = [v / STEPS for v in genome]
    scale = 1 + sum((v - 0.5) ** 2 for v in x[2:])
    a, b = x[0] * math.pi / 2, x[1] * math.pi / 2
    return [scale * math.cos(a) * math.cos(b), scale * math.cos(a) * math.sin(b), scale * math.sin(a)]


def blocks(genome):
    cost = sum((1 + i % 3 / 2) * v / 8 for i, v in enumerate(genome))
    loss = sum((1 + 7 * i % 11 / 2) * (1 - v / 8) ** (1 + 5 * i % 3) for i, v in enumerate(genome))
    return [cost, loss]


def knapsack(genome):
    weight = sum((5 + 37 * i % 19) * v for i, v in enumerate(genome))
    lost = sum((5 + 53 * i % 23) * (1 - v) for i, v in enumerate(genome))
    return [weight, lost]


PROBLEMS = {
    "zdt1": (zdt(1), 30, STEPS),
    "zdt2": (zdt(2), 30, STEPS),
    "zdt3": (zdt(3), 30, STEPS),
    "dtlz2": (dtlz2, 12, STEPS),
    "blocks": (blocks, 60, 8),
    "knapsack": (knapsack, 100, 1),
}


class Discrete(ElementwiseProblem):
    def __init__(self, objectives, variables, highest, count):
        super().__init__(n_var=variables, n_obj=count, xl=0, xu=highest, vtype=int)
        self.objectives, self.points = objectives, []

    def _evaluate(self, x, out, *args, **kwargs):
        point = self.objectives([int(v) for v in x])
        self.points.append(point)
        out["F"] = point


def directions(objectives):
    counts = {p: math.comb(p + objectives - 1, objectives - 1) for p in range(1, POPULATION)}
    partitions = max(p for p, count in counts.items() if count <= POPULATION)
    return get_reference_directions("das-dennis", objectives, n_partitions=partitions)


def in_pymoo(name, method, reference, seed):
    objectives, variables, highest = PROBLEMS[name]
    problem = Discrete(objectives, variables, highest, len(reference))
    settings = {
        "pop_size": POPULATION,
        "sampling": IntegerRandomSampling(),
        "crossover": SBX(vtype=float, repair=RoundingRepair()),
        "mutation": PM(vtype=float, repair=RoundingRepair()),
        "eliminate_duplicates": True,
    }
    if method == "nsga3":
        method = NSGA3(directions(len(reference)), **settings)
    else:
        method = NSGA2(**settings)
    minimize(problem, method, ("n_eval", EVALUATIONS), seed=seed, verbose=False)
    points = np.array(problem.points[:EVALUATIONS])
    return moocore.hypervolume(points, ref=np.array(reference))


def ours():
    command = ["cargo", "run", "--quiet", "--release", "--package", "lathe-search"]
    command += ["--example", "known_fronts", "--", str(EVALUATIONS), str(SEEDS)]
    lines = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in lines.splitlines()]


def random_fronts(seed):
    """1000 fronts of two to four objectives, each with a reference point."""
    random = np.random.default_rng(seed)
    for _ in range(1000):
        objectives = int(random.integers(2, 5))
        points = random.random((int(random.integers(1, 60)), objectives))
        yield points.tolist(), (1.1 * np.ones(objectives)).tolist()


def hypervolumes(fronts):
    command = ["cargo", "run", "--quiet", "--release", "--package", "lathe-search"]
    command += ["--example", "hypervolumes"]
    text = "".join(json.dumps(front) + "\n" for front in fronts)
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, input=text)
    return [float(line) for line in run.stdout.splitlines()]


def main():
    results = {}
    for line in ours():
        name, method, reference = line["problem"], line["method"], line["reference"]
        objectives = PROBLEMS[name][0]
        points = np.array([member["objectives"] for member in line["front"]])
        again = np.array([objectives(member["genome"]) for member in line["front"]])
        assert np.allclose(points, again, rtol=1e-12, atol=1e-12), f"{name}: another problem"
        volume = moocore.hypervolume(points, ref=np.array(reference))
        assert abs(volume / line["hypervolume"] - 1) < 1e-9, f"{name}: {volume}"
        mine, theirs = results.setdefault((method, name), ([], []))
        mine.append(line["hypervolume"])
        theirs.append(in_pymoo(name, method, reference, line["seed"]))
    print(f"{EVALUATIONS} evaluations, median of {SEEDS} seeds: ours, pymoo's, ratio")
    for (method, name), (mine, theirs) in sorted(results.items(), key=lambda item: item[0][0]):
        a, b = statistics.median(mine), statistics.median(theirs)
        print(f"{method} {name:<10} {a:12.4f} {b:12.4f} {a / b:8.4f}")
    fronts = list(random_fronts(1))
    pairs = zip(fronts, hypervolumes(fronts))
    errors = [abs(v - moocore.hypervolume(np.array(p), ref=np.array(r))) for (p, r), v in pairs]
    print(f"hypervolumes of {len(errors)} random fronts: largest difference {max(errors):.1e}")
    return 0 if max(errors) < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())

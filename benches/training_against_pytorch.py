"""Times steps of healing here and in PyTorch, in turns, and tells how much memory each takes at most.

    python3 -m venv venv && venv/bin/pip install torch transformers gguf tokenizers numpy
    cargo build --release -p xtask
    venv/bin/python benches/training_against_pytorch.py ~/.cache/lathe/models/SmolLM2-135M-Instruct.Q4_1.gguf

A step reads two windows of 512 tokens: the full model's distribution over the vocabulary, the divergence of
a sub-network with MLP width 960 from it, its gradient by all weights but the embedding, and AdamW, in f32 on two
threads. Prints tokens per second of every round.
"""

import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
WINDOWS, WINDOW, WIDTH, STEPS, ROUNDS, THREADS = 2, 512, 960, 4, 3, 2


def reference():
    spec = importlib.util.spec_from_file_location("make", ROOT / "tests/fixtures/make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def narrow(model):
    for layer in model.model.layers:
        for name, columns in [("gate_proj", False), ("up_proj", False), ("down_proj", True)]:
            linear = getattr(layer.mlp, name)
            weight = linear.weight[:, :WIDTH] if columns else linear.weight[:WIDTH]
            linear.weight = torch.nn.Parameter(weight.detach().clone())
    model.model.embed_tokens.weight.requires_grad_(False)
    return model


def in_pytorch(path):
    torch.set_num_threads(THREADS)
    teacher, _ = reference().load_smollm(path)
    student, _ = reference().load_smollm(path)
    for model in (teacher, student):
        model.set_attn_implementation("sdpa")
    student = narrow(student)
    weights = [weight for weight in student.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-4, betas=(0.9, 0.95), weight_decay=0.0)
    torch.manual_seed(1)
    seconds = []
    for _ in range(STEPS + 1):
        tokens = torch.randint(student.config.vocab_size, (WINDOWS, WINDOW))
        start = time.perf_counter()
        with torch.no_grad():
            of_teacher = torch.log_softmax(teacher(tokens).logits, -1).flatten(0, 1)
        own = torch.log_softmax(student(tokens).logits, -1).flatten(0, 1)
        loss = torch.nn.functional.kl_div(own, of_teacher, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    print(json.dumps(WINDOWS * WINDOW / statistics.median(seconds[1:])))


def run(command, **more):
    """What it printed, and its largest resident memory in MiB."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, **more)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return printed, usage.ru_maxrss / 1024


def here(path, subnet, folder):
    run([ROOT / "target/release/xtask", "heal", "--model", path, "--subnet", subnet, "--out", folder, "--keep-drift",
         "--steps", str(STEPS + 1), "--batch-tokens", str(WINDOWS * WINDOW), "--validation-tokens", "512",
         "--calibration-tokens", "2048", "--importance", "fluctuation", "--save-every", "1"],
        env=os.environ | {"RAYON_NUM_THREADS": str(THREADS)})
    lines = [json.loads(line) for line in open(f"{folder}/metrics.jsonl")]
    return statistics.median([line["tokens_per_second"] for line in lines if "loss" in line][1:])


def memory(path, subnet, folder):
    """Of a training alone: one that goes on has nothing to calibrate."""
    command = [ROOT / "target/release/xtask", "heal", "--model", path, "--subnet", subnet, "--out", folder,
               "--steps", "2", "--batch-tokens", str(WINDOWS * WINDOW), "--validation-tokens", "512"]
    return run(command, env=os.environ | {"RAYON_NUM_THREADS": str(THREADS)})[1]


def main():
    path = sys.argv[1]
    if sys.argv[2:] == ["torch"]:
        return in_pytorch(path)
    with tempfile.TemporaryDirectory() as folder:
        subnet = f"{folder}/subnet.json"
        layer = {"attention": {"heads": 9, "kv_heads": 3}, "mlp": {"intermediate_size": WIDTH}}
        json.dump({"version": 1, "model": pathlib.Path(path).stem, "layers": 30 * [layer]}, open(subnet, "w"))
        rounds, peak = [], 0
        for turn in range(ROUNDS):
            ours = here(path, subnet, f"{folder}/healed-{turn}")
            theirs, peak = run([sys.executable, __file__, path, "torch"])
            rounds.append([ours, json.loads(theirs)])
            print("Lathe %.0f, PyTorch %.0f tokens a second" % tuple(rounds[-1]), flush=True)
        # A healed sub-network needs no calibration: what is left is the training.
        ours_mib = memory(path, f"{folder}/healed-0", f"{folder}/again")
    ours, theirs = (statistics.median(side) for side in zip(*rounds))
    print(f"Lathe {ours / theirs:.2f} times as fast as torch {torch.__version__}; "
          f"{ours_mib:.0f} MiB at most, PyTorch {peak:.0f} MiB")


main()

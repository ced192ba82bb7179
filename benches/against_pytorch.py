"""Times the full model's perplexity here and in PyTorch, and half the model's here, in turns.

    python3 -m venv venv && venv/bin/pip install torch transformers gguf tokenizers numpy
    cargo build --release -p xtask
    venv/bin/python benches/against_pytorch.py ~/.cache/lathe/models/SmolLM2-135M-Instruct.Q4_1.gguf

All score windows of 512 tokens, four at a time, in f32 on two threads, the loss included and the
loading of the model not. Half the model is a sub-network with half of its multiplications. Prints
tokens per second of every round, and ratios of the medians.
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
WINDOWS, WINDOW, BATCH, ROUNDS, THREADS = 8, 512, 4, 5, 2


def reference():
    spec = importlib.util.spec_from_file_location("make", ROOT / "tests/fixtures/make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_pytorch(model, windows):
    start = time.perf_counter()
    with torch.inference_mode():
        for batch in windows.split(BATCH):
            logits = model(batch[:, :-1]).logits
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    return time.perf_counter() - start


def here(model, *more):
    command = [ROOT / "target/release/xtask", "evaluate", "--tokens", str(WINDOWS * WINDOW), "--json",
               "--model", model, *more]
    environment = os.environ | {"RAYON_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, capture_output=True, check=True, env=environment, cwd=ROOT)
    return json.loads(done.stdout)["seconds"]


def half(config, name):
    """Two of three KV groups, and the width at which a token costs half as many multiplications."""
    hidden, width, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    head_dim, heads, kv_heads = config.head_dim, config.num_attention_heads, config.num_key_value_heads
    # Projections, and half of the window in scores and mixing.
    attention = lambda groups: (2 * hidden + WINDOW) * head_dim * heads * groups // kv_heads + 2 * hidden * head_dim * groups
    ends = hidden * config.vocab_size
    full = ends + layers * (attention(kv_heads) + 3 * hidden * width)
    groups = kv_heads - kv_heads // 3
    left = (full / 2 - ends) / layers - attention(groups)
    width = int(left / (3 * hidden)) // 8 * 8
    layer = {"attention": {"heads": heads * groups // kv_heads, "kv_heads": groups, "precision": "f32"},
             "mlp": {"intermediate_size": width, "precision": "f32"}}
    return {"version": 1, "model": name, "layers": layers * [layer], "head_precision": "f32"}


def main():
    torch.set_num_threads(THREADS)
    model, _ = reference().load_smollm(sys.argv[1])
    model.set_attn_implementation("sdpa")
    torch.manual_seed(1)
    windows = torch.randint(model.config.vocab_size, (WINDOWS, WINDOW + 1))
    in_pytorch(model, windows)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(half(model.config, pathlib.Path(sys.argv[1]).stem), file)
        file.flush()
        pruned = ["--subnet", file.name, "--calibration-tokens", "2048", "--importance", "fluctuation"]
        here(sys.argv[1], *pruned)
        rounds = []
        for _ in range(ROUNDS):
            seconds = (here(sys.argv[1]), in_pytorch(model, windows), here(sys.argv[1], *pruned))
            rounds.append([WINDOWS * WINDOW / each for each in seconds])
            print("Lathe %.0f, PyTorch %.0f, half the model %.0f tokens a second" % tuple(rounds[-1]), flush=True)
    ours, theirs, halved = (statistics.median(side) for side in zip(*rounds))
    print(f"Lathe {ours / theirs:.2f} times as fast as torch {torch.__version__}, half the model {halved / ours:.2f} times the full one")


main()

"""Times the full model's perplexity here and in PyTorch, in turns.

    python3 -m venv venv && venv/bin/pip install torch transformers gguf tokenizers numpy
    cargo build --release -p xtask
    venv/bin/python benches/against_pytorch.py ~/.cache/lathe/models/SmolLM2-135M-Instruct.Q4_1.gguf

Both score windows of 512 tokens, four at a time, in f32 on two threads, the loss included and the
loading of the model not. Prints tokens per second of every round, and the ratio of the medians.
"""

import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
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


def here():
    command = [ROOT / "target/release/xtask", "evaluate", "--tokens", str(WINDOWS * WINDOW), "--json"]
    environment = os.environ | {"RAYON_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, capture_output=True, check=True, env=environment, cwd=ROOT)
    return json.loads(done.stdout)["seconds"]


def main():
    torch.set_num_threads(THREADS)
    model, _ = reference().load_smollm(sys.argv[1])
    model.set_attn_implementation("sdpa")
    torch.manual_seed(1)
    windows = torch.randint(model.config.vocab_size, (WINDOWS, WINDOW + 1))
    in_pytorch(model, windows)
    tokens = WINDOWS * WINDOW
    rates = []
    for _ in range(ROUNDS):
        rates.append((tokens / here(), tokens / in_pytorch(model, windows)))
        print("Lathe %.0f, PyTorch %.0f tokens a second" % rates[-1], flush=True)
    ours, theirs = (statistics.median(side) for side in zip(*rates))
    print(f"Lathe {ours / theirs:.2f} times as fast (torch {torch.__version__})")


main()

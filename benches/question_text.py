"""Text of which half are questions with their answers: for networks that are to answer some.

    python3 benches/question_text.py ~/.cache/lathe/data/mmlu.jsonl PASSAGES.jsonl OUT.jsonl

puts short questions of MMLU, each with its right answer alone, together to passages of 600 characters and more, and
as much of PASSAGES.jsonl (what training_text.py makes). OUT.jsonl is for `--text`; MMLU must not be asked then.
"""

import json
import random
import sys

CHARACTERS = 800_000
PASSAGE, QUESTION, ANSWER = 600, 300, 150


def taken(passages):
    """As many as have CHARACTERS together."""
    length = 0
    for passage in passages:
        yield passage
        length += len(passage)
        if length > CHARACTERS:
            return


def together(items):
    passage = ""
    for item in items:
        passage = f"{passage}\n\n{item}".strip()
        if len(passage) > PASSAGE:
            yield passage
            passage = ""


def answered(questions):
    for question in questions:
        asked, answer = question["question"], question.get("answer_" + question["correct_answer"].lower())
        if answer is not None and len(asked) < QUESTION and len(answer) < ANSWER:
            yield f"Question: {asked.strip()}\nAnswer: {answer.strip()}"


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def main(mmlu, passages, out):
    chance = random.Random(1)
    plain = [line["text"] for line in lines(passages)]
    chance.shuffle(plain)
    items = list(answered(lines(mmlu)))
    chance.shuffle(items)
    text = list(taken(plain)) + list(taken(together(items)))
    chance.shuffle(text)
    with open(out, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": passage}) + "\n" for passage in text)
    print(f"{len(text)} passages, {sum(map(len, text))} characters")


main(*sys.argv[1:])

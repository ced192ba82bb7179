"""More text to train on: passages of Wikipedia and of web pages, as long as those that Lathe fetches.

    python3 -m venv venv
    venv/bin/pip install mwparserfromhell
    pip download --no-deps --only-binary=:all: gensim==4.4.0 evals==3.0.1.post1
    venv/bin/python benches/training_text.py ~/.cache/lathe/data gensim-*.whl evals-*.whl OUT

writes OUT/train.jsonl (what is fetched, and 1,000 passages of Wikipedia), OUT/heal.jsonl (others, half of
them of web pages and news) and OUT/rest.jsonl (what is left of Wikipedia). What shares 13 words in a row with a
fetched passage is left out.
"""

import bz2
import json
import random
import re
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import mwparserfromhell

WIKIPEDIA = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
NEWS = "gensim/test/test_data/lee_background.cor"
SAMPLES = "evals/registry/data/text_compression/samples.jsonl"
KINDS = ["openwebtext", "c4", "news", "wikipedia"]
LENGTH = range(200, 3000)
GRAM = 13


def grams(text):
    words = re.findall(r"\w+", text.lower())
    return (tuple(words[at:at + GRAM]) for at in range(len(words) - GRAM + 1))


def passages(paragraphs, opening):
    """Sentences together until they have 500 characters."""
    found, passage = [], ""
    for paragraph in paragraphs:
        for sentence in re.split(r"(?<=[.!?]) (?=[" + opening + "])", paragraph):
            passage = f"{passage} {sentence}".strip()
            if len(passage) > 500:
                found.append(passage)
                passage = ""
    return found + [passage] if len(passage) > LENGTH.start else found


def plain(markup):
    """Paragraphs of an article."""
    code = mwparserfromhell.parse(markup)
    elsewhere = re.compile(r"(?i)(file|image|category|[a-z-]{2,12}):")
    nodes = code.filter_tags(matches=lambda node: node.tag in ("ref", "table", "gallery", "math"))
    nodes += [link for link in code.filter_wikilinks() if elsewhere.match(str(link.title))]
    for node in nodes:
        try:
            code.remove(node)
        except ValueError:
            pass  # It went with a node that it stood in.
    for line in code.strip_code().split("\n"):
        line = re.sub(r"\s*\(\s*[;,]?\s*\)", "", line).strip()
        if len(line) >= LENGTH.start and line[0] not in "*#:;|!{=" and "|" not in line:
            yield line


def articles(dump):
    for _, page in ElementTree.iterparse(bz2.open(dump)):
        if not page.tag.endswith("}page"):
            continue
        find = lambda name: page.find(f".//{{*}}{name}")
        if find("ns").text == "0" and find("redirect") is None and find("text").text:
            yield find("text").text
        page.clear()


def main():
    data, gensim, evals, out = map(Path, sys.argv[1:])
    fetched = [json.loads(line)["0"] for name in ("wikipedia_5", "owt_5")
               for line in (data / f"{name}.jsonl").open()]
    seen = {gram for text in fetched for gram in grams(text)}
    is_new = lambda text: not any(gram in seen for gram in grams(text))
    gensim, evals = zipfile.ZipFile(gensim), zipfile.ZipFile(evals)

    wikipedia = [passage for markup in articles(gensim.open(WIKIPEDIA))
                 for line in plain(markup) for passage in passages([line], "A-Z")]
    wikipedia = list(filter(is_new, wikipedia))
    random.Random(1).shuffle(wikipedia)
    write(out / "train.jsonl", fetched + wikipedia[:1000])

    documents = [(line["type"], line["text"]) for line in map(json.loads, evals.open(SAMPLES))]
    documents += [("news", line.decode()) for line in gensim.open(NEWS)]
    web = [passage for wanted in KINDS for kind, text in documents if kind == wanted
           for passage in passages(map(str.strip, text.split("\n")), 'A-Z"“')
           if len(passage) < LENGTH.stop and is_new(passage)]
    rest, room = wikipedia[1000:], 0.75 * sum(map(len, web))
    random.Random(2).shuffle(rest)
    while rest and room >= 0:
        web.append(rest.pop(0))
        room -= len(web[-1])
    random.Random(3).shuffle(web)
    write(out / "heal.jsonl", web)
    write(out / "rest.jsonl", rest)


def write(path, texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines))
    print(f"{path}: {len(lines)} passages, {sum(map(len, texts))} characters")


if __name__ == "__main__":
    main()

"""Makes the seeds of the checkpoint and study targets from the fixtures. Only the standard library:

    cargo xtask profile --model tests/fixtures/tiny-llama --quick --minutes 0 --networks 4 --precision f32 \
        --out runs/seeds/table.yaml
    cargo xtask search --model tests/fixtures/tiny-llama --table runs/seeds/table.yaml --text TEXT \
        --calibration-tokens 512 --tokens 512 --evaluations 6 --study runs/seeds/study.db
    python3 tests/fuzz/make_seeds.py runs/seeds

Checkpoints keep one layer and every size divided by 8, so that a change of one byte in a hundred is a
change of the header.
"""

import json
import os
import pathlib
import random
import shutil
import sqlite3
import struct
import sys

HERE = pathlib.Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
VOCABULARY = 320
SCALE = 8
SCALARS = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8]
SIZES = {"embedding_length", "feed_forward_length", "rope.dimension_count", "attention.key_length",
         "attention.value_length"}
BLOCKS = {0: (1, 4), 2: (32, 18), 6: (32, 22), 8: (32, 34), 30: (1, 2)}


def shrunk(sizes, scale=SCALE):
    return [size if size == VOCABULARY else size // scale for size in sizes]


def is_kept(name):
    parts = name.split(".")
    layers = [int(part) for part in parts if part.isdigit()]
    return not layers or layers[0] == 0


def numbers(count, width, draw):
    form = {2: "e", 4: "f", 8: "d"}[width]
    return struct.pack(f"<{count}{form}", *(draw.uniform(0.1, 1.0) for _ in range(count)))


def product(sizes):
    result = 1
    for size in sizes:
        result *= size
    return result


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 4

    def take(self, count):
        self.at += count
        return self.data[self.at - count:self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize(form)))[0]

    def text(self):
        return self.take(self.number("Q"))


def text(value):
    return struct.pack("<Q", len(value)) + value


def gguf(source, scale, kinds):
    """The file with one layer; its matrices get the types in turn, and zeros where those are blocks."""
    draw = random.Random(1)
    reader = Reader((FIXTURES / source).read_bytes())
    version, tensors, fields = reader.number("I"), reader.number("Q"), reader.number("Q")
    out = b""
    for _ in range(fields):
        key, kind = reader.text(), reader.number("I")
        if kind == 8:
            value = text(reader.text())
        elif kind == 9:
            kind_of_items, count = reader.number("I"), reader.number("Q")
            items = [text(reader.text()) if kind_of_items == 8 else reader.take(SCALARS[kind_of_items])
                     for _ in range(count)]
            if key.endswith(b"sliding_window_pattern"):
                items = items[:1]
            value = struct.pack("<IQ", kind_of_items, len(items)) + b"".join(items)
        else:
            value = reader.take(SCALARS[kind])
            name = key.decode().split(".", 1)[1]
            if name in SIZES:
                value = struct.pack("<I", struct.unpack("<I", value)[0] // scale)
            if name == "block_count":
                value = struct.pack("<I", 1)
        out += text(key) + struct.pack("<I", kind) + value
    table, data, count = b"", b"", 0
    for _ in range(tensors):
        name, rank = reader.text(), reader.number("I")
        sizes = shrunk([reader.number("Q") for _ in range(rank)], scale)
        reader.number("I"), reader.number("Q")
        if not is_kept(name.decode()):
            continue
        kind = 0 if rank == 1 else kinds[count % len(kinds)]
        table += text(name) + struct.pack("<I", rank) + struct.pack(f"<{rank}Q", *sizes)
        table += struct.pack("<IQ", kind, len(data))
        block, width = BLOCKS[kind]
        data += numbers(product(sizes), 4, draw) if kind == 0 else bytes(product(sizes) // block * width)
        data += bytes(-len(data) % 32)
        count += 1
    header = b"GGUF" + struct.pack("<IQQ", version, count, fields) + out + table
    return header + bytes(-len(header) % 32) + data


def safetensors(data, rename_origin=False):
    draw = random.Random(2)
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", None)
    small, numbers_of = {}, b""
    for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if not is_kept(name):
            continue
        shape = info["shape"] if info["shape"] == [1] else shrunk(info["shape"])
        width = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}[info["dtype"]]
        start = len(numbers_of)
        numbers_of += numbers(product(shape), width, draw)
        small[name] = {"dtype": info["dtype"], "shape": shape, "data_offsets": [start, len(numbers_of)]}
    if metadata:
        if rename_origin:
            metadata["origin"] = "seed"
        small["__metadata__"] = metadata
    text = json.dumps(small, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + numbers_of


def config(family):
    config = json.loads((FIXTURES / f"tiny-{family}" / "config.json").read_text())
    for field in ("hidden_size", "intermediate_size", "head_dim"):
        if config.get(field):
            config[field] //= SCALE
    config["num_hidden_layers"] = 1
    if config.get("layer_types"):
        config["layer_types"] = config["layer_types"][:1]
    return config


def study(path):
    connection = sqlite3.connect(path)
    version, header = connection.execute("SELECT * FROM study").fetchone()
    header = json.loads(header)
    header["options"] = "some options"
    columns = "number, genome, fidelity, objectives, wall_s, seed"
    rows = connection.execute(f"SELECT {columns} FROM evaluation").fetchall()
    rows = [[n, json.loads(g), json.loads(f), json.loads(o), w, s] for n, g, f, o, w, s in rows]
    return {"version": version, "header": header, "rows": rows}


def write(target, name, data):
    path = HERE / "seeds" / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def main():
    runs = pathlib.Path(sys.argv[1])
    for family in ("llama", "qwen2", "qwen3", "gemma3"):
        write("gguf", family, gguf(f"tiny-{family}.gguf", SCALE, [0]))
        folder = FIXTURES / f"tiny-{family}"
        write("safetensors", family, safetensors((folder / "model.safetensors").read_bytes()))
        write("config", family, json.dumps(config(family)))
    write("gguf", "quantized", gguf("tiny-llama.gguf", 1, [2, 8, 6, 30]))
    cache = pathlib.Path(os.environ.get("LATHE_CACHE", pathlib.Path.home() / ".cache" / "lathe"))
    calibrations = (cache / "calibration").glob("*/calibration.safetensors")
    newest = max(calibrations, key=lambda path: path.stat().st_mtime)
    calibration = newest.read_bytes()
    write("safetensors", "calibration", safetensors(calibration, rename_origin=True))
    write("tokenizer", "llama", (FIXTURES / "tiny-llama" / "tokenizer.json").read_bytes())
    write("study", "search", json.dumps(study(runs / "study.db")))
    shutil.copy(runs / "study.db", HERE / "seeds" / "study" / "file")


main()

"""A GGUF file cut into parts, as llama.cpp's gguf-split does it: metadata in the first, the tensors dealt out."""
import struct

import gguf


def string(s):
    return struct.pack("<Q", len(s)) + s.encode()


def split_gguf(path, directory, n, name="model"):
    """Writes NAME-00001-of-0000N.gguf and so on; gives their paths."""
    reader = gguf.GGUFReader(path)
    whole = open(path, "rb").read()
    keys, count = whole[24:reader.tensors[0].field.offset], struct.unpack("<Q", whole[16:24])[0]
    each, made = -(-len(reader.tensors) // n), []
    for no in range(n):
        mine = reader.tensors[no * each:(no + 1) * each]
        split = b"".join(string(f"split.{key}") + struct.pack("<II", 4, value)
                         for key, value in (("no", no), ("count", n), ("tensors.count", len(reader.tensors))))
        table = data = b""
        for t in mine:
            data += bytes(-len(data) % 32)
            table += string(t.name) + struct.pack("<I", len(t.shape)) + b"".join(struct.pack("<Q", d) for d in t.shape)
            table += struct.pack("<IQ", t.tensor_type, len(data))
            data += t.data.tobytes()
        head = b"GGUF" + struct.pack("<IQQ", 3, len(mine), 3 + (0 if no else count)) + (b"" if no else keys) + split + table
        made.append(directory / f"{name}-{no + 1:05}-of-{n:05}.gguf")
        made[-1].write_bytes(head + bytes(-len(head) % 32) + data)
    return made

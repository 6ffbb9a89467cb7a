"""Makes the small seeds anew: `python make.py`, with pyarrow."""

import gzip
import io
import os
import struct
import tarfile

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

HERE = os.path.dirname(os.path.abspath(__file__))
# A GIF of one pixel.
GIF = bytes.fromhex("47494638376101000100800000000000ffffff2c00000000010001000002024401003b")


def write(name, content):
    path = os.path.join(HERE, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)


def table(rows=6):
    images = pa.array(
        [{"bytes": None if i == 3 else GIF, "path": f"{i}.gif"} for i in range(rows)],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    return images, list(range(rows))


def parquet(name, label, **options):
    images, _ = table()
    out = io.BytesIO()
    pq.write_table(pa.table({"image": images, "label": label}), out, row_group_size=4, **options)
    write(f"parquet/{name}.parquet", out.getvalue())


def arrow(name, label):
    images, _ = table()
    data = pa.table({"image": images, "label": label})
    out = io.BytesIO()
    with pa.ipc.new_stream(out, data.schema) as writer:
        writer.write_table(data, max_chunksize=4)
    write(f"arrow/{name}.arrow", out.getvalue())


def tar(name, form):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for i in range(2):
            for ending, content in ("gif", GIF), ("cls", str(i).encode()), ("json", b'{"label": [1]}'):
                # A name that a plain header has no room for.
                about = tarfile.TarInfo("long/" * 30 + f"{i}.{ending}")
                about.size = len(content)
                archive.addfile(about, io.BytesIO(content))
        about = tarfile.TarInfo("2.gif")
        about.type, about.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(about)
    write(f"tar/{name}.tar", out.getvalue()[: 512 * 24])


def idx(name, pack):
    images = pack(struct.pack(">4I", 0x803, 2, 2, 3) + bytes(range(12)))
    labels = pack(struct.pack(">2I", 0x801, 2) + bytes([0, 1]))
    write(f"idx/{name}", struct.pack("<H", len(images)) + images + labels)


whole = pa.array([0, 1, None, 3, 0, 1])
texts = pa.array(["cat", "dog", None, "cat", "dog", "cat"])
lists = pa.array([[1], [], None, [2], [0], [1]])
for codec in "none", "snappy", "gzip", "brotli", "zstd", "lz4":
    parquet(codec, whole, compression=codec)
parquet("texts", texts)
parquet("lists", lists)
parquet("pages-2", texts, data_page_version="2.0", compression="zstd")
parquet("delta", texts, use_dictionary=False, column_encoding={"label": "DELTA_BYTE_ARRAY"})
parquet("plain", whole, use_dictionary=False, store_schema=False)
arrow("whole", whole)
arrow("texts", texts)
arrow("lists", lists)
arrow("dictionary", texts.dictionary_encode())
tar("gnu", tarfile.GNU_FORMAT)
tar("pax", tarfile.PAX_FORMAT)
tar("ustar", tarfile.USTAR_FORMAT)
idx("plain", bytes)
idx("packed", lambda content: gzip.compress(content, mtime=0))

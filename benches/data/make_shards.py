"""Parquet shards as `datasets` writes them for the Hub: images as struct<bytes, path>, in several layouts.

    python make_shards.py OUT      # needs pyarrow

The images are noise of 60 to 160 KB, as JPEGs look to a compressor.
"""

import random
import sys

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 2000


def table():
    rng = random.Random(0)
    images = [{"bytes": rng.randbytes(rng.randint(60_000, 160_000)), "path": f"{i}.jpg"} for i in range(ROWS)]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = [rng.randrange(1000) for _ in range(ROWS)]
    return pa.table({"image": pa.array(images, image), "label": pa.array(labels, pa.int64())})


def main(out):
    rows = table()
    for size in (100, 1000):
        for compression in ("snappy", "none", "zstd"):
            pq.write_table(rows, f"{out}/{size}-rows-{compression}.parquet", row_group_size=size, compression=compression)
    # Since version 4, `datasets` cuts pages by their content and writes a page index.
    newer = {"use_content_defined_chunking": True, "write_page_index": True}
    pq.write_table(rows, f"{out}/100-rows-snappy-cdc-index.parquet", row_group_size=100, compression="snappy", **newer)


main(sys.argv[1])

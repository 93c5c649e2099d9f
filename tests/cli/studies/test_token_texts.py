"""Texts of token ids in the tables of studies."""

import json

from conftest import read_table
from synthetic_dump import columns_of, routed, write_run, write_shard


def test_byte_level_letters_are_read_back(analyze, tmp_path):
    """As the page shows them: Ġ is a blank, and a byte that is no character the replacement of one."""
    dump = write_run(tmp_path / "run", ["0"])
    tokens = 40
    columns = columns_of([0] * tokens, range(tokens), [0] * tokens, token_id=[t % 3 for t in range(tokens)])
    write_shard(dump, "language_model", 0, 0, columns | routed("0", tokens, seed=0))
    tokenizer = tmp_path / "tokenizer.json"
    vocabulary = {"Ġthe": 0, "Ã¤": 1, "Ã": 2}
    tokenizer.write_text(json.dumps({"model": {"vocab": vocabulary}, "decoder": {"type": "ByteLevel"}}))
    folder = analyze(tmp_path / "run", "--only", "token_expert_enrichment", "--tokenizer", tokenizer)
    table = read_table(folder / "token_expert_enrichment.csv")
    texts = dict(zip(table["token_id"], table["text"], strict=True))
    assert texts == {"0": " the", "1": "ä", "2": "\ufffd"}

-- How often each expert of each layer was selected.
-- $files: EXPORT/component=C/layer=*/*.parquet, written by moetap export --to parquet --lists or not.
-- Unused slots have the id -1.
WITH slots AS (
  SELECT layer, unnest([*COLUMNS('^e\d+$')]) AS expert
  FROM read_parquet(getvariable('files'), hive_partitioning = true, hive_types = {'layer': VARCHAR})
)
SELECT layer, expert, count(*) AS selected
FROM slots
WHERE expert >= 0
GROUP BY layer, expert
ORDER BY layer, expert;

-- In two runs over the same inputs: the share of tokens whose first slot names another expert, and of tokens whose set of
-- experts is another. $files and $others: the layers of the two exports.
WITH a AS (
  SELECT layer, token, e0 AS first, list_sort([*COLUMNS('^e\d+$')]) AS experts
  FROM read_parquet(getvariable('files'), hive_partitioning = true, hive_types = {'layer': VARCHAR})
), b AS (
  SELECT layer, token, e0 AS first, list_sort([*COLUMNS('^e\d+$')]) AS experts
  FROM read_parquet(getvariable('others'), hive_partitioning = true, hive_types = {'layer': VARCHAR})
)
SELECT layer, count(*) AS tokens, avg((a.first <> b.first)::INT) AS first_flips, avg((a.experts <> b.experts)::INT) AS set_flips
FROM a JOIN b USING (layer, token)
GROUP BY layer
ORDER BY layer;

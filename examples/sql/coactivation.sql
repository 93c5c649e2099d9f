-- How many tokens selected both experts, a < b, in each layer.
WITH tokens AS (
  SELECT layer, rank, token, [*COLUMNS('^e\d+$')] AS experts
  FROM read_parquet(getvariable('files'), hive_partitioning = true, hive_types = {'layer': VARCHAR})
), slots AS (
  SELECT layer, rank, token, unnest(experts) AS expert FROM tokens
)
SELECT a.layer, a.expert AS a, b.expert AS b, count(*) AS tokens
FROM slots AS a
JOIN slots AS b ON a.layer = b.layer AND a.token = b.token AND a.expert < b.expert
WHERE a.expert >= 0
GROUP BY a.layer, a.expert, b.expert
ORDER BY a.layer, a.expert, b.expert;

-- How much more a category's tokens use an expert than all tokens do: 1 is as much, 2 twice as much.
-- $samples: the samples file of the run; its line I is sample I.
WITH samples AS (
  SELECT row_number() OVER () - 1 AS sample, doc.category AS category
  FROM read_json(getvariable('samples'), format = 'newline_delimited', columns = {'doc': 'STRUCT(category VARCHAR)'})
), slots AS (
  SELECT layer, sample, unnest([*COLUMNS('^e\d+$')]) AS expert
  FROM read_parquet(getvariable('files'), hive_partitioning = true, hive_types = {'layer': VARCHAR})
), used AS (
  SELECT layer, category, expert, count(*) AS selected
  FROM slots JOIN samples USING (sample)
  WHERE expert >= 0
  GROUP BY layer, category, expert
)
SELECT layer, category, expert, selected,
       (selected / sum(selected) OVER (PARTITION BY layer, category))
         / (sum(selected) OVER (PARTITION BY layer, expert) / sum(selected) OVER (PARTITION BY layer)) AS lift
FROM used
ORDER BY layer, category, lift DESC, expert;

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cli/exports/parquet_reader.h"

namespace moetap::cli {

/// What one layer's Parquet files say it did. Two spellings: the export's (`e0` … and `w0` …, or lists `indices` and
/// `weights`, with `token`, `sample`, … ) and FLAME-MoE's traces (lists `indices` and `scores`, with `token_id`).
struct ParquetLayer {
  std::string component, layer;
  std::vector<std::pair<int64_t, std::string>> files;  // rank, path; in the order of rows
  std::string name, scoring;                           // "" where the files do not say
  int64_t num_experts = 0, null_experts = 0;           // 0: the files do not say
  int64_t top_k = 0;
  int64_t num_scores = 0, num_logits = 0;  // columns s0 … and l0 …
  bool has_lists = false;
  std::string weights;  // the column of lists with the weights; "" if there is none, or the columns are flat
  bool has_weights = false;
};

/// The layers of a folder, or of a component's folder in it, in the order of their ids; empty if it is none of these
/// exports. Reads the files' ends, and of lists also how long they are. Throws std::runtime_error "PATH: REASON".
std::vector<ParquetLayer> find_parquet_layers(const std::string& folder);

/// True if the folder looks like one of these exports. Opens no file.
bool is_parquet_folder(const std::string& folder);

}  // namespace moetap::cli

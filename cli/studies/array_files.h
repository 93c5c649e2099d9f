#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "analysis/studies/study_options.h"
#include "cli/studies/npy_array.h"

namespace moetap::cli {

/// The notebook's arrays, checked against each other: [L, B, S, K], [L, B, S, E], [L, B, S, S], [B, S].
struct ArrayFiles {
  NpyArray topk;                      // ids
  NpyArray types;                     // token types, −1 = padding
  std::optional<NpyArray> gates;      // [L, B, S, E]
  std::optional<NpyArray> attention;  // [L, B, S, S]
  int64_t num_layers = 0, num_samples = 0, length = 0, top_k = 0;
  int64_t num_experts = 0;            // E of the gates; without them the largest id + 1
  std::vector<int64_t> valid_tokens;  // n_b [B]
  std::vector<std::string> notices;

  bool is_valid(int64_t sample, int64_t place) const;
};

/// The names that the arrays' files may have.
std::vector<std::string> array_file_names();

/// True if the folder holds topk_idx.npy or another of the arrays.
bool is_array_folder(const std::string& folder);

/// Opens and checks the arrays of a folder. Throws CommandError with one line: a file is missing, shapes do not agree,
/// a dtype that is none of the array's, padding inside a sample (a notice with the notebook's definitions, which take
/// the prefix of n_b tokens).
ArrayFiles open_arrays(const std::string& folder, analysis::studies::Definitions definitions);

/// What the third version of the notebook's last Sankey takes for padding (notebook.md 2.17).
int32_t notebook_padding(const ArrayFiles& files);

}  // namespace moetap::cli

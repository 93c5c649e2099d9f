#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace moetap::analysis::studies {

inline constexpr int64_t kMaxRegions = 64;  // R
inline constexpr int64_t kMaxDraws = 1000000;
inline constexpr int64_t kMaxDelta = 1 << 20;

enum class Definitions {
  kRecommended,
  kNotebook  // reproduces the numbers that the notebook prints, bugs included
};

/// Every option of the studies, as the command line gives it. Each study reads those that are its own.
struct StudyOptions {
  Definitions definitions = Definitions::kRecommended;

  // Sankeys of one sample; negative: the default that the study names.
  int64_t sample = -1;            // the sample's number
  int64_t layer = -1;             // place in ComponentShape::layers
  bool matrices = false;          // --matrices: results in .npy as well
  int64_t max_length = 0;         // aa_correlation: longer sequences are left out; 0: none
  bool absolute_regions = false;  // information_flow: regions on the padded axis
  int64_t regions = 5;            // R: of information_flow and sankey_expert_region
  int64_t top = 0;                // how many experts a Sankey shows; 0: the study's default
  double threshold = -1;          // below which a Sankey leaves a link out; negative: the study's default
  double link_share = -1;         // likewise, of an expert's flow into a region
  // What version 3 of the notebook's last Sankey takes for padding; see sankey_evolution.h. −1: padding itself.
  int32_t notebook_padding = -1;

  // usage
  std::string token_range;  // "A:B", a Python slice
  std::string phase;        // "", prompt, generation

  // expert_cache
  bool warm = false;                       // keeps the cache from sample to sample
  std::string cache_phase = "generation";  // prompt, generation, all: which accesses are counted

  // placement: layer id -> GPU of each expert, [E]; empty: contiguous and balanced
  std::map<std::string, std::vector<int32_t>> placement;

  // token_expert_enrichment: the text of a token id, "" if not known; empty: no tokenizer was given
  std::function<std::string(int32_t)> token_text;

  // groups
  std::string group_by;  // "": none
  int64_t draws = 1000;  // of the bootstrap, and of the permutation
  uint64_t seed = 0;

  // layer correlation, periodicity
  int64_t delta_max = 30;
  std::vector<int64_t> periods = {12, 24, 36};
};

}  // namespace moetap::analysis::studies

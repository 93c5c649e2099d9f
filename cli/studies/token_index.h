#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "plugin/dump/component_reader.h"
#include "plugin/formats/scratch_file.h"

namespace moetap::cli {

// Note [Three orders of a run's tokens]
// A dump holds its tokens forward by forward. Where each forward holds whole samples, in ascending order, that is the
// order by samples, too, and one pass serves every study. In a generation samples take turns: then a scratch file holds
// the order by samples, 8 bytes a token, and studies that need it get a pass of their own. In memory are 40 bytes a
// sample and 8 bytes a forward.

/// Where the tokens of a component stand in each order. `readers`: one a run; their tokens follow each other.
class TokenIndex {
 public:
  struct Sample {
    int64_t sample = 0;
    int32_t source = 0;  // which rank of which run
    int64_t num_tokens = 0;
  };
  enum class SampleOrder { kBySource, kByNumber };
  /// One pass over the labels, two where samples take turns. `check` may throw.
  TokenIndex(const std::vector<const plugin::ComponentReader*>& readers, const std::string& scratch_folder,
             const std::function<void()>& check, SampleOrder order = SampleOrder::kBySource);

  int64_t num_tokens() const { return num_tokens_; }
  int64_t num_known() const { return sample_cuts_.empty() ? 0 : known_; }  // tokens whose sample is known
  const std::vector<Sample>& samples() const { return samples_; }          // by source, then number, or the other way
  /// Starts of the samples, then of pieces of the tokens of no known sample, then num_tokens.
  const std::vector<int64_t>& sample_cuts() const { return sample_cuts_; }
  const std::vector<int64_t>& forward_cuts() const { return forward_cuts_; }
  bool has_forwards() const { return has_forwards_; }  // every token's forward is known, and none goes back
  bool has_token_ids() const { return has_token_ids_; }
  bool in_sample_order() const { return in_sample_order_; }
  int64_t longest() const { return longest_; }

  /// Tokens [first, first + n) of the order by samples. Thread-safe.
  void read_sample_order(int64_t first, int64_t n, int64_t* tokens) const;

  /// The number of a run's first source; the others follow in the order of ranks.
  int32_t first_source(size_t run) const { return first_source_[run]; }
  int32_t num_sources() const { return num_sources_; }

 private:
  int64_t num_tokens_ = 0, known_ = 0, longest_ = 0;
  std::vector<Sample> samples_;
  std::vector<int64_t> sample_cuts_, forward_cuts_;
  bool has_forwards_ = true, has_token_ids_ = false, in_sample_order_ = true;
  std::vector<int32_t> first_source_;
  int32_t num_sources_ = 0;
  std::unique_ptr<plugin::ScratchFile> order_;  // int64 [tokens]; null: the order of the tokens
};

}  // namespace moetap::cli

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "plugin/dump/component_reader.h"
#include "plugin/formats/scratch_file.h"

namespace moetap::cli {

// Note [Places of tokens in their samples]
// In arrays [B, S] a sample is a row, and a token's column is its rank among the tokens of its sample over all
// forwards, from 0: padding is at the end, and prompt and generated tokens follow each other. The dump's `position` is
// a column of one forward and would not tell them apart. Rows go by sample number, then by rank of the job.

/// Where the tokens of a component go in arrays [B, S]. One pass over the labels; the places are kept in a scratch
/// file, in memory are some 50 bytes a sample.
class SamplePlaces {
 public:
  struct Sample {
    int64_t sample = 0;
    int32_t rank = 0;
    int64_t num_tokens = 0;
  };
  struct Place {
    int32_t sample = -1;  // in `samples()`; -1: not known, or the token's rows are missing
    int32_t step = 0;
  };
  SamplePlaces(const plugin::ComponentReader& reader, const std::string& scratch_folder,
               const std::function<void()>& check);

  const std::vector<Sample>& samples() const { return samples_; }
  int64_t longest() const { return longest_; }
  int64_t num_unknown() const { return num_unknown_; }  // tokens whose sample is not known
  void read(int64_t first, int64_t n, Place* out) const;

 private:
  std::vector<Sample> samples_;
  std::vector<int32_t> order_;  // by first appearance -> place in samples_
  int64_t longest_ = 0;
  int64_t num_unknown_ = 0;
  std::unique_ptr<plugin::ScratchFile> places_;
};

/// Calls use(begin, end) for stretches of tokens that stand side by side in one sample.
template <typename Use>
void for_stretches(const std::vector<SamplePlaces::Place>& places, const Use& use) {
  for (size_t begin = 0; begin < places.size();) {
    size_t end = begin + 1;
    if (places[begin].sample < 0) {
      begin = end;
      continue;
    }
    while (end < places.size() && places[end].sample == places[begin].sample &&
           places[end].step == places[end - 1].step + 1) {
      ++end;
    }
    use(begin, end);
    begin = end;
  }
}

}  // namespace moetap::cli

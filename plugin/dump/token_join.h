#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "plugin/dump/dump_reader.h"
#include "plugin/formats/scratch_file.h"

namespace moetap::plugin {

// Note [Which rows are one token]
// The layers of a component that share a series have the same rows, so there a token is a row. Rows of other series (a
// loop, pruned tokens, expert choice) are the same token as a row of the shared series where they agree in forward,
// sample and position; the n-th row of a key in one call goes with the n-th in another. Where the sample is not known
// (−1), position is only a place in the call: rows of two series are then the same tokens only if both have equally
// many in that forward. Calls of a loop repeat their tokens. Tokens that the shared series does not have are tokens of
// the component too: those of a forward stand together, by sample and position. The join goes forward by forward, in
// step through all series, and keeps no more than one forward in memory; what it finds lies in scratch files.

struct TokenLabel {
  int64_t sample = -1;    // −1 unknown
  int64_t forward = -1;   // −1 unknown
  int32_t position = -1;  // as in the dump
  int32_t token_id = -1;  // −1 unknown
  int32_t phase = 0;      // 0 prompt, 1 generation; −1: the row is missing
  int32_t rank = 0;
};

/// Which tokens the rows of one rank's series are; tokens are numbered from 0 within the rank.
struct TokenJoin {
  struct OfSeries {
    std::unique_ptr<ScratchFile> tokens;  // int64 [rows]: token + 1; 0: the row is missing
    std::unique_ptr<ScratchFile> rows;    // int64 [tokens]: row of the first call + 1; 0: not in this series
  };
  int64_t num_tokens = 0;
  std::vector<OfSeries> series;         // as given
  std::unique_ptr<ScratchFile> labels;  // TokenLabel [tokens]
};

/// `series`: all of one component and rank, the shared one first if there is one. `check` is called now and then; it
/// may throw. Throws std::runtime_error with one line if a series has no column `forward` or one that goes back.
TokenJoin join_tokens(const std::vector<const DumpSeriesReader*>& series, const std::string& scratch_folder,
                      const std::function<void()>& check);

}  // namespace moetap::plugin

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "analysis/studies/study_registry.h"
#include "cli/studies/token_source.h"

namespace moetap::cli {

/// A study that is being made of one component.
struct RunningStudy {
  const studies::StudyEntry* entry = nullptr;
  std::function<std::unique_ptr<studies::Study>()> make;  // an empty one
  std::unique_ptr<studies::Study> study;                  // the sums of all that was observed
  bool is_filled = false;                                 // by a partial
};

/// The part of the input that a process takes.
struct Shard {
  int64_t index = 0;
  int64_t count = 1;

  /// [begin, end) of n things that are cut into `count` shares.
  int64_t begin(int64_t n) const { return share(n, index); }
  int64_t end(int64_t n) const { return share(n, index + 1); }

 private:
  int64_t share(int64_t n, int64_t i) const { return n / count * i + n % count * i / count; }
};

struct PassOptions {
  Shard shard;
  int num_threads = 1;
  std::function<void()> check = [] {};  // called by the calling thread, now and then; may throw
  std::function<void(int64_t done, int64_t total)> progress = [](int64_t, int64_t) {};  // likewise, in tokens or bytes
};

// Note [One pass]
// All studies that can share a pass over the tokens do: those that take tokens in any order with those that want whole
// forwards or whole samples, where the input has them in one order. The pass is cut into pieces at places that suit all
// of them; threads take the next piece when they are done, each with its own object of each study, and the objects are
// merged at the end. Which thread gets which piece changes no bit: Note [Studies that merge]. What a shard gets depends
// on the input and the options alone.

/// Makes the studies of one component, in all their passes. The first error of any thread is thrown.
void make_studies(const TokenSource& source, std::vector<RunningStudy>& running, const PassOptions& options);

/// Runs `work(thread)` on so many threads, the calling one among them as thread 0. The first exception is thrown when
/// all have ended; `stopped` tells the others to end early.
void run_threads(int num_threads, const std::function<void(int thread, const std::function<bool()>& stopped)>& work);

}  // namespace moetap::cli

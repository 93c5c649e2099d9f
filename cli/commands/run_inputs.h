#pragma once

#include <c10/core/Device.h>
#include <torch/csrc/jit/api/method.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "cli/terminal/held_notices.h"
#include "plugin/session.h"

namespace moetap::cli {

/// The forwards of a run: a method of a model that reports to the session, over input files.
struct RunInputs {
  torch::jit::Method method;
  int64_t num_hooks = 0;           // of the method
  std::vector<std::string> files;  // all inputs of the run
  size_t first = 0;                // the input to begin with: those before it were recorded by an earlier process
  c10::Device device;
  uint64_t seed = 0;                             // of the first input of the run
  std::optional<std::filesystem::path> outputs;  // folder for the saved outputs; empty: none are saved
};

/// What became of them.
struct Outcome {
  int64_t num_done = 0;              // forwards that finished, of this process
  std::optional<std::string> error;  // why it stopped early, one line; empty: all finished
  bool interrupted = false;          // the reason is Ctrl-C
};

/// Runs the forwards in order, with a progress bar, until one fails, the session cannot write, every hook has stopped,
/// or the user interrupts. `notices` are those of the session.
Outcome run_inputs(Session& session, const RunInputs& inputs, const HeldNotices& notices);

}  // namespace moetap::cli

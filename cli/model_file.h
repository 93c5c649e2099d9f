#pragma once

#include <c10/core/Device.h>
#include <torch/csrc/jit/api/module.h>

#include <string>

#include "hooks/instrument.h"

namespace moetap::cli {

struct ModelFile {
  torch::jit::Module module;
  std::string path;    // as the user gave it
  std::string sha256;  // of the file, hexadecimal
};

/// Loads a TorchScript file onto a device. Throws CommandError with one line for what is no such file: missing, a
/// directory, empty, truncated, another format, operators that are not registered.
ModelFile load_model_file(const std::string& path, c10::Device device);

/// Rewrites the model so that its routers report; a model that is instrumented already is returned as it is. Throws
/// CommandError if no router is found, or if what the model says about itself cannot be read.
torch::jit::Module instrument_model(const ModelFile& model, const std::string& method = "forward");

/// The error of a model in which discovery found no router: which methods were looked at, what was skipped and why.
std::string no_router_line(const ModelFile& model, const hooks::Discovery& discovery);

}  // namespace moetap::cli

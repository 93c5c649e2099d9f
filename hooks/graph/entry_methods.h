#pragma once

#include <torch/csrc/jit/api/module.h>

#include <stdexcept>
#include <string>
#include <vector>

namespace moetap::hooks {

/// A method that was asked for and does not exist or cannot be recorded; one line.
class MethodError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A method that a host calls.
struct EntryMethod {
  std::string path;           // of the module that has it; "" for the model itself
  std::string method;         // "forward"
  torch::jit::Module module;  // the one at `path`
  std::vector<std::string>
      class_sharers;  // paths of other modules whose code is the same: a call does not tell which runs

  std::string name() const { return path.empty() ? method : path + "." + method; }
};

/// The methods that a host calls, in the order of modules, `forward` first: those of the model that its other methods
/// do not call, and those of its submodules that none of them reaches, as far as no other of these calls them. What is
/// called through an interface counts as reached. `wanted` ("encode", "encoder.forward") are added in any case. Throws
/// MethodError if one of them does not exist, with what there is.
std::vector<EntryMethod> entry_methods(const torch::jit::Module& model, const std::vector<std::string>& wanted);

/// The module and the method that a name as "encoder.forward" stands for. Throws as above.
EntryMethod find_entry_method(const torch::jit::Module& model, const std::string& name);

}  // namespace moetap::hooks

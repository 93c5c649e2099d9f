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
  // Paths of other modules of the same class, and so with the same code: a call does not tell which of them runs.
  std::vector<std::string> class_sharers;

  std::string name() const { return path.empty() ? method : path + "." + method; }
};

/// The methods that a host calls, in the order of modules, `forward` first:
/// - `forward` of the model, and its other methods that none of its methods calls;
/// - methods of submodules that no method of the model reaches, and no other such method either.
/// A call through an interface reaches every module that has the interface. `wanted` ("encode", "encoder.forward") are
/// added in any case. Throws MethodError if one of them does not exist, with the nearest names.
std::vector<EntryMethod> entry_methods(const torch::jit::Module& model, const std::vector<std::string>& wanted);

/// The module and the method of a name such as "encoder.forward". Throws as above.
EntryMethod find_entry_method(const torch::jit::Module& model, const std::string& name);

}  // namespace moetap::hooks

#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>

#include <string>
#include <unordered_map>
#include <vector>

namespace moetap::cli {

/// The arguments of one forward, without `self`.
struct ForwardArguments {
  std::vector<c10::IValue> positional;
  std::unordered_map<std::string, c10::IValue> named;
};

/// Replaces every directory by its *.safetensors, *.pt and *.pth files in the order of their names. Throws CommandError
/// for a path that is not there, another kind of file, or a directory without such files.
std::vector<std::string> list_input_files(const std::vector<std::string>& paths);

/// Reads one file: safetensors, or what torch.save wrote of a dict (by argument name), a tuple or list (by position) or
/// one tensor. Tensors are moved to `device`. Throws CommandError that names the file if it is malformed, has a name
/// that is none of the method's, or lacks an argument without a default; dtypes and ranks are the model's to judge.
ForwardArguments read_input_file(const std::string& path, const c10::FunctionSchema& schema, c10::Device device);

}  // namespace moetap::cli

#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>
#include <c10/core/Device.h>

#include <string>
#include <vector>

namespace moetap::cli {

/// Replaces every directory by its *.safetensors, *.pt and *.pth files in the order of their names. Throws CommandError
/// for a path that is not there, another kind of file, or a directory without such files.
std::vector<std::string> list_input_files(const std::vector<std::string>& paths);

/// The arguments of one forward after `self`, in the order of the schema. Reads one file: safetensors, or what
/// torch.save wrote of a dict (by argument name), a tuple or list (by position) or one tensor. Values are of the
/// arguments' types, as argument_value makes them, their tensors on `device`; defaults stand for what is not given.
/// Throws CommandError that names the file if it is malformed, has a name that is none of the method's, lacks an
/// argument without a default, or holds a value that does not fit; dtypes and ranks are the model's to judge.
std::vector<c10::IValue> read_input_file(const std::string& path, const c10::FunctionSchema& schema,
                                         c10::Device device);

}  // namespace moetap::cli

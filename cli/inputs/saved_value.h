#pragma once

#include <ATen/core/ivalue.h>

#include <string>

namespace moetap::cli {

/// The value in a file that torch.save wrote: tensors, numbers, text, None, and lists, tuples and dicts of them. Its
/// lists and dicts are of Any, as the file does not say more. Throws CommandError that names the file if it is no such
/// file or holds anything else. Runs no code of the file.
c10::IValue read_saved_value(const std::string& path);

}  // namespace moetap::cli

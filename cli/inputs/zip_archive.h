#pragma once

#include <string>

namespace moetap::cli {

/// Throws CommandError for a file that cannot be read, is empty or does not begin as a zip archive, which torch.save
/// and torch.jit.save write. `not_what` ("not a TorchScript file") and `expected` complete its line.
void check_is_zip_archive(const std::string& path, const std::string& not_what, const std::string& expected);

}  // namespace moetap::cli

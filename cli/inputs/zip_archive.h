#pragma once

#include <string>

namespace moetap::cli {

/// Throws CommandError for a file that cannot be read, is empty or does not begin as a zip archive, which torch.save
/// and torch.jit.save write. `not_what` ("not a TorchScript file") and `expected` complete its line.
void check_is_zip_archive(const std::string& path, const std::string& not_what, const std::string& expected);

/// Throws std::runtime_error, one line without the path, unless every record of the archive stands in it as it is, as
/// torch.save writes them: none is compressed, and together they are no larger than the file. Then reading the records
/// takes no more memory than the file has bytes; a zip bomb is refused before any of it is unpacked.
void check_records_are_stored(const std::string& path);

}  // namespace moetap::cli

#pragma once

#include <stdexcept>
#include <string>

namespace moetap::plugin {

/// What the system refused to do with a file: the disk is full, the file may not be read, ...
class FileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws FileError "cannot ACTION PATH: REASON", REASON being the text of `error_number` (an errno). One line.
[[noreturn]] void throw_file_error(const char* action, const std::string& path, int error_number);

}  // namespace moetap::plugin

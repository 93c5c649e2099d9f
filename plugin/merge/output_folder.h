#pragma once

#include <filesystem>
#include <string>

namespace moetap::plugin {

/// A folder that appears under its name whole or not at all: it is filled as PATH.tmp-PID-0 beside it. Errors are
/// std::runtime_error with one line. Not thread-safe.
class OutputFolder {
 public:
  /// Makes the temporary folder and the parents of PATH, and removes temporary folders that processes which died left.
  /// Throws if PATH is there and no empty folder.
  explicit OutputFolder(const std::string& path);
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  ~OutputFolder();  // removes the temporary folder unless `commit` succeeded

  const std::filesystem::path& path() const { return path_; }
  const std::filesystem::path& temporary() const { return temporary_; }

  /// Syncs the files and gives the folder its name.
  void commit();

 private:
  void check_free() const;

  std::filesystem::path path_, temporary_;
  bool committed_ = false;
};

}  // namespace moetap::plugin

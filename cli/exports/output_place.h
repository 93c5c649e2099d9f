#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moetap::cli {

enum class OutputKind { kFile, kFolder };

/// Where an export goes. It is written under a temporary name beside PATH and gets its name in `commit`: PATH never
/// holds half an export, and an export that fails or is interrupted leaves nothing. What a killed
/// one left goes when the next one writes to the same PATH. Throws CommandError.
class OutputPlace {
 public:
  /// Refuses a PATH that is there; with `force` a file is replaced, and a folder if the same command ("export") made
  /// it.
  OutputPlace(const std::string& path, OutputKind kind, bool force, std::string command = "export");
  OutputPlace(const OutputPlace&) = delete;
  OutputPlace& operator=(const OutputPlace&) = delete;
  ~OutputPlace();

  const std::filesystem::path& path() const { return path_; }
  /// What to write to: a folder that is there, or a file that is not.
  const std::filesystem::path& temporary() const { return temporary_; }
  std::string parent() const;

  /// Gives PATH its content, unless another command has written to PATH meanwhile.
  void commit();

 private:
  /// Throws unless PATH is not there, or may be replaced.
  void check_free() const;
  void make_parents();

  std::filesystem::path path_, temporary_;
  OutputKind kind_;
  bool force_ = false;
  std::string command_;
  bool committed_ = false;
  std::vector<std::filesystem::path> new_folders_;  // each before its parent
};

}  // namespace moetap::cli

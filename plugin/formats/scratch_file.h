#pragma once

#include <cstdint>
#include <string>

namespace moetap::plugin {

/// A file without a name: the system frees it with the last descriptor, also after kill -9. Written and read at any
/// offset; bytes that nobody wrote are zero. Errors are FileError with one line. Used by one thread.
class ScratchFile {
 public:
  /// `folder`: on whose disk it lies.
  explicit ScratchFile(const std::string& folder);
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile();

  void write(int64_t offset_bytes, const void* bytes, int64_t num_bytes);
  /// Bytes beyond the end read as zero.
  void read(int64_t offset_bytes, void* destination, int64_t num_bytes) const;

 private:
  std::string folder_;
  int descriptor_ = -1;
};

}  // namespace moetap::plugin

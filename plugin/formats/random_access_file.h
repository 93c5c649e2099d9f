#pragma once

#include <cstdint>
#include <string>

namespace moetap::plugin {

/// A regular file, open for reading at any offset. Errors are std::runtime_error of one line that names the file.
/// Thread-safe once constructed; blocks on the disk.
class RandomAccessFile {
 public:
  /// Refuses anything but a regular file, without opening it: opening a pipe waits for its other end.
  explicit RandomAccessFile(std::string path);
  RandomAccessFile(const RandomAccessFile&) = delete;
  RandomAccessFile& operator=(const RandomAccessFile&) = delete;
  ~RandomAccessFile();

  const std::string& path() const { return path_; }
  int64_t size_bytes() const { return size_bytes_; }  // when it was opened

  void read(int64_t offset_bytes, void* destination, int64_t bytes) const;
  std::string read(int64_t offset_bytes, int64_t bytes) const;

 private:
  std::string path_;
  int descriptor_ = -1;
  int64_t size_bytes_ = 0;
};

}  // namespace moetap::plugin

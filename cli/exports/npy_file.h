#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moetap::cli {

/// A .npy file that is written at any place: its shape is known first. Elements that nobody wrote are zero; the file
/// is sparse there. Throws plugin::FileError. Not thread-safe; blocks on the disk.
class NpyFile {
 public:
  /// `dtype` as NumPy spells it: "<f4", "<i8". Creates the file; it must not be there.
  NpyFile(const std::string& path, const std::string& dtype, const std::vector<int64_t>& shape);
  /// Opens a file that this class has written.
  static NpyFile reopen(const std::string& path);
  NpyFile(NpyFile&& other) noexcept;
  NpyFile(const NpyFile&) = delete;
  NpyFile& operator=(const NpyFile&) = delete;
  ~NpyFile();

  /// Writes `bytes` at a place, in bytes from the first element.
  void write(int64_t offset_bytes, const void* bytes, int64_t num_bytes);
  /// Sets all bytes: 0xff is -1 for integers.
  void fill(unsigned char byte);
  void close();

 private:
  NpyFile() = default;

  std::string path_;
  int descriptor_ = -1;
  int64_t data_begin_ = 0;
  int64_t data_bytes_ = 0;
};

}  // namespace moetap::cli

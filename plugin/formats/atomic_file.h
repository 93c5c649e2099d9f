#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace moetap::plugin {

/// A file that appears under its name whole or not at all. Written under a temporary name in the same folder
/// (PATH.tmp-PID-N, which no reader of *.json or *.safetensors opens), then synced and renamed. Every write is checked:
/// std::runtime_error names the file and the reason (disk full, not writable), and the temporary file is removed. Not
/// thread-safe; blocks on the disk.
class AtomicFile {
 public:
  /// Who may read the file: whoever the umask lets, or its owner alone.
  enum class Readers { kAll, kOwner };
  explicit AtomicFile(std::string path, Readers readers = Readers::kAll);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();  // removes the temporary file unless `commit` succeeded

  /// Appends to what `write` wrote before. Buffered.
  void write(std::string_view bytes);

  /// Writes at an offset, in any order. Does not use the buffer of `write`. Bytes that nobody wrote are zero.
  void write_at(int64_t offset_bytes, std::string_view bytes);

  /// Syncs the data to the disk, gives the file its name and syncs the folder. Replaces an older file of that name.
  void commit();

 private:
  void flush();

  std::string path_;
  std::string temporary_;
  std::string buffer_;
  int64_t flushed_bytes_ = 0;  // where the buffer goes
  int descriptor_ = -1;
  pid_t owner_;  // a forked child must not remove its parent's file
};

/// A whole small file at once.
void write_file_atomically(const std::string& path, std::string_view bytes);

/// Syncs a folder, so that the names in it survive a power cut.
void sync_folder(const std::string& folder);

}  // namespace moetap::plugin

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moetap::plugin {

/// A file in which each column of a shard has its place, so that dump rows can be written one after the other. What
/// nobody wrote takes no room on the disk. Used by one thread; errors are FileError.
class ColumnFile {
 public:
  struct Column {
    int64_t begin_bytes = 0;  // from the start of the file
    int64_t row_bytes = 0;
  };
  enum class Open { kNew, kExisting };

  /// kNew: empties a file that is there.
  ColumnFile(std::string path, std::vector<Column> columns, Open open);
  ColumnFile(const ColumnFile&) = delete;
  ColumnFile& operator=(const ColumnFile&) = delete;
  ~ColumnFile();

  const std::string& path() const { return path_; }

  /// Writes a column's dump rows from `first_row` on; `pieces` lie one after the other in the file. One system call.
  void write(size_t column, int64_t first_row, const std::vector<std::string_view>& pieces);
  void write_header(std::string_view header);

  /// Reads dump rows of a column; throws std::runtime_error where the file is too short.
  std::string read(size_t column, int64_t first_row, int64_t num_rows) const;

  /// Blocks until what was written would survive a power cut.
  void sync();
  /// Throws std::runtime_error if the path no longer leads to this file.
  void check_in_place() const;

 private:
  std::string path_;
  std::vector<Column> columns_;
  int descriptor_ = -1;
};

}  // namespace moetap::plugin

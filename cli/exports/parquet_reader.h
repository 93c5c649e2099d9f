#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace moetap::cli {

/// A Parquet file, read column by column and row group by row group: memory holds one column of one group. With
/// parquet_file.cpp the only files of moetap that include Arrow. The file may come from anywhere. Throws
/// std::runtime_error "PATH: REASON". Not thread-safe.
class ParquetReader {
 public:
  explicit ParquetReader(const std::string& path);
  ParquetReader(const ParquetReader&) = delete;
  ParquetReader& operator=(const ParquetReader&) = delete;
  ~ParquetReader();

  const std::string& path() const;
  int64_t num_rows() const;
  int num_groups() const;
  int64_t rows_of(int group) const;
  const std::map<std::string, std::string>& metadata() const;
  bool has(const std::string& column) const;

  /// Integers of any width; a text is 1 if it is "generation", else 0. Nulls are −1.
  std::vector<int64_t> read_integers(int group, const std::string& column) const;
  /// float16, float32 or float64. Nulls are NaN.
  std::vector<float> read_reals(int group, const std::string& column) const;
  /// The longest list of a column of lists in the group.
  int64_t longest_list(int group, const std::string& column) const;
  /// Lists of integers, [rows, width], filled up with −1. Throws if one is longer.
  std::vector<int64_t> read_integer_lists(int group, const std::string& column, int64_t width) const;
  /// Lists of reals, [rows, width], filled up with 0.
  std::vector<float> read_real_lists(int group, const std::string& column, int64_t width) const;

 private:
  struct Inside;
  std::unique_ptr<Inside> inside_;
};

}  // namespace moetap::cli

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace moetap::cli {

enum class ParquetType {
  kInt64,  // plain or dictionary
  kInt32,
  kDeltaInt64,  // DELTA_BINARY_PACKED
  kDeltaInt32,
  kId16,  // dictionary-encoded int16
  kId32,
  kFloat,     // BYTE_STREAM_SPLIT
  kPhase,     // text from a dictionary: prompt, generation
  kIdList16,  // list of ids
  kIdList32,
  kFloatList,
  kHalfList  // FLOAT16, for readers that ask for it
};

struct ParquetColumn {
  std::string name;
  ParquetType type;
};

/// A Parquet file, written row group by row group, column by column: memory holds one column of one row group. zstd 3.
/// With parquet_reader.cpp the only files of moetap that include Arrow. Throws std::runtime_error "cannot write PATH:
/// REASON". Not thread-safe.
class ParquetFile {
 public:
  ParquetFile(const std::string& path, std::vector<ParquetColumn> columns,
              const std::map<std::string, std::string>& metadata);
  ParquetFile(const ParquetFile&) = delete;
  ParquetFile& operator=(const ParquetFile&) = delete;
  ~ParquetFile();

  /// Begins the next row group; its columns follow in their order, each with the same number of rows.
  void begin_group();
  void write(const std::vector<int64_t>& values);
  void write(const std::vector<int32_t>& values);  // also ids and phases (0 prompt, 1 generation)
  void write(const std::vector<float>& values);
  /// A list column: `width` values a row.
  void write_lists(const std::vector<int32_t>& values, int64_t width);
  void write_lists(const std::vector<float>& values, int64_t width);

  void close();

 private:
  struct Inside;
  std::unique_ptr<Inside> inside_;
};

}  // namespace moetap::cli

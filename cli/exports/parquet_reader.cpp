#include "cli/exports/parquet_reader.h"

#include <arrow/array.h>
#include <arrow/io/file.h>
#include <arrow/table.h>
#include <arrow/util/key_value_metadata.h>
#include <c10/util/Half.h>
#include <fmt/format.h>
#include <parquet/arrow/reader.h>
#include <parquet/exception.h>
#include <parquet/file_reader.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace moetap::cli {
namespace {

constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();

int64_t value_of_text(std::string_view text) {
  return text == "generation" ? 1 : 0;
}

/// Appends each element; `missing` stands for a null.
template <typename ArrayType, typename Value>
void append_numbers(const ::arrow::Array& array, Value missing, std::vector<Value>& out) {
  const auto& numbers = static_cast<const ArrayType&>(array);
  for (int64_t i = 0; i < numbers.length(); ++i) {
    out.push_back(numbers.IsNull(i) ? missing : static_cast<Value>(numbers.Value(i)));
  }
}

void append_values(const ::arrow::Array& array, std::vector<int64_t>& out) {
  constexpr int64_t kNull = -1;
  switch (array.type_id()) {
    case ::arrow::Type::INT8:
      return append_numbers<::arrow::Int8Array>(array, kNull, out);
    case ::arrow::Type::UINT8:
      return append_numbers<::arrow::UInt8Array>(array, kNull, out);
    case ::arrow::Type::INT16:
      return append_numbers<::arrow::Int16Array>(array, kNull, out);
    case ::arrow::Type::UINT16:
      return append_numbers<::arrow::UInt16Array>(array, kNull, out);
    case ::arrow::Type::INT32:
      return append_numbers<::arrow::Int32Array>(array, kNull, out);
    case ::arrow::Type::UINT32:
      return append_numbers<::arrow::UInt32Array>(array, kNull, out);
    case ::arrow::Type::INT64:
      return append_numbers<::arrow::Int64Array>(array, kNull, out);
    case ::arrow::Type::STRING: {
      const auto& texts = static_cast<const ::arrow::StringArray&>(array);
      for (int64_t i = 0; i < texts.length(); ++i) {
        out.push_back(texts.IsNull(i) ? kNull : value_of_text(texts.GetView(i)));
      }
      return;
    }
    case ::arrow::Type::DICTIONARY: {
      const auto& coded = static_cast<const ::arrow::DictionaryArray&>(array);
      std::vector<int64_t> values;
      append_values(*coded.dictionary(), values);
      for (int64_t i = 0; i < coded.length(); ++i) {
        out.push_back(coded.IsNull(i) ? kNull : values.at(static_cast<size_t>(coded.GetValueIndex(i))));
      }
      return;
    }
    default:
      throw std::runtime_error(fmt::format("it holds {}, integers are needed", array.type()->ToString()));
  }
}

void append_values(const ::arrow::Array& array, std::vector<float>& out) {
  switch (array.type_id()) {
    case ::arrow::Type::FLOAT:
      return append_numbers<::arrow::FloatArray>(array, kMissing, out);
    case ::arrow::Type::DOUBLE:
      return append_numbers<::arrow::DoubleArray>(array, kMissing, out);
    case ::arrow::Type::HALF_FLOAT: {
      const auto& halves = static_cast<const ::arrow::HalfFloatArray&>(array);
      for (int64_t i = 0; i < halves.length(); ++i) {
        const c10::Half half(halves.Value(i), c10::Half::from_bits());
        out.push_back(halves.IsNull(i) ? kMissing : static_cast<float>(half));
      }
      return;
    }
    default:
      throw std::runtime_error(fmt::format("it holds {}, reals are needed", array.type()->ToString()));
  }
}

/// Calls use(first, length) for each list of an array of lists; returns the values.
template <typename Lists, typename Use>
std::shared_ptr<::arrow::Array> visit_lists_of(const ::arrow::Array& array, const Use& use) {
  const auto& lists = static_cast<const Lists&>(array);
  for (int64_t i = 0; i < lists.length(); ++i) {
    use(lists.value_offset(i), lists.IsNull(i) ? int64_t{0} : static_cast<int64_t>(lists.value_length(i)));
  }
  return lists.values();
}

template <typename Use>
std::shared_ptr<::arrow::Array> visit_lists(const ::arrow::Array& array, const Use& use) {
  switch (array.type_id()) {
    case ::arrow::Type::LIST:
      return visit_lists_of<::arrow::ListArray>(array, use);
    case ::arrow::Type::LARGE_LIST:
      return visit_lists_of<::arrow::LargeListArray>(array, use);
    case ::arrow::Type::FIXED_SIZE_LIST:
      return visit_lists_of<::arrow::FixedSizeListArray>(array, use);
    default:
      throw std::runtime_error(fmt::format("it holds {}, lists are needed", array.type()->ToString()));
  }
}

}  // namespace

struct ParquetReader::Inside {
  std::string path;
  std::unique_ptr<::parquet::arrow::FileReader> reader;
  std::shared_ptr<::parquet::FileMetaData> about;
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::vector<int>> leaves;  // of the columns at the top

  template <typename Work>
  void guard(const std::string& column, const Work& work) const {
    try {
      work();
    } catch (const std::exception& error) {
      std::string reason = error.what();
      reason = reason.substr(0, reason.find('\n'));
      throw std::runtime_error(
          fmt::format("{}: {}{}", path, column.empty() ? "" : fmt::format("column {}: ", column), reason));
    }
  }

  /// Calls use(array) for the chunks of a column in a group.
  template <typename Use>
  void read(int group, const std::string& column, const Use& use) const {
    guard(column, [&] {
      const auto found = leaves.find(column);
      if (found == leaves.end()) throw std::runtime_error("there is none");
      std::shared_ptr<::arrow::Table> table;
      PARQUET_ASSIGN_OR_THROW(table, reader->ReadRowGroup(group, found->second));
      for (const auto& chunk : table->column(0)->chunks()) use(*chunk);
    });
  }

  template <typename Value>
  std::vector<Value> read_values(int group, const std::string& column) const {
    std::vector<Value> out;
    read(group, column, [&](const ::arrow::Array& array) { append_values(array, out); });
    return out;
  }

  template <typename Value>
  std::vector<Value> read_lists(int group, const std::string& column, int64_t width, Value fill) const {
    std::vector<Value> out;
    read(group, column, [&](const ::arrow::Array& array) {
      std::vector<std::pair<int64_t, int64_t>> lists;
      const auto values = visit_lists(array, [&](int64_t first, int64_t length) { lists.emplace_back(first, length); });
      std::vector<Value> flat;
      append_values(*values, flat);
      for (const auto& [first, length] : lists) {
        if (length > width) throw std::runtime_error(fmt::format("a list of {}, the others have {}", length, width));
        for (int64_t i = 0; i < width; ++i) out.push_back(i < length ? flat.at(static_cast<size_t>(first + i)) : fill);
      }
    });
    return out;
  }
};

ParquetReader::ParquetReader(const std::string& path) : inside_(std::make_unique<Inside>()) {
  inside_->path = path;
  inside_->guard("", [&] {
    std::shared_ptr<::arrow::io::ReadableFile> file;
    PARQUET_ASSIGN_OR_THROW(file, ::arrow::io::ReadableFile::Open(path));
    ::parquet::arrow::FileReaderBuilder builder;
    PARQUET_THROW_NOT_OK(builder.Open(file));
    PARQUET_ASSIGN_OR_THROW(inside_->reader, builder.Build());
    inside_->about = inside_->reader->parquet_reader()->metadata();
    const auto pairs = inside_->about->key_value_metadata();
    for (int64_t i = 0; pairs != nullptr && i < pairs->size(); ++i) inside_->metadata[pairs->key(i)] = pairs->value(i);
    const ::parquet::SchemaDescriptor& schema = *inside_->about->schema();
    for (int leaf = 0; leaf < schema.num_columns(); ++leaf) {
      inside_->leaves[schema.GetColumnRoot(leaf)->name()].push_back(leaf);
    }
  });
}

ParquetReader::~ParquetReader() = default;

const std::string& ParquetReader::path() const {
  return inside_->path;
}

int64_t ParquetReader::num_rows() const {
  return inside_->about->num_rows();
}

int ParquetReader::num_groups() const {
  return inside_->about->num_row_groups();
}

int64_t ParquetReader::rows_of(int group) const {
  return inside_->about->RowGroup(group)->num_rows();
}

const std::map<std::string, std::string>& ParquetReader::metadata() const {
  return inside_->metadata;
}

bool ParquetReader::has(const std::string& column) const {
  return inside_->leaves.contains(column);
}

std::vector<int64_t> ParquetReader::read_integers(int group, const std::string& column) const {
  return inside_->read_values<int64_t>(group, column);
}

std::vector<float> ParquetReader::read_reals(int group, const std::string& column) const {
  return inside_->read_values<float>(group, column);
}

int64_t ParquetReader::longest_list(int group, const std::string& column) const {
  int64_t longest = 0;
  inside_->read(group, column, [&](const ::arrow::Array& array) {
    visit_lists(array, [&](int64_t, int64_t length) { longest = std::max(longest, length); });
  });
  return longest;
}

std::vector<int64_t> ParquetReader::read_integer_lists(int group, const std::string& column, int64_t width) const {
  return inside_->read_lists<int64_t>(group, column, width, -1);
}

std::vector<float> ParquetReader::read_real_lists(int group, const std::string& column, int64_t width) const {
  return inside_->read_lists<float>(group, column, width, 0);
}

}  // namespace moetap::cli

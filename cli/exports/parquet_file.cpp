#include "cli/exports/parquet_file.h"

#include <arrow/io/file.h>
#include <arrow/util/key_value_metadata.h>
#include <c10/util/Half.h>
#include <fmt/format.h>
#include <parquet/column_writer.h>
#include <parquet/exception.h>
#include <parquet/file_writer.h>
#include <parquet/properties.h>
#include <parquet/schema.h>

#include <array>
#include <stdexcept>

namespace moetap::cli {
namespace {

using ::parquet::LogicalType;
using ::parquet::Repetition;
using ::parquet::Type;
using ::parquet::schema::GroupNode;
using ::parquet::schema::NodePtr;
using ::parquet::schema::NodeVector;
using ::parquet::schema::PrimitiveNode;

constexpr int kCompressionLevel = 3;
constexpr int kBitsOfShort = 16;
constexpr const char* kCreator = "moetap";

bool is_list(ParquetType type) {
  return type == ParquetType::kIdList16 || type == ParquetType::kIdList32 || type == ParquetType::kFloatList ||
         type == ParquetType::kHalfList;
}

NodePtr leaf(const std::string& name, ParquetType type) {
  switch (type) {
    case ParquetType::kInt64:
    case ParquetType::kDeltaInt64:
      return PrimitiveNode::Make(name, Repetition::REQUIRED, LogicalType::None(), Type::INT64);
    case ParquetType::kId16:
    case ParquetType::kIdList16:
      return PrimitiveNode::Make(name, Repetition::REQUIRED, LogicalType::Int(kBitsOfShort, true), Type::INT32);
    case ParquetType::kFloat:
    case ParquetType::kFloatList:
      return PrimitiveNode::Make(name, Repetition::REQUIRED, LogicalType::None(), Type::FLOAT);
    case ParquetType::kHalfList:
      return PrimitiveNode::Make(name, Repetition::REQUIRED, LogicalType::Float16(), Type::FIXED_LEN_BYTE_ARRAY,
                                 sizeof(c10::Half));
    case ParquetType::kPhase:
      return PrimitiveNode::Make(name, Repetition::REQUIRED, LogicalType::String(), Type::BYTE_ARRAY);
    default:
      return PrimitiveNode::Make(name, Repetition::REQUIRED, LogicalType::None(), Type::INT32);
  }
}

NodePtr node(const ParquetColumn& column) {
  if (!is_list(column.type)) return leaf(column.name, column.type);
  const NodePtr repeated = GroupNode::Make("list", Repetition::REPEATED, {leaf("element", column.type)});
  return GroupNode::Make(column.name, Repetition::REQUIRED, {repeated}, LogicalType::List());
}

void set_encoding(::parquet::WriterProperties::Builder& builder, const ParquetColumn& column) {
  const std::string path = is_list(column.type) ? column.name + ".list.element" : column.name;
  switch (column.type) {
    case ParquetType::kDeltaInt64:
    case ParquetType::kDeltaInt32:
      builder.disable_dictionary(path)->encoding(path, ::parquet::Encoding::DELTA_BINARY_PACKED);
      break;
    case ParquetType::kFloat:
    case ParquetType::kFloatList:
      builder.disable_dictionary(path)->encoding(path, ::parquet::Encoding::BYTE_STREAM_SPLIT);
      break;
    case ParquetType::kHalfList:
      builder.disable_dictionary(path)->encoding(path, ::parquet::Encoding::PLAIN);
      break;
    default:
      builder.enable_dictionary(path);
  }
}

}  // namespace

struct ParquetFile::Inside {
  std::string path;
  std::vector<ParquetColumn> columns;
  std::shared_ptr<::arrow::io::FileOutputStream> output;
  std::unique_ptr<::parquet::ParquetFileWriter> writer;
  ::parquet::RowGroupWriter* group = nullptr;
  size_t next_column = 0;                         // of the group
  std::vector<int16_t> definitions, repetitions;  // of a list column

  template <typename Work>
  void guard(const Work& work) {
    try {
      work();
    } catch (const std::exception& error) {
      // Arrow's messages name its own places in front: "IOError: Error writing bytes to file. Detail: [errno 28] ...".
      std::string reason = error.what();
      const size_t detail = reason.find("[errno");
      if (detail != std::string::npos) {
        const size_t end = reason.find("] ", detail);
        if (end != std::string::npos) reason = reason.substr(end + 2);
      }
      throw std::runtime_error(fmt::format("cannot write {}: {}", path, reason));
    }
  }

  template <typename Writer, typename Value>
  void put(const Value* values, int64_t n) {
    guard([&] {
      auto* column = static_cast<Writer*>(group->NextColumn());
      ++next_column;
      column->WriteBatch(n, nullptr, nullptr, values);
      column->Close();
    });
  }

  template <typename Writer, typename Value>
  void put_lists(const Value* values, int64_t n, int64_t width) {
    definitions.assign(static_cast<size_t>(n), 1);
    repetitions.assign(static_cast<size_t>(n), 1);
    for (int64_t i = 0; i < n; i += width) repetitions[static_cast<size_t>(i)] = 0;
    guard([&] {
      auto* column = static_cast<Writer*>(group->NextColumn());
      ++next_column;
      column->WriteBatch(n, definitions.data(), repetitions.data(), values);
      column->Close();
    });
  }
};

ParquetFile::ParquetFile(const std::string& path, std::vector<ParquetColumn> columns,
                         const std::map<std::string, std::string>& metadata)
    : inside_(std::make_unique<Inside>()) {
  inside_->path = path;
  inside_->columns = std::move(columns);
  NodeVector fields;
  ::parquet::WriterProperties::Builder builder;
  builder.compression(::parquet::Compression::ZSTD)->compression_level(kCompressionLevel)->created_by(kCreator);
  for (const ParquetColumn& column : inside_->columns) {
    fields.push_back(node(column));
    set_encoding(builder, column);
  }
  auto pairs = std::make_shared<::arrow::KeyValueMetadata>();
  for (const auto& [key, value] : metadata) pairs->Append(key, value);
  const auto schema = std::static_pointer_cast<GroupNode>(GroupNode::Make("schema", Repetition::REQUIRED, fields));
  inside_->guard([&] {
    PARQUET_ASSIGN_OR_THROW(inside_->output, ::arrow::io::FileOutputStream::Open(path));
    inside_->writer = ::parquet::ParquetFileWriter::Open(inside_->output, schema, builder.build(), pairs);
  });
}

ParquetFile::~ParquetFile() = default;

void ParquetFile::begin_group() {
  inside_->guard([&] { inside_->group = inside_->writer->AppendRowGroup(); });
  inside_->next_column = 0;
}

void ParquetFile::write(const std::vector<int64_t>& values) {
  inside_->put<::parquet::Int64Writer>(values.data(), static_cast<int64_t>(values.size()));
}

void ParquetFile::write(const std::vector<int32_t>& values) {
  const auto& column = inside_->columns[inside_->next_column];
  const auto n = static_cast<int64_t>(values.size());
  if (column.type != ParquetType::kPhase) return inside_->put<::parquet::Int32Writer>(values.data(), n);
  static const std::array<std::string, 2> kNames{"prompt", "generation"};
  std::vector<::parquet::ByteArray> texts;
  texts.reserve(values.size());
  for (const int32_t value : values) texts.emplace_back(kNames[value == 1 ? 1 : 0]);
  inside_->put<::parquet::ByteArrayWriter>(texts.data(), n);
}

void ParquetFile::write(const std::vector<float>& values) {
  inside_->put<::parquet::FloatWriter>(values.data(), static_cast<int64_t>(values.size()));
}

void ParquetFile::write_lists(const std::vector<int32_t>& values, int64_t width) {
  inside_->put_lists<::parquet::Int32Writer>(values.data(), static_cast<int64_t>(values.size()), width);
}

void ParquetFile::write_lists(const std::vector<float>& values, int64_t width) {
  const auto& column = inside_->columns[inside_->next_column];
  const auto n = static_cast<int64_t>(values.size());
  if (column.type != ParquetType::kHalfList) {
    return inside_->put_lists<::parquet::FloatWriter>(values.data(), n, width);
  }
  std::vector<c10::Half> halves(values.begin(), values.end());
  std::vector<::parquet::FixedLenByteArray> pieces;
  pieces.reserve(halves.size());
  for (const c10::Half& half : halves) pieces.emplace_back(reinterpret_cast<const uint8_t*>(&half));
  inside_->put_lists<::parquet::FixedLenByteArrayWriter>(pieces.data(), n, width);
}

void ParquetFile::close() {
  inside_->guard([&] {
    inside_->writer->Close();
    PARQUET_THROW_NOT_OK(inside_->output->Close());
  });
}

}  // namespace moetap::cli

#include "plugin/dump/dump_reader.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>
#include <set>
#include <stdexcept>

#include "plugin/dump/attention_series.h"
#include "plugin/dump/dump_keys.h"
#include "plugin/dump/series_files.h"

namespace moetap::plugin {
namespace {

constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();
constexpr const char* kSelectedEnd = ".selected";

int64_t number_of(const std::map<std::string, std::string>& metadata, const char* key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) throw std::runtime_error(fmt::format("its metadata lack {}", key));
  int64_t number = -1;
  const char* end = found->second.data() + found->second.size();
  const auto read = std::from_chars(found->second.data(), end, number);
  if (read.ec != std::errc{} || read.ptr != end || number < 0) {
    throw std::runtime_error(fmt::format("its {} must be a number, got \"{}\"", key, found->second));
  }
  return number;
}

int64_t elements_of_row(const SafetensorsEntry& entry) {
  int64_t elements = 1;
  for (size_t i = 1; i < entry.shape.size(); ++i) elements *= entry.shape[i];
  return elements;
}

void check_columns(const DumpShard& shard) {
  for (const char* name : {"sample", "position", "token_id", "phase"}) {
    if (!shard.columns.contains(name)) throw std::runtime_error(fmt::format("it has no column {}", name));
  }
  for (const auto& [name, entry] : shard.columns) {
    if (entry.shape.empty() || entry.shape[0] != shard.num_rows) {
      throw std::runtime_error(fmt::format("column {} has {} rows, column sample has {}", name,
                                           entry.shape.empty() ? 0 : entry.shape[0], shard.num_rows));
    }
  }
}

DumpShard read_shard(const std::string& path, int64_t rank) {
  const RandomAccessFile file(path);
  auto header = read_shard_header(file);
  if (!header) throw std::runtime_error("it is shorter than its header (truncated?)");
  DumpShard shard;
  shard.path = path;
  shard.data_begin = header->data_begin;
  shard.first_row = number_of(header->header.metadata, keys::kFirstRow.name);
  if (number_of(header->header.metadata, keys::kSchemaVersion.name) != 1) {
    throw std::runtime_error("its schema_version is not 1, the only one that this moetap reads");
  }
  if (number_of(header->header.metadata, keys::kRank.name) != rank) {
    throw std::runtime_error(
        fmt::format("it is of rank {}, the folder of rank {}", header->header.metadata.at(keys::kRank.name), rank));
  }
  for (SafetensorsEntry& entry : header->header.entries) shard.columns.emplace(entry.name, std::move(entry));
  const auto sample = shard.columns.find("sample");
  if (sample == shard.columns.end() || sample->second.shape.empty())
    throw std::runtime_error("it has no column sample");
  shard.num_rows = sample->second.shape[0];
  check_columns(shard);
  return shard;
}

template <typename From, typename To>
void convert(const char* bytes, int64_t n, To* out) {
  for (int64_t i = 0; i < n; ++i) {
    From value;
    std::memcpy(&value, bytes + i * static_cast<int64_t>(sizeof(From)), sizeof(From));
    out[i] = static_cast<To>(value);
  }
}

template <typename To>
void convert_integers(const SafetensorsEntry& entry, const std::string& path, const char* bytes, int64_t n, To* out) {
  switch (entry.dtype) {
    case at::kLong:
      return convert<int64_t>(bytes, n, out);
    case at::kInt:
      return convert<int32_t>(bytes, n, out);
    case at::kShort:
      return convert<int16_t>(bytes, n, out);
    case at::kChar:
      return convert<int8_t>(bytes, n, out);
    case at::kByte:
      return convert<uint8_t>(bytes, n, out);
    default:
      throw std::runtime_error(fmt::format("{}: column {} must hold integers, got {}", path, entry.name,
                                           safetensors_dtype_name(entry.dtype)));
  }
}

void convert_reals(const SafetensorsEntry& entry, const std::string& path, const char* bytes, int64_t n, float* out) {
  switch (entry.dtype) {
    case at::kFloat:
      return convert<float>(bytes, n, out);
    case at::kHalf:
      return convert<c10::Half>(bytes, n, out);
    case at::kBFloat16:
      return convert<c10::BFloat16>(bytes, n, out);
    case at::kDouble:
      return convert<double>(bytes, n, out);
    default:
      throw std::runtime_error(
          fmt::format("{}: column {} must hold reals, got {}", path, entry.name, safetensors_dtype_name(entry.dtype)));
  }
}

}  // namespace

std::vector<std::string> DumpSeriesReader::names_in(const std::string& folder) {
  std::set<std::string> names;
  for (const SeriesFile& file : series_files(folder, kShardExtension)) {
    if (!AttentionSeries::is_name(file.series)) names.insert(file.series);
  }
  return {names.begin(), names.end()};
}

DumpSeriesReader::DumpSeriesReader(const std::string& folder, std::string name, int64_t rank,
                                   std::vector<std::string>& damage)
    : name_(std::move(name)), rank_(rank) {
  std::vector<int64_t> numbers;
  for (const SeriesFile& file : series_files(folder, kShardExtension)) {
    if (file.series == name_) numbers.push_back(file.number);
  }
  std::sort(numbers.begin(), numbers.end());
  for (const int64_t number : numbers) {
    const std::string path = folder + "/" + series_file_name(name_, number, kShardExtension);
    try {
      add_shard(read_shard(path, rank_), damage);
    } catch (const std::exception& error) {
      const std::string reason = error.what();
      damage.push_back(reason.find(path) == std::string::npos ? path + ": is damaged: " + reason : reason);
    }
  }
}

void DumpSeriesReader::add_shard(DumpShard shard, std::vector<std::string>& damage) {
  if (shard.first_row < num_rows_) {
    damage.push_back(fmt::format("{}: is left out: it begins at row {}, the shards before it end at {}", shard.path,
                                 shard.first_row, num_rows_));
    return;
  }
  if (shard.first_row > num_rows_) {
    damage.push_back(
        fmt::format("{}: rows {} to {} of {} are missing", shard.path, num_rows_, shard.first_row - 1, name_));
  }
  num_rows_ = shard.first_row + shard.num_rows;
  shards_.push_back(std::move(shard));
}

bool DumpSeriesReader::may_be_of(const std::string& name, const std::string& component) {
  return name == component || name.starts_with(component + ".");
}

std::string DumpSeriesReader::component() const {
  const std::string own = layer();
  return own.empty() ? name_ : name_.substr(0, name_.size() - own.size() - 1);
}

// The name alone does not tell where the component's ends, but a layer's own series has its column.
std::string DumpSeriesReader::layer() const {
  for (size_t dot = name_.find('.'); dot != std::string::npos; dot = name_.find('.', dot + 1)) {
    const std::string layer = name_.substr(dot + 1);
    if (has_column(layer + ".selected")) return layer;
  }
  return "";
}

bool DumpSeriesReader::has_column(const std::string& column) const {
  return std::any_of(shards_.begin(), shards_.end(),
                     [&](const DumpShard& shard) { return shard.columns.contains(column); });
}

int64_t DumpSeriesReader::width(const std::string& column) const {
  int64_t width = 0;
  for (const DumpShard& shard : shards_) {
    const auto found = shard.columns.find(column);
    if (found != shard.columns.end()) width = std::max(width, elements_of_row(found->second));
  }
  return width;
}

std::vector<std::string> DumpSeriesReader::layers() const {
  std::set<std::string> layers;
  for (const DumpShard& shard : shards_) {
    for (const auto& [name, entry] : shard.columns) {
      if (name.ends_with(kSelectedEnd)) layers.insert(name.substr(0, name.size() - std::strlen(kSelectedEnd)));
    }
  }
  return {layers.begin(), layers.end()};
}

bool DumpSeriesReader::is_missing(int64_t row) const {
  return std::none_of(shards_.begin(), shards_.end(), [&](const DumpShard& shard) {
    return row >= shard.first_row && row < shard.first_row + shard.num_rows;
  });
}

template <typename Use>
void DumpSeriesReader::for_pieces(const std::string& column, int64_t first, int64_t n, const Use& use) const {
  auto shard = std::partition_point(shards_.begin(), shards_.end(),
                                    [&](const DumpShard& s) { return s.first_row + s.num_rows <= first; });
  int64_t row = first;
  const int64_t end = first + n;
  while (row < end) {
    const bool inside = shard != shards_.end() && shard->first_row <= row;
    const int64_t piece_end =
        std::min(end, inside ? shard->first_row + shard->num_rows
                             : (shard == shards_.end() ? end : std::max(row + 1, shard->first_row)));
    if (inside) {
      const auto found = shard->columns.find(column);
      if (found != shard->columns.end()) {
        use(&*shard, &found->second, row - shard->first_row, piece_end - row, row - first);
      } else {
        use(nullptr, nullptr, int64_t{0}, piece_end - row, row - first);
      }
      if (piece_end == shard->first_row + shard->num_rows) ++shard;
    } else {
      use(nullptr, nullptr, int64_t{0}, piece_end - row, row - first);
    }
    row = piece_end;
  }
}

void DumpSeriesReader::read_bytes(const DumpShard& shard, const SafetensorsEntry& entry, int64_t first,
                                  int64_t n) const {
  if (!open_ || open_->path() != shard.path) open_ = std::make_unique<RandomAccessFile>(shard.path);
  const int64_t row_bytes = elements_of_row(entry) * static_cast<int64_t>(c10::elementSize(entry.dtype));
  bytes_.resize(static_cast<size_t>(n * row_bytes));
  open_->read(shard.data_begin + entry.begin + first * row_bytes, bytes_.data(), n * row_bytes);
}

void DumpSeriesReader::read_integers(const std::string& column, int64_t first, int64_t n, int64_t* out) const {
  for_pieces(column, first, n,
             [&](const DumpShard* shard, const SafetensorsEntry* entry, int64_t row, int64_t rows, int64_t place) {
               if (shard == nullptr) {
                 std::fill_n(out + place, rows, -1);
                 return;
               }
               if (elements_of_row(*entry) != 1) {
                 throw std::runtime_error(fmt::format("{}: column {} must have one value a row", shard->path, column));
               }
               read_bytes(*shard, *entry, row, rows);
               convert_integers(*entry, shard->path, bytes_.data(), rows, out + place);
             });
}

void DumpSeriesReader::read_ids(const std::string& column, int64_t first, int64_t n, int64_t width,
                                int32_t* out) const {
  for_pieces(column, first, n,
             [&](const DumpShard* shard, const SafetensorsEntry* entry, int64_t row, int64_t rows, int64_t place) {
               if (shard == nullptr) {
                 std::fill_n(out + place * width, rows * width, -1);
                 return;
               }
               const int64_t own = elements_of_row(*entry);
               read_bytes(*shard, *entry, row, rows);
               if (own == width) {
                 convert_integers(*entry, shard->path, bytes_.data(), rows * width, out + place * width);
                 return;
               }
               const auto row_bytes = own * static_cast<int64_t>(c10::elementSize(entry->dtype));
               for (int64_t i = 0; i < rows; ++i) {
                 int32_t* to = out + (place + i) * width;
                 std::fill_n(to, width, -1);
                 convert_integers(*entry, shard->path, bytes_.data() + i * row_bytes, std::min(own, width), to);
               }
             });
}

void DumpSeriesReader::read_reals(const std::string& column, int64_t first, int64_t n, int64_t width, float fill,
                                  float* out) const {
  for_pieces(column, first, n,
             [&](const DumpShard* shard, const SafetensorsEntry* entry, int64_t row, int64_t rows, int64_t place) {
               if (shard == nullptr) {
                 std::fill_n(out + place * width, rows * width, kMissing);
                 return;
               }
               const int64_t own = elements_of_row(*entry);
               read_bytes(*shard, *entry, row, rows);
               if (own == width) {
                 convert_reals(*entry, shard->path, bytes_.data(), rows * width, out + place * width);
                 return;
               }
               const auto row_bytes = own * static_cast<int64_t>(c10::elementSize(entry->dtype));
               for (int64_t i = 0; i < rows; ++i) {
                 float* to = out + (place + i) * width;
                 std::fill_n(to, width, fill);
                 convert_reals(*entry, shard->path, bytes_.data() + i * row_bytes, std::min(own, width), to);
               }
             });
}

}  // namespace moetap::plugin

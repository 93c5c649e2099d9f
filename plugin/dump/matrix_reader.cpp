#include "plugin/dump/matrix_reader.h"

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>

#include "plugin/dump/attention_series.h"
#include "plugin/dump/dump_keys.h"
#include "plugin/dump/series_files.h"

namespace moetap::plugin {
namespace {

int64_t first_of(const std::map<std::string, std::string>& metadata) {
  const auto found = metadata.find(keys::kFirstRow.name);
  int64_t first = -1;
  if (found != metadata.end())
    std::from_chars(found->second.data(), found->second.data() + found->second.size(), first);
  if (first < 0) throw std::runtime_error(fmt::format("its metadata do not say its {}", keys::kFirstRow.name));
  return first;
}

}  // namespace

MatrixReader::MatrixReader(const std::string& folder, std::vector<std::string>& damage) {
  for (const SeriesFile& file : series_files(folder, kShardExtension)) {
    if (!AttentionSeries::is_name(file.series)) continue;
    const std::string path = folder + "/" + series_file_name(file.series, file.number, kShardExtension);
    try {
      const RandomAccessFile shard(path);
      const auto header = read_shard_header(shard);
      if (!header) throw std::runtime_error("it is shorter than its header (truncated?)");
      for (const SafetensorsEntry& entry : header->header.entries) {
        if (entry.dtype != at::kFloat || entry.shape.size() != 2) {
          throw std::runtime_error(fmt::format("{} must be float32 [queries, keys]", entry.name));
        }
      }
      series_[file.series].shards.push_back(
          {path, first_of(header->header.metadata), static_cast<int64_t>(header->header.entries.size())});
    } catch (const std::exception& error) {
      damage.push_back(fmt::format("{}: is damaged: {}", path, error.what()));
    }
  }
  for (auto& [name, series] : series_) {
    std::sort(series.shards.begin(), series.shards.end(),
              [](const Shard& a, const Shard& b) { return a.first < b.first; });
    int64_t end = 0;
    for (const Shard& shard : series.shards) {
      if (shard.first != end) {
        damage.push_back(
            fmt::format("{}: begins at matrix {}, the shards before it end at {}", shard.path, shard.first, end));
      }
      end = shard.first + shard.number;
    }
  }
}

int64_t MatrixReader::num_matrices(const std::string& series) const {
  const auto known = series_.find(series);
  return known == series_.end() ? 0 : known->second.shards.back().first + known->second.shards.back().number;
}

std::vector<AttentionMatrix> MatrixReader::read(const std::string& name, int64_t begin, int64_t number) {
  std::vector<AttentionMatrix> matrices;
  const auto known = series_.find(name);
  if (known == series_.end()) return matrices;
  Series& series = known->second;
  for (const Shard& shard : series.shards) {
    const int64_t first = std::max(begin, shard.first);
    const int64_t end = std::min(begin + number, shard.first + shard.number);
    if (first >= end) continue;
    if (series.open != &shard) {
      series.open = nullptr;
      series.file = std::make_unique<RandomAccessFile>(shard.path);
      auto header = read_shard_header(*series.file);
      if (!header) throw std::runtime_error(shard.path + ": became shorter");
      series.header = std::move(header->header);
      series.data_begin = header->data_begin;
      series.open = &shard;
    }
    for (int64_t i = first; i < end; ++i) {
      const SafetensorsEntry& entry = series.header.entries.at(static_cast<size_t>(i - shard.first));
      AttentionMatrix matrix{entry.name, at::empty(entry.shape, at::kFloat)};
      series.file->read(series.data_begin + entry.begin, matrix.probabilities.mutable_data_ptr(),
                        entry.end - entry.begin);
      matrices.push_back(std::move(matrix));
    }
  }
  return matrices;
}

}  // namespace moetap::plugin

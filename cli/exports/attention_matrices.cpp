#include "cli/exports/attention_matrices.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "cli/exports/npy_file.h"
#include "plugin/dump/series_files.h"

namespace moetap::cli {
namespace {

constexpr auto kRealBytes = static_cast<int64_t>(sizeof(float));

struct Shard {
  std::string path;
  int32_t rank = 0;
  plugin::ShardHeader header;
};

/// LAYER/SAMPLE/Q0; of a loop only the first call, which has no fourth part.
struct MatrixName {
  std::string layer;
  int64_t sample = -1;
  int64_t first_query = 0;
};

std::optional<int64_t> number_of(const std::string& text) {
  int64_t number = -1;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
  return read.ec == std::errc{} && read.ptr == text.data() + text.size() && number >= 0 ? std::optional(number)
                                                                                        : std::nullopt;
}

std::optional<MatrixName> parse(const std::string& name) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  if (parts.size() != 3) return std::nullopt;
  const auto sample = number_of(parts[1]);
  const auto first = number_of(parts[2]);
  if (!sample || !first) return std::nullopt;
  return MatrixName{parts[0], *sample, *first};
}

std::vector<Shard> find_shards(const ExportJob& job, const std::string& component) {
  std::vector<Shard> shards;
  for (const int64_t rank : job.run().ranks()) {
    const std::string folder = job.run().dump_folder(rank);
    std::vector<plugin::SeriesFile> files = plugin::series_files(folder, plugin::kShardExtension);
    std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.number < b.number; });
    for (const plugin::SeriesFile& file : files) {
      if (file.series != component + ".attention") continue;
      const std::string path =
          folder + "/" + plugin::series_file_name(file.series, file.number, plugin::kShardExtension);
      try {
        auto header = plugin::read_shard_header(plugin::RandomAccessFile(path));
        if (!header) throw std::runtime_error("it is shorter than its header (truncated?)");
        shards.push_back({path, static_cast<int32_t>(rank), std::move(*header)});
      } catch (const std::exception& error) {
        job.notices.push_back(fmt::format("{}: is damaged: {}", path, error.what()));
      }
    }
  }
  return shards;
}

}  // namespace

bool write_attention_matrices(const ExportJob& job, const std::string& component,
                              const std::vector<std::string>& layers, const SamplePlaces& places,
                              const std::string& path) {
  const std::vector<Shard> shards = find_shards(job, component);
  if (shards.empty()) return false;
  const int64_t length = places.longest();
  std::map<std::pair<int64_t, int32_t>, int64_t> samples;
  for (const SamplePlaces::Sample& sample : places.samples()) {
    samples.emplace(std::pair(sample.sample, sample.rank), static_cast<int64_t>(samples.size()));
  }
  std::set<std::string> with_attention;
  for (const Shard& shard : shards) {
    for (const plugin::SafetensorsEntry& entry : shard.header.header.entries) {
      const auto name = parse(entry.name);
      if (!name || std::find(layers.begin(), layers.end(), name->layer) == layers.end()) continue;
      with_attention.insert(name->layer);
      const bool fits = entry.shape.size() == 2 && entry.dtype == at::kFloat && entry.shape[1] <= length &&
                        name->first_query + entry.shape[0] <= length;
      if (!fits) {
        job.notices.push_back(
            fmt::format("attn_weights.npy is left out: {} of {} has queries or keys that are no tokens "
                        "of the sample's {}",
                        entry.name, shard.path, length));
        return false;
      }
    }
  }
  for (const std::string& layer : layers) {
    if (with_attention.contains(layer)) continue;
    job.notices.push_back(fmt::format("attn_weights.npy is left out: no attention was recorded in layer {}", layer));
    return false;
  }
  const auto num_samples = static_cast<int64_t>(places.samples().size());
  NpyFile file(path, "<f4", {static_cast<int64_t>(layers.size()), num_samples, length, length});
  std::string bytes;
  for (const Shard& shard : shards) {
    const plugin::RandomAccessFile input(shard.path);
    for (const plugin::SafetensorsEntry& entry : shard.header.header.entries) {
      job.check();
      const auto name = parse(entry.name);
      if (!name) continue;
      const auto layer = std::find(layers.begin(), layers.end(), name->layer);
      const auto sample = samples.find({name->sample, shard.rank});
      if (layer == layers.end() || sample == samples.end()) continue;
      bytes.resize(static_cast<size_t>(entry.end - entry.begin));
      input.read(shard.header.data_begin + entry.begin, bytes.data(), entry.end - entry.begin);
      const int64_t matrix = ((layer - layers.begin()) * num_samples + sample->second) * length;
      const int64_t row_bytes = entry.shape[1] * kRealBytes;
      for (int64_t query = 0; query < entry.shape[0]; ++query) {
        file.write((matrix + name->first_query + query) * length * kRealBytes, bytes.data() + query * row_bytes,
                   row_bytes);
      }
    }
  }
  file.close();
  return true;
}

}  // namespace moetap::cli

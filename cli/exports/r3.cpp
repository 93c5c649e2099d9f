#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "cli/exports/export_format.h"
#include "cli/exports/npy_file.h"
#include "cli/exports/sample_places.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

constexpr int64_t kBatchTokens = 1 << 12;
constexpr auto kIdBytes = static_cast<int64_t>(sizeof(int32_t));

void export_component(const ExportJob& job, const std::string& component, const std::string& folder) {
  const plugin::ComponentReader reader = open_component(job, component);
  const std::vector<plugin::ReadLayer> layers = layers_with(job, reader, component, "selected");
  const SamplePlaces places(reader, job.scratch_folder, job.check);
  if (places.num_unknown() > 0) {
    job.notices.push_back(
        fmt::format("{} tokens of {} whose sample is not known are left out", places.num_unknown(), component));
  }
  int64_t top_k = 0;
  for (const plugin::ReadLayer& layer : layers) top_k = std::max(top_k, reader.width(layer.layer, "selected"));
  const auto num_layers = static_cast<int64_t>(layers.size());
  const auto width = num_layers * top_k;

  // Two ranks may have numbered their samples alike.
  std::set<int64_t> numbers;
  for (const SamplePlaces::Sample& sample : places.samples()) numbers.insert(sample.sample);
  const bool by_rank = numbers.size() != places.samples().size();
  const auto path_of = [&](int32_t sample) {
    const SamplePlaces::Sample& known = places.samples()[static_cast<size_t>(sample)];
    return fmt::format("{}/{}sample-{:06}.npy", folder, by_rank ? fmt::format("rank{}-", known.rank) : "",
                       known.sample);
  };
  for (size_t sample = 0; sample < places.samples().size(); ++sample) {
    job.check();
    NpyFile file(path_of(static_cast<int32_t>(sample)), "<i4",
                 {places.samples()[sample].num_tokens, num_layers, top_k});
    file.fill(0xff);
    file.close();
  }
  std::vector<SamplePlaces::Place> batch;
  std::vector<int32_t> ids, rows;
  int64_t foreign = 0;
  for (int64_t first = 0; first < reader.num_tokens(); first += kBatchTokens) {
    job.check();
    const int64_t n = std::min(kBatchTokens, reader.num_tokens() - first);
    batch.resize(static_cast<size_t>(n));
    places.read(first, n, batch.data());
    rows.resize(static_cast<size_t>(n * width));
    ids.resize(static_cast<size_t>(n * top_k));
    for (int64_t layer = 0; layer < num_layers; ++layer) {
      const plugin::ReadLayer& known = layers[static_cast<size_t>(layer)];
      reader.read_ids(known.layer, first, n, top_k, ids.data());
      foreign += drop_foreign_ids(known, ids.data(), n * top_k);
      for (int64_t i = 0; i < n; ++i) {
        std::copy_n(ids.data() + i * top_k, top_k, rows.data() + i * width + layer * top_k);
      }
    }
    for_stretches(batch, [&](size_t begin, size_t end) {
      NpyFile file = NpyFile::reopen(path_of(batch[begin].sample));
      file.write(batch[begin].step * width * kIdBytes, rows.data() + static_cast<int64_t>(begin) * width,
                 static_cast<int64_t>(end - begin) * width * kIdBytes);
      file.close();
    });
  }
  if (foreign > 0) {
    job.notices.push_back(
        fmt::format("{} ids of {} are no experts of their layer (a damaged shard?): -1", foreign, component));
  }
  std::string names;
  for (const plugin::ReadLayer& layer : layers) names += (names.empty() ? "" : ", ") + layer.layer;
  job.results.push_back(fmt::format("{}: {} samples; axis 1 is layers {}", component, places.samples().size(), names));
}

}  // namespace

void export_r3(const ExportJob& job) {
  const std::vector<std::string> components = chosen_components(job);
  for (const std::string& component : components) {
    const std::string folder = components.size() == 1 ? job.output : job.output + "/" + component;
    std::filesystem::create_directories(folder);
    export_component(job, component, folder);
  }
}

}  // namespace moetap::cli

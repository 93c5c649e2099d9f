#include "cli/studies/parquet_tables.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>
#include <stdexcept>

#include "plugin/records/layer_table.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kComponent = "component=", kLayer = "layer=", kTrace = "layer_", kParquet = ".parquet",
                           kActives = "actives";

/// The text between `begin` and `end`, if the name is made so.
std::optional<std::string> between(const std::string& name, std::string_view begin, std::string_view end) {
  if (!name.starts_with(begin) || !name.ends_with(end) || name.size() <= begin.size() + end.size()) return std::nullopt;
  return name.substr(begin.size(), name.size() - begin.size() - end.size());
}

/// "2" of "02".
std::string without_zeros(const std::string& number) {
  const size_t first = number.find_first_not_of('0');
  return first == std::string::npos ? number.substr(0, 1) : number.substr(first);
}

std::vector<fs::path> entries_of(const fs::path& folder) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

/// R of rankR-NNNNNN.parquet; 0 of any other name.
int64_t rank_of(const fs::path& path) {
  const std::string name = path.filename().string();
  int64_t rank = 0;
  if (name.starts_with("rank")) std::from_chars(name.data() + 4, name.data() + name.size(), rank);
  return rank;
}

int64_t number_of(const ParquetReader& reader, const char* key) {
  const auto found = reader.metadata().find(key);
  if (found == reader.metadata().end()) return 0;
  int64_t number = 0;
  std::from_chars(found->second.data(), found->second.data() + found->second.size(), number);
  return number;
}

int64_t columns_with(const ParquetReader& reader, char prefix) {
  int64_t columns = 0;
  while (reader.has(fmt::format("{}{}", prefix, columns))) ++columns;
  return columns;
}

std::string text_of(const ParquetReader& reader, const char* key) {
  const auto found = reader.metadata().find(key);
  return found == reader.metadata().end() ? "" : found->second;
}

/// What the columns of the layer's first file say; of lists the longest of all files.
void read_columns(ParquetLayer& layer) {
  for (size_t i = 0; i < layer.files.size(); ++i) {
    const ParquetReader reader(layer.files[i].second);
    if (i == 0) {
      layer.name = text_of(reader, "hook_name");
      layer.scoring = text_of(reader, "scoring");
      layer.num_experts = number_of(reader, "num_experts");
      layer.null_experts = number_of(reader, "null_experts");
      layer.has_lists = reader.has("indices");
      layer.top_k = layer.has_lists ? 0 : columns_with(reader, 'e');
      layer.num_scores = columns_with(reader, 's');
      layer.num_logits = columns_with(reader, 'l');
      layer.weights = !layer.has_lists ? "" : reader.has("weights") ? "weights" : reader.has("scores") ? "scores" : "";
      layer.has_weights = layer.has_lists ? !layer.weights.empty() : columns_with(reader, 'w') == layer.top_k;
    }
    for (int group = 0; layer.has_lists && group < reader.num_groups(); ++group) {
      layer.top_k = std::max(layer.top_k, reader.longest_list(group, "indices"));
    }
  }
  if (layer.top_k < 1) {
    throw std::runtime_error(fmt::format("{}: has no column indices and no columns e0, …", layer.files.front().second));
  }
}

void add_layers(const fs::path& folder, const std::string& component, std::vector<ParquetLayer>& layers) {
  for (const fs::path& path : entries_of(folder)) {
    const std::string name = path.filename().string();
    std::error_code error;
    ParquetLayer layer;
    layer.component = component;
    if (const auto id = between(name, kLayer, ""); id && fs::is_directory(path, error)) {
      layer.layer = *id;
      for (const fs::path& file : entries_of(path)) {
        if (file.extension() == kParquet) layer.files.emplace_back(rank_of(file), file.string());
      }
      std::stable_sort(layer.files.begin(), layer.files.end(),
                       [](const auto& a, const auto& b) { return a.first < b.first; });
    } else if (const auto trace = between(name, kTrace, kParquet)) {
      layer.layer = without_zeros(*trace);
      layer.files.emplace_back(0, path.string());
    }
    if (!layer.files.empty()) layers.push_back(std::move(layer));
  }
}

/// Of FLAME-MoE's traces of one checkpoint, MODEL/actives/iter_NNNN; of other folders themselves.
fs::path folder_of_layers(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_directory(folder / kActives, error)) return folder;
  const std::vector<fs::path> checkpoints = entries_of(folder / kActives);
  if (checkpoints.size() > 1) {
    throw std::runtime_error(fmt::format("{}: holds traces of {} checkpoints, give one of them: {}", folder.string(),
                                         checkpoints.size(), checkpoints.back().string()));
  }
  return checkpoints.empty() ? folder : checkpoints.front();
}

/// Folders of components, and the names of these.
std::vector<std::pair<fs::path, std::string>> component_folders(const fs::path& folder) {
  std::vector<std::pair<fs::path, std::string>> folders{{folder_of_layers(folder), "model"}};
  for (const fs::path& path : entries_of(folder)) {
    std::error_code error;
    const std::string name = path.filename().string();
    if (!fs::is_directory(path, error) || name == kActives) continue;
    folders.emplace_back(folder_of_layers(path), between(name, kComponent, "").value_or(name));
  }
  return folders;
}

}  // namespace

bool is_parquet_folder(const std::string& folder) {
  for (const auto& [path, component] : component_folders(folder)) {
    std::vector<ParquetLayer> layers;
    add_layers(path, component, layers);
    if (!layers.empty()) return true;
  }
  return false;
}

std::vector<ParquetLayer> find_parquet_layers(const std::string& folder) {
  std::vector<ParquetLayer> layers;
  for (const auto& [path, component] : component_folders(folder)) add_layers(path, component, layers);
  for (ParquetLayer& layer : layers) read_columns(layer);
  std::stable_sort(layers.begin(), layers.end(), [](const ParquetLayer& a, const ParquetLayer& b) {
    return a.component != b.component ? a.component < b.component : plugin::layer_id_less(a.layer, b.layer);
  });
  return layers;
}

}  // namespace moetap::cli

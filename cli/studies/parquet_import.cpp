#include "cli/studies/parquet_import.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "plugin/dump/column_file.h"
#include "plugin/dump/series_files.h"
#include "plugin/formats/atomic_file.h"
#include "plugin/formats/file_error.h"
#include "plugin/formats/temporary_path.h"
#include "plugin/run/run_paths.h"

namespace moetap::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kFillRows = 1 << 14;

constexpr std::string_view kImport = ".moetap-import-";

/// Removes the imports of processes that died (kill -9). .moetap-import-PID-XXXXXX
void remove_left(const fs::path& folder) {
  std::vector<fs::path> left;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    pid_t process = 0;
    if (!name.starts_with(kImport)) continue;
    const auto read = std::from_chars(name.data() + kImport.size(), name.data() + name.size(), process);
    if (read.ec != std::errc{} || process <= 0 || !std::string_view(read.ptr).starts_with('-')) continue;
    if (plugin::is_dead(process)) left.push_back(entry.path());
  }
  for (const fs::path& path : left) fs::remove_all(path, error);
}

/// The columns of a shard, one after the other.
class ShardWriter {
 public:
  ShardWriter(std::string path, int64_t num_rows, int64_t rank) : path_(std::move(path)), num_rows_(num_rows) {
    header_.metadata = {{"schema_version", "1"}, {"rank", std::to_string(rank)}, {"first_row", "0"}, {"hooks", "{}"}};
  }

  size_t add(const std::string& name, at::ScalarType dtype, int64_t width) {
    plugin::SafetensorsEntry entry{name, dtype, {num_rows_}, end_, 0};
    if (width > 0) entry.shape.push_back(width);
    row_bytes_.push_back(std::max<int64_t>(width, 1) * static_cast<int64_t>(c10::elementSize(dtype)));
    end_ += num_rows_ * row_bytes_.back();
    entry.end = end_;
    header_.entries.push_back(entry);
    return row_bytes_.size() - 1;
  }
  void begin() {
    const std::string text = plugin::serialize_safetensors_header(header_);
    std::vector<plugin::ColumnFile::Column> columns;
    for (size_t i = 0; i < row_bytes_.size(); ++i) {
      columns.push_back({static_cast<int64_t>(text.size()) + header_.entries[i].begin, row_bytes_[i]});
    }
    file_.emplace(path_, columns, plugin::ColumnFile::Open::kNew);
    file_->write_header(text);
  }
  template <typename Value>
  void write(size_t column, int64_t row, const Value* values, int64_t num_rows) {
    const std::string_view bytes(reinterpret_cast<const char*>(values),
                                 static_cast<size_t>(num_rows * row_bytes_[column]));
    file_->write(column, row, {bytes});
  }
  /// All rows of a column with one value.
  template <typename Value>
  void fill(size_t column, Value value) {
    const std::vector<Value> block(static_cast<size_t>(kFillRows * row_bytes_[column]) / sizeof(Value), value);
    for (int64_t row = 0; row < num_rows_; row += kFillRows) {
      write(column, row, block.data(), std::min(kFillRows, num_rows_ - row));
    }
  }

 private:
  std::string path_;
  int64_t num_rows_;
  int64_t end_ = 0;
  plugin::SafetensorsHeader header_;
  std::vector<int64_t> row_bytes_;
  std::optional<plugin::ColumnFile> file_;
};

/// Rows of a group: which token each is, and which rows are taken (the first call of a loop).
std::vector<int64_t> tokens_of(const ParquetReader& reader, int group, int64_t first_row) {
  std::vector<int64_t> tokens;
  if (reader.has("token")) {
    tokens = reader.read_integers(group, "token");
  } else {
    for (int64_t row = 0; row < reader.rows_of(group); ++row) tokens.push_back(first_row + row);
  }
  if (reader.has("call")) {
    const std::vector<int64_t> calls = reader.read_integers(group, "call");
    for (size_t row = 0; row < tokens.size(); ++row) tokens[row] = calls[row] == 0 ? tokens[row] : -1;
  }
  return tokens;
}

/// Calls use(first row, token, rows) for rows whose tokens follow each other.
template <typename Use>
void for_stretches(const std::vector<int64_t>& tokens, const Use& use) {
  for (size_t begin = 0; begin < tokens.size();) {
    size_t end = begin + 1;
    while (end < tokens.size() && tokens[end] == tokens[end - 1] + 1) ++end;
    if (tokens[begin] >= 0) use(begin, tokens[begin], static_cast<int64_t>(end - begin));
    begin = end;
  }
}

constexpr int64_t kMostExperts = int64_t{1} << 20;  // no model has more

/// An id that no int32 holds is no expert of any model: it stays one that is none, and is counted as foreign.
int32_t narrow_id(int64_t id) {
  constexpr int32_t kForeign = std::numeric_limits<int32_t>::min();
  return id < kForeign || id > std::numeric_limits<int32_t>::max() ? kForeign : static_cast<int32_t>(id);
}

/// Labels as the dump holds them. Throws where one does not fit.
template <typename Label>
std::vector<Label> narrow_labels(const std::vector<int64_t>& wide, const ParquetReader& reader, const char* column) {
  for (const int64_t value : wide) {
    if (value < -1 || value > static_cast<int64_t>(std::numeric_limits<Label>::max())) {
      throw std::runtime_error(
          fmt::format("{}: column {} holds {}, which is out of range", reader.path(), column, value));
    }
  }
  return {wide.begin(), wide.end()};
}

/// Columns PREFIX0 … of a group, [rows, width].
template <typename Value, typename Read>
std::vector<Value> side_by_side(int64_t rows, int64_t width, char prefix, const Read& read) {
  std::vector<Value> values(static_cast<size_t>(rows * width));
  for (int64_t column = 0; column < width; ++column) {
    const auto of = read(fmt::format("{}{}", prefix, column));
    for (int64_t row = 0; row < rows; ++row) {
      values[static_cast<size_t>(row * width + column)] = of.at(static_cast<size_t>(row));
    }
  }
  return values;
}

}  // namespace

ParquetImport::ParquetImport(const std::string& folder, const std::string& scratch_folder,
                             const std::function<void()>& check)
    : check_(check) {
  const fs::path scratch = scratch_folder.empty() ? "." : scratch_folder;
  remove_left(scratch);
  std::string path = (scratch / fmt::format("{}{}-XXXXXX", kImport, ::getpid())).string();
  if (::mkdtemp(path.data()) == nullptr) plugin::throw_file_error("write", path, errno);
  run_ = path;
  try {
    std::vector<ParquetLayer> layers = find_parquet_layers(folder);
    std::set<int64_t> ranks;
    for (const ParquetLayer& layer : layers) {
      for (const auto& [rank, file] : layer.files) ranks.insert(rank);
    }
    ranks_.assign(ranks.begin(), ranks.end());
    for (size_t begin = 0; begin < layers.size();) {
      std::vector<ParquetLayer*> of_component;
      const std::string component = layers[begin].component;
      for (; begin < layers.size() && layers[begin].component == component; ++begin) {
        of_component.push_back(&layers[begin]);
      }
      import_component(of_component);
    }
    write_about(layers, static_cast<int64_t>(ranks_.size()));
  } catch (...) {
    std::error_code error;
    fs::remove_all(run_, error);
    throw;
  }
}

ParquetImport::~ParquetImport() {
  std::error_code error;
  fs::remove_all(run_, error);
}

void ParquetImport::import_component(std::vector<ParquetLayer*>& layers) {
  std::map<int64_t, RankTokens> tokens;
  std::map<int64_t, int64_t> last, rows_of_rank;
  for (const ParquetLayer* layer : layers) {
    std::map<int64_t, int64_t> rows;
    for (const auto& [rank, path] : layer->files) {
      const ParquetReader reader(path);
      for (int group = 0; group < reader.num_groups(); ++group) {
        check_();
        for (const int64_t token : tokens_of(reader, group, rows[rank])) {
          if (token < 0) continue;
          const auto [known, is_new] = tokens.try_emplace(rank, RankTokens{token, 0});
          known->second.first = std::min(known->second.first, token);
          last[rank] = std::max(last[rank], token);
        }
        rows[rank] += reader.rows_of(group);
        rows_of_rank[rank] += reader.rows_of(group);
      }
    }
  }
  for (auto& [rank, of] : tokens) {
    // Each token is the row of some layer: numbers with more room between them would fill the disk with nothing.
    if (last[rank] - of.first >= rows_of_rank[rank]) {
      throw std::runtime_error(fmt::format("{}: tokens are numbered {} to {}, but all layers together have {} rows",
                                           layers.front()->files.front().second, of.first, last[rank],
                                           rows_of_rank[rank]));
    }
    of.n = last[rank] - of.first + 1;
    const auto place = std::lower_bound(ranks_.begin(), ranks_.end(), rank) - ranks_.begin();
    write_rank(layers, rank, place, of);
  }
}

void ParquetImport::write_rank(const std::vector<ParquetLayer*>& layers, int64_t rank, int64_t place,
                               const RankTokens& tokens) {
  const fs::path folder = plugin::RunPaths(run_, place).dump;
  fs::create_directories(folder);
  ShardWriter shard((folder / plugin::series_file_name(layers.front()->component, 0, plugin::kShardExtension)).string(),
                    tokens.n, place);
  const size_t sample = shard.add("sample", at::kLong, 0), position = shard.add("position", at::kInt, 0),
               token_id = shard.add("token_id", at::kInt, 0), phase = shard.add("phase", at::kByte, 0);
  struct Columns {
    size_t selected = 0, weights = 0, scores = 0, logits = 0;
  };
  std::vector<Columns> columns;
  for (const ParquetLayer* layer : layers) {
    Columns& of = columns.emplace_back();
    of.selected = shard.add(layer->layer + ".selected", at::kInt, layer->top_k);
    if (layer->has_weights) of.weights = shard.add(layer->layer + ".weights", at::kFloat, layer->top_k);
    if (layer->num_scores > 0) of.scores = shard.add(layer->layer + ".scores", at::kFloat, layer->num_scores);
    if (layer->num_logits > 0) of.logits = shard.add(layer->layer + ".logits", at::kFloat, layer->num_logits);
  }
  shard.begin();
  // Tokens that a layer has no row of read as tokens that it did not see.
  constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();
  shard.fill<int64_t>(sample, -1);
  shard.fill<int32_t>(position, -1);
  shard.fill<int32_t>(token_id, -1);
  shard.fill<uint8_t>(phase, 0);
  for (size_t l = 0; l < layers.size(); ++l) {
    ParquetLayer& layer = *layers[l];
    shard.fill<int32_t>(columns[l].selected, -1);
    for (const size_t column : {columns[l].weights, columns[l].scores, columns[l].logits}) {
      if (column != 0) shard.fill<float>(column, kMissing);
    }
    int64_t first_row = 0, largest = -1;
    for (const auto& [file_rank, path] : layer.files) {
      if (file_rank != rank) continue;
      const ParquetReader reader(path);
      for (int group = 0; group < reader.num_groups(); ++group) {
        check_();
        std::vector<int64_t> places = tokens_of(reader, group, first_row);
        const int64_t rows = reader.rows_of(group);
        first_row += rows;
        for (int64_t& of : places) of = of < 0 ? -1 : of - tokens.first;
        const auto write = [&](size_t column, const auto& values, int64_t width) {
          for_stretches(places, [&](size_t row, int64_t at, int64_t n) {
            shard.write(column, at, values.data() + static_cast<int64_t>(row) * width, n);
          });
        };
        const auto write_label = [&](const char* name, size_t column, auto kind) {
          if (!reader.has(name)) return;
          write(column, narrow_labels<decltype(kind)>(reader.read_integers(group, name), reader, name), 1);
        };
        write_label("sample", sample, int64_t{});
        write_label("position", position, int32_t{});
        write_label("token_id", token_id, int32_t{});
        write_label("phase", phase, uint8_t{});
        const auto integers = [&](const std::string& name) { return reader.read_integers(group, name); };
        const auto reals = [&](const std::string& name) { return reader.read_reals(group, name); };
        const std::vector<int64_t> wide = layer.has_lists ? reader.read_integer_lists(group, "indices", layer.top_k)
                                                          : side_by_side<int64_t>(rows, layer.top_k, 'e', integers);
        std::vector<int32_t> ids;
        for (const int64_t id : wide) {
          ids.push_back(narrow_id(id));
          if (id < kMostExperts) largest = std::max(largest, id);
        }
        write(columns[l].selected, ids, layer.top_k);
        if (layer.has_weights) {
          write(columns[l].weights,
                layer.has_lists ? reader.read_real_lists(group, layer.weights, layer.top_k)
                                : side_by_side<float>(rows, layer.top_k, 'w', reals),
                layer.top_k);
        }
        if (layer.num_scores > 0) {
          write(columns[l].scores, side_by_side<float>(rows, layer.num_scores, 's', reals), layer.num_scores);
        }
        if (layer.num_logits > 0) {
          write(columns[l].logits, side_by_side<float>(rows, layer.num_logits, 'l', reals), layer.num_logits);
        }
      }
    }
    // Traces of others do not say how many experts there are.
    if (layer.name.empty()) layer.num_experts = std::max(layer.num_experts, largest + 1);
  }
}

void ParquetImport::write_about(const std::vector<ParquetLayer>& layers, int64_t num_ranks) const {
  ordered_json hooks = ordered_json::array(), components = ordered_json::object();
  for (const ParquetLayer& layer : layers) {
    ordered_json hook{{"id", hooks.size()},   {"layer", layer.layer},         {"name", layer.name},
                      {"kind", "router"},     {"component", layer.component}, {"num_experts", layer.num_experts},
                      {"top_k", layer.top_k}, {"scoring", layer.scoring},     {"run_layer", layer.layer}};
    if (layer.null_experts > 0) hook["null_experts"] = layer.null_experts;
    hooks.push_back(std::move(hook));
    components[layer.component][layer.layer] = {{"num_experts", layer.num_experts}};
  }
  for (int64_t rank = 0; rank < num_ranks; ++rank) {
    const plugin::RunPaths paths(run_, rank);
    fs::create_directories(paths.about);
    const ordered_json manifest{{"schema_version", 1},
                                {"hooks", hooks},
                                {"config", {{"dump", "full"}}},
                                {"rank", rank},
                                {"world_size", num_ranks}};
    plugin::write_file_atomically((paths.about / "manifest.json").string(), manifest.dump());
    plugin::write_file_atomically((paths.about / "summary.json").string(),
                                  ordered_json{{"components", components}}.dump());
    plugin::write_file_atomically(paths.done.string(), fmt::format("rank {} eval done", rank));
  }
}

}  // namespace moetap::cli

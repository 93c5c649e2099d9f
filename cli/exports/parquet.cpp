#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "cli/exports/export_format.h"
#include "cli/exports/parquet_file.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

constexpr int64_t kGroupRows = 122880;  // DuckDB's row group; the same boundaries in every layer
constexpr int64_t kGroupsOfFile = 16;
constexpr int64_t kBatchRows = 1 << 13;
constexpr int64_t kColumnsAtOnce = 128;  // of scores: 63 MB of a row group

/// One component as hive partitions: component=C/layer=L/rankR-NNNNNN.parquet and component=C/ids/.
class ComponentTables {
 public:
  ComponentTables(const ExportJob& job, const std::string& component)
      : job_(job),
        component_(component),
        folder_(job.output + "/component=" + component),
        reader_(open_component(job, component)),
        layers_(layers_with(job, reader_, component, "selected")) {}

  void run() {
    for (const plugin::ReadLayer& layer : layers_) write_layer(layer);
    write_ids_table();
    if (foreign_ > 0) {
      job_.notices.push_back(
          fmt::format("{} ids of {} are no experts of their layer (a damaged shard?): -1", foreign_, component_));
    }
    if (!without_.empty()) {
      job_.notices.push_back(
          fmt::format("the dump has no weights of layers {}: their tables have no w0, ...", without_));
    }
    job_.results.push_back(fmt::format("{}: {} tokens, {} layers", component_, reader_.num_tokens(), layers_.size()));
  }

 private:
  using Columns = std::vector<ParquetColumn>;

  bool is_wide(const plugin::ReadLayer& layer) const {
    return layer.num_experts + layer.null_experts > std::numeric_limits<int16_t>::max();
  }

  std::map<std::string, std::string> metadata(const plugin::ReadLayer* layer) const {
    std::map<std::string, std::string> pairs{{"schema_version", "1"},
                                             {"model_sha256", job_.run().sha256()},
                                             {"moetap_version", job_.run().moetap_version()},
                                             {"component", component_}};
    if (layer == nullptr) return pairs;
    pairs["layer"] = layer->layer;
    pairs["hook_name"] = layer->name;
    pairs["num_experts"] = std::to_string(layer->num_experts);
    pairs["top_k"] = std::to_string(reader_.width(layer->layer, "selected"));
    pairs["scoring"] = layer->scoring;
    if (layer->null_experts > 0) pairs["null_experts"] = std::to_string(layer->null_experts);
    return pairs;
  }

  /// Files of up to kGroupsOfFile row groups; `write_group` gets the file, the first row and the number of rows.
  template <typename WriteGroup>
  void write_files(const std::string& folder, int64_t rank, int64_t num_rows, const Columns& columns,
                   const std::map<std::string, std::string>& metadata, const WriteGroup& write_group) {
    std::filesystem::create_directories(folder);
    for (int64_t begin = 0, number = 0; begin < num_rows; begin += kGroupRows * kGroupsOfFile, ++number) {
      ParquetFile file(fmt::format("{}/rank{}-{:06}.parquet", folder, rank, number), columns, metadata);
      const int64_t end = std::min(num_rows, begin + kGroupRows * kGroupsOfFile);
      for (int64_t row = begin; row < end; row += kGroupRows) {
        job_.check();
        file.begin_group();
        write_group(file, row, std::min(kGroupRows, end - row));
      }
      file.close();
    }
  }

  void write_layer(const plugin::ReadLayer& layer);
  void write_layer_group(ParquetFile& file, const plugin::ReadLayer& layer, int64_t first, int64_t n);
  void write_ids(ParquetFile& file, const plugin::ReadLayer& layer, int64_t first, int64_t n);
  void write_reals(ParquetFile& file, const std::string& layer, const char* what, int64_t first, int64_t n);
  void write_ids_table();

  const ExportJob& job_;
  std::string component_, folder_;
  plugin::ComponentReader reader_;
  std::vector<plugin::ReadLayer> layers_;
  int64_t foreign_ = 0;
  std::string without_;  // layers without weights
};

void ComponentTables::write_layer(const plugin::ReadLayer& layer) {
  const int64_t top_k = reader_.width(layer.layer, "selected");
  const bool has_weights = reader_.has_column(layer.layer, "weights");
  const bool has_scores = reader_.has_column(layer.layer, "scores");
  if (!has_weights) without_ += (without_.empty() ? "" : ", ") + layer.layer;
  if (job_.options.logits) layers_with(job_, reader_, component_, "logits");
  const ParquetType id = is_wide(layer) ? ParquetType::kId32 : ParquetType::kId16;
  Columns columns{{"token", ParquetType::kDeltaInt64},    {"sample", ParquetType::kInt64},
                  {"position", ParquetType::kDeltaInt32}, {"token_id", ParquetType::kInt32},
                  {"phase", ParquetType::kPhase},         {"rank", ParquetType::kInt32}};
  if (reader_.loops(layer.layer)) columns.push_back({"call", ParquetType::kInt32});
  if (job_.options.lists) {
    columns.push_back({"indices", is_wide(layer) ? ParquetType::kIdList32 : ParquetType::kIdList16});
    if (has_weights) columns.push_back({"weights", ParquetType::kFloatList});
  } else {
    for (int64_t k = 0; k < top_k; ++k) columns.push_back({fmt::format("e{}", k), id});
    for (int64_t k = 0; has_weights && k < top_k; ++k) columns.push_back({fmt::format("w{}", k), ParquetType::kFloat});
  }
  const auto add_all = [&](const char* prefix, const char* what) {
    for (int64_t e = 0; e < reader_.width(layer.layer, what); ++e) {
      columns.push_back({fmt::format("{}{}", prefix, e), ParquetType::kFloat});
    }
  };
  if (has_scores) add_all("s", "scores");
  if (job_.options.logits) add_all("l", "logits");

  int64_t first_of_rank = 0;
  for (const auto& rank : reader_.ranks()) {
    const int64_t rows = reader_.num_rows(layer.layer, rank.rank);
    write_files(
        folder_ + "/layer=" + layer.layer, rank.rank, rows, columns, metadata(&layer),
        [&](ParquetFile& file, int64_t row, int64_t n) { write_layer_group(file, layer, first_of_rank + row, n); });
    first_of_rank += rows;
  }
}

void ComponentTables::write_layer_group(ParquetFile& file, const plugin::ReadLayer& layer, int64_t first, int64_t n) {
  plugin::ComponentReader::Rows rows;
  reader_.read_row_tokens(layer.layer, first, n, rows);
  std::vector<plugin::TokenLabel> labels(static_cast<size_t>(n));
  reader_.read_row_labels(layer.layer, first, n, labels.data());
  std::vector<int64_t> wide;
  std::vector<int32_t> narrow;
  const auto write = [&](auto& values, auto member) {
    values.clear();
    for (const plugin::TokenLabel& label : labels) values.push_back(label.*member);
    file.write(values);
  };
  file.write(rows.token);
  write(wide, &plugin::TokenLabel::sample);
  write(narrow, &plugin::TokenLabel::position);
  write(narrow, &plugin::TokenLabel::token_id);
  write(narrow, &plugin::TokenLabel::phase);
  write(narrow, &plugin::TokenLabel::rank);
  if (reader_.loops(layer.layer)) file.write(std::vector<int32_t>(rows.call.begin(), rows.call.end()));
  write_ids(file, layer, first, n);
  if (reader_.has_column(layer.layer, "weights")) write_reals(file, layer.layer, "weights", first, n);
  if (reader_.has_column(layer.layer, "scores")) write_reals(file, layer.layer, "scores", first, n);
  if (job_.options.logits) write_reals(file, layer.layer, "logits", first, n);
}

void ComponentTables::write_ids(ParquetFile& file, const plugin::ReadLayer& layer, int64_t first, int64_t n) {
  const int64_t top_k = reader_.width(layer.layer, "selected");
  std::vector<int32_t> ids(static_cast<size_t>(n * top_k));
  reader_.read_row_ids(layer.layer, first, n, top_k, ids.data());
  foreign_ += drop_foreign_ids(layer, ids.data(), n * top_k);
  if (job_.options.lists) return file.write_lists(ids, top_k);
  std::vector<int32_t> column(static_cast<size_t>(n));
  for (int64_t k = 0; k < top_k; ++k) {
    for (int64_t i = 0; i < n; ++i) column[static_cast<size_t>(i)] = ids[static_cast<size_t>(i * top_k + k)];
    file.write(column);
  }
}

void ComponentTables::write_reals(ParquetFile& file, const std::string& layer, const char* what, int64_t first,
                                  int64_t n) {
  const int64_t width = reader_.width(layer, what);
  std::vector<float> batch(static_cast<size_t>(std::min(n, kBatchRows) * width));
  if (job_.options.lists && std::string_view(what) == "weights") {
    batch.resize(static_cast<size_t>(n * width));
    reader_.read_row_reals(layer, what, first, n, width, batch.data());
    return file.write_lists(batch, width);
  }
  std::vector<std::vector<float>> columns;
  for (int64_t begin = 0; begin < width; begin += kColumnsAtOnce) {
    const int64_t end = std::min(width, begin + kColumnsAtOnce);
    columns.assign(static_cast<size_t>(end - begin), std::vector<float>(static_cast<size_t>(n)));
    for (int64_t row = 0; row < n; row += kBatchRows) {
      const int64_t rows = std::min(kBatchRows, n - row);
      reader_.read_row_reals(layer, what, first + row, rows, width, batch.data());
      for (int64_t column = begin; column < end; ++column) {
        float* to = columns[static_cast<size_t>(column - begin)].data() + row;
        for (int64_t i = 0; i < rows; ++i) to[i] = batch[static_cast<size_t>(i * width + column)];
      }
    }
    for (const auto& column : columns) file.write(column);
  }
}

void ComponentTables::write_ids_table() {
  Columns columns{{"token", ParquetType::kDeltaInt64},
                  {"sample", ParquetType::kInt64},
                  {"position", ParquetType::kDeltaInt32},
                  {"token_id", ParquetType::kInt32},
                  {"phase", ParquetType::kPhase}};
  for (const plugin::ReadLayer& layer : layers_) {
    for (int64_t k = 0; k < reader_.width(layer.layer, "selected"); ++k) {
      columns.push_back(
          {fmt::format("{}_e{}", layer.layer, k), is_wide(layer) ? ParquetType::kId32 : ParquetType::kId16});
    }
  }
  for (const auto& rank : reader_.ranks()) {
    const auto write_group = [&](ParquetFile& file, int64_t token, int64_t n) {
      const int64_t first = rank.first_token + token;
      std::vector<plugin::TokenLabel> labels(static_cast<size_t>(n));
      reader_.read_labels(first, n, labels.data());
      std::vector<int64_t> kept;  // tokens of damaged shards are no rows
      for (int64_t i = 0; i < n; ++i) {
        if (labels[static_cast<size_t>(i)].phase >= 0) kept.push_back(i);
      }
      std::vector<int64_t> wide;
      std::vector<int32_t> narrow;
      const auto write = [&](auto& values, const auto& value_of) {
        values.clear();
        for (const int64_t i : kept) values.push_back(value_of(labels[static_cast<size_t>(i)], i));
        file.write(values);
      };
      write(wide, [&](const plugin::TokenLabel&, int64_t i) { return first + i; });
      write(wide, [](const plugin::TokenLabel& label, int64_t) { return label.sample; });
      write(narrow, [](const plugin::TokenLabel& label, int64_t) { return label.position; });
      write(narrow, [](const plugin::TokenLabel& label, int64_t) { return label.token_id; });
      write(narrow, [](const plugin::TokenLabel& label, int64_t) { return label.phase; });
      std::vector<int32_t> ids;
      for (const plugin::ReadLayer& layer : layers_) {
        const int64_t top_k = reader_.width(layer.layer, "selected");
        ids.resize(static_cast<size_t>(n * top_k));
        reader_.read_ids(layer.layer, first, n, top_k, ids.data());
        drop_foreign_ids(layer, ids.data(), n * top_k);
        for (int64_t k = 0; k < top_k; ++k) {
          write(narrow, [&](const plugin::TokenLabel&, int64_t i) { return ids[static_cast<size_t>(i * top_k + k)]; });
        }
      }
    };
    write_files(folder_ + "/ids", rank.rank, rank.num_tokens, columns, metadata(nullptr), write_group);
  }
}

}  // namespace

void export_parquet(const ExportJob& job) {
  for (const std::string& component : chosen_components(job)) ComponentTables(job, component).run();
}

}  // namespace moetap::cli

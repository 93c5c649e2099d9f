// The layout of the published traces: huggingface.co/datasets/CMU-FLAME/FLAME-MoE-Traces, README.md.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <numeric>

#include "cli/exports/export_format.h"
#include "cli/exports/parquet_file.h"

namespace moetap::cli {
namespace {

constexpr int64_t kGroupRows = 122880;

/// Which column a layer's `scores` are made of.
enum class ScoresOf { kScores, kLogits, kWeights };

/// "02" of layer 2.
std::string two_digits(const std::string& layer) {
  int64_t number = 0;
  const auto read = std::from_chars(layer.data(), layer.data() + layer.size(), number);
  const bool is_number = read.ec == std::errc{} && read.ptr == layer.data() + layer.size();
  return is_number ? fmt::format("{:02}", number) : layer;
}

/// Puts the slots of each token in falling order of their scores, unused ones last.
void sort_slots(std::vector<int32_t>& ids, std::vector<float>& scores, int64_t top_k) {
  std::vector<int64_t> order(static_cast<size_t>(top_k));
  std::vector<int32_t> own_ids(order.size());
  std::vector<float> own_scores(order.size());
  for (size_t first = 0; first < ids.size(); first += order.size()) {
    std::iota(order.begin(), order.end(), static_cast<int64_t>(first));
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      if ((ids[a] < 0) != (ids[b] < 0)) return ids[b] < 0;
      return scores[a] > scores[b];
    });
    for (size_t k = 0; k < order.size(); ++k) {
      own_ids[k] = ids[order[k]];
      own_scores[k] = own_ids[k] < 0 ? 0.0F : scores[order[k]];
    }
    std::copy(own_ids.begin(), own_ids.end(), ids.begin() + static_cast<int64_t>(first));
    std::copy(own_scores.begin(), own_scores.end(), scores.begin() + static_cast<int64_t>(first));
  }
}

class TraceExport {
 public:
  TraceExport(const ExportJob& job, const std::string& component, std::string folder)
      : job_(job), component_(component), folder_(std::move(folder)), reader_(open_component(job, component)) {}

  void run() {
    // The run is one checkpoint. How many iterations it had is not known.
    const std::string actives = folder_ + "/actives/iter_0000", samples = folder_ + "/samples";
    const std::vector<plugin::ReadLayer> layers = layers_with(job_, reader_, component_, "selected");
    for (const plugin::ReadLayer& layer : layers) {
      if (scores_of(layer.layer) == ScoresOf::kWeights) layers_with(job_, reader_, component_, "weights");
    }
    std::filesystem::create_directories(actives);
    std::filesystem::create_directories(samples);
    for (const plugin::ReadLayer& layer : layers) {
      write_layer(layer, fmt::format("{}/layer_{}.parquet", actives, two_digits(layer.layer)));
    }
    write_samples(samples + "/000.parquet");
    if (foreign_ > 0) {
      job_.notices.push_back(
          fmt::format("{} ids of {} are no experts of their layer (a damaged shard?): -1", foreign_, component_));
    }
    if (!of_weights_.empty()) {
      job_.notices.push_back(
          fmt::format("scores of layers {} are the weights, not the router's probabilities, which "
                      "need a run with --dump full",
                      of_weights_));
    }
    job_.results.push_back(fmt::format("{}: {} tokens, {} layers", component_, reader_.num_tokens(), layers.size()));
  }

 private:
  ScoresOf scores_of(const std::string& layer) const {
    if (reader_.has_column(layer, "scores")) return ScoresOf::kScores;
    return reader_.has_column(layer, "logits") ? ScoresOf::kLogits : ScoresOf::kWeights;
  }

  std::map<std::string, std::string> metadata() const {
    return {{"schema_version", "1"}, {"component", component_}, {"model_sha256", job_.run().sha256()}};
  }

  template <typename Write>  // write(first, n)
  void for_groups(ParquetFile& file, const Write& write) const {
    for (int64_t first = 0; first < reader_.num_tokens(); first += kGroupRows) {
      job_.check();
      file.begin_group();
      write(first, std::min(kGroupRows, reader_.num_tokens() - first));
    }
    file.close();
  }

  std::vector<int32_t> token_ids(int64_t first, int64_t n) const {
    std::vector<plugin::TokenLabel> labels(static_cast<size_t>(n));
    reader_.read_labels(first, n, labels.data());
    std::vector<int32_t> ids;
    for (const plugin::TokenLabel& label : labels) ids.push_back(label.token_id);
    return ids;
  }

  /// The scores of the tokens' slots. Reads all experts' scores by pieces: they are more than the slots.
  std::vector<float> read_scores(const std::string& layer, int64_t first, int64_t n,
                                 const std::vector<int32_t>& ids) const {
    const ScoresOf of = scores_of(layer);
    const int64_t top_k = reader_.width(layer, "selected");
    std::vector<float> chosen(ids.size());
    if (of == ScoresOf::kWeights) {
      reader_.read_reals(layer, "weights", first, n, top_k, chosen.data());
      return chosen;
    }
    const char* column = of == ScoresOf::kScores ? "scores" : "logits";
    const int64_t width = reader_.width(layer, column);
    const int64_t piece = std::max<int64_t>(1, (int64_t{1} << 20) / width);
    std::vector<float> all;
    for (int64_t begin = 0; begin < n; begin += piece) {
      const int64_t rows = std::min(piece, n - begin);
      all.resize(static_cast<size_t>(rows * width));
      reader_.read_reals(layer, column, first + begin, rows, width, all.data());
      if (of == ScoresOf::kLogits) softmax_rows(all.data(), rows, width);
      for (int64_t i = 0; i < rows * top_k; ++i) {
        const auto slot = static_cast<size_t>(begin * top_k + i);
        const int64_t id = ids[slot];
        chosen[slot] = id < 0 || id >= width ? 0.0F : all[static_cast<size_t>(i / top_k * width + id)];
      }
    }
    return chosen;
  }

  void write_layer(const plugin::ReadLayer& layer, const std::string& path) {
    const int64_t top_k = reader_.width(layer.layer, "selected");
    if (scores_of(layer.layer) == ScoresOf::kWeights) of_weights_ += (of_weights_.empty() ? "" : ", ") + layer.layer;
    auto about = metadata();
    about.insert(
        {{"layer", layer.layer}, {"hook_name", layer.name}, {"num_experts", std::to_string(layer.num_experts)}});
    ParquetFile file(
        path,
        {{"scores", ParquetType::kHalfList}, {"indices", ParquetType::kIdList16}, {"token_id", ParquetType::kInt32}},
        about);
    for_groups(file, [&](int64_t first, int64_t n) {
      std::vector<int32_t> ids(static_cast<size_t>(n * top_k));
      reader_.read_ids(layer.layer, first, n, top_k, ids.data());
      foreign_ += drop_foreign_ids(layer, ids.data(), n * top_k);
      std::vector<float> scores = read_scores(layer.layer, first, n, ids);
      sort_slots(ids, scores, top_k);
      file.write_lists(scores, top_k);
      file.write_lists(ids, top_k);
      file.write(token_ids(first, n));
    });
  }

  void write_samples(const std::string& path) const {
    ParquetFile file(path, {{"token_id", ParquetType::kInt32}}, metadata());
    for_groups(file, [&](int64_t first, int64_t n) { file.write(token_ids(first, n)); });
  }

  const ExportJob& job_;
  const std::string component_, folder_;
  const plugin::ComponentReader reader_;
  int64_t foreign_ = 0;
  std::string of_weights_;
};

}  // namespace

void export_flame(const ExportJob& job) {
  const std::vector<std::string> components = chosen_components(job);
  for (const std::string& component : components) {
    TraceExport(job, component, components.size() == 1 ? job.output : job.output + "/" + component).run();
  }
}

}  // namespace moetap::cli

#include "cli/studies/run_attention.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/studies/run_batches.h"
#include "cli/studies/run_source.h"
#include "plugin/dump/dump_keys.h"
#include "plugin/dump/series_files.h"

namespace moetap::cli {
namespace {

constexpr const char* kStatsColumn = "attention_stats";

std::optional<int64_t> number_of(std::string_view text) {
  int64_t number = -1;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool whole = read.ec == std::errc{} && read.ptr == text.data() + text.size();
  return whole && number >= 0 ? std::optional(number) : std::nullopt;
}

/// LAYER/SAMPLE/Q0 of a matrix's name; of a loop only the first call, which has no fourth part.
struct MatrixName {
  std::string layer;
  int64_t sample = -1, first_query = 0;
};

std::optional<MatrixName> parse(const std::string& name) {
  const size_t first = name.find('/'), second = name.find('/', first + 1);
  if (first == std::string::npos || second == std::string::npos) return std::nullopt;
  const auto sample = number_of(std::string_view(name).substr(first + 1, second - first - 1));
  const auto query = number_of(std::string_view(name).substr(second + 1));
  if (!sample || !query) return std::nullopt;
  return MatrixName{name.substr(0, first), *sample, *query};
}

/// Shards of a series in the order of their numbers.
std::vector<std::string> shards_of(const std::string& folder, const std::string& series) {
  std::vector<plugin::SeriesFile> files = plugin::series_files(folder, plugin::kShardExtension);
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.number < b.number; });
  std::vector<std::string> paths;
  for (const plugin::SeriesFile& file : files) {
    if (file.series != series) continue;
    paths.push_back(folder + "/" + plugin::series_file_name(series, file.number, plugin::kShardExtension));
  }
  return paths;
}

/// Tokens of a sample, from a step on.
std::vector<int64_t> tokens_of_sample(const RunSource& source, int64_t sample, int64_t first, int64_t n) {
  std::vector<int64_t> tokens(static_cast<size_t>(n));
  const int64_t begin = source.index().sample_cuts()[static_cast<size_t>(sample)];
  source.index().read_sample_order(begin + first, n, tokens.data());
  return tokens;
}

}  // namespace

RunAttention::RunAttention(const RunSource& source) : source_(source) {
  find_matrices();
  if (!matrices_.empty()) {
    mode_ = Mode::kFull;
    return;
  }
  find_statistics();
}

/// Routers that renormalise over the slots apply scores divided by their sum (--gate topk), others the scores.
void RunAttention::compare_gates() {
  constexpr int64_t kTokens = 1024;
  constexpr double kTolerance = 1e-2;  // of half precision
  RunBatches batches(source_, studies::kNeedsGates | studies::kNeedsWeights);
  const studies::TokenBatch& batch =
      batches.read(studies::Order::kTokens, 0, std::min(kTokens, source_.num_tokens(studies::Order::kTokens)));
  std::vector<std::string> others;
  for (const studies::LayerTokens& layer : batch.layers) {
    bool same = !layer.weights.empty() && layer.weights.size() == layer.gates.size();
    for (size_t i = 0; same && i < layer.weights.size(); ++i) {
      same =
          layer.ids[i] < 0 || !(std::abs(layer.weights[i] - layer.gates[i]) > kTolerance * std::abs(layer.weights[i]));
    }
    gates_are_weights_.push_back(same ? 1 : 0);
    if (!same) others.push_back(source_.shape().layers[gates_are_weights_.size() - 1].id);
  }
  if (others.empty()) return;
  notices_.push_back(
      fmt::format("region_specialization is empty in layers {} of {}: statistics of attention have it by the "
                  "weights, which differ from the gates; try --gate topk, or record --attention full",
                  fmt::join(others, ", "), source_.shape().name));
}

void RunAttention::find_matrices() {
  const std::vector<studies::LayerShape>& layers = source_.shape().layers;
  std::map<std::string, int64_t> layer_of;
  for (size_t l = 0; l < layers.size(); ++l) layer_of.emplace(layers[l].id, static_cast<int64_t>(l));
  std::map<std::pair<int32_t, int64_t>, int64_t> sample_of;
  const std::vector<TokenIndex::Sample>& samples = source_.index().samples();
  for (size_t i = 0; i < samples.size(); ++i) {
    sample_of.emplace(std::pair(samples[i].source, samples[i].sample), static_cast<int64_t>(i));
  }
  std::vector<uint8_t> has_some(layers.size(), 0);
  int64_t left_out = 0;
  for (size_t run = 0; run < source_.runs().size(); ++run) {
    for (const auto& [rank, number] : source_.dumps()[run].sources) {
      const std::string folder = source_.runs()[run]->dump_folder(rank);
      for (const std::string& path : shards_of(folder, source_.shape().name + ".attention")) {
        std::optional<plugin::ShardHeader> header;
        try {
          header = plugin::read_shard_header(plugin::RandomAccessFile(path));
          if (!header) throw std::runtime_error("it is shorter than its header (truncated?)");
        } catch (const std::exception& error) {
          notices_.push_back(fmt::format("{}: is damaged: {}", path, error.what()));
          continue;
        }
        for (const plugin::SafetensorsEntry& entry : header->header.entries) {
          const auto name = parse(entry.name);
          const auto layer = name ? layer_of.find(name->layer) : layer_of.end();
          if (layer == layer_of.end()) continue;
          const auto sample = sample_of.find({number, name->sample});
          const int64_t tokens =
              sample == sample_of.end() ? 0 : samples[static_cast<size_t>(sample->second)].num_tokens;
          const bool fits = entry.shape.size() == 2 && entry.dtype == at::kFloat && entry.shape[1] <= tokens &&
                            name->first_query <= tokens - entry.shape[0];
          if (!fits) {
            ++left_out;
            continue;
          }
          has_some[static_cast<size_t>(layer->second)] = 1;
          matrices_.push_back({shards_.size(), header->data_begin + entry.begin, entry.shape[0], entry.shape[1],
                               name->first_query, layer->second, sample->second});
        }
        shards_.push_back(path);
      }
    }
  }
  if (left_out > 0) {
    notices_.push_back(
        fmt::format("{} attention matrices of {} are left out: their queries or keys are no tokens of "
                    "their sample",
                    left_out, source_.shape().name));
  }
  std::vector<std::string> without;
  for (size_t l = 0; l < layers.size(); ++l) {
    if (has_some[l] == 0) without.push_back(layers[l].id);
  }
  if (!matrices_.empty() && !without.empty()) {
    notices_.push_back(
        fmt::format("no attention was recorded in layers {} of {}", fmt::join(without, ", "), source_.shape().name));
  }
}

void RunAttention::find_statistics() {
  const std::vector<studies::LayerShape>& layers = source_.shape().layers;
  columns_.resize(layers.size());
  const plugin::ComponentReader& reader = *source_.dumps().front().reader;
  const plugin::RunReader& run = *source_.runs().front();
  for (const int64_t rank : run.ranks()) {
    for (const std::string& path : shards_of(run.dump_folder(rank), source_.shape().name)) {
      try {
        const auto header = plugin::read_shard_header(plugin::RandomAccessFile(path));
        if (!header) continue;
        const auto& metadata = header->header.metadata;
        const auto found = metadata.find(plugin::keys::kAttentionColumns.name);
        if (found == metadata.end()) continue;
        const auto names = nlohmann::json::parse(found->second);
        for (size_t l = 0; l < layers.size(); ++l) {
          if (!columns_[l].empty() || !names.contains(layers[l].id) || !reader.has_column(layers[l].id, kStatsColumn)) {
            continue;
          }
          names.at(layers[l].id).get_to(columns_[l]);
          const auto width = static_cast<size_t>(reader.width(layers[l].id, kStatsColumn));
          if (columns_[l].size() != width) columns_[l].clear();
          if (!columns_[l].empty()) mode_ = Mode::kStats;
        }
      } catch (const std::exception& error) {
        notices_.push_back(fmt::format("{}: its attention is not read: {}", path, error.what()));
      }
    }
  }
  if (mode_ == Mode::kStats && source_.runs().size() > 1) {
    mode_ = Mode::kNone;
    notices_.emplace_back(
        "attention statistics of several runs are not read as one input; analyze the runs one by one");
  }
  if (mode_ != Mode::kStats) return;
  leave_out_sinks();
  compare_gates();
}

std::vector<AttentionPiece> RunAttention::pieces() const {
  std::vector<AttentionPiece> pieces;
  for (size_t i = 0; i < matrices_.size(); ++i) {
    const Matrix& matrix = matrices_[i];
    pieces.push_back({matrix.layer, matrix.sample, matrix.queries * matrix.keys * static_cast<int64_t>(sizeof(float)),
                      static_cast<int64_t>(i)});
  }
  if (mode_ != Mode::kStats) return pieces;
  const auto num_samples = static_cast<int64_t>(source_.index().samples().size());
  for (size_t l = 0; l < columns_.size(); ++l) {
    for (int64_t sample = 0; !columns_[l].empty() && sample < num_samples; ++sample) {
      const int64_t tokens = source_.index().samples()[static_cast<size_t>(sample)].num_tokens;
      pieces.push_back(
          {static_cast<int64_t>(l), sample, tokens * static_cast<int64_t>(columns_[l].size() * 4), sample});
    }
  }
  return pieces;
}

class RunAttention::Matrices : public AttentionReader {
 public:
  Matrices(const RunAttention& attention, uint32_t needs)
      : attention_(attention), batches_(attention.source_, needs | studies::kNeedsGates) {}

  void read(const AttentionPiece& piece, const std::function<void(studies::AttentionRows&)>& rows,
            const std::function<void(studies::AttentionStats&)>& /*stats*/) override {
    const Matrix& matrix = attention_.matrices_[static_cast<size_t>(piece.place)];
    if (!file_ || shard_ != matrix.shard) {
      file_ = std::make_unique<plugin::RandomAccessFile>(attention_.shards_[matrix.shard]);
      shard_ = matrix.shard;
    }
    values_.resize(static_cast<size_t>(matrix.queries * matrix.keys));
    file_->read(matrix.begin, values_.data(), static_cast<int64_t>(values_.size() * sizeof(float)));
    const studies::TokenBatch& batch =
        batches_.read_layer_of(tokens_of_sample(attention_.source_, matrix.sample, matrix.first_query, matrix.queries),
                               static_cast<size_t>(matrix.layer));
    const TokenIndex::Sample& sample = attention_.source_.index().samples()[static_cast<size_t>(matrix.sample)];
    studies::AttentionRows view;
    view.layer = matrix.layer;
    view.sample = sample.sample;
    view.source = sample.source;
    view.first_query = matrix.first_query;
    view.num_queries = matrix.queries;
    view.num_keys = matrix.keys;
    view.padded_length = attention_.source_.index().longest();
    view.f32 = values_.data();
    view.row_stride = matrix.keys;
    view.token_id = batch.token_id;
    view.tokens = batch.layers[static_cast<size_t>(matrix.layer)];
    rows(view);
  }

 private:
  const RunAttention& attention_;
  RunBatches batches_;
  size_t shard_ = 0;
  std::unique_ptr<plugin::RandomAccessFile> file_;
  std::vector<float> values_;
};

class RunAttention::Statistics : public AttentionReader {
 public:
  Statistics(const RunAttention& attention, uint32_t needs)
      : attention_(attention), batches_(attention.source_, needs | studies::kNeedsGates) {}

  void read(const AttentionPiece& piece, const std::function<void(studies::AttentionRows&)>& /*rows*/,
            const std::function<void(studies::AttentionStats&)>& stats) override {
    const auto layer = static_cast<size_t>(piece.layer);
    const TokenIndex::Sample& sample = attention_.source_.index().samples()[static_cast<size_t>(piece.place)];
    const int64_t n = sample.num_tokens;
    const std::vector<int64_t> tokens = tokens_of_sample(attention_.source_, piece.place, 0, n);
    const studies::TokenBatch& batch = batches_.read_layer_of(tokens, layer);
    const auto width = static_cast<int64_t>(attention_.columns_[layer].size());
    batches_.read_column_of(tokens, layer, kStatsColumn, width, values_);
    positions_.resize(static_cast<size_t>(n));
    keys_.resize(static_cast<size_t>(n));
    // The keys of a row are the sample's tokens up to the end of its forward.
    for (int64_t end = n, t = n - 1; t >= 0; --t) {
      positions_[static_cast<size_t>(t)] = t;
      if (t + 1 < n && batch.forward[static_cast<size_t>(t)] != batch.forward[static_cast<size_t>(t + 1)]) end = t + 1;
      keys_[static_cast<size_t>(t)] = end;
    }
    studies::AttentionStats view;
    view.layer = piece.layer;
    view.sample = sample.sample;
    view.source = sample.source;
    view.num_queries = n;
    view.position = positions_;
    view.num_keys = keys_;
    view.columns = attention_.columns_[layer];
    view.values = values_;
    view.token_id = batch.token_id;
    view.tokens = batch.layers[layer];
    stats(view);
  }

 private:
  const RunAttention& attention_;
  RunBatches batches_;
  std::vector<float> values_;
  std::vector<int64_t> positions_, keys_;
};

std::unique_ptr<AttentionReader> RunAttention::open(uint32_t needs) const {
  if (mode_ == Mode::kStats) return std::make_unique<Statistics>(*this, needs);
  return std::make_unique<Matrices>(*this, needs);
}

}  // namespace moetap::cli

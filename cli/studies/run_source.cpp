#include "cli/studies/run_source.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>

#include "cli/studies/run_batches.h"
#include "cli/terminal/command_error.h"
#include "plugin/run/run_losses.h"

namespace moetap::cli {

using studies::Order;

int32_t RunDump::source_of(int64_t rank) const {
  for (const auto& [number, source] : sources) {
    if (number == rank) return source;
  }
  return -1;
}

RunSource::RunSource(std::vector<const plugin::RunReader*> runs, std::string component, RunSourceOptions options)
    : runs_(std::move(runs)), component_(std::move(component)), options_(std::move(options)) {
  columns_.may_miss_rows = options_.may_miss_rows;
  std::vector<const plugin::ComponentReader*> readers;
  int64_t first_token = 0;
  for (const plugin::RunReader* run : runs_) {
    RunDump& dump = dumps_.emplace_back();
    dump.reader = open_dump(*run);
    dump.mutex = std::make_unique<std::mutex>();
    dump.first_token = first_token;
    first_token += dump.reader->num_tokens();
    readers.push_back(dump.reader.get());
    for (std::string& line : plugin::run_losses(run->path())) notices_.push_back(std::move(line));
    for (const std::string& line : dump.reader->damage()) notices_.push_back(line);
    columns_.may_miss_rows = columns_.may_miss_rows || dump.reader->is_joined() || !dump.reader->damage().empty();
  }
  index_ = std::make_unique<TokenIndex>(readers, options_.scratch_folder, options_.check, options_.sample_order);
  for (size_t i = 0; i < dumps_.size(); ++i) {
    int32_t source = index_->first_source(i);
    for (const auto& rank : dumps_[i].reader->ranks()) dumps_[i].sources.emplace_back(rank.rank, source++);
  }
  read_shape();
  read_columns();
  attention_ = std::make_unique<RunAttention>(*this);
  if (attention_->mode() == RunAttention::Mode::kFull) has_ |= studies::kNeedsAttention;
  if (attention_->mode() == RunAttention::Mode::kStats) has_ |= studies::kNeedsStats;
  notices_.insert(notices_.end(), attention_->notices().begin(), attention_->notices().end());
}

RunSource::~RunSource() = default;

std::unique_ptr<plugin::ComponentReader> RunSource::open_dump(const plugin::RunReader& run) const {
  plugin::ComponentReader::Source source{component_, {}, options_.scratch_folder, options_.check};
  bool any = false;
  for (const int64_t rank : run.ranks()) {
    source.folders.emplace_back(rank, run.dump_folder(rank));
    std::error_code error;
    any = any || std::filesystem::is_directory(source.folders.back().second, error);
  }
  if (!any) {
    throw CommandError(fmt::format(
        "{}: the run has no dump; record it with --dump topk (ids and weights) or --dump full", run.path()));
  }
  auto reader = std::make_unique<plugin::ComponentReader>(std::move(source));
  if (reader->num_tokens() == 0) {
    throw CommandError(fmt::format("{}: the dump holds no tokens of {}{}", run.path(), component_,
                                   reader->damage().empty() ? "" : " that can be read: " + reader->damage().front()));
  }
  return reader;
}

void RunSource::read_shape() {
  shape_.name = component_;
  if (options_.group_by_phase) {
    shape_.groups = {"generation", "prompt"};
  } else if (options_.groups != nullptr) {
    shape_.groups = options_.groups->names();
  }
  for (size_t i = 0; i < runs_.size(); ++i) {
    std::vector<studies::LayerShape> layers;
    const auto found = runs_[i]->components().find(component_);
    if (found == runs_[i]->components().end()) {
      throw CommandError(fmt::format("{}: has no routers in {}", runs_[i]->path(), component_));
    }
    for (const plugin::ReadLayer& layer : found->second) {
      const plugin::ComponentReader& reader = *dumps_[i].reader;
      if (!reader.has_layer(layer.layer)) continue;
      studies::LayerShape shape{
          layer.layer,  layer.name, layer.num_experts, layer.null_experts, reader.width(layer.layer, "selected"),
          layer.scoring};
      if (shape.num_experts <= 0) shape.num_experts = reader.width(layer.layer, "scores");
      if (shape.num_experts <= 0) shape.num_experts = reader.width(layer.layer, "logits");
      if (shape.num_experts <= 0) shape.num_experts = static_cast<int64_t>(layer.selected.size());
      if (shape.num_experts <= 0) {
        notices_.push_back(
            fmt::format("layer {} of {} is left out: how many experts it has is not known", layer.layer, component_));
        continue;
      }
      layers.push_back(std::move(shape));
    }
    if (layers.empty()) {
      throw CommandError(fmt::format("{}: the dump holds no layer of {}", runs_[i]->path(), component_));
    }
    if (i == 0) {
      shape_.layers = std::move(layers);
      continue;
    }
    const auto same = [](const studies::LayerShape& a, const studies::LayerShape& b) {
      return a.id == b.id && a.num_experts == b.num_experts && a.null_experts == b.null_experts;
    };
    if (!std::equal(layers.begin(), layers.end(), shape_.layers.begin(), shape_.layers.end(), same)) {
      throw CommandError(
          fmt::format("{} and {}: {} has other layers, or other numbers of experts: as one input, runs must "
                      "be of one model",
                      runs_[0]->path(), runs_[i]->path(), component_));
    }
    for (size_t l = 0; l < layers.size(); ++l) {
      shape_.layers[l].top_k = std::max(shape_.layers[l].top_k, layers[l].top_k);
    }
  }
}

void RunSource::read_columns() {
  has_ = studies::kNeedsTokens;
  const auto all_have = [&](const char* what) {
    return std::all_of(dumps_.begin(), dumps_.end(), [&](const RunDump& dump) {
      return std::all_of(shape_.layers.begin(), shape_.layers.end(),
                         [&](const studies::LayerShape& layer) { return dump.reader->has_column(layer.id, what); });
    });
  };
  const auto widths = [&](const char* what) {
    std::vector<int64_t> widths;
    for (const studies::LayerShape& layer : shape_.layers) {
      int64_t width = 0;
      for (const RunDump& dump : dumps_) width = std::max(width, dump.reader->width(layer.id, what));
      const bool everywhere = std::all_of(dumps_.begin(), dumps_.end(),
                                          [&](const RunDump& dump) { return dump.reader->has_column(layer.id, what); });
      widths.push_back(everywhere ? width : 0);
    }
    return widths;
  };
  columns_.score_width = widths("scores");
  columns_.logit_width = widths("logits");
  columns_.scores_from_logits.resize(shape_.layers.size());
  bool all_scores = true;
  std::vector<std::string> without;
  for (size_t l = 0; l < shape_.layers.size(); ++l) {
    // Scores of another scoring (sigmoid, with a bias) are no softmax of the logits: then they are not known.
    const bool is_softmax = shape_.layers[l].scoring.starts_with("softmax");
    const bool from_logits = columns_.score_width[l] == 0 && columns_.logit_width[l] > 0;
    columns_.scores_from_logits[l] = from_logits && is_softmax ? 1 : 0;
    if (from_logits && !is_softmax) without.push_back(shape_.layers[l].id);
    all_scores = all_scores && (columns_.score_width[l] > 0 || columns_.scores_from_logits[l] != 0);
  }
  if (!without.empty()) {
    notices_.push_back(
        fmt::format("{}: the dump has logits of layers {}, but not their scores, which are no softmax: studies "
                    "of scores are left out",
                    component_, fmt::join(without, ", ")));
  }
  if (all_have("weights")) has_ |= studies::kNeedsWeights | studies::kNeedsGates;
  if (all_scores) has_ |= studies::kNeedsScores | studies::kNeedsGates;
  if (all_have("logits")) has_ |= studies::kNeedsLogits;
  columns_.gates_are_weights = !all_scores;
  if (index_->has_token_ids()) has_ |= studies::kNeedsTokenIds;
  if (index_->num_known() > 0) has_ |= studies::kNeedsSamples;
  if (index_->has_forwards()) has_ |= studies::kNeedsForwards;
  if (!shape_.groups.empty()) has_ |= studies::kNeedsGroups;
}

int64_t RunSource::num_tokens(Order order) const {
  return order == Order::kForwards && !index_->has_forwards() ? 0 : index_->num_tokens();
}

const std::vector<int64_t>& RunSource::cuts(Order order) const {
  if (order == Order::kTokens) return no_cuts_;
  return order == Order::kSamples ? index_->sample_cuts() : index_->forward_cuts();
}

bool RunSource::is_token_order(Order order) const {
  return order == Order::kTokens || (order == Order::kForwards ? index_->has_forwards() : index_->in_sample_order());
}

std::vector<SourceSample> RunSource::samples() const {
  std::vector<int64_t> ranks;  // of several runs the numbers of sources stand for ranks
  for (const RunDump& dump : dumps_) {
    for (const auto& [rank, source] : dump.sources) ranks.push_back(dumps_.size() == 1 ? rank : source);
  }
  std::vector<SourceSample> samples;
  for (const TokenIndex::Sample& sample : index_->samples()) {
    samples.push_back({sample.sample, ranks[static_cast<size_t>(sample.source)]});
  }
  return samples;
}

int64_t RunSource::bytes_per_token(uint32_t needs) const {
  int64_t bytes = 0;
  for (size_t l = 0; l < shape_.layers.size(); ++l) {
    const studies::LayerShape& layer = shape_.layers[l];
    bytes += layer.top_k * 4;
    if ((needs & studies::kNeedsWeights) != 0) bytes += layer.top_k * 8;
    if ((needs & studies::kNeedsGates) != 0) bytes += layer.top_k * 8;
    if ((needs & studies::kNeedsScores) != 0) bytes += layer.num_experts * 8;
    if ((needs & studies::kNeedsLogits) != 0) bytes += layer.num_experts * 8;
  }
  return bytes;
}

std::unique_ptr<TokenReader> RunSource::open(uint32_t needs) const {
  return std::make_unique<RunBatches>(*this, needs);
}

}  // namespace moetap::cli

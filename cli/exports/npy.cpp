#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "cli/exports/attention_matrices.h"
#include "cli/exports/export_format.h"
#include "cli/exports/npy_file.h"
#include "cli/exports/sample_places.h"
#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

constexpr int64_t kBatchTokens = 1 << 13;
constexpr int64_t kUnknownToken = -2;  // -1 is padding, and this is a token
constexpr auto kIdBytes = static_cast<int64_t>(sizeof(int64_t));
constexpr auto kRealBytes = static_cast<int64_t>(sizeof(float));

/// Writes the arrays of one component.
class ArraysExport {
 public:
  ArraysExport(const ExportJob& job, const std::string& component, const std::string& folder)
      : job_(job),
        component_(component),
        folder_(folder),
        reader_(open_component(job, component)),
        layers_(read_layers()),
        places_(reader_, job.scratch_folder, job.check) {}

  void run() {
    if (places_.samples().empty()) {
      throw CommandError(
          fmt::format("{}: the samples of {} tokens of {} are not known, so they have no place in arrays "
                      "[B, S]; --to parquet takes them",
                      job_.run().path(), reader_.num_tokens(), component_));
    }
    if (places_.num_unknown() > 0) {
      job_.notices.push_back(
          fmt::format("{} tokens of {} whose sample is not known are left out", places_.num_unknown(), component_));
    }
    write_token_types();
    write_ids();
    write_scores();
    std::vector<std::string> ids;
    for (const plugin::ReadLayer& layer : layers_) ids.push_back(layer.layer);
    const bool has_attention = write_attention_matrices(job_, component_, ids, places_, folder_ + "/attn_weights.npy");
    job_.results.push_back(fmt::format("{}: {} samples of up to {} tokens; layers {}{}", component_, num_samples(),
                                       places_.longest(), layer_names(),
                                       has_attention ? "" : "; without attn_weights.npy"));
  }

 private:
  int64_t num_samples() const { return static_cast<int64_t>(places_.samples().size()); }

  std::string layer_names() const {
    std::string names;
    for (const plugin::ReadLayer& layer : layers_) names += (names.empty() ? "" : ", ") + layer.layer;
    return names;
  }

  /// The column that gives each layer's gate scores: `scores`, else `logits`, whose softmax is taken.
  std::vector<plugin::ReadLayer> read_layers() {
    std::vector<plugin::ReadLayer> layers = layers_with(job_, reader_, component_, "selected");
    std::string of_logits;
    for (const plugin::ReadLayer& layer : layers) {
      if (reader_.has_column(layer.layer, "scores")) continue;
      layers_with(job_, reader_, component_, "logits");  // or it says which dump gives them
      of_logits += (of_logits.empty() ? "" : ", ") + layer.layer;
      from_logits_[layer.layer] = true;
    }
    if (!of_logits.empty()) {
      job_.notices.push_back(
          fmt::format("gate_scores of layers {} are softmax(logits): the dump has no scores of them", of_logits));
    }
    for (const plugin::ReadLayer& layer : layers) {
      const int64_t width = reader_.width(layer.layer, score_column(layer.layer));
      if (num_experts_ == 0) num_experts_ = width;
      if (width != num_experts_) {
        throw CommandError(
            fmt::format("{}: layer {} has {} experts, layer {} has {}: gate_scores [L, B, S, E] needs the "
                        "same number in all; --to parquet takes them",
                        job_.run().path(), layers.front().layer, num_experts_, layer.layer, width));
      }
      top_k_ = std::max(top_k_, reader_.width(layer.layer, "selected"));
    }
    return layers;
  }

  const char* score_column(const std::string& layer) const {
    return from_logits_.contains(layer) ? "logits" : "scores";
  }

  template <typename Use>
  void for_batches(const Use& use) {
    std::vector<SamplePlaces::Place> places;
    for (int64_t first = 0; first < reader_.num_tokens(); first += kBatchTokens) {
      job_.check();
      const int64_t n = std::min(kBatchTokens, reader_.num_tokens() - first);
      places.resize(static_cast<size_t>(n));
      places_.read(first, n, places.data());
      use(first, n, places);
    }
  }

  void write_token_types() {
    NpyFile file(folder_ + "/token_types.npy", "<i8", {num_samples(), places_.longest()});
    file.fill(0xff);
    std::vector<plugin::TokenLabel> labels;
    std::vector<int64_t> types;
    int64_t unknown = 0;
    for_batches([&](int64_t first, int64_t n, const std::vector<SamplePlaces::Place>& places) {
      labels.resize(static_cast<size_t>(n));
      reader_.read_labels(first, n, labels.data());
      types.clear();
      for (const plugin::TokenLabel& label : labels) {
        types.push_back(label.token_id >= 0 ? label.token_id : kUnknownToken);
        unknown += label.token_id < 0 ? 1 : 0;
      }
      for_stretches(places, [&](size_t begin, size_t end) {
        file.write((places[begin].sample * places_.longest() + places[begin].step) * kIdBytes, &types[begin],
                   static_cast<int64_t>(end - begin) * kIdBytes);
      });
    });
    file.close();
    if (unknown > 0) {
      job_.notices.push_back(fmt::format("the text ids of {} tokens of {} are not known: {} in token_types", unknown,
                                         component_, kUnknownToken));
    }
  }

  int64_t element_of(size_t layer, const SamplePlaces::Place& place) const {
    return (static_cast<int64_t>(layer) * num_samples() + place.sample) * places_.longest() + place.step;
  }

  void write_ids() {
    NpyFile file(folder_ + "/topk_idx.npy", "<i8",
                 {static_cast<int64_t>(layers_.size()), num_samples(), places_.longest(), top_k_});
    file.fill(0xff);
    std::vector<int32_t> ids;
    std::vector<int64_t> wide;
    int64_t foreign = 0;
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      for_batches([&](int64_t first, int64_t n, const std::vector<SamplePlaces::Place>& places) {
        ids.resize(static_cast<size_t>(n * top_k_));
        reader_.read_ids(layers_[layer].layer, first, n, top_k_, ids.data());
        foreign += drop_foreign_ids(layers_[layer], ids.data(), n * top_k_);
        wide.assign(ids.begin(), ids.end());
        for_stretches(places, [&](size_t begin, size_t end) {
          file.write(element_of(layer, places[begin]) * top_k_ * kIdBytes, &wide[begin * static_cast<size_t>(top_k_)],
                     static_cast<int64_t>(end - begin) * top_k_ * kIdBytes);
        });
      });
    }
    file.close();
    if (foreign > 0) {
      job_.notices.push_back(
          fmt::format("{} ids of {} are no experts of their layer (a damaged shard?): -1", foreign, component_));
    }
  }

  void write_scores() {
    NpyFile file(folder_ + "/gate_scores.npy", "<f4",
                 {static_cast<int64_t>(layers_.size()), num_samples(), places_.longest(), num_experts_});
    std::vector<float> scores;
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      const std::string& id = layers_[layer].layer;
      for_batches([&](int64_t first, int64_t n, const std::vector<SamplePlaces::Place>& places) {
        scores.resize(static_cast<size_t>(n * num_experts_));
        reader_.read_reals(id, score_column(id), first, n, num_experts_, scores.data());
        if (from_logits_.contains(id)) softmax_rows(scores.data(), n, num_experts_);
        // A layer that did not see a token gave no expert a gate.
        std::replace_if(
            scores.begin(), scores.end(), [](float score) { return score != score; }, 0.0F);
        for_stretches(places, [&](size_t begin, size_t end) {
          file.write(element_of(layer, places[begin]) * num_experts_ * kRealBytes,
                     &scores[begin * static_cast<size_t>(num_experts_)],
                     static_cast<int64_t>(end - begin) * num_experts_ * kRealBytes);
        });
      });
    }
    file.close();
  }

  const ExportJob& job_;
  std::string component_, folder_;
  plugin::ComponentReader reader_;
  std::map<std::string, bool> from_logits_;
  int64_t num_experts_ = 0, top_k_ = 0;
  std::vector<plugin::ReadLayer> layers_;
  SamplePlaces places_;
};

}  // namespace

void export_npy(const ExportJob& job) {
  const std::vector<std::string> components = chosen_components(job);
  for (const std::string& component : components) {
    const std::string folder = components.size() == 1 ? job.output : job.output + "/" + component;
    std::filesystem::create_directories(folder);
    ArraysExport(job, component, folder).run();
  }
}

}  // namespace moetap::cli

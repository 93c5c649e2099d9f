#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "analysis/routers/router_sums.h"
#include "analysis/routers/slot_ranking.h"
#include "analysis/routers/transition_sums.h"
#include "plugin/records/forward_record.h"
#include "plugin/run/run_files.h"
#include "tests/plugin/support/temporary_folder.h"

namespace moetap::plugin {

/// Describes a model with a router for each (component, layer).
inline std::shared_ptr<ModelDescription> describe(const std::vector<std::pair<std::string, std::string>>& routers,
                                                  const std::string& instance = "instance") {
  auto model = std::make_shared<ModelDescription>();
  model->instance = instance;
  model->model_file = "models/tiny_moe.pt";
  model->sha256 = "ab12";
  for (size_t i = 0; i < routers.size(); ++i) {
    hooks::HookPoint hook;
    hook.id = static_cast<int64_t>(i);
    hook.component = routers[i].first;
    hook.layer = routers[i].second;
    hook.name = routers[i].first + ".layers." + routers[i].second + ".gate";
    hook.kind = hooks::HookKind::kRouter;
    hook.method = "forward";
    hook.num_experts = 4;
    hook.top_k = 2;
    hook.scoring = "softmax";
    hook.scores_are_plain = hook.weights_are_scaled_scores = true;
    model->hooks.push_back(hook);
  }
  return model;
}

/// Standard normal values, the same for the same seed.
inline at::Tensor seeded_logits(int64_t seed, at::IntArrayRef sizes) {
  at::manual_seed(static_cast<uint64_t>(seed));
  return at::randn(sizes);
}

struct SyntheticRouter {
  int64_t hook = 0;
  int64_t top_k = 2;
  bool attributed = true;
  int64_t call = 0;
};

/// What a softmax router reports about logits [B, S, E]. valid: bool [B, S]; undefined: all.
inline RouterRecord observe_router(const SyntheticRouter& router, const at::Tensor& logits,
                                   const at::Tensor& valid = {}) {
  const int64_t batch = logits.size(0);
  const int64_t length = logits.size(1);
  const at::Tensor keep =
      valid.defined() ? valid.flatten().nonzero().squeeze(1) : at::arange(batch * length, at::kLong);
  const at::Tensor flat = logits.reshape({batch * length, -1}).index_select(0, keep).contiguous();
  const auto [values, ids] = at::softmax(flat.to(at::kFloat), -1).topk(router.top_k, -1);
  analysis::RouterCall call;
  call.logits = flat;
  call.scores = at::softmax(flat.to(at::kFloat), -1);
  call.selected = ids;
  call.weights = values / values.sum(-1, true);
  call.num_experts = flat.size(1);
  RouterRecord record;
  record.hook = router.hook;
  record.call = router.call;
  record.attributed = router.attributed;
  const at::Tensor rows = at::floor_divide(keep, length);
  record.sums = analysis::observe(
      call, router.attributed ? analysis::TokenRows{rows, batch} : analysis::TokenRows{at::Tensor(), 1});
  record.selected = ids;
  record.weights = call.weights;
  record.margins = analysis::rank_slots(call).recorded_margin();
  record.logits = flat;
  record.scores = call.scores;
  record.row = router.attributed ? rows : at::full_like(rows, -1);
  record.position = at::remainder(keep, length).to(at::kInt);
  record.token_id = (keep + 100).to(at::kInt);
  return record;
}

inline ForwardRecord forward_of(std::shared_ptr<const ModelDescription> model, std::vector<int64_t> samples,
                                double duration_s = 0.5) {
  ForwardRecord record;
  record.model = std::move(model);
  record.method = "forward";
  record.samples = std::move(samples);
  record.duration_s = duration_s;
  return record;
}

/// A forward of `samples` through hooks 0 and 1, with the transitions between them; three tokens a sample.
inline ForwardRecord two_layers(const std::shared_ptr<ModelDescription>& model, int64_t seed,
                                std::vector<int64_t> samples) {
  const auto batch = static_cast<int64_t>(samples.size());
  ForwardRecord record = forward_of(model, std::move(samples));
  record.routers = {observe_router({.hook = 0}, seeded_logits(seed, {batch, 3, 4})),
                    observe_router({.hook = 1}, seeded_logits(seed + 1000, {batch, 3, 4}))};
  const auto first = [](const RouterRecord& router) { return router.selected.select(1, 0).contiguous(); };
  record.transitions = {
      {0, 1, analysis::observe_transition(first(record.routers[0]), first(record.routers[1]), {}, 4, 4)}};
  return record;
}

inline nlohmann::json parse_file(const std::string& path) {
  return nlohmann::json::parse(read_text_file(path));
}

/// The files of a run of records, in a folder that is removed with the object.
class SyntheticRun {
 public:
  explicit SyntheticRun(Config config = {}) : config_(std::move(config)) { config_.output_dir = folder_.file("run"); }

  void write(const std::shared_ptr<const ModelDescription>& model, const std::vector<ForwardRecord>& records,
             const Counters& counters = {}) {
    RunFiles files(config_);
    files.add_model(model);
    for (const ForwardRecord& record : records) files.write(record);
    files.flush();
    files.close(counters, {});
  }

  Config& config() { return config_; }
  const TemporaryFolder& folder() const { return folder_; }
  std::string path(const std::string& name) const { return config_.output_dir + "/" + name; }
  nlohmann::json log() const { return parse_file(path(config_.task + ".json")); }
  nlohmann::json summary() const { return parse_file(path("moetap/summary.json")); }
  nlohmann::json manifest() const { return parse_file(path("moetap/manifest.json")); }

 private:
  TemporaryFolder folder_;
  Config config_;
};

}  // namespace moetap::plugin

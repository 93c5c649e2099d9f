#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "plugin/records/model_description_json.h"
#include "plugin/records/record_sink.h"
#include "plugin/session/model_registry.h"
#include "plugin/session/recording.h"

namespace moetap::plugin {

/// What a CollectingSink was given; outlives it.
struct Collected {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<ForwardRecord> records;
  std::vector<std::string> models;
  Counters counters;
  int closes = 0;
  bool held = false;     // `write` waits while it is set
  int64_t fail_at = -1;  // `write` of this record throws
  std::vector<std::string> errors;

  void hold(bool on) {
    const std::lock_guard lock(mutex);
    held = on;
    changed.notify_all();
  }
};

class CollectingSink final : public RecordSink {
 public:
  explicit CollectingSink(std::shared_ptr<Collected> collected) : collected_(std::move(collected)) {}

  void add_model(std::shared_ptr<const ModelDescription> model) override {
    const std::lock_guard lock(collected_->mutex);
    collected_->models.push_back(model->instance);
  }
  void write(const ForwardRecord& record) override {
    std::unique_lock lock(collected_->mutex);
    collected_->changed.wait(lock, [&] { return !collected_->held; });
    if (static_cast<int64_t>(collected_->records.size()) == collected_->fail_at) {
      throw std::runtime_error("records.bin: no space left on device; free some");
    }
    collected_->records.push_back(record);
  }
  void flush() override {}
  void close(const Counters& counters, const RunTimes&) override {
    const std::lock_guard lock(collected_->mutex);
    collected_->counters = counters;
    ++collected_->closes;
  }

 private:
  std::shared_ptr<Collected> collected_;
};

/// A model with routers "layers.I.gate" of 4 experts and as many slots as a test reports, reached through
/// `forward(input_ids, attention_mask)`.
inline ModelDescription gates(int64_t num_hooks, const std::string& component = "language_model") {
  ModelDescription model;
  model.instance = random_instance();
  for (int64_t i = 0; i < num_hooks; ++i) {
    const auto layer = std::to_string(i);
    model.hooks.push_back({i, layer, "layers." + layer + ".gate", hooks::HookKind::kRouter, "forward", component, 4,
                           std::nullopt, "softmax"});
    model.hooks.back().scores_are_plain = model.hooks.back().weights_are_scaled_scores = true;
  }
  model.method_arguments["forward"] = {"input_ids", "attention_mask"};
  return model;
}

/// A recording whose records stay in memory.
class RecordedRun {
 public:
  explicit RecordedRun(Config config = {})
      : recording(std::make_shared<Recording>(std::move(config), std::make_unique<CollectingSink>(collected))) {}
  ~RecordedRun() { close(); }

  /// Binds the model and returns the text that its `moetap::begin` carries.
  std::string bind(const ModelDescription& model) {
    ModelRegistry::get().bind(
        std::make_shared<ModelBinding>(recording, std::make_shared<const ModelDescription>(model)));
    return to_text(model);
  }

  const std::vector<ForwardRecord>& close() {
    collected->hold(false);
    ModelRegistry::get().unbind(*recording);
    recording->close();
    return collected->records;
  }

  std::shared_ptr<Collected> collected = std::make_shared<Collected>();
  std::shared_ptr<Recording> recording;
};

}  // namespace moetap::plugin

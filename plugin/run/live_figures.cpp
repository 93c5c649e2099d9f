#include "plugin/run/live_figures.h"

#include <cmath>
#include <exception>
#include <filesystem>
#include <utility>

#include "plugin/formats/atomic_file.h"

namespace moetap::plugin {
namespace {

double seconds_since_1970() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::vector<EventFile::Scalar> scalars_of(const RunFigures& figures) {
  std::vector<EventFile::Scalar> scalars;
  for (const CounterInfo& count : kCounters) {
    scalars.push_back({std::string("counters/") + count.key.name, static_cast<double>(figures.counters.*count.member)});
  }
  for (const RunFigures::Layer& layer : figures.layers) {
    for (size_t i = 0; i < kNumLayerFigures; ++i) {
      if (std::isnan(layer.values[i])) continue;
      scalars.push_back({layer.component + "/" + layer.layer + "/" + kLayerFigures[i].name, layer.values[i]});
    }
  }
  return scalars;
}

}  // namespace

std::string file_of_rank(const std::string& path, int64_t rank) {
  if (path.empty() || rank == 0) return path;
  const std::filesystem::path whole(path);
  return (whole.parent_path() / (whole.stem().string() + ".rank" + std::to_string(rank) + whole.extension().string()))
      .string();
}

LiveFigures::LiveFigures(const Config& config, const ProcessRank& rank)
    : metrics_file_(file_of_rank(config.metrics_file, rank.rank)),
      tensorboard_dir_(file_of_rank(config.tensorboard_dir, rank.rank)),
      labels_{{"task", config.task}, {"rank", std::to_string(rank.rank)}},
      interval_(config.metrics_interval) {}

std::optional<LiveFigures::Clock::time_point> LiveFigures::due(int64_t forwards) const {
  if (!wanted() || forwards == written_forwards_) return std::nullopt;
  return next_;
}

void LiveFigures::write(const RunFigures& figures) {
  next_ = Clock::now() + interval_;
  written_forwards_ = figures.counters.forwards;
  std::exception_ptr failed;
  const auto attempt = [&](std::string& wanted, const auto& write) {
    if (wanted.empty()) return;
    try {
      write();
    } catch (const std::exception&) {
      wanted.clear();
      failed = std::current_exception();
    }
  };
  attempt(metrics_file_, [&] { write_file_atomically(metrics_file_, prometheus_text(figures, labels_)); });
  attempt(tensorboard_dir_, [&] {
    const double now = seconds_since_1970();
    if (!events_) events_.emplace(tensorboard_dir_, now);
    events_->add(figures.counters.forwards, now, scalars_of(figures));
  });
  if (failed) std::rethrow_exception(failed);
}

}  // namespace moetap::plugin

#include "plugin/session/recording.h"

#include <unistd.h>

#include <algorithm>

#include "plugin/capture/router_pending.h"
#include "plugin/process/error_text.h"
#include "plugin/process/fork_local.h"
#include "plugin/process/notices.h"
#include "plugin/records/hook_notices.h"

namespace moetap::plugin {
namespace {

struct ProcessId {
  pid_t value = getpid();
};

/// Asks the system once a process: to ask takes up to a microsecond, and each forward wants to know.
pid_t process_id() {
  return fork_local<ProcessId>().value;
}

}  // namespace

Recording::Recording(Config config, std::unique_ptr<RecordSink> sink, std::shared_ptr<HostThreads> threads)
    : config_(std::move(config)),
      threads_(std::move(threads)),
      process_(process_id()),
      resumed_(sink->resumed()),
      records_held_calls_(sink->takes_held_calls()),
      next_forward_(resumed_.next_forward),
      next_sample_(resumed_.next_sample),
      queue_(config_.queue_bytes),
      writer_(std::move(sink), queue_, [this] { return counters(); }) {}

Recording::~Recording() {
  close();
}

bool Recording::in_own_process() const {
  return process_id() == process_;
}

bool Recording::accepts() const {
  return !closed_.load(std::memory_order_relaxed) && in_own_process();
}

Recording::TakenSamples Recording::take_samples(int64_t num_samples, const SampleSource& source, Fate fate) {
  TakenSamples taken;
  // A forward that threw leaves the cache as it was, and the host may repeat its step: the follower is not told.
  GenerationFollower* follower = source.follower.get();
  const auto& label = source.label;
  if (label && static_cast<int64_t>(label->samples.size()) == num_samples) {
    taken.numbers.assign(label->samples.begin(), label->samples.end());
    taken.labelled = true;
    taken.generation = label->generation;
    for (const int64_t sample : taken.numbers) {
      next_sample_ = std::max(next_sample_, sample + 1);
    }
    if (follower != nullptr && fate == Fate::kEnded) follower->ended(source.query, taken.numbers);
    return taken;
  }
  if (label) {
    ++counters_.label_mismatches;
  }
  if (follower != nullptr && source.query.batch == num_samples && follower->continues(source.query)) {
    taken.numbers.assign(follower->samples().begin(), follower->samples().end());
    taken.generation = true;
  }
  taken.numbers.reserve(static_cast<size_t>(num_samples));
  while (static_cast<int64_t>(taken.numbers.size()) < num_samples) {
    taken.numbers.push_back(next_sample_++);
  }
  if (follower != nullptr && fate == Fate::kEnded) follower->ended(source.query, taken.numbers);
  return taken;
}

std::vector<int64_t> Recording::expected_samples(int64_t num_samples, const SampleSource& source) const {
  if (source.label && static_cast<int64_t>(source.label->samples.size()) == num_samples) return source.label->samples;
  const std::lock_guard lock(mutex_);
  std::vector<int64_t> samples;
  if (source.follower && source.query.batch == num_samples && source.follower->continues(source.query)) {
    samples = source.follower->samples();
  }
  int64_t next = next_sample_;
  while (static_cast<int64_t>(samples.size()) < num_samples) samples.push_back(next++);
  return samples;
}

bool Recording::wants_forward() {
  if (paused_.load(std::memory_order_relaxed)) return false;
  const int64_t number = offered_.fetch_add(1, std::memory_order_relaxed);
  if (config_.record_every > 1 && number % config_.record_every != 0) return false;
  if (config_.max_bytes > 0 && writer_.bytes_written() >= config_.max_bytes) set_full("max_bytes");
  return !is_full_.load(std::memory_order_relaxed);
}

void Recording::set_full(const std::string& key) {
  if (is_full_.exchange(true)) return;
  notice(key + " is reached: recording ends, the model runs on");
}

void Recording::pause() {
  if (!in_own_process() || paused_.exchange(true)) return;
  record_replays();  // those so far were to be recorded
}

void Recording::resume() {
  if (!in_own_process() || !paused_.load()) return;
  skip_replays();
  paused_ = false;
}

bool Recording::reserve_forward() {
  if (config_.max_forwards == 0) return true;
  {
    const std::lock_guard lock(mutex_);
    if (reserved_ < config_.max_forwards) {
      ++reserved_;
      return true;
    }
  }
  set_full("max_forwards");
  return false;
}

void Recording::forward_skipped(int64_t num_samples, const SampleSource& source) {
  if (!in_own_process()) return;
  const std::lock_guard lock(mutex_);
  ++counters_.skipped;
  ++next_forward_;  // as for one that is dropped
  take_samples(num_samples, source, Fate::kEnded);
}

void Recording::forward_ended(std::unique_ptr<PendingForward> forward, const SampleSource& source,
                              ForwardValues& values) {
  const int64_t num_samples = forward->num_samples;
  if (!reserve_forward()) {
    {
      const std::lock_guard values_lock(values.mutex);
      values.state = ForwardValues::State::kSkipped;
    }
    forward_skipped(num_samples, source);
    return;
  }
  // Values that the host logs from now on belong to a forward that has ended. The lock is held until its state is
  // known, so that none is lost in between.
  const std::lock_guard values_lock(values.mutex);
  for (auto& [place, named] : values.values) {
    for (auto& [name, value] : named) {
      forward->record.custom[place].insert_or_assign(name, value);
    }
  }
  values.values.clear();
  values.model = forward->record.model;
  values.method = forward->record.method;

  const auto when_full =
      config_.on_overflow == OnOverflow::kDrop ? ForwardQueue::WhenFull::kRefuse : ForwardQueue::WhenFull::kWait;
  bool is_step_without_prompt = false;
  const auto pushed = queue_.push(std::move(forward), when_full, [&](PendingForward& taken) {
    const std::lock_guard lock(mutex_);
    TakenSamples samples = take_samples(num_samples, source, Fate::kEnded);
    values.samples = samples.numbers;
    taken.samples = std::move(samples.numbers);
    taken.record.labelled = samples.labelled;
    taken.record.generation = samples.generation;
    is_step_without_prompt = source.follower && source.query.length == 1 && !taken.record.generation && !source.label;
    // Last, since what stands above may throw: then the queue does not take the forward.
    taken.record.index = next_forward_++;
    ++counters_.forwards;
  });
  // The state is set before anything else that may throw: it tells the caller that the forward has been counted.
  if (pushed == ForwardQueue::Pushed::kTaken) {
    values.state = ForwardValues::State::kRecorded;
    if (is_step_without_prompt) {
      notice(
          "forwards of one token a sequence continue no prompt that is known: they are samples of their own; label "
          "them");
    }
    return;
  }
  values.state = ForwardValues::State::kLost;
  {
    const std::lock_guard lock(mutex_);
    ++counters_.dropped;
    --reserved_;
    ++next_forward_;  // a host that resumes the run later counts it too
    take_samples(num_samples, source, Fate::kEnded);
  }
  if (pushed == ForwardQueue::Pushed::kFull) {
    notice("the queue is full: forwards are dropped (raise queue_bytes, or set on_overflow to block)");
  }
}

void Recording::forward_aborted(int64_t num_samples, const SampleSource& source) {
  if (!in_own_process()) {
    return;
  }
  const std::lock_guard lock(mutex_);
  ++counters_.aborted;
  ++next_forward_;  // as for one that is dropped
  take_samples(num_samples, source, Fate::kAborted);
}

void Recording::add_replays(std::shared_ptr<GraphReplays> replays) {
  const std::lock_guard lock(mutex_);
  replays_.push_back(std::move(replays));
}

void Recording::record_replays() {
  // One thread at a time: `close` must not close the queue between the two steps of a `flush`.
  const std::lock_guard one_thread(recording_replays_);
  std::vector<std::shared_ptr<GraphReplays>> graphs;
  {
    const std::lock_guard lock(mutex_);
    graphs = replays_;
  }
  for (const auto& graph : graphs) {
    int64_t number = 0;  // forwards that the graph has given away
    try {
      auto replays = graph->take_new();
      if (!replays) continue;
      number = replays->record.replays;
      const auto pushed = queue_.push(std::move(replays), ForwardQueue::WhenFull::kWait, [&](PendingForward& taken) {
        const std::lock_guard lock(mutex_);
        taken.record.index = next_forward_;
        next_forward_ += number;
        counters_.forwards += number;
        counters_.replayed += number;
      });
      if (pushed == ForwardQueue::Pushed::kTaken) continue;
    } catch (const std::exception& error) {
      notice("replays of a graph were not recorded", one_line(error));
    }
    const std::lock_guard lock(mutex_);
    counters_.dropped += number;
    next_forward_ += number;
  }
}

void Recording::skip_replays() {
  const std::lock_guard one_thread(recording_replays_);
  std::vector<std::shared_ptr<GraphReplays>> graphs;
  {
    const std::lock_guard lock(mutex_);
    graphs = replays_;
  }
  for (const auto& graph : graphs) {
    int64_t number = 0;
    try {
      const auto replays = graph->take_new();
      if (!replays) continue;
      number = replays->record.replays;
    } catch (const std::exception& error) {
      notice("replays of a graph were not left out", one_line(error));
    }
    const std::lock_guard lock(mutex_);
    counters_.skipped += number;
    next_forward_ += number;
  }
}

void Recording::hook_called() {
  const std::lock_guard lock(mutex_);
  ++counters_.called_hooks;
}

void Recording::hook_failed(ModelBinding& binding, int64_t hook, const std::string& reason) {
  const auto& hooks = binding.model()->hooks;
  if (hook < 0 || hook >= static_cast<int64_t>(hooks.size())) {
    notice("a hook that the model does not have has reported", reason);
    return;
  }
  if (!binding.stop(hook)) {
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    ++counters_.failed_hooks;
  }
  notice(hook_failed_notice(hooks[static_cast<size_t>(hook)].name), reason);
}

void Recording::add_checks(std::shared_ptr<const ModelDescription> model, std::shared_ptr<HookChecks> checks) {
  const std::lock_guard lock(mutex_);
  checks_.push_back({std::move(model), std::move(checks)});
}

void Recording::tell_unverified(std::shared_ptr<const ModelDescription> model, std::shared_ptr<HookChecks> checks) {
  if (!in_own_process() || checks->untold().empty()) return;
  auto findings = std::make_unique<PendingForward>();
  findings->record.values_only = true;
  findings->record.model = model;
  findings->reports.push_back(std::make_unique<PendingRouters>(std::move(model), nullptr, std::move(checks)));
  queue_.push(std::move(findings), ForwardQueue::WhenFull::kWait, [](PendingForward&) {});
}

void Recording::notice(const std::string& what, const std::string& detail) {
  if (!in_own_process()) {
    return;
  }
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    first = ++counters_.notices[what] == 1;
  }
  if (first) {
    notify(detail.empty() ? what : what + ": " + detail);
  }
}

void Recording::log_value(ForwardValues& values, const std::string& layer, const std::string& name, CustomValue value) {
  const std::lock_guard values_lock(values.mutex);
  if (values.state == ForwardValues::State::kRunning) {
    values.values[{"", layer}].insert_or_assign(name, value);
    return;
  }
  if (values.state == ForwardValues::State::kRecorded && accepts()) {
    auto forward = std::make_unique<PendingForward>();
    forward->record.values_only = true;
    forward->record.model = values.model;
    forward->record.method = values.method;
    forward->samples = values.samples;
    forward->record.custom[{"", layer}].insert_or_assign(name, value);
    const auto when_full =
        config_.on_overflow == OnOverflow::kDrop ? ForwardQueue::WhenFull::kRefuse : ForwardQueue::WhenFull::kWait;
    if (queue_.push(std::move(forward), when_full, [](PendingForward&) {}) == ForwardQueue::Pushed::kTaken) {
      return;
    }
  }
  if (values.state == ForwardValues::State::kSkipped) return;
  notice("a value was logged for a forward that was not recorded: it is lost");
}

void Recording::flush() {
  if (!in_own_process()) {
    return;
  }
  if (!paused_) record_replays();
  flush_queue();
}

void Recording::flush_queue() {
  try {
    queue_.request_flush().get();
  } catch (const std::future_error&) {
    // The writer thread ended before the request: it has written everything.
  }
}

void Recording::close(RunEnd end) {
  if (!in_own_process()) {
    return;
  }
  const std::lock_guard lock(closing_);
  if (closed_.exchange(true)) {
    return;
  }
  paused_ ? skip_replays() : record_replays();
  std::vector<ModelChecks> all_checks;
  {
    const std::lock_guard checks_lock(mutex_);
    all_checks = checks_;
  }
  flush_queue();  // what is in it tells its own
  for (const auto& [model, checks] : all_checks) tell_unverified(model, checks);
  writer_.finish(end);
}

Counters Recording::counters() const {
  if (!in_own_process()) {
    return {};
  }
  Counters counters;
  {
    const std::lock_guard lock(mutex_);
    counters = counters_;
  }
  writer_.add_to(counters);
  return counters;
}

std::optional<std::string> Recording::write_error() const {
  return in_own_process() ? writer_.error() : std::nullopt;
}

}  // namespace moetap::plugin

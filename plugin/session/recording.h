#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "plugin/capture/graph_replays.h"
#include "plugin/capture/pending_forward.h"
#include "plugin/records/config.h"
#include "plugin/records/counters.h"
#include "plugin/session/forward_label.h"
#include "plugin/session/forward_queue.h"
#include "plugin/session/host_values.h"
#include "plugin/session/model_binding.h"
#include "plugin/session/writer_thread.h"

namespace moetap::plugin {

/// What determines which samples a forward holds.
struct SampleSource {
  std::shared_ptr<const ForwardLabel> label;     // of the thread that began it; null: none
  std::shared_ptr<GenerationFollower> follower;  // of that thread and the model; null: only the label counts
  QueryTokens query;
};

/// What a session's operators, host calls and writer thread share; lives until the last forward that began in it is
/// gone. Thread-safe.
class Recording {
 public:
  /// Starts the writer thread. `threads`: shared by recordings that the host labels together. Errors as `Session`.
  Recording(Config config, std::unique_ptr<RecordSink> sink,
            std::shared_ptr<HostThreads> threads = std::make_shared<HostThreads>());
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  const Config& config() const { return config_; }

  /// Whether the sink takes held calls.
  bool records_held_calls() const { return records_held_calls_; }

  /// False once it is closed, and in a child process: then operators leave it alone.
  bool accepts() const;
  /// False in a child process, which has no writer thread and whose copies of the locks may be held for ever.
  bool in_own_process() const;

  /// A forward has ended: numbers it and its samples, and hands it to the writer. May block while the queue is full.
  /// Once the forward is counted, as taken or as dropped, `values.state` says so, even if this throws afterwards.
  void forward_ended(std::unique_ptr<PendingForward> forward, const SampleSource& source, ForwardValues& values);

  /// Whether a forward that begins now is to be recorded: not while paused, once in `record_every`, and not beyond
  /// `max_forwards` and `max_bytes`. Called once for each forward. Does not block.
  bool wants_forward();
  void pause();
  void resume();

  /// A forward has ended that was not to be recorded: its sample numbers are used up.
  void forward_skipped(int64_t num_samples, const SampleSource& source);

  /// A forward of `num_samples` began and will not end: its sample numbers are used up, so that those of later forwards
  /// are what the host expects.
  void forward_aborted(int64_t num_samples, const SampleSource& source);

  /// The sample numbers that a forward of `num_samples` would get if it ended now.
  std::vector<int64_t> expected_samples(int64_t num_samples, const SampleSource& source) const;

  /// A graph has captured a forward: what its replays add is recorded with each `flush` and with `close`.
  void add_replays(std::shared_ptr<GraphReplays> replays);

  /// Counts a hook that is called for the first time.
  void hook_called();

  /// Stops the hook, counts it and tells the user, once for each hook.
  void hook_failed(ModelBinding& binding, int64_t hook, const std::string& reason);

  /// Hands over what the checks of the model's hooks have found and no record has told, without a forward.
  void tell_unverified(std::shared_ptr<const ModelDescription> model, std::shared_ptr<HookChecks> checks);

  /// The checks of a model's hooks: what they find in a forward that is not recorded is told by `close`.
  void add_checks(std::shared_ptr<const ModelDescription> model, std::shared_ptr<HookChecks> checks);

  /// Tells the user something: counts `what`, and prints it with `detail` the first time. `what` is one of a few fixed
  /// texts; whatever varies from forward to forward belongs in `detail`.
  void notice(const std::string& what, const std::string& detail = "");

  /// Adds a value of the host to the log entry of a forward; see `Session::log`.
  void log_value(ForwardValues& values, const std::string& layer, const std::string& name, CustomValue value);

  HostThreads& threads() const { return *threads_; }

  void flush();
  /// Waits for the writer and completes the files, once. Never throws.
  void close(RunEnd end = RunEnd::kDone);

  Counters counters() const;
  const ResumedRun& resumed() const { return resumed_; }
  std::optional<std::string> write_error() const;

 private:
  /// How a forward came to its end: it returned or it threw. Both use up sample numbers, but only one that returned
  /// advances the generation that is followed.
  enum class Fate { kEnded, kAborted };
  /// False: there are `max_forwards` already. Else the forward counts as one of them.
  bool reserve_forward();
  void set_full(const std::string& key);
  /// Throws away what the replays of all graphs added.
  void skip_replays();
  /// Hands over what the replays of all graphs added; those that the closed queue refuses are counted as dropped.
  void record_replays();
  /// Waits until the writer has written what is in the queue.
  void flush_queue();
  struct TakenSamples {
    SampleNumbers numbers;
    bool labelled = false, generation = false;  // as in ForwardRecord
  };
  TakenSamples take_samples(int64_t num_samples, const SampleSource& source, Fate fate);

  const Config config_;
  const std::shared_ptr<HostThreads> threads_;
  const pid_t process_;
  const ResumedRun resumed_;
  const bool records_held_calls_;
  std::atomic<bool> closed_ = false;
  std::atomic<bool> paused_ = false;
  std::atomic<int64_t> offered_ = 0;   // forwards that began while it was not paused
  std::atomic<bool> is_full_ = false;  // `max_forwards` or `max_bytes` is reached
  std::mutex closing_;
  std::mutex recording_replays_;

  mutable std::mutex mutex_;  // guards what follows
  Counters counters_;
  int64_t next_forward_ = 0;
  int64_t next_sample_ = 0;
  int64_t reserved_ = 0;                                // forwards that were taken or are being handed over
  std::vector<std::shared_ptr<GraphReplays>> replays_;  // of all captured graphs
  struct ModelChecks {
    std::shared_ptr<const ModelDescription> model;
    std::shared_ptr<HookChecks> checks;
  };
  std::vector<ModelChecks> checks_;

  ForwardQueue queue_;
  WriterThread writer_;
};

}  // namespace moetap::plugin

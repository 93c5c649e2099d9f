#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "plugin/formats/json_key.h"

namespace moetap::plugin {

/// What a session counted so far. Plain data. `kCounters` says what each count means.
struct Counters {
  int64_t forwards = 0;
  int64_t replayed = 0;
  int64_t tokens = 0;
  int64_t dropped = 0;
  int64_t unwritten = 0;
  int64_t aborted = 0;
  int64_t called_hooks = 0;
  int64_t failed_hooks = 0;
  int64_t unattributed = 0;
  int64_t out_of_range = 0;
  int64_t label_mismatches = 0;
  int64_t skipped = 0;
  std::map<std::string, int64_t> notices;  // one line that the user should know -> how often

  Counters& operator+=(const Counters& other);
};

/// Where a count comes from when a run is resumed or recovered.
enum class CounterSource {
  kForwards,  // the sum over the forwards in the journal
  kLastSync,  // as it was when the journal was last synced
};

/// What there is to know of a count.
struct CounterInfo {
  JsonKey key;  // in manifest.json and the journal; the field of `moetap_counters` in the C header has the same name
  int64_t Counters::*member;
  CounterSource source;
  bool in_log;       // also stands in the log, under "moetap"
  const char* loss;  // `moetap run` ends with the count and this text if the count is not 0; "": it does not
};

/// The table of all counts. It drives everything that names them: `+=`, the manifest, the log, the journal, the C
/// header and the program's last lines.
inline constexpr CounterInfo kCounters[] = {
    // Finished and handed to the writer.
    {{"forwards", "integer", "forwards"}, &Counters::forwards, CounterSource::kForwards, true, ""},
    // Those of `forwards` that were replays of a CUDA graph: they are in the summary, but not in the log or the dump.
    {{"replayed", "integer", "forwards"}, &Counters::replayed, CounterSource::kLastSync, false, ""},
    // Tokens of recorded forwards, without padding: those of the text, else those of the router call that saw the most.
    {{"tokens", "integer", "tokens"}, &Counters::tokens, CounterSource::kForwards, false, ""},
    // Finished forwards that found the queue full (on_overflow: drop), or the session closed.
    {{"dropped", "integer", "forwards"}, &Counters::dropped, CounterSource::kLastSync, true, "forwards dropped"},
    // Handed to the writer and lost, since they could not be written.
    {{"unwritten", "integer", "forwards"},
     &Counters::unwritten,
     CounterSource::kLastSync,
     true,
     "forwards not written"},
    // Began and never ended: the model threw.
    {{"aborted", "integer", "forwards"}, &Counters::aborted, CounterSource::kLastSync, true, ""},
    // Hooks that were called; a hook counts once in each process that writes the run.
    {{"called_hooks", "integer", "hooks"}, &Counters::called_hooks, CounterSource::kLastSync, false, ""},
    // Of these, hooks that stopped after a failure.
    {{"failed_hooks", "integer", "hooks"},
     &Counters::failed_hooks,
     CounterSource::kLastSync,
     false,
     "hooks stopped after a failure"},
    // Router calls whose tokens could not be told apart by sample.
    {{"unattributed", "integer", "router calls"},
     &Counters::unattributed,
     CounterSource::kForwards,
     false,
     "router calls not told apart by sample"},
    // Selected expert ids outside [0, num_experts), read as unused slots.
    {{"out_of_range", "integer", "expert ids"},
     &Counters::out_of_range,
     CounterSource::kForwards,
     false,
     "expert ids out of range"},
    // Labelled forwards whose number of samples differs from the label's.
    {{"label_mismatches", "integer", "forwards"}, &Counters::label_mismatches, CounterSource::kLastSync, false, ""},
    // Finished forwards that the host did not want: paused, record_every, max_forwards, max_bytes.
    {{"skipped", "integer", "forwards"}, &Counters::skipped, CounterSource::kLastSync, false, ""},
};

static_assert(sizeof(kCounters) / sizeof(CounterInfo) * sizeof(int64_t) + sizeof(Counters::notices) == sizeof(Counters),
              "each count has one line in the table");

inline Counters& Counters::operator+=(const Counters& other) {
  for (const CounterInfo& count : kCounters) this->*count.member += other.*count.member;
  for (const auto& [line, times] : other.notices) notices[line] += times;
  return *this;
}

/// How many hooks a process called, and how many of these stopped after a failure.
struct HookCalls {
  int64_t called = 0, failed = 0;

  static HookCalls of(const Counters& counters) { return {counters.called_hooks, counters.failed_hooks}; }
  bool all_stopped() const { return called > 0 && failed >= called; }
};

}  // namespace moetap::plugin

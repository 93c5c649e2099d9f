#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace moetap::plugin {

/// What a session counted so far. Plain data.
struct Counters {
  int64_t forwards = 0;      // finished and handed to the writer
  int64_t replayed = 0;      // of these, in replays of a graph: in the summary, and not in the log or the dump
  int64_t tokens = 0;        // valid tokens of these forwards: of the text, else of the router call that saw the most
  int64_t dropped = 0;       // finished forwards that found the queue full (on_overflow: drop), or the session closed
  int64_t unwritten = 0;     // handed to the writer, and lost since the files could not be written
  int64_t aborted = 0;       // began and never ended: the model threw
  int64_t failed_hooks = 0;  // hooks that stopped after a failure
  int64_t unattributed = 0;  // router calls whose tokens could not be told apart by sample
  int64_t out_of_range = 0;  // selected expert ids outside [0, num_experts), read as unused slots
  int64_t label_mismatches = 0;            // labelled forwards whose number of samples was another than the label's
  std::map<std::string, int64_t> notices;  // one line that the user should know -> how often

  Counters& operator+=(const Counters& other) {
    for (int64_t Counters::*count : {&Counters::forwards, &Counters::replayed, &Counters::tokens, &Counters::dropped,
                                     &Counters::unwritten, &Counters::aborted, &Counters::failed_hooks,
                                     &Counters::unattributed, &Counters::out_of_range, &Counters::label_mismatches}) {
      this->*count += other.*count;
    }
    for (const auto& [line, times] : other.notices) notices[line] += times;
    return *this;
  }
};

}  // namespace moetap::plugin

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>

#include "plugin/moetap.h"
#include "plugin/process/error_text.h"
#include "plugin/process_session.h"

struct moetap_session {
  std::shared_ptr<moetap::plugin::ProcessSession> session;
};

namespace moetap::plugin {
namespace {

// The fields of the header, in its order.
struct CounterField {
  int64_t moetap_counters::*field;
  int64_t Counters::*member;
};
constexpr CounterField kCounterFields[] = {
    {&moetap_counters::forwards, &Counters::forwards},
    {&moetap_counters::tokens, &Counters::tokens},
    {&moetap_counters::dropped, &Counters::dropped},
    {&moetap_counters::unwritten, &Counters::unwritten},
    {&moetap_counters::aborted, &Counters::aborted},
    {&moetap_counters::failed_hooks, &Counters::failed_hooks},
    {&moetap_counters::unattributed, &Counters::unattributed},
    {&moetap_counters::out_of_range, &Counters::out_of_range},
    {&moetap_counters::label_mismatches, &Counters::label_mismatches},
    {&moetap_counters::replayed, &Counters::replayed},
    {&moetap_counters::called_hooks, &Counters::called_hooks},
    {&moetap_counters::skipped, &Counters::skipped},
};
static_assert(sizeof(moetap_counters) == sizeof(size_t) + std::size(kCounterFields) * sizeof(int64_t),
              "each field of the header is filled");
static_assert(std::all_of(std::begin(kCounters), std::end(kCounters),
                          [](const CounterInfo& count) {
                            return std::any_of(std::begin(kCounterFields), std::end(kCounterFields),
                                               [&](const CounterField& field) { return field.member == count.member; });
                          }),
              "each count of a session has a field in the header; a new one goes to its end");
// Callers of an older header rely on where its fields lie.
static_assert(offsetof(moetap_counters, label_mismatches) == sizeof(size_t) + 8 * sizeof(int64_t));

std::string& last_error() {
  thread_local std::string text;
  return text;
}

/// Runs the body of a function of the C header; no exception leaves it.
template <typename Result, typename Body>
Result guarded(Result if_failed, Body&& body) noexcept {
  try {
    last_error().clear();
    return body();
  } catch (const std::exception& error) {
    last_error() = one_line(error);
  } catch (...) {
    last_error() = "an unknown error";
  }
  return if_failed;
}

template <typename Body>
int on_session(moetap_session* session, Body&& body) noexcept {
  return guarded(-1, [&] {
    if (session == nullptr) throw std::invalid_argument("session must be what moetap_open returned, got NULL");
    body(*session->session);
    return 0;
  });
}

void check_text(const char* text, const char* name) {
  if (text == nullptr) throw std::invalid_argument(std::string(name) + " must be a text, got NULL");
}

std::shared_ptr<ProcessSession> open(const char* config_json) {
  if (config_json != nullptr) {
    Config config = process_defaults();
    config.update_from_json_text(config_json, "moetap_open");
    return open_process_session(std::move(config));
  }
  if (auto session = process_session()) return session;
  throw std::invalid_argument(
      "moetap_open without a configuration opens what MOETAP_CONFIG or MOETAP_OUTPUT_DIR in the environment ask for, "
      "once a process: neither is set, or that session was closed");
}

}  // namespace
}  // namespace moetap::plugin

using namespace moetap::plugin;

int moetap_abi_version(void) {
  return MOETAP_ABI_VERSION;
}

const char* moetap_version(void) {
  return MOETAP_VERSION;
}

const char* moetap_last_error(void) {
  return last_error().c_str();
}

moetap_session* moetap_open(const char* config_json) {
  return guarded<moetap_session*>(nullptr, [&] {
    // Allocates first: a session that was opened and cannot be handed out would stay open.
    auto session = std::make_unique<moetap_session>();
    session->session = open(config_json);
    return session.release();
  });
}

int moetap_label(moetap_session* session, const int64_t* samples, size_t num_samples, int generation) {
  return on_session(session, [&](ProcessSession& open) {
    if (samples == nullptr && num_samples > 0) throw std::invalid_argument("samples must be numbers, got NULL");
    open.label({std::vector<int64_t>(samples, samples + num_samples), generation != 0});
  });
}

int moetap_clear_label(moetap_session* session) {
  return on_session(session, [](ProcessSession& open) { open.clear_label(); });
}

int moetap_pause(moetap_session* session) {
  return on_session(session, [](ProcessSession& open) { open.pause(); });
}

int moetap_resume(moetap_session* session) {
  return on_session(session, [](ProcessSession& open) { open.resume(); });
}

int moetap_log(moetap_session* session, const char* layer, const char* name, double value) {
  return on_session(session, [&](ProcessSession& open) {
    check_text(layer, "layer");
    check_text(name, "name");
    open.log(layer, name, value);
  });
}

int moetap_flush(moetap_session* session) {
  return on_session(session, [](ProcessSession& open) {
    open.flush();
    if (const auto error = open.write_error()) throw std::runtime_error(*error);
  });
}

int moetap_get_counters(moetap_session* session, moetap_counters* counters) {
  return on_session(session, [&](ProcessSession& open) {
    const size_t size = counters == nullptr ? 0 : counters->struct_size;
    if (size < sizeof(size_t) || size % sizeof(int64_t) != 0) {
      throw std::invalid_argument("counters->struct_size must be sizeof(moetap_counters), got " + std::to_string(size));
    }
    const Counters all = open.counters();
    moetap_counters known{};
    known.struct_size = size;
    for (const auto& [field, member] : kCounterFields) known.*field = all.*member;
    // The caller's header may be older or newer: fields that only it knows are 0.
    std::memset(counters, 0, size);
    std::memcpy(counters, &known, std::min(size, sizeof(known)));
  });
}

int moetap_close(moetap_session* session) {
  const std::unique_ptr<moetap_session> owned(session);
  return on_session(session, [&](ProcessSession& open) {
    close_process_session(owned->session);
    if (const auto error = open.write_error()) throw std::runtime_error(*error);
  });
}

#pragma once

#include <sys/types.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "plugin/records/config.h"
#include "plugin/records/counters.h"
#include "plugin/session.h"
#include "plugin/session/host_values.h"
#include "plugin/session/model_binding.h"

namespace moetap::plugin {

// Note [The session of a process]
// A host that was not written for moetap opens no `Session`. For it there is one session a process: it takes the
// forwards of every instrumented model that no `Session` attached. It opens with the first such forward if the
// environment asks for it (MOETAP_CONFIG, MOETAP_OUTPUT_DIR), or by `moetap_open` of the C header, and is completed
// when the process exits.
//
// Each model has a run directory of its own: the first `output_dir`, the next `output_dir-2`, and so on; with `resume`
// the one that holds its unfinished run. What `moetap instrument` wrote is one model, however often it is loaded or
// copied. "{pid}" in output_dir stands for the number of the process, for hosts that fork workers. If a directory
// cannot be opened, one line on stderr says so and its model is not recorded; if the configuration is strict, the
// forwards of the model throw instead.

/// The session of a process. Thread-safe. Its functions are those of `Session`, for all models of the process.
class ProcessSession {
 public:
  explicit ProcessSession(Config config);

  void label(ForwardLabel label) { threads_->label(std::move(label)); }
  void clear_label() { threads_->clear_label(); }
  void pause() { set_paused(true); }
  void resume() { set_paused(false); }
  void log(std::string_view layer, std::string_view name, CustomValue value) { threads_->log(layer, name, value); }
  void flush();
  void close();
  Counters counters() const;
  std::optional<std::string> write_error() const;

  /// The binding of a model that no `Session` attached, by the text that its `moetap::begin` carries; opens its run
  /// directory with its first forward. Null: it is not recorded. Throws only if the configuration is strict.
  std::shared_ptr<ModelBinding> bind(std::string_view description);

 private:
  std::string output_dir_of(const ModelDescription& model) const;
  std::vector<std::shared_ptr<Recording>> recordings() const;
  bool in_own_process() const;
  void set_paused(bool paused);

  const Config config_;
  const pid_t process_;  // a child process has a copy, whose locks may be held for ever
  const std::shared_ptr<HostThreads> threads_ = std::make_shared<HostThreads>();
  mutable std::mutex mutex_;  // guards what follows
  bool closed_ = false;
  bool paused_ = false;
  std::map<std::string, std::shared_ptr<Recording>> recordings_;  // by instance
  std::map<std::string, std::string> refused_;                    // instance -> why it is not recorded
};

/// The default configuration of such a session: unlabelled forwards follow Note [Following generation].
Config process_defaults();

/// Opens the session of this process. Throws std::invalid_argument if one is open.
std::shared_ptr<ProcessSession> open_process_session(Config config);

/// The open session of this process; opens it if the environment asks for it. Null: there is none. Throws
/// std::invalid_argument for an invalid configuration.
std::shared_ptr<ProcessSession> process_session();

/// Closes it. After that a new one can be opened by a call, but not by the environment.
void close_process_session(const std::shared_ptr<ProcessSession>& session);

/// For `moetap::begin`: the binding of a model that no `Session` attached; null: it is not recorded.
std::shared_ptr<ModelBinding> bind_to_process_session(std::string_view description);

}  // namespace moetap::plugin

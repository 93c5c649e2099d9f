#pragma once

#include <torch/csrc/jit/api/module.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "plugin/records/config.h"
#include "plugin/records/counters.h"
#include "plugin/records/export.h"
#include "plugin/records/forward_record.h"
#include "plugin/records/model_description.h"
#include "plugin/records/record_sink.h"
#include "plugin/session/forward_label.h"

namespace moetap::plugin {

class Recording;

/// Where the model came from, for the manifest, and which methods to record.
struct AttachOptions {
  std::string model_file;  // path as the user gave it; empty: built or changed in memory
  std::string sha256;      // of the file, hexadecimal; empty: unknown
  /// Methods to record besides those that are recorded anyway: methods that other methods of the model call, and
  /// methods of submodules ("encoder.forward") that the host calls itself although the model calls them too.
  std::vector<std::string> methods = {};
};

/// Records what the routers of attached models do, and their attention if the configuration says so, into one run
/// directory.
///
///     moetap::Session session(config);                    // config.output_dir is created here
///     auto model = session.attach(torch::jit::load("model.pt"));
///     model.forward(inputs);                              // recorded
///     session.close();                                    // the files are complete
///
/// A forward is recorded when it ends; a thread of the session writes the files. A forward that throws is counted in
/// `aborted` and not recorded. A failure while recording stops that hook, is reported once on stderr and counted; the
/// forward goes on, unless `config.strict`. Sequences are samples, numbered from 0 in the order in which the forwards
/// end.
///
/// All functions are thread-safe. In a child process after `fork` a session records nothing and closes nothing.
class MOETAP_API Session {
 public:
  /// Opens the run directory and starts the writer thread. Relative paths of the configuration start at the working
  /// directory of this moment. Throws std::invalid_argument for an invalid configuration, and std::runtime_error if the
  /// directory cannot be created or written.
  explicit Session(Config config);
  /// Records into a sink of the host's own; `config.output_dir` and the other keys on files are not used.
  Session(Config config, std::unique_ptr<RecordSink> sink);
  /// Closes; as unfinished with `config.resume`, or if an exception destroys the session. Never throws.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// True if the run in `output_dir` (of this process's rank) is done: there is nothing to resume, and opening a
  /// session on it throws. A host that is started again after a crash can ask first. Reads the disk.
  static bool is_done(const std::string& output_dir);

  /// Returns a twin of `module` that shares its weights and reports to this session; dropping the twin detaches.
  /// `module` is left as it is. A module that `moetap instrument` made is bound to this session and returned as it is;
  /// its copies and other loads of the same file report to the same session. Throws std::invalid_argument if nothing
  /// to record is found (with what was looked at), if attention is to be recorded and an instrumented module does not
  /// report it, if `config.hooks` or `options.methods` do not fit the module or come with an
  /// instrumented one, or if the instrumented module reports to another open session. Blocks while it rewrites.
  torch::jit::Module attach(const torch::jit::Module& module, const AttachOptions& options = {});

  /// Binds to this session what was instrumented elsewhere and carries this text, such as an exported program. Throws
  /// std::invalid_argument if the text is no model's description, or the model reports to another open session.
  void attach_description(const std::string& description);

  /// Labels the forwards that the calling thread begins from now on, until it labels again or calls `clear_label`.
  /// Forwards with the same sample number are merged into one log entry. A forward whose number of sequences is not
  /// `label.samples.size()` is recorded without the label and counted in `label_mismatches`. Does not block.
  void label(ForwardLabel label);
  void clear_label();

  /// From here on forwards run unrecorded, at next to no cost, until `resume`; forwards that have begun are recorded.
  /// They are counted in `skipped`, and use up sample numbers as if they were recorded, so that labels and numbers stay
  /// right. Blocks only as a forward does when the queue is full.
  void pause();
  void resume();

  /// Adds a value of the host's own to the log entry of the forward that the calling thread is in, or began last;
  /// before its first forward, to that one. `layer` is a layer id of the log's component; the name must be none of the
  /// log's own keys. Blocks only as a forward does when the queue is full.
  void log(std::string_view layer, std::string_view name, CustomValue value);

  /// Blocks until everything that ended before the call is in the files.
  void flush();

  /// Detaches, waits for the writer thread and completes the files. Forwards that are still under way are dropped.
  /// Calling it again does nothing. Throws only if `config.strict` and a file or a forward could not be
  /// written; else see `write_error`.
  void close(RunEnd end = RunEnd::kDone);

  /// With `config.resume`: what the run holds already, so that the host can skip it. Constant.
  const ResumedRun& resumed() const;
  /// Its sample numbers, ascending.
  const std::vector<int64_t>& recorded_samples() const { return resumed().samples; }

  /// What this session counted. With `config.resume` the counts in the files include those of the sessions before it.
  Counters counters() const;

  /// The first error of a file, one line; empty if there was none.
  std::optional<std::string> write_error() const;

  /// The configuration, its paths made absolute.
  const Config& config() const;

 private:
  const int exceptions_at_opening_ = std::uncaught_exceptions();
  std::shared_ptr<Recording> recording_;
};

}  // namespace moetap::plugin

namespace moetap {
using plugin::AttachOptions;
using plugin::Config;
using plugin::Counters;
using plugin::ForwardLabel;
using plugin::ResumedRun;
using plugin::RunEnd;
using plugin::Session;
}  // namespace moetap

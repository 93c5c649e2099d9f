#pragma once

#include <memory>

#include "plugin/records/config.h"
#include "plugin/records/record_sink.h"

namespace moetap::plugin {

/// All files of one run directory. A session constructs it on the host's thread.
class RunFiles final : public RecordSink {
 public:
  /// Creates `config.output_dir` and `moetap/` in it and checks that both can be written; errors as in RecordSink. Rank
  /// and world size come from the environment. With `config.resume` it goes on with the run of a process that died, and
  /// throws std::invalid_argument that names the key where the configuration is another.
  explicit RunFiles(const Config& config);
  /// Frees memory and writes nothing: a process that ends or forks without `close` leaves the finished files and the
  /// journal.
  ~RunFiles() override;
  RunFiles(const RunFiles&) = delete;
  RunFiles& operator=(const RunFiles&) = delete;

  ResumedRun resumed() const override;
  void count(const Counters& counters) override;
  void add_model(std::shared_ptr<const ModelDescription> model) override;
  void write(const ForwardRecord& record) override;
  void flush() override;
  void leave_unfinished() override;
  void close(const Counters& counters, const RunTimes& times) override;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moetap::plugin

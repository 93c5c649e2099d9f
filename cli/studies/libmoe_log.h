#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "analysis/studies/token_batch.h"

namespace moetap::cli {

/// The entries of a log of LibMoE's evaluation (<task>.json, spec of the format: docs/formats.md), one after the other,
/// as far as the studies need them. An entry has one LoggedEntry for each component of logs_metrics_moe; of LibMoE's
/// own logs, which have none, one for logs_metrics_vision, component "vision". Its text may be anything: throws
/// CommandError with one line that names the file.
class LibMoeLog {
 public:
  /// `run`: place of the run among the inputs; `log`: of the log among those of the run.
  LibMoeLog(std::string path, int32_t run, int32_t log) : path_(std::move(path)), run_(run), log_(log) {}

  const std::string& path() const { return path_; }
  std::string task() const;  // the file's name without .json
  /// Streams: memory holds one entry. Returns how many entries the log has.
  int64_t read(const std::function<void(const analysis::studies::LoggedEntry&)>& use,
               const std::function<void()>& check) const;

 private:
  std::string path_;
  int32_t run_, log_;
};

}  // namespace moetap::cli

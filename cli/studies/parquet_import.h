#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "cli/studies/parquet_tables.h"

namespace moetap::cli {

/// A Parquet export, or FLAME-MoE's traces, as a run: its rows are written once into a temporary run directory, which
/// is read like any other, by samples too. It takes the disk space of a dump and is removed at the end, or by the next
/// import beside it if the process is killed. What the tables do not say stays unknown: the forwards, and of traces the
/// samples.
class ParquetImport {
 public:
  /// Throws std::runtime_error with one line: a file that is no Parquet or lacks a column, a disk that is full. `check`
  /// may throw.
  ParquetImport(const std::string& folder, const std::string& scratch_folder, const std::function<void()>& check);
  ParquetImport(const ParquetImport&) = delete;
  ParquetImport& operator=(const ParquetImport&) = delete;
  ~ParquetImport();

  std::string run_dir() const { return run_.string(); }

 private:
  /// The tokens of a rank in one component: [first, first + n) of the component's.
  struct RankTokens {
    int64_t first = 0, n = 0;
  };
  void import_component(std::vector<ParquetLayer*>& layers);
  void write_rank(const std::vector<ParquetLayer*>& layers, int64_t rank, int64_t place, const RankTokens& tokens);
  void write_about(const std::vector<ParquetLayer>& layers, int64_t num_ranks) const;

  std::function<void()> check_;
  std::filesystem::path run_;
  std::vector<int64_t> ranks_;  // of all components; numbered 0, 1, ... in the run
};

}  // namespace moetap::cli

#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "plugin/formats/random_access_file.h"

namespace moetap::plugin {

/// The log fields that a user gives for each sample: one JSON object a line, in the order of the samples. Keeps only
/// the places of the lines in memory.
class SamplesFile {
 public:
  /// Reads and checks every line. `path` empty: no sample has fields. Throws std::runtime_error with one line that
  /// names the file and the line.
  explicit SamplesFile(const std::string& path);

  int64_t size() const { return static_cast<int64_t>(doc_ids_.size()); }

  /// The sample's `doc_id`; `otherwise` where the file has none.
  int64_t doc_id(int64_t sample, int64_t otherwise) const;

  /// The fields of a sample's log entry, those that the file does not give with their defaults.
  nlohmann::ordered_json fields(int64_t sample, int64_t doc_id) const;

  /// Copies the file, so that a run can be recovered when it is gone.
  void copy_to(const std::string& path) const;

 private:
  struct Line {
    int64_t begin = 0;
    int64_t end = 0;
  };
  nlohmann::ordered_json line(int64_t sample) const;

  std::unique_ptr<RandomAccessFile> file_;  // null: there is none
  std::vector<Line> lines_;
  std::vector<int64_t> doc_ids_;  // of each line; the sample's number where the line has none
};

}  // namespace moetap::plugin

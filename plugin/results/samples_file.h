#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "plugin/formats/random_access_file.h"

namespace moetap::plugin {

/// The log fields that a user gives for each sample: a file with one JSON object per line, in the order of the samples.
/// Memory holds only where each line lies, and its `doc_id`.
class SamplesFile {
 public:
  /// Reads and checks every line. `path` empty: no sample has fields. Throws std::runtime_error with one line that
  /// names the file and the line.
  explicit SamplesFile(const std::string& path);

  int64_t size() const { return static_cast<int64_t>(doc_ids_.size()); }

  /// Whether there is a line for the sample.
  bool has(int64_t sample) const { return sample >= 0 && sample < size(); }

  /// The sample's `doc_id`: that of its line, or the sample's number if the line has none; `otherwise` if the file has
  /// no line for the sample.
  int64_t doc_id(int64_t sample, int64_t otherwise) const;

  /// What the sample's line gives, a JSON object; empty if the file has no line for the sample.
  nlohmann::ordered_json given(int64_t sample) const;

  /// The fields of a sample's log entry. A field that the file does not give has its default.
  nlohmann::ordered_json fields(int64_t sample, int64_t doc_id) const;

  /// Copies the file, so that the run can be recovered after the user removed it. Without a file it does nothing.
  void copy_to(const std::string& path) const;

 private:
  struct Line {
    int64_t begin = 0;
    int64_t end = 0;
  };

  std::unique_ptr<RandomAccessFile> file_;  // null: there is no file
  std::vector<Line> lines_;
  std::vector<int64_t> doc_ids_;  // of each line; the sample's number where the line has none
};

}  // namespace moetap::plugin

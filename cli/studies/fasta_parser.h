#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace moetap::cli {

/// Reads FASTA text, piece by piece. A line that starts with '>' begins a record; the other lines, without the white
/// space at their ends, are joined to its letters; text before the first header is a record of its own. Lines end with
/// "\n", "\r\n" or "\r". Letters keep their case. A record may be empty.
class FastaParser {
 public:
  /// Gets the letters of each record; the view is valid during the call.
  using Sink = std::function<void(std::string_view)>;
  explicit FastaParser(Sink sink) : sink_(std::move(sink)) {}

  /// Throws std::runtime_error for text with a zero byte: that is no FASTA file.
  void read(std::string_view text);
  /// After the last piece.
  void finish();

 private:
  void end_line();

  Sink sink_;
  std::string line_;
  std::string letters_;
  bool has_record_ = false;
};

}  // namespace moetap::cli

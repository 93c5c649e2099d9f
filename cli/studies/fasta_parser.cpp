#include "cli/studies/fasta_parser.h"

#include <algorithm>
#include <cstddef>
#include <stdexcept>

namespace moetap::cli {
namespace {

constexpr std::string_view kWhiteSpace = " \t\n\v\f\r";

std::string_view stripped(std::string_view line) {
  const size_t begin = line.find_first_not_of(kWhiteSpace);
  if (begin == std::string_view::npos) return {};
  return line.substr(begin, line.find_last_not_of(kWhiteSpace) - begin + 1);
}

}  // namespace

void FastaParser::read(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) throw std::runtime_error("it has a zero byte, so it is no FASTA text");
  while (!text.empty()) {
    const size_t end = std::min(text.find_first_of("\r\n"), text.size());
    line_.append(text.substr(0, end));
    if (end == text.size()) return;
    end_line();
    text.remove_prefix(end + 1);
  }
}

void FastaParser::end_line() {
  const std::string_view line = stripped(line_);
  if (!line.empty() && line.front() == '>') {
    if (has_record_) sink_(letters_);
    letters_.clear();
    has_record_ = true;
  } else if (!line.empty()) {
    letters_.append(line);
    has_record_ = true;
  }
  line_.clear();
}

void FastaParser::finish() {
  end_line();
  if (has_record_) sink_(letters_);
  letters_.clear();
  has_record_ = false;
}

}  // namespace moetap::cli

#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

namespace moetap::analysis::studies {

/// A slice "A:B" as Python's: empty ends are the ends, negative ones count from the end, all clamp.
class TokenSlice {
 public:
  /// "" is all. Throws std::runtime_error with one line for anything else that is no slice.
  explicit TokenSlice(const std::string& text) {
    if (text.empty()) return;
    const size_t colon = text.find(':');
    if (colon == std::string::npos) refuse(text);
    first_ = number(text, text.substr(0, colon));
    last_ = number(text, text.substr(colon + 1));
  }

  /// Which places it means depends on how many there are.
  bool needs_size() const { return first_.value_or(0) < 0 || last_.value_or(0) < 0; }
  /// The places [first, last) of `size`; where needs_size() is false any size that is not too small will do.
  std::pair<int64_t, int64_t> of(int64_t size) const {
    const auto place = [&](int64_t end) { return std::clamp<int64_t>(end < 0 ? end + size : end, 0, size); };
    return {place(first_.value_or(0)), place(last_.value_or(size))};
  }

 private:
  [[noreturn]] static void refuse(const std::string& text) {
    throw std::runtime_error("--token-range must be A:B with whole numbers, got \"" + text + "\"");
  }
  static std::optional<int64_t> number(const std::string& text, const std::string& part) {
    if (part.empty()) return std::nullopt;
    int64_t value = 0;
    const auto read = std::from_chars(part.data(), part.data() + part.size(), value);
    if (read.ec != std::errc{} || read.ptr != part.data() + part.size()) refuse(text);
    return value;
  }

  std::optional<int64_t> first_, last_;
};

}  // namespace moetap::analysis::studies

#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "analysis/numbers/exact_sum.h"

namespace moetap::analysis::studies {

/// What a study saves, byte by byte: little-endian, as the machines that moetap runs on.
class ByteSink {
 public:
  void integer(int64_t value) { raw(&value, sizeof(value)); }
  void real(double value) { raw(&value, sizeof(value)); }
  void text(std::string_view value) {
    integer(static_cast<int64_t>(value.size()));
    bytes_.append(value);
  }
  void sum(const ExactSum& sum);
  /// The length, then the elements: integers, reals or plain structs without padding.
  template <typename Value>
  void values(const std::vector<Value>& values) {
    static_assert(std::has_unique_object_representations_v<Value> || std::is_floating_point_v<Value>);
    integer(static_cast<int64_t>(values.size()));
    raw(values.data(), values.size() * sizeof(Value));
  }
  void sums(const std::vector<ExactSum>& sums);

  const std::string& bytes() const { return bytes_; }

 private:
  void raw(const void* data, size_t size) { bytes_.append(static_cast<const char*>(data), size); }

  std::string bytes_;
};

/// Reads what a ByteSink wrote, in the same order. The bytes may be anything: every read checks its length first and
/// throws std::runtime_error "the partial is cut short" or "... does not fit". The view must outlive the source.
class ByteSource {
 public:
  explicit ByteSource(std::string_view bytes) : bytes_(bytes) {}

  int64_t integer();
  double real();
  std::string text();
  ExactSum sum();
  template <typename Value>
  std::vector<Value> values() {
    static_assert(std::has_unique_object_representations_v<Value> || std::is_floating_point_v<Value>);
    const int64_t size = length(sizeof(Value));
    std::vector<Value> values(static_cast<size_t>(size));
    raw(values.data(), values.size() * sizeof(Value));
    return values;
  }
  /// Throws unless exactly `size` values follow.
  template <typename Value>
  std::vector<Value> values(size_t size) {
    std::vector<Value> found = values<Value>();
    if (found.size() != size) refuse();
    return found;
  }
  std::vector<ExactSum> sums();
  std::vector<ExactSum> sums(size_t size);
  bool at_end() const { return bytes_.empty(); }

  [[noreturn]] static void refuse() { throw std::runtime_error("a study of the partial does not fit the run's shape"); }

 private:
  int64_t length(size_t element_bytes);
  void raw(void* data, size_t size);

  std::string_view bytes_;
};

}  // namespace moetap::analysis::studies

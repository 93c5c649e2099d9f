#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace moetap::plugin {

/// Builds the compact bytes of a journal's frame. Integers take 7 bits a byte, least significant first.
class ByteWriter {
 public:
  void count(uint64_t value);
  void number(int64_t value);  // a value near zero takes one byte
  void real(double value);
  void text(std::string_view text);
  void raw(std::string_view bytes) { bytes_.append(bytes); }  // the reader must know how many there are
  /// Bytes that `write` puts to a char*; it returns how many, `most` or less.
  template <typename Write>
  void fill(size_t most, const Write& write) {
    const size_t begin = bytes_.size();
    bytes_.resize(begin + most);
    bytes_.resize(begin + write(bytes_.data() + begin));
  }
  void numbers(std::span<const int32_t> values);
  void reals(std::span<const float> values);
  /// For counters: a run of zeros takes a few bytes, however long it is. The reader must know how many values there
  /// are.
  void sparse(std::span<const int64_t> values);

  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

/// Reads what ByteWriter wrote, in the same order. Throws std::runtime_error if the bytes end early or hold a number
/// that does not fit its type.
class ByteReader {
 public:
  explicit ByteReader(std::string_view bytes) : rest_(bytes) {}

  uint64_t count();
  int64_t number();
  double real();
  std::string text();
  std::string_view raw(size_t number);
  std::vector<int32_t> numbers();
  std::vector<float> reals();
  void sparse(std::span<int64_t> values);

  bool at_end() const { return rest_.empty(); }
  size_t size() const { return rest_.size(); }  // bytes that are left

 private:
  std::string_view rest_;
};

}  // namespace moetap::plugin

#include "cli/studies/npy_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace moetap::cli {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kMaxDimensions = 32;

[[noreturn]] void refuse(const std::string& reason) {
  throw std::runtime_error(reason);
}

/// The literal of a header: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }.
class LiteralReader {
 public:
  explicit LiteralReader(std::string_view text) : rest_(text) {}

  void skip_space() {
    const size_t begin = rest_.find_first_not_of(" \t\r\n\v\f");
    rest_.remove_prefix(std::min(begin, rest_.size()));
  }
  bool take(char expected) {
    skip_space();
    if (rest_.empty() || rest_.front() != expected) return false;
    rest_.remove_prefix(1);
    return true;
  }
  void expect(char expected) {
    if (!take(expected)) broken();
  }
  bool at_end() {
    skip_space();
    return rest_.empty();
  }
  bool next_is(char character) {
    skip_space();
    return !rest_.empty() && rest_.front() == character;
  }

  std::string text() {
    const char quote = next_is('"') ? '"' : '\'';
    expect(quote);
    const size_t end = rest_.find(quote);
    if (end == std::string_view::npos || end > 64) broken();
    const std::string found(rest_.substr(0, end));
    if (found.find('\\') != std::string::npos) broken();
    rest_.remove_prefix(end + 1);
    return found;
  }

  bool truth() {
    for (const auto& [word, value] : {std::pair{"False", false}, {"True", true}}) {
      if (rest_.starts_with(word)) {
        rest_.remove_prefix(std::strlen(word));
        return value;
      }
    }
    broken();
  }

  int64_t size() {
    skip_space();
    int64_t value = 0;
    size_t digits = 0;
    for (; digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9'; ++digits) {
      if (__builtin_mul_overflow(value, int64_t{10}, &value) ||
          __builtin_add_overflow(value, int64_t{rest_[digits] - '0'}, &value)) {
        refuse("its shape has a size that no file can have");
      }
    }
    if (digits == 0) broken();
    rest_.remove_prefix(digits);
    if (rest_.starts_with('L')) rest_.remove_prefix(1);  // of Python 2
    return value;
  }

  [[noreturn]] static void broken() { refuse("its header is not that of a NumPy array"); }

 private:
  std::string_view rest_;
};

void read_dtype(const std::string& text, NpyHeader& header) {
  const auto unknown = [&] {
    refuse(fmt::format("it holds {:?}; integers, bools and reals of 16, 32 or 64 bits are read", text));
  };
  if (text.find('O') != std::string::npos) refuse("it holds Python objects, which are never loaded");
  if (text.size() != 3) unknown();
  const char order = text[0], kind = text[1];
  const int64_t bytes = text[2] - '0';
  if (order == '>')
    refuse(fmt::format("it holds {:?}: big-endian arrays are not read; save array.astype('<{}{}')", text, kind, bytes));
  if (order != '<' && order != '|' && order != '=') unknown();
  const bool is_power = bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8;
  if (!is_power) unknown();
  header.element_bytes = bytes;
  switch (kind) {
    case 'b':
      header.kind = NpyKind::kBool;
      if (bytes != 1) unknown();
      return;
    case 'i':
      header.kind = NpyKind::kSigned;
      return;
    case 'u':
      header.kind = NpyKind::kUnsigned;
      return;
    case 'f':
      header.kind = NpyKind::kReal;
      if (bytes == 1) unknown();
      return;
    default:
      unknown();
  }
}

void read_shape(LiteralReader& literal, NpyHeader& header) {
  literal.expect('(');
  while (!literal.take(')')) {
    header.shape.push_back(literal.size());
    if (header.shape.size() > kMaxDimensions) refuse(fmt::format("it has more than {} dimensions", kMaxDimensions));
    if (!literal.take(',') && !literal.next_is(')')) LiteralReader::broken();
  }
}

void read_literal(std::string_view text, NpyHeader& header) {
  LiteralReader literal(text);
  bool has_dtype = false, has_order = false, has_shape = false;
  literal.expect('{');
  while (!literal.take('}')) {
    const std::string key = literal.text();
    literal.expect(':');
    literal.skip_space();
    if (key == "descr" && !has_dtype) {
      if (literal.next_is('[')) refuse("it holds records; arrays of numbers are read");
      read_dtype(literal.text(), header);
      has_dtype = true;
    } else if (key == "fortran_order" && !has_order) {
      header.fortran_order = literal.truth();
      has_order = true;
    } else if (key == "shape" && !has_shape) {
      read_shape(literal, header);
      has_shape = true;
    } else {
      LiteralReader::broken();
    }
    if (!literal.take(',') && !literal.next_is('}')) LiteralReader::broken();
  }
  if (!has_dtype || !has_order || !has_shape || !literal.at_end()) LiteralReader::broken();
}

int64_t little_endian(std::string_view bytes) {
  int64_t value = 0;
  for (size_t i = 0; i < bytes.size(); ++i) value |= int64_t{static_cast<unsigned char>(bytes[i])} << (8 * i);
  return value;
}

}  // namespace

std::string NpyHeader::dtype() const {
  const char* name = kind == NpyKind::kBool       ? "bool"
                     : kind == NpyKind::kSigned   ? "int"
                     : kind == NpyKind::kUnsigned ? "uint"
                                                  : "float";
  return kind == NpyKind::kBool ? name : fmt::format("{}{}", name, 8 * element_bytes);
}

std::string NpyHeader::shape_text() const {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

NpyHeader parse_npy_header(std::string_view begin, int64_t file_bytes) {
  constexpr size_t kPreamble = 8;  // magic, version
  if (!begin.starts_with(kMagic) || begin.size() < kPreamble) refuse("it is no .npy file");
  const int major = static_cast<unsigned char>(begin[6]), minor = static_cast<unsigned char>(begin[7]);
  if (major < 1 || major > 3 || minor != 0) {
    refuse(fmt::format("it is of version {}.{} of the format; 1.0, 2.0 and 3.0 are read", major, minor));
  }
  const size_t length_bytes = major == 1 ? 2 : 4;
  if (begin.size() < kPreamble + length_bytes) refuse("it ends in its header (truncated?)");
  const int64_t length = little_endian(begin.substr(kPreamble, length_bytes));
  if (length > kMaxNpyHeaderBytes) refuse(fmt::format("its header claims {} bytes; no array needs that", length));
  NpyHeader header;
  header.data_begin = static_cast<int64_t>(kPreamble + length_bytes) + length;
  if (header.data_begin > file_bytes || header.data_begin > static_cast<int64_t>(begin.size())) {
    refuse("it ends in its header (truncated?)");
  }
  read_literal(begin.substr(kPreamble + length_bytes, static_cast<size_t>(length)), header);
  header.num_elements = 1;
  int64_t without_zeros = header.element_bytes;  // a 0 in the shape does not excuse sizes that overflow
  for (const int64_t size : header.shape) {
    header.num_elements = size == 0 ? 0 : header.num_elements;
    if (__builtin_mul_overflow(without_zeros, std::max<int64_t>(size, 1), &without_zeros)) {
      refuse(fmt::format("its shape {} is larger than any file", header.shape_text()));
    }
  }
  if (header.num_elements != 0) header.num_elements = without_zeros / header.element_bytes;
  const int64_t has = file_bytes - header.data_begin;
  if (header.num_elements * header.element_bytes > has) {
    refuse(fmt::format("its shape {} of {} needs {} bytes, and it has {} (truncated?)", header.shape_text(),
                       header.dtype(), header.num_elements * header.element_bytes, has));
  }
  return header;
}

}  // namespace moetap::cli

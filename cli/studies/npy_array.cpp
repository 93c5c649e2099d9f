#include "cli/studies/npy_array.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <system_error>
#include <type_traits>
#include <utility>

namespace moetap::cli {
namespace {

/// IEEE half precision; its values are all floats.
struct Half {
  uint16_t bits = 0;
};

double to_double(Half half) {
  const uint32_t sign = (half.bits & 0x8000U) << 16, exponent = (half.bits >> 10) & 0x1fU,
                 mantissa = half.bits & 0x3ffU;
  if (exponent == 0) {
    const double value = std::ldexp(static_cast<double>(mantissa), -24);
    return sign != 0 ? -value : value;
  }
  const uint32_t wide = exponent == 0x1f ? 0xffU : exponent + 112;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

template <typename Value>
Value load(const char* bytes, int64_t element) {
  Value value;
  std::memcpy(&value, bytes + element * static_cast<int64_t>(sizeof(Value)), sizeof(Value));
  return value;
}

template <typename To, typename From>
To converted(From value) {
  if constexpr (std::is_same_v<From, Half>) {
    return static_cast<To>(to_double(value));
  } else if constexpr (std::is_same_v<From, uint64_t> && std::is_integral_v<To>) {
    return static_cast<To>(std::min<uint64_t>(value, std::numeric_limits<int64_t>::max()));
  } else {
    return static_cast<To>(value);
  }
}

[[noreturn]] void fail(const std::string& path, const std::string& reason) {
  throw std::runtime_error(path + ": " + reason);
}

}  // namespace

NpyArray::NpyArray(const std::string& path) : path_(path) {
  struct stat status = {};
  if (::stat(path.c_str(), &status) != 0) fail(path, std::generic_category().message(errno));
  if (!S_ISREG(status.st_mode)) fail(path, "is no regular file");  // opening a pipe would wait for its other end
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(path, std::generic_category().message(errno));
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size == 0) {
    ::close(descriptor);
    fail(path, "is no .npy file: it is empty");
  }
  num_bytes_ = status.st_size;
  void* mapped = ::mmap(nullptr, static_cast<size_t>(num_bytes_), PROT_READ, MAP_SHARED, descriptor, 0);
  const int error = errno;
  ::close(descriptor);
  if (mapped == MAP_FAILED) fail(path, std::generic_category().message(error));
  bytes_ = static_cast<const char*>(mapped);
  try {
    const int64_t head = std::min(num_bytes_, kMaxNpyHeaderBytes + 12);
    header_ = parse_npy_header(std::string_view(bytes_, static_cast<size_t>(head)), num_bytes_);
  } catch (const std::exception& failure) {
    unmap();
    fail(path, failure.what());
  }
  strides_.resize(header_.shape.size());
  int64_t stride = 1;
  for (size_t i = 0; i < strides_.size(); ++i) {
    const size_t dimension = header_.fortran_order ? i : strides_.size() - 1 - i;
    strides_[dimension] = stride;
    stride *= std::max<int64_t>(header_.shape[dimension], 1);
  }
}

NpyArray::NpyArray(NpyArray&& other) noexcept
    : path_(std::move(other.path_)),
      header_(std::move(other.header_)),
      strides_(std::move(other.strides_)),
      bytes_(std::exchange(other.bytes_, nullptr)),
      num_bytes_(other.num_bytes_) {}

NpyArray& NpyArray::operator=(NpyArray&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(header_, other.header_);
  std::swap(strides_, other.strides_);
  std::swap(bytes_, other.bytes_);
  std::swap(num_bytes_, other.num_bytes_);
  return *this;
}

NpyArray::~NpyArray() {
  unmap();
}

void NpyArray::unmap() {
  if (bytes_ != nullptr) ::munmap(const_cast<char*>(bytes_), static_cast<size_t>(num_bytes_));
  bytes_ = nullptr;
}

int64_t NpyArray::element(std::span<const int64_t> indices) const {
  int64_t element = 0;
  for (size_t i = 0; i < indices.size(); ++i) element += indices[i] * strides_[i];
  return element;
}

template <typename Use>
void NpyArray::visit(const Use& use) const {
  const bool is_signed = header_.kind == NpyKind::kSigned;
  switch (header_.element_bytes) {
    case 1:
      return is_signed ? use(int8_t{}) : use(uint8_t{});
    case 2:
      return header_.kind == NpyKind::kReal ? use(Half{}) : is_signed ? use(int16_t{}) : use(uint16_t{});
    case 4:
      return header_.kind == NpyKind::kReal ? use(float{}) : is_signed ? use(int32_t{}) : use(uint32_t{});
    default:
      return header_.kind == NpyKind::kReal ? use(double{}) : is_signed ? use(int64_t{}) : use(uint64_t{});
  }
}

void NpyArray::read_reals(int64_t first, int64_t step, int64_t n, double* out) const {
  const char* data = bytes_ + header_.data_begin;
  visit([&](auto kind) {
    for (int64_t i = 0; i < n; ++i) out[i] = converted<double>(load<decltype(kind)>(data, first + i * step));
  });
}

void NpyArray::read_integers(int64_t first, int64_t step, int64_t n, int64_t* out) const {
  const char* data = bytes_ + header_.data_begin;
  visit([&](auto kind) {
    for (int64_t i = 0; i < n; ++i) out[i] = converted<int64_t>(load<decltype(kind)>(data, first + i * step));
  });
}

const float* NpyArray::as_f32() const {
  const char* data = bytes_ + header_.data_begin;
  const bool fits = holds_reals() && header_.element_bytes == 4 && reinterpret_cast<uintptr_t>(data) % 4 == 0;
  return fits ? reinterpret_cast<const float*>(data) : nullptr;
}

const double* NpyArray::as_f64() const {
  const char* data = bytes_ + header_.data_begin;
  const bool fits = holds_reals() && header_.element_bytes == 8 && reinterpret_cast<uintptr_t>(data) % 8 == 0;
  return fits ? reinterpret_cast<const double*>(data) : nullptr;
}

}  // namespace moetap::cli

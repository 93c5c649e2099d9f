#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cli/studies/npy_header.h"

namespace moetap::cli {

/// A .npy file, mapped: nothing is read before it is looked at. Thread-safe. Errors are std::runtime_error with one
/// line that names the file.
class NpyArray {
 public:
  /// Refuses anything but a regular file that holds a whole array.
  explicit NpyArray(const std::string& path);
  NpyArray(NpyArray&& other) noexcept;
  NpyArray& operator=(NpyArray&& other) noexcept;
  ~NpyArray();

  const std::string& path() const { return path_; }
  const NpyHeader& header() const { return header_; }
  int64_t size(size_t dimension) const { return header_.shape[dimension]; }
  size_t num_dimensions() const { return header_.shape.size(); }
  bool holds_reals() const { return header_.kind == NpyKind::kReal; }
  /// Elements between neighbours of a dimension.
  int64_t stride(size_t dimension) const { return strides_[dimension]; }

  /// The element's place, of as many indices as the array has dimensions.
  int64_t element(std::span<const int64_t> indices) const;
  /// n elements from `first` on, `step` apart, as double or as integers. Unsigned integers beyond int64 become its
  /// largest value. The caller keeps inside the array.
  void read_reals(int64_t first, int64_t step, int64_t n, double* out) const;
  void read_integers(int64_t first, int64_t step, int64_t n, int64_t* out) const;
  /// The elements where they lie, if they are of this type and aligned, else null.
  const float* as_f32() const;
  const double* as_f64() const;

 private:
  template <typename Use>
  void visit(const Use& use) const;
  void unmap();

  std::string path_;
  NpyHeader header_;
  std::vector<int64_t> strides_;
  const char* bytes_ = nullptr;  // of the whole file
  int64_t num_bytes_ = 0;
};

}  // namespace moetap::cli

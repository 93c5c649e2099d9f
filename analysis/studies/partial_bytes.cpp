#include "analysis/studies/partial_bytes.h"

#include <cstring>

namespace moetap::analysis::studies {

void ByteSink::sum(const ExactSum& sum) {
  const ExactSum::Words words = sum.words();
  raw(&words, sizeof(words));
}

void ByteSink::sums(const std::vector<ExactSum>& sums) {
  integer(static_cast<int64_t>(sums.size()));
  for (const ExactSum& of : sums) sum(of);
}

void ByteSource::raw(void* data, size_t size) {
  if (size > bytes_.size()) throw std::runtime_error("the partial is cut short");
  if (size > 0) std::memcpy(data, bytes_.data(), size);
  bytes_.remove_prefix(size);
}

int64_t ByteSource::length(size_t element_bytes) {
  const int64_t size = integer();
  if (size < 0 || static_cast<uint64_t>(size) > bytes_.size() / element_bytes) {
    throw std::runtime_error("the partial is cut short");
  }
  return size;
}

int64_t ByteSource::integer() {
  int64_t value = 0;
  raw(&value, sizeof(value));
  return value;
}

double ByteSource::real() {
  double value = 0;
  raw(&value, sizeof(value));
  return value;
}

std::string ByteSource::text() {
  std::string value(static_cast<size_t>(length(1)), '\0');
  raw(value.data(), value.size());
  return value;
}

ExactSum ByteSource::sum() {
  ExactSum::Words words;
  raw(&words, sizeof(words));
  return ExactSum::from_words(words);
}

std::vector<ExactSum> ByteSource::sums() {
  std::vector<ExactSum> sums(static_cast<size_t>(length(sizeof(ExactSum::Words))));
  for (ExactSum& of : sums) of = sum();
  return sums;
}

std::vector<ExactSum> ByteSource::sums(size_t size) {
  std::vector<ExactSum> found = sums();
  if (found.size() != size) refuse();
  return found;
}

}  // namespace moetap::analysis::studies

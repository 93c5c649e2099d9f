// In the place of parquet_reader.cpp where moetap is built without Arrow.
#include <stdexcept>

#include "cli/exports/parquet_reader.h"

namespace moetap::cli {

struct ParquetReader::Inside {
  std::string path;
  std::map<std::string, std::string> metadata;
};

ParquetReader::ParquetReader(const std::string& path) {
  throw std::runtime_error(path + ": cannot be read: this moetap was built without Arrow (MOETAP_PARQUET=OFF)");
}

ParquetReader::~ParquetReader() = default;

const std::string& ParquetReader::path() const {
  return inside_->path;
}
int64_t ParquetReader::num_rows() const {
  return 0;
}
int ParquetReader::num_groups() const {
  return 0;
}
int64_t ParquetReader::rows_of(int) const {
  return 0;
}
const std::map<std::string, std::string>& ParquetReader::metadata() const {
  return inside_->metadata;
}
bool ParquetReader::has(const std::string&) const {
  return false;
}
std::vector<int64_t> ParquetReader::read_integers(int, const std::string&) const {
  return {};
}
std::vector<float> ParquetReader::read_reals(int, const std::string&) const {
  return {};
}
int64_t ParquetReader::longest_list(int, const std::string&) const {
  return 0;
}
std::vector<int64_t> ParquetReader::read_integer_lists(int, const std::string&, int64_t) const {
  return {};
}
std::vector<float> ParquetReader::read_real_lists(int, const std::string&, int64_t) const {
  return {};
}

}  // namespace moetap::cli

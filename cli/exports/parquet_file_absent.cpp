// In the place of parquet_file.cpp where moetap is built without Arrow.
#include <stdexcept>

#include "cli/exports/parquet_file.h"

namespace moetap::cli {

struct ParquetFile::Inside {};

ParquetFile::ParquetFile(const std::string& path, std::vector<ParquetColumn>,
                         const std::map<std::string, std::string>&) {
  throw std::runtime_error("cannot write " + path + ": this moetap was built without Arrow (MOETAP_PARQUET=OFF)");
}

ParquetFile::~ParquetFile() = default;
void ParquetFile::begin_group() {}
void ParquetFile::write(const std::vector<int64_t>&) {}
void ParquetFile::write(const std::vector<int32_t>&) {}
void ParquetFile::write(const std::vector<float>&) {}
void ParquetFile::write_lists(const std::vector<int32_t>&, int64_t) {}
void ParquetFile::write_lists(const std::vector<float>&, int64_t) {}
void ParquetFile::close() {}

}  // namespace moetap::cli

#include "plugin/dump/column_file.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <stdexcept>
#include <utility>

#include "plugin/formats/file_error.h"
#include "plugin/formats/open_file.h"

namespace moetap::plugin {
namespace {

constexpr size_t kMostPieces = 1024;  // of one system call (IOV_MAX on Linux)

// Leaves out the first `bytes` bytes of the pieces from `first` on.
void skip(std::vector<iovec>& pieces, size_t& first, size_t bytes) {
  while (bytes > 0) {
    iovec& piece = pieces[first];
    const size_t taken = std::min(bytes, piece.iov_len);
    piece.iov_base = static_cast<char*>(piece.iov_base) + taken;
    piece.iov_len -= taken;
    bytes -= taken;
    if (piece.iov_len == 0) ++first;
  }
}

}  // namespace

ColumnFile::ColumnFile(std::string path, std::vector<Column> columns, Open open)
    : path_(std::move(path)), columns_(std::move(columns)) {
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CLOEXEC | (open == Open::kNew ? O_CREAT | O_TRUNC : 0), kPrivateFile);
  if (descriptor_ < 0) throw_file_error(open == Open::kNew ? "write" : "read", path_, errno);
}

ColumnFile::~ColumnFile() {
  ::close(descriptor_);
}

void ColumnFile::write(size_t column, int64_t first_row, const std::vector<std::string_view>& pieces) {
  std::vector<iovec> left;
  left.reserve(pieces.size());
  for (const std::string_view piece : pieces) {
    if (!piece.empty()) left.push_back({const_cast<char*>(piece.data()), piece.size()});
  }
  int64_t offset = columns_[column].begin_bytes + first_row * columns_[column].row_bytes;
  for (size_t first = 0; first < left.size();) {
    const auto number = static_cast<int>(std::min(left.size() - first, kMostPieces));
    const ssize_t written = ::pwritev(descriptor_, &left[first], number, offset);
    if (written < 0) {
      if (errno == EINTR) continue;
      throw_file_error("write", path_, errno);
    }
    offset += written;
    skip(left, first, static_cast<size_t>(written));
  }
}

void ColumnFile::write_header(std::string_view header) {
  int64_t offset = 0;
  while (!header.empty()) {
    const ssize_t written = ::pwrite(descriptor_, header.data(), header.size(), offset);
    if (written < 0) {
      if (errno == EINTR) continue;
      throw_file_error("write", path_, errno);
    }
    offset += written;
    header.remove_prefix(static_cast<size_t>(written));
  }
}

std::string ColumnFile::read(size_t column, int64_t first_row, int64_t num_rows) const {
  const Column& place = columns_[column];
  std::string bytes(static_cast<size_t>(num_rows * place.row_bytes), '\0');
  int64_t offset = place.begin_bytes + first_row * place.row_bytes;
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t got = ::pread(descriptor_, bytes.data() + done, bytes.size() - done, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_file_error("read", path_, errno);
    if (got == 0) throw std::runtime_error("cannot read " + path_ + ": it ends early");
    done += static_cast<size_t>(got);
    offset += got;
  }
  return bytes;
}

void ColumnFile::check_in_place() const {
  if (!leads_to(path_, descriptor_)) {
    throw std::runtime_error("cannot write " + path_ + ": it was removed while the run goes on");
  }
}

void ColumnFile::sync() {
  if (::fdatasync(descriptor_) != 0 && errno != EINVAL) throw_file_error("write", path_, errno);
}

}  // namespace moetap::plugin

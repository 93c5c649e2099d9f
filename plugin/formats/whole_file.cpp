#include "plugin/formats/whole_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "plugin/formats/file_error.h"

namespace moetap::plugin {
namespace {

class OpenFile {
 public:
  explicit OpenFile(const std::string& path) : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) throw_file_error("read", path, errno);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() { ::close(descriptor_); }

  int descriptor() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace

std::string read_whole_file(const std::string& path) {
  constexpr size_t kBlockBytes = size_t{64} << 10;
  const OpenFile file(path);
  std::string bytes;
  for (;;) {
    const size_t size = bytes.size();
    bytes.resize(size + kBlockBytes);
    const ssize_t got = ::read(file.descriptor(), bytes.data() + size, kBlockBytes);
    const int error_number = errno;
    bytes.resize(size + static_cast<size_t>(got > 0 ? got : 0));
    if (got == 0) return bytes;
    if (got < 0 && error_number != EINTR) throw_file_error("read", path, error_number);
  }
}

}  // namespace moetap::plugin

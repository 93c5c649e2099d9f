#include "plugin/formats/scratch_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "plugin/formats/file_error.h"

namespace moetap::plugin {

ScratchFile::ScratchFile(const std::string& folder) : folder_(folder.empty() ? "." : folder) {
  std::string path = folder_ + "/.moetap-scratch-XXXXXX";
  descriptor_ = ::mkstemp(path.data());
  if (descriptor_ < 0) throw_file_error("write a scratch file in", folder_, errno);
  ::unlink(path.c_str());
}

ScratchFile::~ScratchFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void ScratchFile::write(int64_t offset_bytes, const void* bytes, int64_t num_bytes) {
  const char* from = static_cast<const char*>(bytes);
  while (num_bytes > 0) {
    const ssize_t written = ::pwrite(descriptor_, from, static_cast<size_t>(num_bytes), offset_bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      throw_file_error("write a scratch file in", folder_, errno);
    }
    from += written;
    offset_bytes += written;
    num_bytes -= written;
  }
}

void ScratchFile::read(int64_t offset_bytes, void* destination, int64_t num_bytes) const {
  char* to = static_cast<char*>(destination);
  while (num_bytes > 0) {
    const ssize_t got = ::pread(descriptor_, to, static_cast<size_t>(num_bytes), offset_bytes);
    if (got < 0) {
      if (errno == EINTR) continue;
      throw_file_error("read a scratch file in", folder_, errno);
    }
    if (got == 0) {
      std::memset(to, 0, static_cast<size_t>(num_bytes));
      return;
    }
    to += got;
    offset_bytes += got;
    num_bytes -= got;
  }
}

}  // namespace moetap::plugin

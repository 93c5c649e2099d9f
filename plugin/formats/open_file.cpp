#include "plugin/formats/open_file.h"

#include <sys/stat.h>

namespace moetap::plugin {

bool leads_to(const std::string& path, int descriptor) {
  struct stat named {};
  struct stat open {};
  return ::stat(path.c_str(), &named) == 0 && ::fstat(descriptor, &open) == 0 && named.st_ino == open.st_ino &&
         named.st_dev == open.st_dev;
}

}  // namespace moetap::plugin
